"""The admin pages in a real browser: on a phone and on a desk, light and dark, by keyboard, live."""

import re
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, Route, expect
from redis import Redis
from rq import SimpleWorker
from rq.job import Job, JobStatus
from rq.serializers import JSONSerializer
from werkzeug.serving import make_server

from backend.admin.users import write_user
from backend.sync.refresh_progress import RefreshProgress
from tests.backend_client import BackendClient, make_settings
from tests.browser import launched_browser
from tests.factories import (
    environment_of,
    make_correction,
    make_state,
    make_suggestion,
    store_annotation,
    write_bundle,
)
from tests.image_server import ImageServer
from tests.worker_process import WorkerProcess
from tests.workplace import DEADLINE_S, Hold
from worker.audit import AuditLog
from worker.feedback.project_data import note_title
from worker.feedback.script import PROJECTS_KEY
from worker.queue.control import RetrainingControl
from worker.queue.job_state import RETRAIN_QUEUE, queue

pytestmark = pytest.mark.browser

LOGIN = ("admin", "right")
VIEWER = ("vera", "only looks at it")
SIZES = {"phone": (390, 844), "desk": (1280, 900)}
PAGES = {
    "overview": "/admin/",
    "project": "/admin/projects/1/",
    "project without data": "/admin/projects/2/",
    "version": "/admin/projects/1/versions/{version}/",
    "corrections": "/admin/projects/1/corrections/",
    "jobs": "/admin/jobs/",
    "audit": "/admin/audit/",
}


@dataclass(frozen=True)
class Site:
    """Admin pages of a backend with one project, 25 corrections and two versions."""

    url: str
    backend: BackendClient
    versions: tuple[str, ...]

    def address(self, name: str) -> str:
        return self.url + PAGES[name].format(version=self.versions[-1])


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with launched_browser() as browser:
        yield browser


@pytest.fixture
def site(redis_url: str, tmp_path: Path, image_server: ImageServer) -> Iterator[Site]:
    write_bundle(tmp_path / "bundle")
    settings = make_settings(
        tmp_path,
        redis_url=redis_url,
        basic_auth_user=LOGIN[0],
        basic_auth_pass=LOGIN[1],
        admin_users_file=str(tmp_path / "users"),
        allowed_image_hosts="127.0.0.1",
    )
    write_user(settings, VIEWER[0], "viewer", VIEWER[1])
    backend = BackendClient(settings, login=LOGIN)
    address = image_server.show("/dog.png")
    for number in range(1, 26):
        caption = f"a black dog number {number}"
        correction = make_correction(
            annotation_id=number,
            caption=caption,
            annotator=number % 3,
            image_ref=address,
            model_version=backend.services.captioners.registry.base_version,
        )
        store_annotation(backend.services.redis, replace(correction, updated_at=f"2025-01-31T12:{number:02}:00+00:00"))
    redis = backend.services.redis
    redis.sadd(PROJECTS_KEY, 2)
    note_title(redis, 1, "Dogs in the park")
    RefreshProgress.begin(redis, 1, "v2", 0).after(done=3250, refreshed=3000, failed=2, left=6750).write(redis, 1)
    versions = [publish(backend, parent) for parent in ("bundle", "first")]
    server = make_server("127.0.0.1", 0, backend.app, threaded=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield Site(f"http://127.0.0.1:{server.port}", backend, tuple(versions))
    server.shutdown()


def publish(backend: BackendClient, decision: str) -> str:
    registry = backend.services.captioners.registry
    words = [["a", "00ff00ff"], ["black", "ff000000"], ["dog", "ff00ff00"]]
    sample = {
        "correction": "25/caption",
        "written": "a black dog number 25",
        "before": {"caption": "a dog", "columns": 2, "words": [words[0], words[2]]},
        "after": {"caption": "a black dog", "columns": 2, "words": words},
    }
    measured = {"captions": 4, "candidate": 1.0, "serving": 2.0, "better_in": 0.97}
    return registry.publish(
        1,
        backend.trainable_captioner(),
        parent=registry.serving(1),
        metrics={"new": measured, "new_words": ["puppy"], "samples": [sample]},
        corrections=["25/caption"],
        decision=f"better than the {decision}",
    ).name


@pytest.fixture
def complaints() -> Iterator[list[str]]:
    """Errors on the browser's console; a test that leaves an error in the list fails."""
    messages: list[str] = []
    yield messages
    assert messages == []


@pytest.fixture
def open_page(browser: Browser, complaints: list[str]) -> Iterator[Callable[..., Page]]:
    """Open a page and sign in to it."""

    def open_page(
        address: str, size: str = "desk", scheme: str = "light", login: tuple[str, str] = LOGIN, zone: str = "UTC"
    ) -> Page:
        width, height = SIZES[size]
        context = browser.new_context(
            viewport={"width": width, "height": height},
            color_scheme="dark" if scheme == "dark" else "light",
            timezone_id=zone,
        )
        page = context.new_page()
        page.on("console", lambda message: complaints.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.goto(address)
        page.get_by_label("Name").fill(login[0])
        page.get_by_label("Password").fill(login[1])
        page.get_by_role("button", name="Sign in").click()
        page.wait_for_url(address)
        page.wait_for_load_state("networkidle")
        return page

    yield open_page
    for context in browser.contexts:
        context.close()


@pytest.mark.parametrize("name", PAGES)
@pytest.mark.parametrize(("size", "scheme"), [("phone", "dark"), ("desk", "light")])
def test_a_page_fits_the_screen_has_no_errors_and_is_accessible(
    site: Site, open_page: Callable[..., Page], name: str, size: str, scheme: str
) -> None:
    page = open_page(site.address(name), size, scheme)

    assert page.evaluate("document.documentElement.scrollWidth") <= SIZES[size][0], "it scrolls sideways"
    assert violations(page) == []


@pytest.mark.parametrize("size", SIZES)
def test_a_suggestion_of_the_memory_shows_its_pictures_and_leads_to_their_corrections(
    site: Site, open_page: Callable[..., Page], size: str
) -> None:
    choose_by_memory(site, "24/caption", "23/caption", "99/caption")
    page = open_page(site.address("corrections"), size)

    row = page.get_by_role("row", name="v3-1a2b3c4d+m41")
    pictures = row.get_by_role("img")
    expect(pictures).to_have_count(2)
    for picture in pictures.all():
        picture.scroll_into_view_if_needed()
        page.wait_for_function("picture => picture.complete && picture.naturalWidth > 0", arg=picture.element_handle())
    expect(row.get_by_text("Correction 99/caption was removed.")).to_be_visible()
    assert page.evaluate("document.documentElement.scrollWidth") <= SIZES[size][0], "it scrolls sideways"
    assert violations(page) == []
    row.get_by_role("link", name="a black dog number 23").press("Enter")
    expect(page.get_by_text("Only correction 23/caption is looked for.")).to_be_visible()
    expect(page.get_by_role("button", name="Exclude")).to_have_count(1)


@pytest.mark.parametrize(("zone", "shown"), [("Asia/Tokyo", "31 Jan 2025, 21:25"), ("UTC", "31 Jan 2025, 12:25")])
def test_times_are_in_the_readers_zone(site: Site, open_page: Callable[..., Page], zone: str, shown: str) -> None:
    page = open_page(site.address("corrections"), zone=zone)

    newest = page.get_by_role("time").first
    expect(newest).to_have_text(shown)
    expect(newest).to_have_attribute("title", "2025-01-31 12:25 UTC")


def test_a_correction_appears_without_a_reload(site: Site, open_page: Callable[..., Page]) -> None:
    page = open_page(site.address("overview"))
    page.evaluate("window.isStillHere = true")

    store_annotation(site.backend.services.redis, make_correction(annotation_id=99))

    expect(page.get_by_text("26, the oldest for")).to_be_visible(timeout=30_000)
    assert page.evaluate("window.isStillHere")


@pytest.mark.parametrize("fail", [lambda route: route.abort(), lambda route: route.fulfill(status=503)])
def test_a_page_says_since_when_it_is_out_of_date(
    site: Site, open_page: Callable[..., Page], complaints: list[str], fail: Callable[[Route], None]
) -> None:
    page = open_page(site.address("overview"))
    notice = page.get_by_role("alert").filter(has_text=re.compile(r"Not up to date since \d\d:\d\d:\d\d"))

    page.route(site.address("overview"), fail)
    expect(notice).to_be_visible(timeout=30_000)
    page.unroute(site.address("overview"))
    expect(notice).to_be_hidden(timeout=30_000)
    complaints.clear()


def test_a_page_sends_no_second_request_before_the_first_is_answered(
    site: Site, open_page: Callable[..., Page]
) -> None:
    page = open_page(site.address("overview"))
    page.clock.install()
    page.reload()
    requests: list[Route] = []

    def keep_waiting(route: Route) -> None:
        requests.append(route)

    page.route(site.address("overview"), keep_waiting)
    page.clock.run_for(12_000)
    let_requests_arrive(page)

    assert len(requests) == 1
    requests[0].continue_()


@pytest.mark.parametrize("changed", [("status", "finished"), ("meta", "{}")])
def test_a_chart_stops_updating_when_its_training_is_over(
    site: Site, open_page: Callable[..., Page], changed: tuple[str, str]
) -> None:
    redis = site.backend.services.redis
    losses = {"losses": [[1, 3.0], [2, 2.5]]}
    job = queue(redis, RETRAIN_QUEUE).enqueue_call("tests.integration.held_jobs.held", args=[1], meta=losses)
    job.set_status(JobStatus.STARTED)
    page = open_page(f"{site.url}/admin/jobs/{job.id}/")
    page.clock.install()
    page.reload()
    with page.expect_request("**/losses*"):
        page.clock.run_for(4000)

    redis.hset(job.key, *changed)
    page.clock.run_for(4000)
    expect(page.locator("[data-refresh]")).to_have_count(0, timeout=30_000)
    let_requests_arrive(page)
    addresses: list[str] = []
    page.on("request", lambda request: addresses.append(request.url))
    page.clock.run_for(12_000)
    let_requests_arrive(page)

    assert [address for address in addresses if "/losses" in address] == []


def test_a_word_shows_where_the_model_looked(site: Site, open_page: Callable[..., Page]) -> None:
    page = open_page(site.address("version"))

    page.get_by_role("button", name="black").press("Enter")

    shade = "canvas => [...canvas.getContext('2d').getImageData(0, 0, 2, 2).data].filter((_, at) => at % 4 == 3)"
    assert page.locator("canvas").evaluate(shade) == [0, 200, 200, 200]
    page.get_by_role("button", name="black").press("Enter")
    expect(page.locator("canvas")).to_be_hidden()


def test_charts_are_drawn_with_the_installed_library(site: Site, open_page: Callable[..., Page]) -> None:
    page = open_page(site.address("project"))

    expect(page.locator(".chart canvas")).to_have_count(2)


def test_every_action_on_a_project_is_done(site: Site, open_page: Callable[..., Page]) -> None:
    registry, services = site.backend.services.captioners.registry, site.backend.services
    control = RetrainingControl(services.redis, services.settings)
    page = open_page(site.address("project"))
    page.on("dialog", lambda dialog: dialog.accept())

    press(page, "Pause", "is paused")
    assert control.state(1) == "paused"
    press(page, "Train now", "Resume it first")
    press(page, "Resume", "learns again")
    assert control.state(1) == "on"
    press(page, "Drain", "is draining")
    assert control.state(1) == "draining"
    press(page, "Resume", "learns again")
    press(page, "Train now", "training was requested")
    assert any(job.id.startswith("retrain-1-") for job in deferred(services.redis))
    press(page, "Roll back", "serves project 1 again")
    assert registry.serving(1) == site.versions[0]
    page.get_by_role("row", name=site.versions[1]).get_by_role("button", name="Promote").click()
    expect(page.get_by_role("status")).to_contain_text(f"{site.versions[1]} serves project 1")
    assert registry.serving(1) == site.versions[1]
    done = [entry.action for entry in AuditLog(services.redis).read()]
    assert {"learning paused", "version rolled back", "version promoted", "training requested"} <= set(done)


def test_a_correction_is_excluded_and_included_again(site: Site, open_page: Callable[..., Page]) -> None:
    page = open_page(site.address("corrections"))

    page.get_by_role("row", name="number 25").get_by_role("button", name="Exclude").click()

    expect(page.get_by_role("status")).to_contain_text("is excluded")
    assert site.backend.services.feedback.excluded(1) == {"25/caption": "admin excluded it"}
    press(page, "Include", "is included in training again")
    assert site.backend.services.feedback.excluded(1) == {}


def test_jobs_are_stopped_run_again_and_cancelled(
    site: Site, open_page: Callable[..., Page], start_worker: Callable[..., WorkerProcess], hold: Hold
) -> None:
    redis, settings = site.backend.services.redis, site.backend.settings
    start_worker(environment_of(settings))
    job = queue(redis, RETRAIN_QUEUE).enqueue_call(
        "tests.integration.held_jobs.held", args=[hold.port], timeout=DEADLINE_S, failure_ttl=DEADLINE_S
    )
    hold.wait_until_running()
    page = open_page(f"{site.url}/admin/jobs/{job.id}/")
    page.on("dialog", lambda dialog: dialog.accept())

    press(page, "Stop", "is being stopped")
    expect(page.get_by_text("stopped by a person")).to_be_visible(timeout=30_000)
    press(page, "Run again", "is queued again")
    hold.wait_until_running()
    waiting = queue(redis, RETRAIN_QUEUE).enqueue_call("tests.integration.held_jobs.held", args=[hold.port])
    page.goto(f"{site.url}/admin/jobs/{waiting.id}/")
    press(page, "Cancel", "is cancelled")
    assert queue(redis, RETRAIN_QUEUE).get_job_ids() == []
    hold.release()


def test_the_raw_queues_allow_actions_and_link_back(site: Site, open_page: Callable[..., Page]) -> None:
    jobs = queue(site.backend.services.redis, RETRAIN_QUEUE)
    for name in ("kept", "deleted"):
        jobs.enqueue_call("tests.integration.held_jobs.held", args=[1], job_id=name)
    page = open_page(f"{site.url}/admin/queues/0/view/jobs/{RETRAIN_QUEUE}/queued/8/asc/1")

    row = page.get_by_role("row").filter(has_text="deleted")
    row.get_by_role("link", name="Delete", exact=True).click()
    page.get_by_role("button", name="Yes").click()
    expect(row).to_have_count(0)
    assert jobs.job_ids == ["kept"]
    page.get_by_role("link", name="Empty queue").click()
    page.get_by_role("button", name="Yes").click()
    expect(page.get_by_text("No jobs.")).to_be_visible()
    assert jobs.job_ids == []
    page.get_by_role("link", name="Back to the captioner's jobs").click()
    page.wait_for_url(f"{site.url}/admin/jobs/")
    done = [entry.action for entry in AuditLog(site.backend.services.redis).read()]
    assert {"job deleted", "queue emptied"} <= set(done)


def test_the_raw_queues_say_why_they_refuse(site: Site, open_page: Callable[..., Page], complaints: list[str]) -> None:
    queue(site.backend.services.redis, RETRAIN_QUEUE).enqueue_call("tests.integration.held_jobs.held", job_id="waits")
    page = open_page(f"{site.url}/admin/queues/0/view/job/waits")
    page.evaluate("document.getElementById('requeue-job-btn').style.display = 'inline'")

    with page.expect_event("dialog") as dialog:
        page.get_by_role("button", name="Requeue").click(no_wait_after=True)

    assert "not in a state" in dialog.value.message
    dialog.value.accept()
    assert "409" in complaints.pop()


def test_the_raw_queues_show_the_contents_of_a_job_and_run_none_of_it(
    site: Site, open_page: Callable[..., Page]
) -> None:
    trap = "<img src=x onerror=alert(1)><script>alert(2)</script>"
    redis = site.backend.services.redis
    jobs = queue(redis, RETRAIN_QUEUE)
    job = jobs.enqueue_call("builtins.int", args=[trap], meta={"phase": trap}, description=trap)
    worker = SimpleWorker([jobs], connection=redis, serializer=JSONSerializer)
    worker.work(burst=True)  # fails: this is no number, says the exception
    worker.register_birth()
    worker.set_current_job_id(job.id)
    page = open_page(f"{site.url}/admin/queues/0/view/job/{job.id}")

    expect(page.locator(".description-scroll")).to_have_text(trap)
    expect(page.locator(".exc_info")).to_contain_text(trap)
    expect(page.get_by_text("phase")).to_contain_text(trap)
    page.goto(f"{site.url}/admin/queues/0/view/jobs/{RETRAIN_QUEUE}/failed/8/asc/1")
    expect(page.locator(".description")).to_have_text(trap)
    expect(page.locator(".exc_info")).to_contain_text(trap)
    page.goto(f"{site.url}/admin/queues/0/view/workers")
    expect(page.get_by_role("link", name="builtins.int(")).to_contain_text(trap)


def test_the_raw_queues_run_no_foreign_script(
    site: Site, open_page: Callable[..., Page], complaints: list[str]
) -> None:
    page = open_page(f"{site.url}/admin/queues/")

    page.evaluate(
        """() => {
            window.refused = [];
            document.addEventListener("securitypolicyviolation", (event) => refused.push(event.effectiveDirective));
            $("h1").append("<script>window.ran = true</script>", '<img src=x onerror="window.ran = true">');
        }"""
    )

    page.wait_for_function("refused.includes('script-src-elem') && refused.includes('script-src-attr')")
    assert page.evaluate("window.ran") is None
    page.goto("about:blank")  # the missing image is reported when its answer arrives, perhaps after the two refusals
    complaints.clear()


def test_a_viewer_can_read_but_cannot_act(site: Site, open_page: Callable[..., Page]) -> None:
    page = open_page(site.address("project"), login=VIEWER)

    expect(page.get_by_role("button", name="Train now")).to_be_disabled()
    expect(page.get_by_role("button", name="Sign out")).to_be_enabled()
    page.goto(f"{site.url}/admin/queues/0/view/jobs/{RETRAIN_QUEUE}/queued/8/asc/1")
    expect(page.get_by_text("No jobs.")).to_be_visible()
    expect(page.get_by_role("link", name="Empty queue")).to_be_hidden()
    page.goto(site.address("project"))
    press(page, "Sign out")
    expect(page.get_by_role("button", name="Sign in")).to_be_visible()


def violations(page: Page) -> list[str]:
    """Return what keeps people from using the page."""
    return [
        f"{violation['id']}: {violation['nodes'][0]['html']}"
        for violation in Axe().run(page).response["violations"]
        if violation["impact"] in {"serious", "critical"}
    ]


def choose_by_memory(site: Site, *like: str) -> None:
    """Store a correction whose suggestion was chosen because of these corrections."""
    (latest, *_) = site.backend.services.feedback.newest_first(1)
    chosen = make_suggestion(
        task_id=26, image_ref=latest.image_ref, model_version="v3-1a2b3c4d", generation=41, like=like
    )
    state = make_state(
        make_correction(annotation_id=26, image_ref=latest.image_ref, updated_at="2025-01-31T12:26:00+00:00")
    )
    site.backend.services.feedback.record(state, {"caption": [chosen]})


def press(page: Page, button: str, message: str | None = None) -> None:
    """Press a button and wait for the message about it."""
    page.get_by_role("button", name=button, exact=True).click()
    if message is not None:
        expect(page.get_by_role("status")).to_contain_text(message)


def let_requests_arrive(page: Page) -> None:
    """Wait until every request of the page has arrived here."""
    page.evaluate("fetch('/admin/static/admin.js').then((answer) => answer.ok)")


def deferred(redis: Redis) -> list[Job]:
    jobs = queue(redis, RETRAIN_QUEUE)
    job_ids = jobs.deferred_job_registry.get_job_ids()
    return [job for job in Job.fetch_many(job_ids, connection=redis, serializer=JSONSerializer) if job is not None]
