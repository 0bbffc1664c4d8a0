"""The admin pages behind a proxy that publishes the backend under a path of its own."""

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from html.parser import HTMLParser
from typing import Any
from urllib.parse import urljoin, urlsplit

import pytest
from rq.job import JobStatus
from werkzeug.test import Client, TestResponse

from backend.access.path_prefix import read_prefix
from tests.backend_client import BROWSER_ACCEPTS, LABEL_CONFIG, BackendClient
from tests.factories import make_correction, store_annotation
from worker.queue.job_state import RETRAIN_QUEUE, queue
from worker.queue.retraining import enqueue_retraining

ADMIN = ("admin", "right")
PREFIX = "/tools/captioner"
START = ("/admin/", "/admin/queues/", "/admin/queues/0/view/jobs/retrain/failed/8/asc/1", "/admin/no-such-page")
SCRIPTED = re.compile(r"/admin/queues/(queue|requeue|job)/")
"""Addresses of rq-dashboard's buttons, which its scripts send as POST."""


class Proxy:
    """A WSGI application that publishes another one below a path, and nothing else."""

    def __init__(self, app: Any, prefix: str, header: str, *, removes_prefix: bool) -> None:
        self._app, self._prefix, self._header, self._removes = app, prefix, header, removes_prefix

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        path = environ["PATH_INFO"]
        if not path.startswith(self._prefix + "/"):
            start_response("404 Not Found", [("Content-Type", "text/plain")])
            return [b"this path is not the backend's"]
        environ[self._header] = self._prefix
        if self._removes:
            environ["PATH_INFO"] = path.removeprefix(self._prefix)
        answer: Iterable[bytes] = self._app(environ, start_response)
        return answer


class Page(HTMLParser):
    """The addresses in a page, and its forms."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.addresses: list[str] = []
        self.forms: dict[str, dict[str, str]] = {}
        self._form: dict[str, str] = {}
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {name: value or "" for name, value in attrs}
        found = (values.get(name, "") for name in ("href", "src", "data-source"))
        # Underscore's templates are filled in by a script.
        self.addresses += [address for address in found if address and "<%" not in address and address[0] != "#"]
        if tag == "form":
            fields: dict[str, str] = {}
            self._form = self.forms.setdefault(values["action"], fields) if values.get("method") == "post" else fields
        if tag == "input" and values.get("type") == "hidden":
            self._form[values["name"]] = values["value"]


@pytest.fixture
def backend(make_backend: Callable[..., BackendClient]) -> BackendClient:
    """A backend with corrections, two versions, a failed job and a waiting training."""
    backend = make_backend(basic_auth_user=ADMIN[0], basic_auth_pass=ADMIN[1])
    captioner = backend.trainable_captioner()
    for number in range(1, 60):
        store_annotation(backend.services.redis, make_correction(annotation_id=number, caption=f"a dog {number}"))
    for name in ("first", "second"):
        registry, metrics = backend.services.captioners.registry, {"samples": [{"correction": "7/caption", **SAMPLE}]}
        registry.publish(1, captioner, parent=registry.serving(1), metrics=metrics, corrections=[], decision=name)
    jobs = queue(backend.services.redis, RETRAIN_QUEUE)
    failed = jobs.create_job("worker.jobs.retrain", args=[1, "a test"], job_id="failed", status=JobStatus.FAILED)
    failed.save()
    jobs.failed_job_registry.add(failed, ttl=3600)
    enqueue_retraining(backend.services.redis, backend.settings, 1, "a test")
    return backend


SAMPLE = {
    "written": "a dog",
    "before": {"caption": "a dog", "columns": 2, "words": [["a", "00ff00ff"]]},
    "after": {"caption": "a dog", "columns": 2, "words": [["a", "00ff00ff"]]},
}


@pytest.fixture(params=["HTTP_X_FORWARDED_PREFIX", "HTTP_X_SCRIPT_NAME"])
def header(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(params=[True, False], ids=["removed", "left"])
def browser(backend: BackendClient, header: str, request: pytest.FixtureRequest) -> Client:
    return Client(Proxy(backend.app.wsgi_app, PREFIX, header, removes_prefix=request.param), TestResponse)


def get(browser: Client, address: str) -> TestResponse:
    return browser.get(address, headers=BROWSER_ACCEPTS, buffered=True)  # so that a file is closed


def press(browser: Client, address: str, fields: dict[str, str]) -> TestResponse:
    headers = BROWSER_ACCEPTS | {"Origin": "http://localhost", "Sec-Fetch-Site": "same-origin"}
    return browser.post(address, data=fields, headers=headers)


def sign_in(browser: Client) -> TestResponse:
    asked = get(browser, f"{PREFIX}/admin/jobs/?state=failed")
    assert asked.headers["Location"].startswith(f"{PREFIX}/admin/login?next=")
    [(action, fields)] = Page(get(browser, asked.headers["Location"]).text).forms.items()
    return press(browser, action, fields | {"name": ADMIN[0], "password": ADMIN[1]})


def test_every_link_and_form_of_the_admin_pages_leads_below_the_prefix(browser: Client) -> None:
    signed_in = sign_in(browser)
    assert signed_in.headers["Location"] == f"{PREFIX}/admin/jobs/?state=failed"

    pages, forms = walk(browser)

    kinds = Counter(re.sub(r"\d+|v\d-\w+", "N", urlsplit(address).path.removeprefix(PREFIX)) for address in pages)
    for kind in ("/admin/projects/N/", "/admin/projects/N/corrections/", "/admin/static/admin.js", "/admin/audit/"):
        assert kinds[kind], kinds
    for kind in ("/admin/queues/static/css/main.css", "/admin/queues/N/view/workers", "/admin/charts/chartkick.js"):
        assert kinds[kind], kinds
    assert len([address for address in pages if "/versions/" in address]) >= 2
    logout = f"{PREFIX}/admin/logout"
    for action, fields in sorted(forms.items(), key=lambda form: form[0] == logout):
        answer = press(browser, action, fields)
        assert answer.status_code == 303, (action, answer.text)
        assert answer.headers["Location"].startswith(f"{PREFIX}/admin/"), action
    assert {"promote", "rollback", "train", "exclude", "logout", "retry"} <= {action.split("/")[-1] for action in forms}
    assert get(browser, f"{PREFIX}/admin/").status_code == 302, "signed out"


def walk(browser: Client) -> tuple[set[str], dict[str, dict[str, str]]]:
    """Open everything that can be reached from the first pages; return what was opened, and all forms."""
    waiting, seen = [PREFIX + path for path in START], set[str]()
    forms: dict[str, dict[str, str]] = {}
    while waiting:
        address = waiting.pop().partition("#")[0]
        if address in seen or urlsplit(address).scheme:
            continue
        seen.add(address)
        assert address.startswith(f"{PREFIX}/admin/"), address
        answer = get(browser, address)
        if SCRIPTED.search(address):
            assert answer.status_code == 405, address
            continue
        if "/image" not in address:  # the picture of a test's correction is nowhere
            assert answer.status_code == 404 if "no-such-page" in address else answer.status_code in {200, 308}, address
        if answer.status_code == 308:
            waiting.append(answer.headers["Location"])
        if answer.mimetype == "text/html":
            page = Page(answer.text)
            waiting += [urljoin(address, found) for found in page.addresses if found[:5] not in {"data:", "http:"}]
            forms |= page.forms
    return seen, forms


def test_rq_dashboards_scripts_and_data_lead_below_the_prefix(browser: Client) -> None:
    sign_in(browser)

    page = get(browser, f"{PREFIX}/admin/queues/")
    data = get(browser, f"{PREFIX}/admin/queues/0/data/queues.json").get_json()

    assert f'var url = "{PREFIX}/admin/queues/"' in page.text
    addresses = list(urls_in(data))
    assert len(addresses) > 5
    for address in addresses:
        assert address.startswith(f"{PREFIX}/admin/queues/")
        assert get(browser, address).status_code == 200, address
    cookie = browser.get_cookie("_csrf_token", path=f"{PREFIX}/admin/queues")
    assert cookie is not None
    headers = {"X-CSRFToken": cookie.value, "Sec-Fetch-Site": "same-origin", "Origin": "http://localhost"}
    emptied = browser.post(f"{PREFIX}/admin/queues/queue/retrain/failed/empty", headers=headers)
    assert emptied.get_json() == {"status": "OK"}


def urls_in(data: Any) -> Iterator[str]:
    if isinstance(data, dict):
        yield from (value for name, value in data.items() if name.endswith("url"))
        yield from urls_in(list(data.values()))
    elif isinstance(data, list):
        for item in data:
            yield from urls_in(item)


def test_cookies_are_sent_to_our_pages_and_to_nothing_else_of_the_host(browser: Client) -> None:
    cookies = sign_in(browser).headers.getlist("Set-Cookie")

    paths = {cookie.partition("=")[0]: re.findall(r"Path=([^;]*)", cookie) for cookie in cookies}
    assert paths == {"captioner_session": [f"{PREFIX}/admin"], "captioner_browser": [f"{PREFIX}/admin/login"]}


def test_a_redirect_names_no_host_because_the_proxy_may_have_another_name(browser: Client) -> None:
    sign_in(browser)

    assert get(browser, f"{PREFIX}/admin").headers["Location"] == f"{PREFIX}/admin/"
    for path in ("//evil.example/admin", "/admin//evil.example", "/admin/..//evil.example"):
        assert not re.match(r"//|/\\|http", get(browser, PREFIX + path).headers.get("Location", "")), path


def test_label_studio_reaches_the_backend_below_the_prefix(browser: Client) -> None:
    auth = (ADMIN[0], ADMIN[1])
    body = {"project": "1.1", "schema": LABEL_CONFIG, "hostname": "http://localhost:8080"}

    assert browser.get(f"{PREFIX}/health", auth=auth).get_json()["status"] == "UP"
    assert browser.post(f"{PREFIX}/setup", json=body, auth=auth).get_json()["model_version"]


@pytest.mark.parametrize(
    ("header", "prefix"),
    [
        ("/captioner", "/captioner"),
        ("/captioner/", "/captioner"),
        ("/team.a/captioner_2-x", "/team.a/captioner_2-x"),
        ("/forged, /captioner", "/captioner"),
        ("", ""),
        ("/", ""),
        ("captioner", ""),
        ("//evil.example", ""),
        ("/a//evil.example", ""),
        ("/../x", ""),
        ("/\\evil.example", ""),
        ("https://evil.example", ""),
        ('/"><script>', ""),
        ("/a b", ""),
        ("/a%2f", ""),
        ("/a\r\nSet-Cookie: x=1", ""),
        ("/a;Path=x", ""),
        ("/" + "a" * 300, ""),
    ],
)
def test_a_header_can_tell_a_plain_path_only(header: str, prefix: str) -> None:
    assert read_prefix({"HTTP_X_FORWARDED_PREFIX": header}) == prefix
    assert read_prefix({"HTTP_X_SCRIPT_NAME": header}) == prefix


@pytest.mark.parametrize("header", ["//evil.example", '/"><script>evil()</script>', "https://evil.example"])
def test_a_forged_header_changes_nothing(backend: BackendClient, header: str) -> None:
    headers = BROWSER_ACCEPTS | {"X-Forwarded-Prefix": header, "X-Script-Name": header}

    redirect, page = (backend.app.test_client().get(path, headers=headers) for path in ("/admin/", "/admin/login"))

    assert redirect.headers["Location"].startswith("/admin/login")
    assert "evil" not in page.text


def test_without_a_proxy_the_pages_are_at_the_root(backend: BackendClient) -> None:
    asked = backend.app.test_client().get("/admin/", headers=BROWSER_ACCEPTS)

    assert asked.headers["Location"] == "/admin/login?next=/admin/"
    assert "people sign in at /admin/login" in backend.app.test_client().get("/admin/").text


def test_a_backend_published_below_its_own_path_works_if_the_proxy_removes_it(backend: BackendClient) -> None:
    client = Client(Proxy(backend.app.wsgi_app, "/admin", "HTTP_X_FORWARDED_PREFIX", removes_prefix=True), TestResponse)

    asked = get(client, "/admin/admin/")

    assert asked.headers["Location"].startswith("/admin/admin/login")
    assert get(client, asked.headers["Location"]).status_code == 200
