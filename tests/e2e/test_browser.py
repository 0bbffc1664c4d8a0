"""An annotator in a real browser: signs in, finds a caption, edits it in place, submits."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
from PIL import Image
from playwright.sync_api import Page

from backend.demo.user import LabelStudioUser
from tests.browser import launched_browser
from tests.e2e.conftest import Connected, LabelStudio, Product
from tests.e2e.drawn_pictures import seeds_with

pytestmark = pytest.mark.browser

PAGE_MS = 60_000
PAGES = {"label stream": "labeling=1", "Quick View": "task={task}"}


@pytest.fixture
def page(label_studio: LabelStudio) -> Iterator[Page]:
    """An annotator's browser, signed in."""
    with launched_browser() as browser:
        page = browser.new_page(viewport={"width": 1400, "height": 900})
        page.set_default_timeout(PAGE_MS)
        page.goto(f"{label_studio.url}/user/login/")
        page.fill("input[name=email]", label_studio.account.username)
        page.fill("input[name=password]", label_studio.account.password)
        page.click("button[type=submit]")
        page.wait_for_url(lambda url: "login" not in url)
        yield page


@pytest.fixture
def connected(product: Product, connect: Callable[[Product, str, Sequence[int]], Connected]) -> Connected:
    return connect(product, "In the browser", seeds_with("heart", 2))


@pytest.mark.parametrize("way_in", ["label stream", "Quick View"])
def test_picture_and_caption_are_in_view_and_the_caption_is_edited_by_keyboard_alone(
    page: Page, label_studio: LabelStudio, product: Product, user: LabelStudioUser, tmp_path: Path, way_in: str
) -> None:
    project_id = user.create_project(f"Side by side in {way_in}")
    portrait = tmp_path / "portrait.png"
    Image.new("RGB", (800, 1200), "teal").save(portrait)
    user.upload(project_id, [portrait])
    user.connect_backend(project_id, product.url)
    [task] = product.client.unannotated_tasks(project_id)
    page.set_viewport_size({"width": 1280, "height": 800})

    page.goto(f"{label_studio.url}/projects/{project_id}/data?{PAGES[way_in].format(task=task['id'])}")
    caption = page.get_by_test_id("htx-textbox-view")
    caption.wait_for()
    picture = page.locator("[class*=image-element]").first
    page.wait_for_function("document.querySelector('[class*=image-element]')?.getBoundingClientRect().height > 100")

    for part in (picture, caption):
        box = part.bounding_box()
        assert box is not None
        assert 0 <= box["x"] <= box["x"] + box["width"] <= 1280
        assert 0 <= box["y"] <= box["y"] + box["height"] <= 750  # below is the bar with Submit

    walk_to(page, "htx-textbox-edit-button")
    page.keyboard.press("Space")  # Enter is a key of Label Studio's own
    page.get_by_test_id("htx-textbox-input").wait_for()
    page.keyboard.press("Control+a")
    page.keyboard.type("written with keys alone")
    page.keyboard.press("Shift+Enter")
    page.get_by_text("written with keys alone").wait_for()
    with page.expect_response(lambda reply: reply.request.method == "POST" and "/annotations" in reply.url):
        page.keyboard.press("Control+Enter")
    assert [correction.caption for correction in product.inbox(project_id).values()] == ["written with keys alone"]


def walk_to(page: Page, test_id: str, at_most: int = 60) -> None:
    """Press Tab until a part of the page has the focus."""
    for _ in range(at_most):
        if page.evaluate("document.activeElement.dataset.testid") == test_id:
            return
        page.keyboard.press("Tab")
    pytest.fail(f"{test_id} cannot be reached by keyboard")


def test_an_annotator_edits_the_suggestion_in_place_and_the_correction_is_in_the_inbox(
    page: Page, label_studio: LabelStudio, product: Product, connected: Connected
) -> None:
    [task, _] = product.client.unannotated_tasks(connected.project_id)

    page.goto(f"{label_studio.url}/projects/{connected.project_id}/data?task={task['id']}")
    suggestion = page.get_by_test_id("htx-textbox-view")
    suggested = suggestion.inner_text().strip()
    suggestion.hover()
    page.get_by_test_id("htx-textbox-edit-button").click()
    page.get_by_test_id("htx-textbox-input").fill("a heart, as the annotator sees it")
    page.get_by_test_id("htx-textbox-save").click()
    with page.expect_response(lambda reply: reply.request.method == "POST" and "/annotations" in reply.url):
        page.get_by_role("button", name="Submit").click()

    [annotated] = product.annotated_tasks(connected.project_id)
    [annotation] = annotated["annotations"]
    correction = product.inbox(connected.project_id)[annotation["id"]]
    assert annotation["result"][0]["origin"] == "prediction-changed"
    assert correction.caption == "a heart, as the annotator sees it"
    assert correction.proposed == suggested
    assert correction.model_version == product.bundle_version
    assert correction.lead_time_s is not None
