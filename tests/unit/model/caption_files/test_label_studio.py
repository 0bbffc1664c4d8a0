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


def region(caption: str | list[str], from_name: str = "caption", **more: Any) -> dict[str, Any]:
    text = [caption] if isinstance(caption, str) else caption
    return {"from_name": from_name, "to_name": "image", "type": "textarea", "value": {"text": text, **more}}


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
