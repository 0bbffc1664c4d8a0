import json
import subprocess
import sys
from pathlib import Path

import pytest

from backend.cli import build_parser, main
from tests.factories import make_image, write_bundle

COMMANDS = ["serve", "worker", "demo", "doctor", "caption", "train", "evaluate", "versions", "promote", "rollback"]


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match=r"^0$"):
        build_parser().parse_args([command, "--help"])

    assert f"usage: captioner {command}" in capsys.readouterr().out


def test_help_names_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match=r"^0$"):
        main(["--help"])

    told = capsys.readouterr().out
    assert [command for command in COMMANDS if f"\n    {command} " not in told] == []


def test_help_imports_nothing_heavy() -> None:
    program = "import sys; from backend.cli import build_parser; build_parser()"
    program += "; print([m for m in ('torch', 'flask', 'rq', 'label_studio_sdk') if m in sys.modules])"

    loaded = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)

    assert loaded.stdout == "[]\n"


def test_an_error_is_one_line_and_exit_code_2(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RETRAIN_AFTER", "0")

    code = main(["versions", "1"])

    told = capsys.readouterr()
    assert (code, told.out) == (2, "")
    assert told.err == "captioner: RETRAIN_AFTER must be 1 or more, got 0\n"


def test_caption_writes_one_json_object_per_image(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bundle = write_bundle(tmp_path / "bundle", seed=6)  # untrained, and yet of several opinions
    picture, text = tmp_path / "red.png", tmp_path / "text.jpg"
    make_image().save(picture)
    text.write_text("no image")

    code = main(["caption", str(picture), str(text), "--bundle", str(bundle), "--alternatives", "2", "--json"])

    red, broken = map(json.loads, capsys.readouterr().out.splitlines())
    assert code == 1
    assert red["image"] == str(picture)
    assert len(red["captions"]) == 2
    assert broken["image"] == str(text)
    assert broken["error"]


def test_evaluate_prints_metrics_of_captioned_images(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bundle = write_bundle(tmp_path / "bundle")
    make_image().save(tmp_path / "red.png")
    (tmp_path / "captions.csv").write_text("image,caption\nred.png,a red picture\n")

    code = main(
        ["evaluate", "--captions", str(tmp_path / "captions.csv"), "--images", str(tmp_path), "--bundle", str(bundle)]
    )

    assert code == 0
    assert "BLEU-4" in capsys.readouterr().out


def test_train_makes_a_bundle_that_captions(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = []
    for colour in ("red", "green", "blue", "yellow", "black", "white", "purple", "orange", "pink", "brown"):
        make_image(colour).save(tmp_path / f"{colour}.png")
        rows.append(json.dumps({"image": f"{colour}.png", "caption": f"a {colour} picture"}))
    (tmp_path / "captions.jsonl").write_text("\n".join(rows))
    (tmp_path / "held-out.txt").write_text("pink.png\nbrown.png\n")
    images = ["--captions", str(tmp_path / "captions.jsonl"), "--images", str(tmp_path)]
    held_out = ["--held-out-names", str(tmp_path / "held-out.txt")]
    encoder = ["--encoder", "scene_cnn", "--weights", "none", "--image-size", "32"]
    small = ["--hidden", "8", "--min-count", "1", "--epochs", "1"]

    code = main(["train", *images, *held_out, *encoder, *small, "--out", str(tmp_path / "bundle"), "--name", "tiny"])

    assert code == 0
    assert f"CAPTION_BUNDLE={tmp_path / 'bundle'} uses it" in capsys.readouterr().out
    assert main(["caption", str(tmp_path / "red.png"), "--bundle", str(tmp_path / "bundle")]) == 0
