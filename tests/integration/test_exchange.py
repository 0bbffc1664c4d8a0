"""`captioner export` and `captioner import`: a project's captions go to other programs, and come from them."""

import base64
import json
from pathlib import Path

import pytest
from PIL import Image
from redis import Redis

from backend.cli import main
from model.caption_files.read import CaptionSource, read_captions
from tests.factories import make_correction, store_annotation
from tests.fake_label_studio import LEGACY_TOKEN, FakeLabelStudio
from tests.image_server import png
from tests.workplace import Workplace
from worker.feedback.feedback_store import FeedbackStore

UPLOADS = [f"/data/upload/1/{number:08x}-dog.jpg" for number in range(1, 6)]
TWO_CAPTIONS = (
    '<View><Image name="image" value="$captioning"/><TextArea name="caption" toName="image"/>'
    '<TextArea name="german" toName="image"/></View>'
)


@pytest.fixture
def studio(workplace: Workplace, label_studio: FakeLabelStudio, monkeypatch: pytest.MonkeyPatch) -> FakeLabelStudio:
    """The Label Studio of the commands, with project 1."""
    ours = {"LABEL_STUDIO_URL": label_studio.url, "LABEL_STUDIO_API_KEY": LEGACY_TOKEN}
    for name, value in workplace.environment(**ours).items():
        monkeypatch.setenv(name, value)
    label_studio.add_project(id=1)
    return label_studio


@pytest.mark.usefixtures("studio")
@pytest.mark.parametrize(("layout", "file"), [("coco", "captions.json"), ("huggingface", "metadata.jsonl")])
def test_corrections_are_written_with_the_addresses_of_their_images_and_read_again(
    redis: Redis, tmp_path: Path, capsys: pytest.CaptureFixture[str], layout: str, file: str
) -> None:
    store_annotation(redis, make_correction(annotation_id=1, caption="a black dog"))
    store_annotation(redis, make_correction(annotation_id=2, caption="un café\nau soleil"))
    store_annotation(redis, make_correction(annotation_id=3, caption="another dog", image_ref=UPLOADS[0]))
    store_annotation(redis, make_correction(annotation_id=4, caption="of another project", project_id=2))

    code = main(["export", "1", "--format", layout, "--out", str(tmp_path / "out")])

    assert code == 0
    assert capsys.readouterr().out == (
        f"wrote 3 captions of 2 images, by their addresses to {tmp_path / 'out' / file}\nnothing left out\n"
    )
    for upload in UPLOADS[:2]:
        (tmp_path / Path(upload).name).write_bytes(b"")
    captioned = read_captions(CaptionSource(captions=tmp_path / "out" / file, images=tmp_path), strict=True)
    assert [image.captions for image in captioned.images] == [("a black dog", "another dog"), ("un café au soleil",)]


@pytest.mark.parametrize(("layout", "folder"), [("coco", "images"), ("huggingface", ".")])
def test_images_are_fetched_beside_the_captions_and_missing_ones_are_counted(
    studio: FakeLabelStudio, redis: Redis, tmp_path: Path, capsys: pytest.CaptureFixture[str], layout: str, folder: str
) -> None:
    inside = "data:image/png;base64," + base64.b64encode(png("blue")).decode()
    refs = [UPLOADS[0], UPLOADS[1], inside, "/data/upload/1/red", "/data/upload/2/00000001-dog.jpg"]
    studio.files = {ref: png("red") for ref in refs if ref.startswith("/")} | {UPLOADS[3]: b"<html>"}
    del studio.files[UPLOADS[1]]
    for number, ref in enumerate([*refs, UPLOADS[3]], start=1):
        studio.add_task(1, {"captioning": ref}, id=number)
        store_annotation(redis, make_correction(annotation_id=number, image_ref=ref, caption=f"picture {number}"))
    store_annotation(redis, make_correction(annotation_id=9, caption="nonsense"))
    FeedbackStore(redis).exclude(1, "9/caption", "nonsense")

    code = main(["export", "1", "--format", layout, "--images", "--out", str(tmp_path / "out")])

    [file] = [path for path in (tmp_path / "out").iterdir() if path.suffix in {".json", ".jsonl"}]
    output = capsys.readouterr().out
    assert code == 1
    assert f"wrote 4 captions of 4 images to {file}" in output
    assert "excluded corrections: 1 (annotation 9/caption)" in output
    assert f"images that cannot be fetched: 2 ({UPLOADS[1]}: " in output
    captioned = read_captions(CaptionSource(captions=file, images=tmp_path / "out" / folder), strict=True)
    assert [image.captions for image in captioned.images] == [(f"picture {number}",) for number in (1, 3, 4, 5)]
    names = [image.file.name for image in captioned.images]
    assert names[0] == "00000001-dog.jpg"
    assert names[1].endswith(".png")
    assert names[2] == "red.png"
    assert names[3].endswith("-00000001-dog.jpg")
    with Image.open(captioned.images[1].file) as picture:
        assert picture.convert("RGB").getpixel((0, 0)) == (0, 0, 255)


def test_an_image_inside_of_its_task_needs_the_images(
    studio: FakeLabelStudio, redis: Redis, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store_annotation(redis, make_correction(annotation_id=1, image_ref="data:,sha256=" + "ab" * 32))

    assert main(["export", "1", "--format", "coco", "--out", str(tmp_path / "out")]) == 1

    assert "images inside of their tasks (--images fetches them): 1 (task 1)" in capsys.readouterr().out
    assert studio.requests == []


@pytest.mark.usefixtures("studio")
def test_an_export_of_nothing_or_into_a_full_directory_is_refused(
    redis: Redis, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["export", "1", "--format", "coco", "--out", str(tmp_path / "out")]

    assert main(words) == 2
    assert "project 1 has no corrections to export; nothing left out." in capsys.readouterr().err

    store_annotation(redis, make_correction())
    (tmp_path / "out").mkdir()
    (tmp_path / "out/mine.txt").write_text("mine")

    assert main(words) == 2
    assert "the directory is not empty; name a new one" in capsys.readouterr().err


def add_tasks(studio: FakeLabelStudio, *refs: str) -> None:
    for number, ref in enumerate(refs, start=1):
        studio.add_task(1, {"captioning": ref}, id=number)


def captions_of(studio: FakeLabelStudio) -> list[tuple[int, str]]:
    return [
        (annotation["task"], annotation["result"][0]["value"]["text"][0]) for annotation in studio.annotations.values()
    ]


def test_captions_of_a_file_become_annotations_once(
    studio: FakeLabelStudio, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    add_tasks(studio, "/data/upload/1/0a1b2c3d-my_dog.jpg", "/data/local-files/?d=photos/UP.JPG", "http://x/cat.jpg")
    file = tmp_path / "captions.csv"
    file.write_text("image,caption\nmy dog.jpg,A dog .\nmy dog.jpg,A brown dog\npics/UP.jpg,Two men\ngone.jpg,A bird\n")

    dry = main(["import", "1", str(file), "--dry-run"])
    after_dry, dry_output = captions_of(studio), capsys.readouterr().out
    first = main(["import", "1", str(file)])
    first_output = capsys.readouterr().out
    second = main(["import", "1", str(file)])

    missing = "left out: images without a task: 1 (gone.jpg)\n"
    assert (dry, first, second) == (1, 1, 1)
    assert after_dry == []
    assert dry_output == f"captions would be added to project 1: 3; there already: 0\n{missing}"
    assert first_output == f"captions added to project 1: 3; there already: 0\n{missing}"
    assert capsys.readouterr().out == f"captions added to project 1: 0; there already: 3\n{missing}"
    assert captions_of(studio) == [(1, "A dog."), (1, "A brown dog"), (2, "Two men")]
    created = [event for event in studio.events if event["action"] == "ANNOTATION_CREATED"]
    assert len(created) == 3  # so the backend hears of each


def test_an_interrupted_import_is_completed_and_the_work_of_people_stays(
    studio: FakeLabelStudio, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    add_tasks(studio, *UPLOADS)
    studio.submit(1, "A dog")  # by an import that was interrupted
    studio.submit(2, "what a person wrote")
    studio.skip(3)
    studio.submit(4, "")
    rows = [{"file_name": Path(ref).name, "text": text} for ref in UPLOADS for text in ("A dog", "A brown dog")]
    file = tmp_path / "metadata.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))

    code = main(["import", "1", str(file)])

    assert code == 1
    assert capsys.readouterr().out == (
        "captions added to project 1: 3; there already: 1\n"
        "left out: tasks with other annotations: 3 (task 2, task 3, task 4)\n"
    )
    assert [text for task, text in captions_of_filled(studio) if task == 1] == ["A dog", "A brown dog"]
    assert [text for task, text in captions_of_filled(studio) if task == 5] == ["A dog", "A brown dog"]


def captions_of_filled(studio: FakeLabelStudio) -> list[tuple[int, str]]:
    filled = [annotation for annotation in studio.annotations.values() if annotation["result"]]
    return [(annotation["task"], annotation["result"][0]["value"]["text"][0]) for annotation in filled]


def test_an_image_that_may_be_of_several_tasks_is_left_out_and_so_is_a_task_that_may_have_several(
    studio: FakeLabelStudio, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    add_tasks(studio, UPLOADS[0], UPLOADS[1], "/data/upload/1/0a1b2c3d-1.jpg")
    file = tmp_path / "captions.csv"
    file.write_text("image,caption\ndog.jpg,A dog\ntrain/1.jpg,A cat\nval/1.jpg,A bird\n")

    assert main(["import", "1", str(file)]) == 1

    assert capsys.readouterr().out.splitlines()[1] == (
        "left out: images of several tasks: 1 (dog.jpg); "
        "tasks that several images of the file may be: 1 (task 3: train/1.jpg and val/1.jpg)"
    )
    assert captions_of(studio) == []


def test_the_text_area_is_named_if_there_are_several(
    studio: FakeLabelStudio, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    studio.projects[1]["label_config"] = TWO_CAPTIONS
    add_tasks(studio, UPLOADS[0])
    file = tmp_path / "captions.csv"
    file.write_text("image,caption\ndog.jpg,Ein Hund\n")

    assert main(["import", "1", str(file)]) == 2
    assert "several captions: choose caption or german with --control" in capsys.readouterr().err
    assert main(["import", "1", str(file), "--control", "french"]) == 2
    assert "no such caption, it has caption, german" in capsys.readouterr().err

    assert main(["import", "1", str(file), "--control", "german"]) == 0

    [annotation] = studio.annotations.values()
    assert [region["from_name"] for region in annotation["result"]] == ["german"]


def test_a_broken_file_or_a_missing_key_adds_nothing(
    studio: FakeLabelStudio, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    add_tasks(studio, UPLOADS[0])
    file = tmp_path / "captions.csv"
    file.write_text("image,caption\ndog.jpg,A dog\ndog.jpg\n")

    assert main(["import", "1", str(file)]) == 2
    assert "line 3: expected 2 columns, got 1" in capsys.readouterr().err

    monkeypatch.setenv("LABEL_STUDIO_API_KEY", "")

    assert main(["import", "1", str(file)]) == 2
    assert "LABEL_STUDIO_API_KEY is not set, so nothing can be added" in capsys.readouterr().err
    assert captions_of(studio) == []
