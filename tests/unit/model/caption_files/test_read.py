"""Captions files of every format are read, and their errors are reported."""

import json
import sys
from collections.abc import Sequence
from pathlib import Path

import pyarrow
import pytest
from pyarrow import parquet

from model.caption_files.read import CaptionedImage, CaptionSource, read_captions, tidy_caption
from model.errors import CaptionFileError

FLICKR = "a.jpg#0\tA dog runs .\na.jpg#1\tA brown dog .\nb.jpg#0\tTwo men\n"
CSV = 'image,caption\na.jpg,A dog runs .\na.jpg,"A brown dog ."\nb.jpg,Two men\n'
JSONL = '{"image": "a.jpg", "captions": ["A dog runs .", "A brown dog ."]}\n{"image": "b.jpg", "caption": "Two men"}\n'
COCO = json.dumps(
    {
        "images": [{"id": 7, "file_name": "a.jpg"}, {"id": 9, "file_name": "b.jpg"}],
        "annotations": [
            {"id": 1, "image_id": 7, "caption": "A dog runs ."},
            {"id": 2, "image_id": 9, "caption": "Two men"},
            {"id": 3, "image_id": 7, "caption": "A brown dog ."},
        ],
    }
)

KARPATHY = json.dumps(
    {
        "images": [
            {"filename": "t.jpg", "split": "train", "sentences": [{"raw": "A cat", "sentid": 5}]},
            {
                "filename": "a.jpg",
                "split": "test",
                "sentences": [{"raw": "A dog runs .", "sentid": 1}, {"raw": "A brown dog .", "sentid": 2}],
            },
            {"filename": "r.jpg", "split": "restval", "sentences": [{"raw": "A bird", "sentid": 6}]},
            {"filename": "b.jpg", "split": "test", "sentences": [{"raw": "Two men", "sentid": 3}]},
        ],
        "dataset": "flickr8k",
    }
)


def source(
    folder: Path,
    text: str | bytes,
    *,
    names: str | None = None,
    split: str | None = None,
    images: Sequence[str] = ("a.jpg", "b.jpg"),
) -> CaptionSource:
    for image in images:
        (folder / "images" / image).parent.mkdir(parents=True, exist_ok=True)
        (folder / "images" / image).write_bytes(b"")
    captions = folder / "captions"
    captions.write_bytes(text if isinstance(text, bytes) else text.encode())
    if names is not None:
        (folder / "names").write_text(names)
    listed = folder / "names" if names is not None else None
    return CaptionSource(captions=captions, images=folder / "images", names=listed, split=split)


@pytest.mark.parametrize(
    "text",
    [
        FLICKR,
        CSV,
        JSONL,
        COCO,
        FLICKR.replace("\n", "\r\n"),
        CSV.replace("\n", "\r\n"),
        "\n\n" + CSV,
        "\ufeff" + CSV,
        "\ufeff" + JSONL,
        json.dumps(json.loads(COCO), indent=2),
        FLICKR.replace("\t", " ").replace("#", "#zhc#"),
        "\ufeff" + CSV.replace(",", ";").replace("\n", "\r\n"),
        "sep=;\r\n" + CSV.replace(",", ";"),
        CSV.replace(",", "\t"),
        CSV.replace(",", "|"),
        CSV.replace("image,caption", "file_name,text"),
        JSONL.replace('"image"', '"file_name"').replace('"caption"', '"text"').replace('"captions"', '"text"'),
        json.dumps([json.loads(line) for line in JSONL.splitlines()]),
        "caption,extra,Image\nA dog runs .,1,a.jpg\nA brown dog .,2,a.jpg\nTwo men,3,b.jpg\n",
        FLICKR.replace("\n", "\r"),
        CSV.replace("\n", "\r"),
        JSONL.replace("\n", "\r"),
        " " + COCO,
        "\n  " + JSONL,
        " " + json.dumps([json.loads(line) for line in JSONL.splitlines()]),
    ],
)
def test_every_format_is_recognised_by_its_content(tmp_path: Path, text: str) -> None:
    captioned = read_captions(source(tmp_path, text), strict=True)

    assert captioned.images == (
        CaptionedImage(file=tmp_path / "images/a.jpg", captions=("A dog runs.", "A brown dog.")),
        CaptionedImage(file=tmp_path / "images/b.jpg", captions=("Two men",)),
    )
    assert captioned.left_out.summary() == "nothing left out"


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be"])
@pytest.mark.parametrize("text", [CSV.replace(",", "\t").replace("\n", "\r\n"), COCO, FLICKR])
def test_text_in_utf_16_is_read(tmp_path: Path, text: str, encoding: str) -> None:
    captioned = read_captions(source(tmp_path, text.replace("Two men", "Deux cafés").encode(encoding)), strict=True)

    assert [image.captions for image in captioned.images] == [("A dog runs.", "A brown dog."), ("Deux cafés",)]


def test_names_of_a_list_may_be_in_utf_16_too(tmp_path: Path) -> None:
    listed = source(tmp_path, FLICKR, names="")
    (tmp_path / "names").write_text("b.jpg\n", "utf-16")

    assert [image.file.name for image in read_captions(listed).images] == ["b.jpg"]


def test_coco_captions_without_a_text_or_a_listed_image_are_counted(tmp_path: Path) -> None:
    document = json.loads(COCO)
    document["annotations"] += [
        {"id": 4, "image_id": 99, "caption": "A cat"},
        {"id": 5, "image_id": 7, "caption": None},
    ]

    captioned = read_captions(source(tmp_path, json.dumps(document)))

    assert [len(image.captions) for image in captioned.images] == [2, 1]
    assert captioned.left_out.summary() == (
        "left out: captions without a known image: 1 (annotations[3]); empty captions: 1 (annotations[4])"
    )


def test_coco_captions_of_an_image_without_a_name_are_counted(tmp_path: Path) -> None:
    document = json.loads(COCO)
    document["images"] += [{"id": 10}, {"id": 11, "file_name": None}]
    document["annotations"] += [{"image_id": 10, "caption": "A cat"}, {"image_id": 11, "caption": "A bird"}]

    captioned = read_captions(source(tmp_path, json.dumps(document)))

    assert [len(image.captions) for image in captioned.images] == [2, 1]
    assert captioned.left_out.summary() == (
        "left out: captions without a known image: 2 (annotations[3], annotations[4])"
    )


@pytest.mark.parametrize(
    "entry",
    [
        '{"file_name": "a.jpg", "text": null}',
        '{"file_name": "a.jpg", "text": NaN}',
        '{"image": "a.jpg", "captions": ["A dog", null]}',
    ],
)
@pytest.mark.parametrize("form", ["{}\n{}\n", "[{}, {}]"])
def test_null_is_an_empty_caption(tmp_path: Path, entry: str, form: str) -> None:
    text = form.format(entry, '{"image": "b.jpg", "caption": "Two men"}')

    captioned = read_captions(source(tmp_path, text))

    assert captioned.images[-1].captions == ("Two men",)
    assert captioned.left_out.counts() == {"empty captions": 1}


def test_null_in_a_parquet_file_is_an_empty_caption(tmp_path: Path) -> None:
    of_file = source(tmp_path, "")
    texts = [["A dog", None], None, ["Two men"]]
    parquet.write_table(pyarrow.table({"image": ["a.jpg", "a.jpg", "b.jpg"], "text": texts}), of_file.captions)

    captioned = read_captions(of_file)

    assert [image.captions for image in captioned.images] == [("A dog",), ("Two men",)]
    assert captioned.left_out.summary() == "left out: empty captions: 2 (row 1, row 2)"


def test_all_columns_called_caption_hold_captions(tmp_path: Path) -> None:
    text = "image,caption,site,Caption\na.jpg,A dog runs,north,A brown dog\nb.jpg,Two men,south,\n"

    captioned = read_captions(source(tmp_path, text))

    assert [image.captions for image in captioned.images] == [("A dog runs", "A brown dog"), ("Two men",)]
    assert captioned.left_out.summary() == "left out: empty captions: 1 (line 3)"


def test_a_parquet_file_is_read_with_the_extra(tmp_path: Path) -> None:
    of_file = source(tmp_path, "")
    table = {"file_name": ["a.jpg", "b.jpg"], "split": ["x", "x"], "text": ["A dog runs .", "Two men"]}
    parquet.write_table(pyarrow.table(table), of_file.captions)

    captioned = read_captions(of_file, strict=True)

    assert [image.captions for image in captioned.images] == [("A dog runs.",), ("Two men",)]
    parquet.write_table(pyarrow.table({"file_name": ["a.jpg"], "words": ["A dog"]}), of_file.captions)
    with pytest.raises(
        CaptionFileError, match="expected the columns image and caption, or file_name and text, got 'fi"
    ):
        read_captions(of_file)
    parquet.write_table(pyarrow.table({"image": [{"bytes": b"x"}], "text": ["A dog"]}), of_file.captions)
    with pytest.raises(CaptionFileError, match=r"row 1: expected the name of an image file \(pictures inside of"):
        read_captions(of_file)
    of_file.captions.write_bytes(b"PAR1 and no more")
    with pytest.raises(CaptionFileError, match="is a Parquet file that cannot be read"):
        read_captions(of_file)


def test_a_parquet_file_without_the_extra_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)

    with pytest.raises(CaptionFileError, match=r"install the extra parquet \(`pip install pyarrow`"):
        read_captions(source(tmp_path, b"PAR1\x15\x04"))


def test_only_the_chosen_split_of_a_karpathy_file_is_read(tmp_path: Path) -> None:
    captioned = read_captions(source(tmp_path, KARPATHY, split="test"), strict=True)

    assert captioned.images == (
        CaptionedImage(file=tmp_path / "images/a.jpg", captions=("A dog runs.", "A brown dog.")),
        CaptionedImage(file=tmp_path / "images/b.jpg", captions=("Two men",)),
    )


def test_several_karpathy_splits_are_taken_together_and_a_single_one_needs_no_name(tmp_path: Path) -> None:
    images = ("t.jpg", "r.jpg")
    both = read_captions(source(tmp_path, KARPATHY, split="train,restval", images=images), strict=True)
    only_train = json.dumps({"images": json.loads(KARPATHY)["images"][:1]})
    single = read_captions(source(tmp_path, only_train, images=images), strict=True)

    assert [image.file.name for image in both.images] == ["t.jpg", "r.jpg"]
    assert [image.file.name for image in single.images] == ["t.jpg"]


def test_karpathy_images_of_coco_are_in_the_folder_that_the_file_names(tmp_path: Path) -> None:
    text = KARPATHY.replace('"filename": "a.jpg"', '"filepath": "val2014", "filename": "a.jpg"')

    captioned = read_captions(source(tmp_path, text, split="test", images=("val2014/a.jpg",)))

    assert [image.file for image in captioned.images] == [tmp_path / "images/val2014/a.jpg"]
    assert captioned.left_out.counts() == {"missing images": 1}


@pytest.mark.parametrize(
    ("split", "message"),
    [
        ("dev", r"has no split 'dev': choose one of restval \(1 images\), test \(2 images\), train \(1 images\) with"),
        ("test,dev,val", "has no split 'dev, val': choose one of"),
        (None, r"has several splits: choose one of restval \(1 images\), test .* with --split"),
    ],
)
def test_a_wrong_split_is_refused_with_the_splits_of_the_file(tmp_path: Path, split: str | None, message: str) -> None:
    with pytest.raises(CaptionFileError, match=message):
        read_captions(source(tmp_path, KARPATHY, split=split))


@pytest.mark.parametrize("text", [FLICKR, CSV, JSONL, COCO])
def test_a_file_without_splits_points_to_the_list_of_names(tmp_path: Path, text: str) -> None:
    with pytest.raises(CaptionFileError, match=r"has no splits to take 'test' from: list .* --names"):
        read_captions(source(tmp_path, text, split="test"))


def test_chinese_captions_are_read_as_they_are(tmp_path: Path) -> None:
    captioned = read_captions(source(tmp_path, "a.jpg#zhc#0 一个女人躺在海水里。\n"))

    assert captioned.images[0].captions == ("一个女人躺在海水里。",)


def test_only_the_images_of_a_split_are_taken(tmp_path: Path) -> None:
    captioned = read_captions(source(tmp_path, FLICKR, names="b.jpg\nc.jpg\n\nb.jpg\n"))

    assert [image.file.name for image in captioned.images] == ["b.jpg"]
    assert captioned.left_out.counts() == {"listed images without captions": 1}


def test_entries_that_are_left_out_are_counted_and_the_first_are_named(tmp_path: Path) -> None:
    rows = "".join(f"gone{number}.jpg,No picture\n" for number in range(5))
    text = CSV + "a.jpg,  \n" + "a.jpg,A dog runs .\n" + rows

    captioned = read_captions(source(tmp_path, text))

    assert [len(image.captions) for image in captioned.images] == [2, 1]
    assert captioned.left_out.summary() == (
        "left out: empty captions: 1 (line 5); duplicate captions: 1 (line 6); "
        "missing images: 5 (gone0.jpg, gone1.jpg, gone2.jpg, ...)"
    )


def test_two_people_may_write_the_same_but_one_row_counts_once(tmp_path: Path) -> None:
    text = "a.jpg#0\tA dog\na.jpg#1\tA dog\na.jpg#1\tA dog\n"

    captioned = read_captions(source(tmp_path, text))

    assert captioned.images[0].captions == ("A dog", "A dog")
    assert captioned.left_out.counts() == {"duplicate captions": 1}


def test_an_image_with_empty_captions_only_is_left_out(tmp_path: Path) -> None:
    captioned = read_captions(source(tmp_path, "a.jpg#0\t \nb.jpg#0\tTwo men\n"))

    assert [image.file.name for image in captioned.images] == ["b.jpg"]


def test_strict_stops_with_the_summary(tmp_path: Path) -> None:
    with pytest.raises(CaptionFileError, match=r"empty captions: 1 \(line 4\)"):
        read_captions(source(tmp_path, FLICKR + "a.jpg#2\t\n"), strict=True)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no known format"),
        ("hello\nworld\n", "no known format.*got 'hello'"),
        ("picture,text\na.jpg,A dog\n", "no known format"),
        ("file_name;words\na.jpg;A dog\n", "image and caption, or file_name and text, with commas, semicolons or tabs"),
        (
            "image;caption\na.jpg;A dog; it runs\n",
            r"line 2: expected 2 columns, got 3 \(a cell that contains ';' needs",
        ),
        ('{"file_name": "a.jpg", "words": "A dog"}\n', 'line 1: expected .*"file_name": "...", "text": "..."'),
        (
            '[{"image": "a.jpg", "words": "A dog"}]',
            r"\[0\]: expected .*\"caption\": .*or a task as Label Studio exports",
        ),
        ('[{"data": 5, "annotations": []}]', r"\[0\]: expected a task with data and annotations, as Label Studio"),
        (
            "image,caption\na.jpg,un café\n".encode("cp1252"),
            "line 2: not UTF-8 text .* 'CSV UTF-8', .*iconv -f WINDOWS",
        ),
        ("image,caption\n".encode("utf-16") + b"a", "damaged UTF-16 text .*save it again as UTF-8"),
        (b"PK\x03\x04 and more", "is an Excel workbook or an archive: save it as 'CSV UTF-8'"),
        (FLICKR + "a picture without a number\n", "line 4: expected 'picture.jpg#0<TAB>caption', got 'a picture"),
        (CSV + "b.jpg\n", "line 5: expected 2 columns, got 1"),
        (CSV + '"b.jpg,never closed', "line 5: not CSV"),
        (JSONL + "{", "line 3: expected"),
        (JSONL + '{"image": "a.jpg"}', "line 3: expected"),
        (JSONL + '{"image": "a.jpg", "caption": 5}', "line 3: expected"),
        (JSONL + '["a.jpg"]', "line 3: expected"),
        ('{"images": [', "line 1: not JSON"),
        ('{"images": []}', "not in COCO's captions format"),
        ('{"images": [{"id": 1}], "annotations": []}', "not in COCO's captions format"),
        ("[1, 2]", r"\[0\]: expected .* or a task as Label Studio exports it, got 1"),
        ('{"images": [], "annotations": [{"image_id": 3}]}', r"annotations\[0\]: expected a caption .*captions_"),
        ('{"images": [], "annotations": [7]}', r"annotations\[0\]: expected a caption"),
        ('{"images": [{"sentences": []}]}', r"images\[0\]: expected filename, split and sentences with raw, got"),
        (KARPATHY.replace('"raw": "Two men"', '"tokens": []'), r"images\[3\]: expected filename, split and sentences"),
        (FLICKR.encode() + b"a.jpg#2\t\xff\n", "line 4: not UTF-8"),
    ],
)
def test_a_broken_file_names_its_line(tmp_path: Path, text: str | bytes, message: str) -> None:
    with pytest.raises(CaptionFileError, match=message):
        read_captions(source(tmp_path, text))


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(CaptionFileError, match=r"cannot read .*nowhere"):
        read_captions(CaptionSource(captions=tmp_path / "nowhere", images=tmp_path))


def test_captions_without_images_are_refused_with_the_directory(tmp_path: Path) -> None:
    with pytest.raises(CaptionFileError, match=r"no caption has an image below .*images; left out: missing images: 2"):
        read_captions(source(tmp_path, FLICKR, images=[]))


@pytest.mark.parametrize(
    ("caption", "tidy"),
    [
        ("  A dog ,  a cat . ", "A dog, a cat."),
        ("No .5 and 1 .5", "No .5 and 1 .5"),
        ("Quoi ?\nRien !", "Quoi ? Rien !"),
        ("一只狗 。", "一只狗 。"),
        (" \t ", ""),
    ],
)
def test_captions_are_tidied(caption: str, tidy: str) -> None:
    assert tidy_caption(caption) == tidy
