"""An evaluation captions held-out images and scores them against what people wrote."""

from pathlib import Path

import pytest

from model.captions import CaptionedImage
from model.decoding import DecodingOptions
from model.errors import CaptionFileError
from model.evaluation import evaluate
from model.metrics import measure
from tests.factories import make_captioner, make_image

OPTIONS = DecodingOptions(max_tokens=5)


def captioned_images(folder: Path) -> list[CaptionedImage]:
    images = []
    for color in ("red", "green"):
        make_image(color).save(folder / f"{color}.png")
        images.append(CaptionedImage(file=folder / f"{color}.png", captions=(f"a {color} square", "a square")))
    return images


def test_each_best_caption_is_scored_against_all_references_of_its_image(tmp_path: Path) -> None:
    images = captioned_images(tmp_path)
    captioner = make_captioner()

    evaluation = evaluate(captioner, images, OPTIONS)

    written = [judged.caption for judged in evaluation.captions]
    expected = [
        captioner.caption(captioner.encode([make_image(color)]), OPTIONS)[0][0].text for color in ("red", "green")
    ]
    assert written == expected
    assert evaluation.metrics == measure(written, [image.captions for image in images])
    assert evaluation.version == captioner.version


def test_an_unreadable_image_is_reported_and_not_scored(tmp_path: Path) -> None:
    images = captioned_images(tmp_path)
    images[0].file.write_bytes(b"")

    evaluation = evaluate(make_captioner(), images, OPTIONS)

    assert evaluation.unreadable == {images[0].file: "the image is empty (0 bytes)"}
    assert evaluation.metrics.images == 1


def test_nothing_readable_is_an_error_that_names_the_first(tmp_path: Path) -> None:
    images = captioned_images(tmp_path)
    for image in images:
        image.file.write_bytes(b"")

    with pytest.raises(CaptionFileError, match=r"no image to evaluate on can be read: .*red\.png"):
        evaluate(make_captioner(), images, OPTIONS)


def test_the_table_and_the_json_name_version_and_metrics(tmp_path: Path) -> None:
    evaluation = evaluate(make_captioner(), captioned_images(tmp_path), OPTIONS)

    table = evaluation.table().splitlines()
    assert table[0] == "tiny-00000000 on 2 images"
    assert [line.split()[0] for line in table[1:]] == ["BLEU-1", "BLEU-2", "BLEU-3", "BLEU-4", "ROUGE-L", "CIDEr-D"]
    assert evaluation.to_json()["metrics"]["images"] == 2
    assert len(evaluation.to_json()["captions"]) == 2
