"""The gallery in a real browser: attention over the picture, by mouse and by keyboard, on wide and narrow screens."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from playwright.sync_api import Page

from model.caption_files.read import CaptionedImage
from model.decoders.search import DecodingOptions
from model.metrics.evaluation import JudgedCaption, evaluate
from model.metrics.gallery import write_gallery
from model.metrics.scores import ImageMetrics
from tests.browser import launched_browser
from tests.factories import make_captioner, make_image

pytestmark = pytest.mark.browser

SHADE = """canvas => canvas.hidden ? null : [...canvas.getContext("2d").getImageData(0, 0, 2, 2).data]
    .filter((_, at) => at % 4 == 3)"""
"""How thick the veil lies over each region; None when it is lifted."""


@pytest.fixture
def page(tmp_path: Path) -> Iterator[Page]:
    """A browser at the gallery of a good and a bad caption; an error in its console, or a request, fails the test."""
    with launched_browser() as browser:
        page = browser.new_page(viewport={"width": 1280, "height": 900})
        complaints: list[str] = []
        page.on("console", lambda message: complaints.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("request", lambda request: complaints.append(request.url[:80]) if "http" in request.url[:5] else None)
        page.goto(make_gallery(tmp_path).as_uri())
        yield page
        assert complaints == []


def make_gallery(folder: Path) -> Path:
    make_image("red", size=(400, 300)).save(folder / "red.png")
    image = CaptionedImage(file=folder / "red.png", captions=("a red square",))
    evaluation = evaluate(make_captioner(), [image], DecodingOptions(max_tokens=3))
    captions = (
        judged(folder, "a good square", cider_d=5.0, edits=1),
        judged(folder, "a bad " + "long" * 40, cider_d=0.1, edits=9),
    )
    write_gallery(folder / "out.html", replace(evaluation, captions=captions))
    return folder / "out.html"


def judged(folder: Path, caption: str, *, cider_d: float, edits: int) -> JudgedCaption:
    """A caption of three words that looked left above, everywhere, and right below."""
    return JudgedCaption(
        file=folder / "red.png",
        caption=caption,
        references=("a red square",),
        metrics=ImageMetrics(cider_d=cider_d, edits=edits, reference_words=3),
        tokens=tuple(caption.split()),
        attention=np.array([[1, 0, 0, 0], [0.25] * 4, [0, 0, 0, 1]], np.float32),
    )


def test_pointing_at_a_word_leaves_light_where_the_network_looked(page: Page) -> None:
    card = page.locator("article").first
    words, veil = card.locator("h2 button"), card.locator("canvas")

    words.nth(0).hover()
    left_above = veil.evaluate(SHADE)
    words.nth(1).hover()
    everywhere = veil.evaluate(SHADE)
    page.mouse.move(0, 0)
    lifted = veil.evaluate(SHADE)

    assert (left_above[0], min(left_above[1:]) > 150) == (0, True)
    assert everywhere == [0, 0, 0, 0]
    assert lifted is None


def test_the_keyboard_goes_from_word_to_word_and_escape_lifts_the_veil(page: Page) -> None:
    page.locator("#order").focus()
    veil = page.locator("article").first.locator("canvas")

    page.keyboard.press("Tab")
    first = veil.evaluate(SHADE)
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    third = veil.evaluate(SHADE)
    page.keyboard.press("Escape")
    lifted = veil.evaluate(SHADE)
    page.keyboard.press("Tab")
    second_card = page.locator("article").nth(1).locator("h2 button").first

    assert (first[0], third[3]) == (0, 0)
    assert (first[3] > 150, third[0] > 150) == (True, True)
    assert lifted is None
    assert second_card.evaluate("word => word === document.activeElement")


def test_the_order_can_be_chosen(page: Page) -> None:
    firsts = {}
    for order in ("worst", "best", "edits"):
        page.locator("#order").select_option(order)
        firsts[order] = page.locator("article h2 button").nth(1).inner_text()[:4]

    assert firsts == {"worst": "bad", "best": "good", "edits": "bad"}


@pytest.mark.parametrize("width", [390, 1280])
def test_nothing_is_wider_than_the_screen(page: Page, width: int) -> None:
    page.set_viewport_size({"width": width, "height": 900})

    assert page.evaluate("document.documentElement.scrollWidth") <= width
