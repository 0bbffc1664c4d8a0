"""An evaluation captions held-out images and scores them against what people wrote."""

from dataclasses import replace
from pathlib import Path

import pytest

from model.caption_files.read import CaptionedImage
from model.decoders.search import DecodingOptions
from model.errors import CaptionFileError
from model.metrics.evaluation import evaluate
from model.metrics.java import JavaMetric
from model.metrics.scores import measure, measure_each
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
    assert [judged.metrics for judged in evaluation.captions] == measure_each(
        written, [image.captions for image in images]
    )
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


def test_strict_stops_at_an_unreadable_image_with_the_summary(tmp_path: Path) -> None:
    images = captioned_images(tmp_path)
    images[1].file.write_bytes(b"")

    with pytest.raises(CaptionFileError, match=r"left out: unreadable images: 1 \(green\.png: the image is empty"):
        evaluate(make_captioner(), images, OPTIONS, strict=True)


def test_one_file_under_two_names_is_scored_once(tmp_path: Path) -> None:
    images = captioned_images(tmp_path)

    evaluation = evaluate(make_captioner(), [*images, images[0]], OPTIONS)

    assert evaluation.metrics.images == 2


def test_each_word_comes_with_its_attention_over_the_regions(tmp_path: Path) -> None:
    evaluation = evaluate(make_captioner(), captioned_images(tmp_path), OPTIONS)

    for judged in evaluation.captions:
        assert judged.attention.shape == (len(judged.tokens), 4)


def test_the_table_and_the_json_name_version_and_metrics(tmp_path: Path) -> None:
    evaluation = evaluate(make_captioner(), captioned_images(tmp_path), OPTIONS)

    table = evaluation.table().splitlines()
    assert table[0] == "tiny-00000000 on 2 images"
    assert [line.split()[0] for line in table[1:-1]] == ["BLEU-1", "BLEU-2", "BLEU-3", "BLEU-4", "ROUGE-L", "CIDEr-D"]
    edits = evaluation.metrics.word_edits
    assert table[-1].startswith(f"  words to edit until the nearest reference is reached: {edits:.1f} a caption (")
    assert evaluation.to_json()["metrics"]["images"] == 2
    assert [caption["edits"] for caption in evaluation.to_json()["captions"]] == [
        judged.metrics.edits for judged in evaluation.captions
    ]


def test_meteor_and_spice_stand_where_papers_print_them_and_say_what_is_missing(tmp_path: Path) -> None:
    evaluation = replace(
        evaluate(make_captioner(), captioned_images(tmp_path), OPTIONS),
        java=(
            JavaMetric(name="METEOR", score=0.2034),
            JavaMetric(name="SPICE", score=None, missing="needs Java (Debian: apt install default-jre-headless)"),
        ),
    )

    table = evaluation.table().splitlines()
    assert [line.split()[0] for line in table[4:9]] == ["BLEU-4", "METEOR", "ROUGE-L", "CIDEr-D", "SPICE"]
    assert (table[5].split(), table[8].split()) == (["METEOR", "20.3"], ["SPICE", "-"])
    assert table[-1] == "  SPICE needs Java (Debian: apt install default-jre-headless)"
    assert evaluation.to_json()["metrics"]["meteor"] == 0.2034
    assert evaluation.to_json()["metrics"]["spice"] is None
    assert list(evaluation.to_json()["missing_metrics"]) == ["spice"]
