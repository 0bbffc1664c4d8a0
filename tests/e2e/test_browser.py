"""An annotator in a real browser: signs in, finds a caption, edits it in place, submits."""

from collections.abc import Callable, Iterator, Sequence

import pytest
from playwright.sync_api import Page

from tests.browser import launched_browser
from tests.e2e.conftest import Connected, LabelStudio, Product
from tests.e2e.drawn_pictures import seeds_with

pytestmark = pytest.mark.browser

PAGE_MS = 60_000


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
