"""Label Studio's own exports are captions files, as Label Studio 1.23.2 writes them."""

import csv
import io
import json
from pathlib import Path
from typing import Any

import pytest

from model.caption_files.read import read_captions
from model.errors import CaptionFileError
from tests.payloads import load_payload
from tests.unit.model.caption_files.test_read import source

UPLOADS = ("/data/upload/1/0a1b2c3d-a.jpg", "/data/upload/1/4e5f6a7b-b.jpg")
OF_ITS_OWN = {"annotator": 1, "created_at": "2025-01-01", "updated_at": "2025-01-01", "lead_time": 3.0}


def region(caption: str | list[str], from_name: str = "caption", to_name: str = "image", **more: Any) -> dict[str, Any]:
    text = [caption] if isinstance(caption, str) else caption
    return {"from_name": from_name, "to_name": to_name, "type": "textarea", "value": {"text": text, **more}}


def task(image: str, *results: list[dict[str, Any]], skipped: bool = False, key: str = "image") -> dict[str, Any]:
    annotations = [{"id": at, "was_cancelled": skipped, "result": result} for at, result in enumerate(results)]
    return {"id": 1, "data": {key: image, "site": "north"}, "annotations": annotations}


def record(image: str, caption: Any, key: str = "image", control: str = "caption") -> dict[str, Any]:
    return {"id": 1, "annotation_id": 7, key: image, control: caption} | OF_ITS_OWN


def in_csv(*records: dict[str, Any]) -> str:
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, sorted({name for fields in records for name in fields}))
    writer.writeheader()
    writer.writerows(records)
    return text.getvalue()


def test_a_recorded_export_is_read_without_the_skipped_task(tmp_path: Path) -> None:
    text = json.dumps(load_payload("70_reply_export_json")["reply"])

    captioned = read_captions(source(tmp_path, text, images=("i0.png", "d16bcc50-i1.png")), strict=True)

    assert [(image.file.name, image.captions) for image in captioned.images] == [
        ("i0.png", ("rec-v1 caption of task 116",)),
        ("d16bcc50-i1.png", ("fixed",)),
    ]


def test_each_annotation_and_text_area_has_a_caption_and_empty_ones_are_counted(tmp_path: Path) -> None:
    marked = region("a collar", "part", x=1, y=2, width=3, height=4)
    choice = {"from_name": "kind", "to_name": "image", "type": "choices", "value": {"choices": ["dog"]}}
    both = [region(["A dog", "on grass"]), region("Ein Hund", "german"), marked, choice]
    tasks = [
        task(UPLOADS[0], both, [region("A dog on grass")], [choice]),
        task(UPLOADS[1], [region("x")], skipped=True),
    ]

    captioned = read_captions(source(tmp_path, json.dumps(tasks)))

    assert [image.captions for image in captioned.images] == [("A dog on grass", "Ein Hund", "A dog on grass")]
    assert captioned.left_out.summary() == "left out: empty captions: 1 ([0].annotations[2])"


@pytest.mark.parametrize("control", ["caption", "sentence"])
@pytest.mark.parametrize("key", ["image", "captioning"])
@pytest.mark.parametrize("form", ["json-min", "csv"])
def test_the_short_exports_are_read_whatever_their_fields_are_called(
    tmp_path: Path, form: str, key: str, control: str
) -> None:
    several: Any = {"text": ["A dog", "[sic] on grass"]}
    records = [record(UPLOADS[0], several, key, control), record(UPLOADS[1], "Two men", key, control)]
    records += [record(UPLOADS[0], None, key, control)]
    if form == "csv":
        records[0][control] = json.dumps(several)
    text = json.dumps(records) if form == "json-min" else in_csv(*records)

    captioned = read_captions(source(tmp_path, text))

    assert [image.captions for image in captioned.images] == [("A dog [sic] on grass",), ("Two men",)]
    assert list(captioned.left_out.counts().items()) == [("empty captions", 1)]


def test_a_short_export_with_several_columns_says_what_to_rename(tmp_path: Path) -> None:
    records = [record(UPLOADS[0], "A dog", control="sentence") | {"kind": "animal"}]

    with pytest.raises(
        CaptionFileError, match="captions may be in the columns sentence, kind; rename the right one to c"
    ):
        read_captions(source(tmp_path, json.dumps(records)))
    del records[0]["sentence"], records[0]["kind"]
    with pytest.raises(CaptionFileError, match="no column holds captions; name it caption, or export JSON"):
        read_captions(source(tmp_path, json.dumps(records)))


def test_a_task_without_an_image_is_counted(tmp_path: Path) -> None:
    tasks = [task("no image", [region("A dog")], key="site"), task(UPLOADS[0], [region("A dog")])]

    captioned = read_captions(source(tmp_path, json.dumps(tasks)))

    assert captioned.left_out.counts() == {"captions without a known image": 1}


def test_a_caption_that_looks_like_json_stays_a_text(tmp_path: Path) -> None:
    text = in_csv(record(UPLOADS[0], "[unclear] a dog"), record(UPLOADS[1], "[1]"))

    captioned = read_captions(source(tmp_path, text), strict=True)

    assert [image.captions for image in captioned.images] == [("[unclear] a dog",), ("[1]",)]


def task_of_two(first: str, second: str, *results: list[dict[str, Any]]) -> dict[str, Any]:
    """Return a task with two pictures, in fields of these names."""
    return task(UPLOADS[0], *results, key=first) | {"data": {first: UPLOADS[0], second: UPLOADS[1], "site": "north"}}


def test_captions_of_two_pictures_go_to_the_pictures_that_they_are_about(tmp_path: Path) -> None:
    both = [region("A dog", "cap_a", "a"), region("A cat", "cap_b", "b")]
    tasks = [task_of_two("a", "b", both, [region("A black cat", "cap_b", "b")])]

    captioned = read_captions(source(tmp_path, json.dumps(tasks)), strict=True)

    assert [(image.file.name, image.captions) for image in captioned.images] == [
        ("a.jpg", ("A dog",)),
        ("b.jpg", ("A cat", "A black cat")),
    ]


@pytest.mark.parametrize("names", [("one", "two"), ("a", "two"), ("two", "b")])
def test_a_task_is_left_out_if_it_is_not_certain_which_picture_a_caption_is_about(
    tmp_path: Path, names: tuple[str, str]
) -> None:
    tasks = [
        task_of_two("a", "b", [region("A dog", "cap_a", names[0])]),
        task_of_two("a", "b", [region("A cat", "cap_b", names[1])], []),
        task(UPLOADS[1], [region("A bird", to_name=names[0])], key="other"),
    ]

    captioned = read_captions(source(tmp_path, json.dumps(tasks)))

    assert [(image.file.name, image.captions) for image in captioned.images] == [("b.jpg", ("A bird",))]
    assert captioned.left_out.summary() == "left out: not certain which picture: 2 ([0], [1])"


def test_a_caption_for_a_picture_that_the_task_lacks_does_not_go_to_the_other_one(tmp_path: Path) -> None:
    both = [region("A dog", "cap_a", "a"), region("A cat", "cap_b", "b")]
    lacking = task_of_two("a", "b", both)
    lacking["data"]["b"] = None

    captioned = read_captions(source(tmp_path, json.dumps([lacking])))

    assert [image.captions for image in captioned.images] == [("A dog",)]
    assert captioned.left_out.counts() == {"captions without a known image": 1}


@pytest.mark.parametrize(("to_name", "file"), [("b", "b.jpg"), ("img", "a.jpg")])
def test_one_described_picture_is_that_of_its_name_or_else_the_first(tmp_path: Path, to_name: str, file: str) -> None:
    tasks = [task_of_two("image", "b", [region("A dog", to_name=to_name)])]

    captioned = read_captions(source(tmp_path, json.dumps(tasks)), strict=True)

    assert [image.file.name for image in captioned.images] == [file]


def test_a_remark_about_another_picture_makes_no_caption_uncertain(tmp_path: Path) -> None:
    tasks = [task_of_two("image", "b", [region("A dog", to_name="img"), region("blurred", "notes", "b")])]

    captioned = read_captions(source(tmp_path, json.dumps(tasks)))

    assert [(image.file.name, image.captions) for image in captioned.images] == [("a.jpg", ("A dog",))]


@pytest.mark.parametrize("name", ["notes", "image_ocr", "imageNotes", "备注"])
def test_remarks_are_counted_and_are_no_captions(tmp_path: Path, name: str) -> None:
    tasks = [
        task(UPLOADS[0], [region("A dog", "footnoted"), region("blurred", name)]),
        task(UPLOADS[1], [region("dark", name, "other")], [region("", name), region("A bird")]),
    ]

    captioned = read_captions(source(tmp_path, json.dumps(tasks)))

    assert [image.captions for image in captioned.images] == [("A dog",), ("A bird",)]
    assert captioned.left_out.summary() == (
        "left out: texts of fields that by their name hold no captions: 2 "
        f"([0].annotations[0] {name}, [1].annotations[0] {name}); empty captions: 1 ([1].annotations[0])"
    )


def test_a_short_export_with_remarks_only_does_not_take_them_for_captions(tmp_path: Path) -> None:
    with pytest.raises(CaptionFileError, match="captions may be in the columns notes; rename the right one to caption"):
        read_captions(source(tmp_path, json.dumps([record(UPLOADS[0], "blurred", control="notes")])))


@pytest.mark.parametrize(
    "place",
    [
        {"imageDataURL": "data:image/png;base64,AAAA"},
        {"vertices": [{"x": 1, "y": 2}], "closed": False},
        {"points": [[1, 2]]},
        {"format": "rle", "rle": [1, 2]},
        {"x": 1, "y": 2, "width": 3, "height": 4, "rotation": 0},
    ],
    ids=["bitmask", "vector", "polygon", "brush", "rectangle"],
)
def test_texts_about_marked_regions_are_no_captions(tmp_path: Path, place: dict[str, Any]) -> None:
    mark = {"id": "r1", "from_name": "mark", "to_name": "image", "type": "labels", "value": {**place, "labels": ["x"]}}
    with_place = region("a collar", "part", **place)
    with_its_id = region("a tail", "part") | {"id": "r1"}
    kind = {"id": "c", "from_name": "kind", "to_name": "image", "type": "choices", "value": {"choices": ["dog"]}}
    whole = [region("A dog") | {"id": "c"}, kind]
    relation = {"type": "relation", "from_id": "r1", "to_id": "c", "direction": "right"}

    captioned = read_captions(
        source(tmp_path, json.dumps([task(UPLOADS[0], [with_place, mark, with_its_id, *whole, relation])])), strict=True
    )

    assert [image.captions for image in captioned.images] == [("A dog",)]
