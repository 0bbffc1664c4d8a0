"""Sign-in to /admin, permissions there, and the entries of the audit log."""

import re
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from flask import Flask
from redis import Redis
from werkzeug.security import check_password_hash
from werkzeug.test import TestResponse

from backend.admin import users
from backend.admin.access import EXTENSION as ACCESS
from backend.admin.sessions import SESSION_S
from backend.admin.users import User, remove_user, write_user
from tests.backend_client import BROWSER_ACCEPTS, BackendClient, Browser, basic_auth, failed_job
from tests.factories import make_correction, store_annotation
from tests.redis_server import RedisServer
from worker.audit import AuditEntry, AuditLog
from worker.queue.job_state import LABEL_STUDIO_QUEUE, queue

BOSS = ("captioner", "from the settings")
ANNA = ("anna", "anna's password")
VERA = ("vera", "vera's password")

DELETE = "/admin/queues/job/{}/delete"


@pytest.fixture
def make_house(make_backend: Callable[..., BackendClient], tmp_path: Path) -> Callable[..., BackendClient]:
    """Make a backend with three users: captioner from the settings, the operator anna, the viewer vera."""

    def make(**changes: Any) -> BackendClient:
        house = make_backend(
            **{"basic_auth_user": BOSS[0], "basic_auth_pass": BOSS[1], "admin_users_file": str(tmp_path / "users")}
            | changes
        )
        write_user(house.settings, ANNA[0], "operator", ANNA[1])
        write_user(house.settings, VERA[0], "viewer", VERA[1])
        return house

    return make


@pytest.fixture
def house(make_house: Callable[..., BackendClient]) -> BackendClient:
    return make_house()


def signed_in(house: BackendClient, user: tuple[str, str] = ANNA, address: str = "192.0.2.1") -> Browser:
    browser = Browser(house, address)
    assert browser.sign_in(*user).status_code == 303
    return browser


def ask(house: BackendClient, path: str, user: tuple[str, str], address: str = "192.0.2.1") -> TestResponse:
    """Send a request as a script does."""
    return house.app.test_client().get(path, headers=basic_auth(*user), environ_base={"REMOTE_ADDR": address})


def audited(house: BackendClient) -> list[AuditEntry]:
    return AuditLog(house.services.redis).read()


def admin_addresses(app: Flask) -> Iterator[tuple[str, set[str]]]:
    """Yield an address for each route below /admin, with the methods that change something there."""
    for rule in app.url_map.iter_rules():
        if rule.rule.startswith("/admin"):
            path = re.sub(r"<int:[^>]*>", "1", rule.rule)
            yield re.sub(r"<[^>]*>", "x", path), (rule.methods or set()) - {"GET", "HEAD", "OPTIONS"}


def test_a_browser_is_sent_to_the_login_page_and_then_to_the_page_it_asked_for(house: BackendClient) -> None:
    browser = Browser(house)

    led = browser.open("/admin/audit/?before=5-0")
    arrived = browser.sign_in(*VERA, path=led.headers["Location"])

    assert led.status_code == 302
    assert led.headers["Location"] == "/admin/login?next=/admin/audit/?before%3D5-0"
    assert (arrived.status_code, arrived.headers["Location"]) == (303, "/admin/audit/?before=5-0")
    page = browser.open("/admin/audit/")
    assert page.status_code == 200
    assert "vera, viewer" in page.text


def test_a_program_is_asked_for_basic_auth_and_a_script_of_a_page_is_not(house: BackendClient) -> None:
    client = house.app.test_client()

    script = client.get("/admin/api/overview")
    on_a_page = client.get("/admin/api/overview", headers={"Sec-Fetch-Mode": "cors", "Sec-Fetch-Site": "same-origin"})

    assert (script.status_code, on_a_page.status_code) == (401, 401)
    assert script.headers["WWW-Authenticate"].startswith("Basic")
    assert "WWW-Authenticate" not in on_a_page.headers
    assert "/admin/login" in script.get_json()["error"]


@pytest.mark.parametrize("path", ["/admin/", "/admin/api/overview", "/admin/queues/", "/health"])
@pytest.mark.parametrize("login", [{}, basic_auth(*ANNA[:1], "guess")])
def test_no_browser_opens_a_password_window_of_its_own(house: BackendClient, path: str, login: dict[str, str]) -> None:
    answer = house.app.test_client().get(path, headers=BROWSER_ACCEPTS | login)

    assert answer.status_code == (401 if path == "/health" else 302)
    assert "WWW-Authenticate" not in answer.headers


def test_a_form_sent_after_the_session_ended_leads_to_the_login_page_and_back(house: BackendClient) -> None:
    store_annotation(house.services.redis, make_correction())
    browser = signed_in(house)
    token = browser.token()
    change_password(house)

    led = browser.press("/admin/api/projects/1/pause", token, back="/admin/projects/1/")
    arrived = browser.sign_in(ANNA[0], "another password", path=led.headers["Location"])

    assert (led.status_code, led.headers["Location"]) == (302, "/admin/login?next=/admin/projects/1/")
    assert arrived.headers["Location"] == "/admin/projects/1/"
    assert "learning paused" not in [entry.action for entry in audited(house)]


def test_the_message_of_an_action_is_shown_even_if_the_page_refreshes_itself_first(house: BackendClient) -> None:
    store_annotation(house.services.redis, make_correction())
    browser = signed_in(house)
    browser.press("/admin/api/projects/1/pause", browser.token(), back="/admin/projects/1/")

    refreshed = browser.client.get("/admin/", headers=BROWSER_ACCEPTS | {"X-Live": "1"})
    page = browser.open("/admin/projects/1/")

    assert "project 1 is paused" not in refreshed.text
    assert "project 1 is paused" in page.text


def test_a_form_that_is_refused_gets_a_page_with_a_way_back(house: BackendClient) -> None:
    store_annotation(house.services.redis, make_correction())
    browser, viewer = signed_in(house), signed_in(house, VERA)

    stale = browser.press("/admin/api/projects/1/pause", "a token of another session")
    gone = browser.press("/admin/api/jobs/nothing/stop", browser.token())
    forbidden = viewer.press("/admin/api/projects/1/pause", viewer.token())

    assert [answer.status_code for answer in (stale, gone, forbidden)] == [400, 404, 403]
    for answer, expected in ((stale, "Open the page again"), (gone, "there is no job"), (forbidden, "is a viewer")):
        assert expected in answer.text
        assert '<a href="/admin/">Back to the overview</a>' in answer.text


@pytest.mark.parametrize("user", [BOSS, ANNA, VERA])
def test_everybody_reads_with_a_session_and_with_basic_auth(house: BackendClient, user: tuple[str, str]) -> None:
    browser = signed_in(house, user)

    for path in ("/admin/", "/admin/queues/", "/admin/audit/", "/admin/api/overview", "/admin/api/audit"):
        assert browser.open(path).status_code == 200, path
        assert ask(house, path, user).status_code == 200, path


def test_nothing_below_admin_answers_without_login(house: BackendClient) -> None:
    client = house.app.test_client()

    for path, acting in admin_addresses(house.app):
        for method in {"GET", *acting} if path != "/admin/login" else ():
            assert client.open(path, method=method).status_code == 401, (method, path)


def test_viewers_may_change_nothing(house: BackendClient) -> None:
    job_id = failed_job(house)
    browser = signed_in(house, VERA)
    token = browser.token()

    tried = [(path, method) for path, acting in admin_addresses(house.app) for method in acting]
    for path, method in tried:
        if path not in {"/admin/login", "/admin/logout"}:
            script = house.app.test_client().open(path, method=method, headers=basic_auth(*VERA))
            person = browser.client.open(path, method=method, headers={"X-CSRFToken": token})
            assert (script.status_code, person.status_code) == (403, 403), (method, path)
    refused = browser.press(DELETE.format(job_id), token)

    assert len(tried) > 5
    assert "vera is a viewer" in refused.text
    assert "Back to the overview" in refused.text
    assert queue(house.services.redis, LABEL_STUDIO_QUEUE).failed_job_registry.get_job_ids() == [job_id]


def test_operators_act_with_the_page_s_token_in_the_form_or_in_the_header(house: BackendClient) -> None:
    first, second = failed_job(house), failed_job(house)
    browser = signed_in(house)
    token = browser.token()

    by_form = browser.press(DELETE.format(first), token)
    by_header = browser.client.post(DELETE.format(second), headers={"X-CSRFToken": token})

    assert by_form.get_json() == by_header.get_json() == {"status": "OK"}
    assert queue(house.services.redis, LABEL_STUDIO_QUEUE).failed_job_registry.get_job_ids() == []


def test_an_action_of_a_browser_without_the_token_of_its_session_is_refused(house: BackendClient) -> None:
    job_id = failed_job(house)
    browser = signed_in(house)
    token_of_another = signed_in(house).token()

    for token in (None, "", "guessed", token_of_another):
        refused = browser.press(DELETE.format(job_id), token)
        assert refused.status_code == 400
        assert "Open the page again" in refused.text
    bare = browser.client.post(DELETE.format(job_id))  # a cookie, and no header that a browser sends

    assert bare.status_code == 400
    assert queue(house.services.redis, LABEL_STUDIO_QUEUE).failed_job_registry.get_job_ids() == [job_id]


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "http://localhost", "Sec-Fetch-Site": "same-origin"},
        {"Referer": "http://localhost/admin/queues/"},
        {"Origin": "https://captions.example", "X-Forwarded-Host": "captions.example"},
    ],
)
def test_a_browser_that_sends_basic_auth_needs_the_token_too(house: BackendClient, headers: dict[str, str]) -> None:
    job_id = failed_job(house)
    browser = Browser(house)
    login = basic_auth(*ANNA)
    browser.client.get("/admin/queues/", headers=BROWSER_ACCEPTS | login)
    token = browser.client.get_cookie("_csrf_token", path="/admin/queues")
    assert token is not None

    without = browser.client.post(DELETE.format(job_id), headers=login | headers)
    with_it = browser.client.post(DELETE.format(job_id), headers=login | headers | {"X-CSRFToken": token.value})

    assert without.status_code == 400
    assert with_it.get_json() == {"status": "OK"}


def test_a_script_needs_no_token(house: BackendClient) -> None:
    answer = house.app.test_client().post(DELETE.format(failed_job(house)), headers=basic_auth(*ANNA))

    assert answer.get_json() == {"status": "OK"}


def test_rq_dashboard_s_own_scripts_find_the_token_that_they_send(house: BackendClient) -> None:
    job_id = failed_job(house)
    browser = signed_in(house)

    page = browser.open("/admin/queues/0/view/jobs")
    cookie = browser.client.get_cookie("_csrf_token", path="/admin/queues")

    assert """getCookie("_csrf_token")""" in page.text
    assert """'X-CSRFToken': CSRF""" in page.text
    assert cookie is not None
    assert not cookie.http_only
    pressed = browser.client.post(DELETE.format(job_id), headers={"X-CSRFToken": cookie.decoded_value})
    assert pressed.get_json() == {"status": "OK"}


ELSEWHERE = (
    "https://evil.example/admin/",
    "//evil.example",
    "/\\evil.example",
    "/administrator",
    "/predict",
    "javascript:1",
    "/admin/\r\nSet-Cookie: a=b",
    "",
)


@pytest.mark.parametrize("wanted", ELSEWHERE)
def test_signing_in_redirects_only_to_our_own_pages(house: BackendClient, wanted: str) -> None:
    browser = Browser(house)
    token = browser.token("/admin/login")

    arrived = browser.client.post(
        "/admin/login",
        query_string={"next": wanted},
        data={"name": ANNA[0], "password": ANNA[1], "csrf_token": token},
    )

    assert (arrived.status_code, arrived.headers["Location"]) == (303, "/admin/")
    again = browser.client.get("/admin/login", query_string={"next": wanted})
    assert (again.status_code, again.headers["Location"]) == (302, "/admin/")


@pytest.mark.parametrize("back", ELSEWHERE)
def test_an_action_redirects_only_to_our_own_pages(house: BackendClient, back: str) -> None:
    store_annotation(house.services.redis, make_correction())
    browser = signed_in(house)

    arrived = browser.press("/admin/api/projects/1/pause", browser.token(), back=back)

    assert (arrived.status_code, arrived.headers["Location"]) == (303, "/admin/")


def test_signing_in_needs_the_token_of_the_login_page(house: BackendClient) -> None:
    browser = Browser(house)

    refused = browser.press("/admin/login", name=ANNA[0], password=ANNA[1])

    assert refused.status_code == 400
    assert browser.open("/admin/").status_code == 302


def test_the_session_cookie_is_hidden_from_scripts_other_sites_and_with_https_plain_connections(
    house: BackendClient,
) -> None:
    plain = Browser(house).sign_in(*ANNA)
    client = house.app.test_client()
    page = client.get(
        "/admin/login", headers=BROWSER_ACCEPTS | {"X-Forwarded-Proto": "https"}, base_url="https://localhost"
    )

    [session] = [cookie for cookie in plain.headers.getlist("Set-Cookie") if cookie.startswith("captioner_session=")]
    assert "HttpOnly" in session
    assert "SameSite=Lax" in session
    assert "Path=/admin" in session
    assert "Secure" not in session
    assert "Secure" in page.headers["Set-Cookie"]
    assert page.headers["Cache-Control"] == "no-store"


def test_signing_out_ends_the_session(house: BackendClient) -> None:
    browser = signed_in(house, VERA)

    out = browser.press("/admin/logout", browser.token())

    assert (out.status_code, out.headers["Location"]) == (303, "/admin/login")
    assert browser.open("/admin/").status_code == 302


def test_signing_out_ends_copies_of_the_session_on_every_backend(make_house: Callable[..., BackendClient]) -> None:
    first, second = make_house(), make_house()
    browser = signed_in(first)
    copied = browser.client.get_cookie("captioner_session", path="/admin")
    assert copied is not None
    thieves = [Browser(first), Browser(second)]
    for thief in thieves:
        thief.client.set_cookie("captioner_session", copied.value, path="/admin")
    opened_before = [thief.open("/admin/").status_code for thief in thieves]

    browser.press("/admin/logout", browser.token())

    assert opened_before == [200, 200]
    assert [thief.open("/admin/").status_code for thief in thieves] == [302, 302]
    assert signed_in(first).open("/admin/").status_code == 200


def test_a_session_ends_12_hours_after_signing_in_however_busy_it_is(house: BackendClient) -> None:
    browser = signed_in(house)
    assert SESSION_S == 12 * 3600
    with browser.client.session_transaction("/admin/") as session:
        session["signed_in_at"] -= SESSION_S - 60
    assert browser.open("/admin/").status_code == 200

    with browser.client.session_transaction("/admin/") as session:
        session["signed_in_at"] -= 61

    assert browser.open("/admin/").status_code == 302


def change_password(house: BackendClient) -> None:
    write_user(house.settings, *ANNA[:1], role="operator", password="another password")


def change_role(house: BackendClient) -> None:
    write_user(house.settings, *ANNA[:1], role="viewer", password=ANNA[1])


def remove(house: BackendClient) -> None:
    remove_user(house.settings, ANNA[0])


@pytest.mark.parametrize("change", [change_password, change_role, remove])
def test_a_changed_user_file_ends_sessions_at_once(
    house: BackendClient, change: Callable[[BackendClient], None]
) -> None:
    browser = signed_in(house)

    change(house)

    assert browser.open("/admin/").status_code == 302


def test_two_backends_with_the_same_settings_share_sessions_and_one_with_another_password_does_not(
    make_house: Callable[..., BackendClient],
) -> None:
    first, second, other = make_house(), make_house(), make_house(basic_auth_pass="another")
    second_s_file = Path(str(first.settings.admin_users_file)).read_text()
    first_browser = signed_in(first)
    session = first_browser.client.get_cookie("captioner_session", path="/admin")
    assert session is not None
    assert second_s_file == Path(str(second.settings.admin_users_file)).read_text()

    answers = []
    for house in (second, other):
        client = house.app.test_client()
        client.set_cookie("captioner_session", session.value, path="/admin")
        answers.append(client.get("/admin/api/overview").status_code)

    assert answers == [200, 401]


def test_users_of_the_file_can_sign_in_where_no_basic_auth_is_set(make_house: Callable[..., BackendClient]) -> None:
    house = make_house(basic_auth_user=None, basic_auth_pass=None)

    assert signed_in(house).open("/admin/").status_code == 200
    assert house.get("/health").status_code == 200  # Label Studio's side stays open


def test_users_of_the_file_cannot_call_the_routes_of_label_studio(house: BackendClient) -> None:
    assert ask(house, "/health", ANNA).status_code == 401
    assert ask(house, "/health", BOSS).status_code == 200


def test_an_error_is_a_page_with_a_way_back_for_people_and_a_sentence_for_scripts(house: BackendClient) -> None:
    page = signed_in(house).open("/admin/queues/0/view/job/nothing")
    sentence = ask(house, "/admin/queues/0/view/job/nothing", ANNA)

    assert page.status_code == sentence.status_code == 404
    assert 'href="/admin/"' in page.text
    assert "there is no such job" in page.text
    assert "there is no such job" in sentence.get_json()["error"]


# Wrong passwords.


def wait_is_over(redis: Redis) -> None:
    """Let the counters expire; they would do so by themselves minutes later."""
    for key in redis.scan_iter("captioner:wrong-passwords:*/minute"):
        redis.delete(key)


def test_after_several_wrong_passwords_even_the_right_password_must_wait(house: BackendClient, redis: Redis) -> None:
    wrong = [ask(house, "/admin/api/overview", (ANNA[0], f"guess {number}")) for number in range(5)]

    held_back = ask(house, "/admin/api/overview", ANNA)
    page = Browser(house).sign_in(*ANNA)

    assert [answer.status_code for answer in wrong] == [401] * 5
    assert (held_back.status_code, page.status_code) == (429, 429)
    assert 0 < int(held_back.headers["Retry-After"]) <= 300
    assert "too many wrong passwords" in held_back.get_json()["error"]
    assert "too many wrong passwords" in page.text
    assert ask(house, "/admin/api/overview", VERA).status_code == 200
    wait_is_over(redis)
    assert ask(house, "/admin/api/overview", ANNA).status_code == 200


def test_wrong_passwords_in_the_form_count_too(house: BackendClient) -> None:
    browser = Browser(house)

    answers = [browser.sign_in(ANNA[0], "guess").status_code for _ in range(6)]

    assert answers == [401] * 5 + [429]


def test_an_address_that_tries_many_names_must_wait_and_other_addresses_need_not(house: BackendClient) -> None:
    for number in range(20):
        ask(house, "/admin/api/overview", (f"name {number}", "guess"), address="198.51.100.9")

    assert ask(house, "/admin/api/overview", ANNA, address="198.51.100.9").status_code == 429
    assert ask(house, "/admin/api/overview", ANNA).status_code == 200


def test_the_addresses_of_one_ipv6_network_count_together_and_those_of_ipv4_do_not(house: BackendClient) -> None:
    for number in range(20):
        ask(house, "/admin/api/overview", (f"name {number}", "guess"), address=f"2001:db8:0:1::{number:x}")
        ask(house, "/admin/api/overview", (f"name {number + 20}", "guess"), address=f"::ffff:198.51.100.{number}")

    assert ask(house, "/admin/api/overview", ANNA, address="2001:db8:0:1:ffff::1").status_code == 429
    assert ask(house, "/admin/api/overview", ANNA, address="2001:db8:0:2::1").status_code == 200
    assert ask(house, "/admin/api/overview", ANNA, address="::ffff:198.51.100.99").status_code == 200


def test_wrong_passwords_count_on_the_routes_of_label_studio_and_on_unknown_paths_too(house: BackendClient) -> None:
    paths = ["/health", "/nothing", "/static/nothing", "/predict", "/admin/api/nothing"]
    for path in paths:
        assert ask(house, path, (BOSS[0], "guess")).status_code == 401

    assert [ask(house, path, BOSS).status_code for path in (*paths, "/admin/")] == [429] * 6


def test_all_processes_count_together(make_house: Callable[..., BackendClient]) -> None:
    first, second = make_house(), make_house()
    for _ in range(5):
        ask(first, "/admin/api/overview", (ANNA[0], "guess"))

    assert ask(second, "/admin/api/overview", ANNA).status_code == 429


def test_a_process_counts_alone_while_redis_does_not_answer(
    make_house: Callable[..., BackendClient], own_redis: RedisServer
) -> None:
    house = make_house(redis_url=own_redis.url)
    own_redis.kill()

    assert ask(house, "/admin/api/overview", ANNA).status_code == 200
    wrong = [ask(house, "/admin/", (VERA[0], "guess")).status_code for _ in range(5)]

    assert wrong == [401] * 5
    assert ask(house, "/admin/", VERA).status_code == 429
    assert ask(house, "/health", BOSS).status_code == 200


def test_passwords_that_come_at_once_are_counted_before_they_are_checked(
    house: BackendClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    checked: list[str] = []
    of_house: users.Users = house.app.extensions[ACCESS].users
    right = of_house.check

    def slow_check(name: str, password: str) -> User | None:
        checked.append(password)
        all_came.wait(0.2)  # so that the others come meanwhile
        return right(name, password)

    all_came = threading.Event()
    monkeypatch.setattr(of_house, "check", slow_check)
    with ThreadPoolExecutor(60) as threads:
        statuses = list(
            threads.map(lambda number: ask(house, "/admin/", (ANNA[0], f"guess {number}")).status_code, range(60))
        )

    assert len(checked) == 5
    assert Counter(statuses) == {401: 5, 429: 55}


def test_many_right_passwords_at_once_are_all_accepted(house: BackendClient) -> None:
    with ThreadPoolExecutor(30) as threads:
        statuses = set(threads.map(lambda _: ask(house, "/admin/", ANNA).status_code, range(30)))

    assert statuses == {200}


@pytest.mark.parametrize("header", ["Basic \xff\xfe", "Basic dXNlcjrDpA==", "Basic /////w==", "B\xe4sic x", "Basic"])
@pytest.mark.parametrize("path", ["/health", "/predict", "/admin/", "/webhook"])
def test_an_odd_authorization_header_is_a_refusal_and_no_failure(house: BackendClient, header: str, path: str) -> None:
    response = house.app.test_client().get(path, headers={"Authorization": header})

    assert response.status_code in {302, 401, 405}


@pytest.mark.parametrize("path", ["/health", "/nothing", "/admin/", "/admin/static/admin.css", "/ready", "/metrics"])
def test_every_answer_has_the_headers_that_protect_browsers(house: BackendClient, path: str) -> None:
    headers = house.app.test_client().get(path).headers

    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["X-Frame-Options"] == "DENY"
    assert "frame-ancestors 'none'" in headers["Content-Security-Policy"]


def test_strangers_cannot_lock_out_a_user_who_has_signed_in_before(house: BackendClient) -> None:
    browser = signed_in(house)
    browser.press("/admin/logout", browser.token())
    assert ask(house, "/health", BOSS, address="192.0.2.7").status_code == 200

    for address in ("198.51.100.9", "192.0.2.1"):  # the latter is that of the browser, say a proxy's
        for name in (ANNA[0], BOSS[0]):
            for _ in range(6):
                ask(house, "/admin/", (name, "guess"), address)

    assert ask(house, "/admin/", ANNA, "198.51.100.77").status_code == 429
    assert browser.sign_in(*ANNA).status_code == 303
    assert ask(house, "/health", BOSS, address="192.0.2.7").status_code == 200


def test_a_browser_that_signed_in_before_and_then_guesses_must_wait(house: BackendClient) -> None:
    browser = signed_in(house)
    browser.press("/admin/logout", browser.token())

    answers = [browser.sign_in(ANNA[0], "guess").status_code for _ in range(6)]

    assert answers == [401] * 5 + [429]


@pytest.mark.parametrize("name", [ANNA[0], BOSS[0], "nobody"])
def test_a_wrong_password_takes_the_same_time_for_existing_and_unknown_names(
    house: BackendClient, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    hashed = []

    def check(password_hash: str, password: str) -> bool:
        hashed.append(password_hash)
        return check_password_hash(password_hash, password)

    monkeypatch.setattr(users, "check_password_hash", check)

    assert ask(house, "/admin/", (name, "guess")).status_code == 401

    assert len(hashed) == 1


# The audit log.


def test_the_audit_log_has_sign_ins_and_refusals_without_the_typed_password(house: BackendClient) -> None:
    browser = Browser(house)
    browser.sign_in("my secret by mistake", "guess")
    browser.sign_in(ANNA[0], "guess")
    browser.sign_in(*ANNA)
    browser.press("/admin/logout", browser.token())
    ask(house, "/predict", (BOSS[0], "guess"))

    entries = audited(house)

    assert [(entry.who, entry.action) for entry in entries] == [
        ("captioner", "sign-in refused"),
        ("anna", "signed out"),
        ("anna", "signed in"),
        ("anna", "sign-in refused"),
        ("somebody unknown", "sign-in refused"),
    ]
    assert entries[0].details == {"address": "192.0.2.1", "path": "/predict"}
    assert "my secret" not in str(entries)


def test_the_audit_log_has_an_action_in_the_raw_queues_once_it_is_done(house: BackendClient) -> None:
    job_id = failed_job(house)

    house.app.test_client().post(f"/admin/queues/job/{job_id}/requeue", headers=basic_auth(*ANNA))
    house.app.test_client().post(f"/admin/queues/job/{job_id}/requeue", headers=basic_auth(*ANNA))
    house.app.test_client().post(f"/admin/queues/queue/{LABEL_STUDIO_QUEUE}/queued/empty", headers=basic_auth(*BOSS))

    emptied, retried = audited(house)
    assert (retried.who, retried.action, retried.details) == ("anna", "job retried", {"job_id": job_id})
    assert (emptied.who, emptied.action) == ("captioner", "queue emptied")


def test_the_audit_log_is_a_page_and_json_page_by_page(house: BackendClient) -> None:
    log = AuditLog(house.services.redis)
    for number in range(51):
        log.write("anna", f"action {number} <script>", 7, why="because")
    browser = signed_in(house, VERA)

    newest = ask(house, "/admin/api/audit", VERA).get_json()
    oldest = ask(house, f"/admin/api/audit?before={newest['earlier']}", VERA).get_json()
    page = browser.open("/admin/audit/").text

    assert [entry["action"] for entry in newest["entries"]][:2] == ["signed in", "action 50 <script>"]
    assert [entry["action"] for entry in oldest["entries"]] == ["action 1 <script>", "action 0 <script>"]
    assert oldest["earlier"] is None
    assert oldest["entries"][0]["details"] == {"why": "because"}
    assert "action 50 &lt;script&gt;" in page
    [earlier] = re.findall(r'href="([^"]+before=[^"]+)"', page)
    assert "action 0 &lt;script&gt;" in browser.open(earlier).text


@pytest.mark.parametrize("before", ["yesterday", "1-2-3", "-", "("])
def test_an_impossible_position_in_the_audit_log_is_refused(house: BackendClient, before: str) -> None:
    answer = ask(house, f"/admin/api/audit?before={before}", VERA)

    assert answer.status_code == 400
    assert answer.get_json()["error"].startswith("before must be the entry_id")


def test_while_redis_does_not_answer_people_sign_in_and_the_audit_page_says_so(
    make_house: Callable[..., BackendClient], own_redis: RedisServer
) -> None:
    house = make_house(redis_url=own_redis.url)
    own_redis.kill()

    browser = signed_in(house, VERA)

    assert "Redis cannot be reached" in browser.open("/admin/audit/").text
    assert ask(house, "/admin/api/audit", VERA).status_code == 503
