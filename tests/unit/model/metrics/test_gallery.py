"""The gallery is one page that shows images, captions, references and attention."""

import base64
import io
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from model.caption_files.read import CaptionedImage
from model.decoders.search import DecodingOptions
from model.errors import CaptionFileError
from model.metrics.evaluation import Evaluation, evaluate
from model.metrics.gallery import write_gallery
from model.metrics.java import JavaMetric
from tests.factories import make_captioner, make_image

HOSTILE = '"><script>alert(1)</script> & <img src=x onerror=alert(2)>'


class Elements(HTMLParser):
    """Parses the page into elements with their attributes, and texts."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attributes)))

    def handle_data(self, data: str) -> None:
        self.texts.append(data)

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.found if name == tag]


def make_evaluation(folder: Path, colors: tuple[str, ...] = ("red", "green", "blue")) -> Evaluation:
    images = []
    for color in colors:
        make_image(color, size=(1000, 500)).save(folder / f"{color}.png")
        images.append(CaptionedImage(file=folder / f"{color}.png", captions=(f"a {color} square", "a square")))
    return evaluate(make_captioner(), images, DecodingOptions(max_tokens=5))


def test_each_image_is_shown_with_its_caption_references_and_scores(tmp_path: Path) -> None:
    evaluation = make_evaluation(tmp_path)

    shown = write_gallery(tmp_path / "out.html", evaluation)

    page = Elements((tmp_path / "out.html").read_text("utf-8"))
    assert shown == 3
    assert sorted(str(image["alt"]) for image in page.all("img")) == sorted(j.caption for j in evaluation.captions)
    for judged in evaluation.captions:
        for text in (*judged.tokens, *judged.references):
            assert text in page.texts
        said = next(text for text in page.texts if text.startswith(judged.file.name))
        edits = f"{judged.metrics.edits} edits to the nearest reference ({judged.metrics.reference_words} words)"
        assert said == f"{judged.file.name} · CIDEr-D {100 * judged.metrics.cider_d:.0f} · {edits}"
    assert "All 3 images." in " ".join(page.texts)
    assert f"{100 * evaluation.metrics.bleu_1:.1f}" in page.texts


def test_images_are_small_and_inside_and_nothing_is_fetched(tmp_path: Path) -> None:
    write_gallery(tmp_path / "out.html", make_evaluation(tmp_path, ("red",)))

    text = (tmp_path / "out.html").read_text("utf-8")
    source = str(Elements(text).all("img")[0]["src"])
    header, encoded = source.split(",")
    picture = Image.open(io.BytesIO(base64.b64decode(encoded)))
    assert header == "data:image/jpeg;base64"
    assert (picture.format, picture.size) == ("JPEG", (480, 240))
    assert picture.convert("RGB").getpixel((9, 9)) == pytest.approx((255, 0, 0), abs=3)
    assert not re.search(r"https?:|//\w", text.replace(source, ""))
    assert "default-src 'none'; img-src data:" in text


def test_every_word_carries_its_attention_and_tab_reaches_the_first(tmp_path: Path) -> None:
    evaluation = make_evaluation(tmp_path, ("red",))
    weights = np.array([[0, 0.25, 0.25, 0.5], [1, 0, 0, 0], [0.25, 0.25, 0.25, 0.25]], np.float32)
    judged = replace(evaluation.captions[0], tokens=("a", "<glue>", "dog"), attention=weights)

    write_gallery(tmp_path / "out.html", replace(evaluation, captions=(judged,)))

    page = Elements((tmp_path / "out.html").read_text("utf-8"))
    assert [(word["data-attention"], word["tabindex"]) for word in page.all("button")] == [
        ("008080ff", "0"),
        ("ffffffff", "-1"),
    ]
    assert page.all("article")[0]["data-columns"] == "2"


def test_captions_and_file_names_are_never_markup(tmp_path: Path) -> None:
    evaluation = make_evaluation(tmp_path, ("red",))
    file = evaluation.captions[0].file.rename(tmp_path / '"><b>.png')
    judged = replace(
        evaluation.captions[0],
        file=file,
        caption=HOSTILE,
        references=(HOSTILE,),
        tokens=(HOSTILE,),
        attention=np.ones((1, 4), np.float32),
    )

    write_gallery(tmp_path / "out.html", replace(evaluation, version=HOSTILE, captions=(judged,)))

    page = Elements((tmp_path / "out.html").read_text("utf-8"))
    assert len(page.all("script")) == 1
    assert len(page.all("img")) == 1
    assert not page.all("b")
    assert page.all("img")[0]["alt"] == HOSTILE
    assert page.texts.count(HOSTILE) == 2


def test_a_large_evaluation_shows_the_same_random_images_each_time(tmp_path: Path) -> None:
    evaluation = make_evaluation(tmp_path, ("red", "green", "blue", "black", "white"))

    assert write_gallery(tmp_path / "one.html", evaluation, max_images=2) == 2
    write_gallery(tmp_path / "two.html", evaluation, max_images=2)

    text = (tmp_path / "one.html").read_text("utf-8")
    assert len(Elements(text).all("article")) == 2
    assert "2 of 5 images, drawn at random." in text
    assert text == (tmp_path / "two.html").read_text("utf-8")


def test_a_missing_score_is_a_dash_and_an_empty_caption_says_so(tmp_path: Path) -> None:
    evaluation = make_evaluation(tmp_path, ("red",))
    judged = replace(evaluation.captions[0], caption="", tokens=(), attention=np.ones((0, 4), np.float32))

    spice = JavaMetric(name="SPICE", score=None, missing="needs Java")

    write_gallery(tmp_path / "out.html", replace(evaluation, captions=(judged,), java=(spice,)))

    page = Elements((tmp_path / "out.html").read_text("utf-8"))
    assert page.texts[page.texts.index("SPICE") + 1] == "-"
    assert "(no words)" in page.texts
    assert not page.all("button")


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    with pytest.raises(CaptionFileError, match=r"cannot write the gallery .*nowhere/out\.html: .*No such file"):
        write_gallery(tmp_path / "nowhere" / "out.html", make_evaluation(tmp_path, ("red",)))
