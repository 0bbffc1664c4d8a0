"""Pictures of the admin's pages for docs/ and the README, made from a demo that really runs.

    make screenshots

A program plays the annotator as in `make demo-check`; on the overview a second training runs.
"""

from pathlib import Path

from playwright.sync_api import Page

from backend.demo.check import ONLY_WHEN_ASKED, CheckReport, final_caption, play
from backend.demo.product import DemoProduct, Narrator, demo_product
from tests.browser import launched_browser

DOCS = Path("docs")
MORE = 10
"""Captions that are submitted before the second training."""


def main() -> None:
    narrator = Narrator(0)
    with demo_product(None, narrator, ONLY_WHEN_ASKED) as product:
        play(product, narrator, CheckReport())
        with launched_browser() as browser:
            name, password = product.settings["BASIC_AUTH_USER"], product.settings["BASIC_AUTH_PASS"]
            page = browser.new_page(viewport={"width": 1280, "height": 900})
            page.goto(f"{product.backend_url}/admin/login")
            page.get_by_label("Name").fill(name)
            page.get_by_label("Password").fill(password)
            page.get_by_role("button", name="Sign in").click()
            take_pictures(page, product)
    narrator.say(f"the pictures are in {DOCS}/")


def take_pictures(page: Page, product: DemoProduct) -> None:
    DOCS.mkdir(exist_ok=True)
    project = f"{product.backend_url}/admin/projects/{product.project_id}/"
    page.goto(project)
    page.get_by_role("link", name="v1-").first.click()
    card = page.locator(".sample").first
    card.scroll_into_view_if_needed()
    page.wait_for_load_state("networkidle")  # its image is fetched when it comes into view
    card.get_by_role("button", name="ball").first.press("Enter")
    card.screenshot(path=DOCS / "admin-sample.png")
    page.goto(f"{project}corrections/")
    save(page, "corrections")
    page.goto(project)
    save(page, "project")
    for _ in range(MORE):
        task = product.user.next_task(product.project_id)
        product.user.submit(product.project_id, task, final_caption(task))
    page.get_by_role("button", name="Train now").click()
    page.goto(f"{product.backend_url}/admin/")
    page.locator(".chart canvas").first.wait_for(timeout=120_000)
    save(page, "overview")


def save(page: Page, name: str) -> None:
    page.wait_for_load_state("networkidle")
    page.screenshot(path=DOCS / f"admin-{name}.png")


if __name__ == "__main__":
    main()
