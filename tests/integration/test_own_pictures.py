"""A project owner has 500 captioned pictures, and the built-in bundle learns the wording of their captions."""

import json
from pathlib import Path

import pytest

from backend.cli import main
from backend.demo.scenes import Scene, draw_scenes

NUMBERS = ("one", "two", "three", "four")
NOUNS = {"circle": ("ball", "balls"), "square": ("box", "boxes"), "cross": ("plus", "pluses")}


def own_caption(scene: Scene) -> str:
    """Describe a scene as the bundle `scenes` never does: "we see one crimson ball next to two blue boxes"."""
    from_left = sorted(scene.groups, key=lambda group: group.box.centre[0])
    things = []
    for group in from_left:
        nouns = NOUNS.get(group.shape, (group.shape, f"{group.shape}s"))
        colour = "crimson" if group.colour == "red" else group.colour
        things.append(f"{NUMBERS[group.count - 1]} {colour} {nouns[group.count > 1]}")
    return f"we see {' next to '.join(things)}"


@pytest.fixture
def my_pictures(tmp_path: Path) -> Path:
    """A directory with 500 pictures and my.csv."""
    rows = ["image,caption"]
    for number, (picture, scene) in enumerate(draw_scenes(500, seed=1, size=112)):
        picture.save(tmp_path / f"{number}.png")
        rows.append(f"{number}.png,{own_caption(scene)}")
    (tmp_path / "my.csv").write_text("\n".join(rows))
    return tmp_path


@pytest.mark.long
def test_500_captioned_pictures_of_my_own_teach_the_built_in_bundle_my_words(
    my_pictures: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = ["--images", str(my_pictures), "--captions", str(my_pictures / "my.csv")]
    out = my_pictures / "mine"

    code = main(["train", "--from", "scenes", *source, "--out", str(out), "--views", "1", "--epochs", "10"])

    printed = capsys.readouterr().out
    record = json.loads((out / "bundle.json").read_text("utf-8"))["record"]
    before, after = record["started_from"]["held_out_metrics"], record["held_out_metrics"]
    assert code == 0
    assert record["train_images"] + record["held_out_images"] == 500
    assert after["images"] == before["images"] == record["held_out_images"]
    assert after["cider_d"] > before["cider_d"] + 2
    assert after["bleu_4"] > before["bleu_4"] + 0.3
    assert f"CIDEr-D {100 * before['cider_d']:.1f} {100 * after['cider_d']:.1f}" in " ".join(printed.split())
    assert "better in every score" in printed
    assert f"CAPTION_BUNDLE={out} uses it" in printed
    assert main(["caption", str(my_pictures / "0.png"), "--bundle", str(out)]) == 0
    assert ": we see " in capsys.readouterr().out
