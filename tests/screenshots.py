"""Pictures for README and docs/: an annotator's page and the admin pages, taken from a running demo.

    make screenshots

A program plays the annotator as in `make demo-check`. For the overview it starts a second training.
"""

from pathlib import Path

from playwright.sync_api import Browser, Page, ViewportSize

from backend.demo.check import ONLY_WHEN_ASKED, CheckReport, final_caption, play
from backend.demo.product import DemoProduct, Narrator, demo_product
from tests.browser import launched_browser

DOCS = Path("docs")
CAPTIONS_BEFORE_THE_SECOND_TRAINING = 10
SIZE: ViewportSize = {"width": 1280, "height": 900}


def main() -> None:
    narrator = Narrator(0)
    DOCS.mkdir(exist_ok=True)
    with demo_product(None, narrator, ONLY_WHEN_ASKED) as product:
        play(product, narrator, CheckReport())
        with launched_browser() as browser:
            take_annotator_picture(browser, product)
            take_admin_pictures(browser, product)
    narrator.say(f"the pictures are in {DOCS}/")


def take_annotator_picture(browser: Browser, product: DemoProduct) -> None:
    page = browser.new_page(viewport={"width": 1280, "height": 960})
    page.goto(f"{product.label_studio_url}/user/login/")
    page.fill("input[name=email]", product.account.username)
    page.fill("input[name=password]", product.account.password)
    page.click("button[type=submit]")
    page.wait_for_url(lambda url: "login" not in url)
    task = product.user.next_task(product.project_id)
    page.goto(f"{product.label_studio_url}/projects/{product.project_id}/data?task={task.task_id}")
    page.wait_for_load_state("networkidle")
    page.get_by_test_id("htx-textbox-view").wait_for()
    page.screenshot(path=DOCS / "annotator.png")


def take_admin_pictures(browser: Browser, product: DemoProduct) -> None:
    page = browser.new_page(viewport=SIZE, bypass_csp=True)  # the pages forbid the eval that waiting needs
    page.goto(f"{product.backend_url}/admin/login")
    page.get_by_label("Name").fill(product.settings["BASIC_AUTH_USER"])
    page.get_by_label("Password").fill(product.settings["BASIC_AUTH_PASS"])
    page.get_by_role("button", name="Sign in").click()
    project = f"{product.backend_url}/admin/projects/{product.project_id}/"
    page.goto(project)
    page.get_by_role("link", name="v1-").first.click()
    card = page.locator(".sample").first
    card.scroll_into_view_if_needed()
    page.wait_for_load_state("networkidle")  # the image is loaded when it comes into view
    card.get_by_role("button", name="ball").first.press("Enter")
    card.screenshot(path=DOCS / "admin-sample.png")
    page.goto(f"{project}corrections/")
    save(page, "corrections")
    page.goto(project)
    save(page, "project")
    for _ in range(CAPTIONS_BEFORE_THE_SECOND_TRAINING):
        task = product.user.next_task(product.project_id)
        product.user.submit(product.project_id, task, final_caption(task))
    page.get_by_role("button", name="Train now").click()
    page.goto(f"{product.backend_url}/admin/")
    page.wait_for_function("document.querySelector('progress')?.value >= 0.4", timeout=120_000)
    save(page, "overview")


def save(page: Page, name: str) -> None:
    page.wait_for_load_state("networkidle")
    page.screenshot(path=DOCS / f"admin-{name}.png")


if __name__ == "__main__":
    main()
