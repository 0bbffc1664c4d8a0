"""Rules of a project's wording on the admin pages: people see them and switch them off one by one."""

import base64
import html
import json
import re
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from redis import Redis

from backend import jobs
from backend.admin import api as api_module
from backend.admin.users import write_user
from backend.captioning.judgement import Judgement
from backend.captioning.project_style import read_switched_off
from model.memory.style import StyleRule
from tests.annotator import Annotator, text_of
from tests.backend_client import LABEL_CONFIG, BackendClient, Browser, basic_auth
from tests.factories import environment_of, make_correction, store_annotation
from tests.fake_label_studio import LEGACY_TOKEN, FakeLabelStudio
from tests.image_server import png
from worker.audit import AuditEntry, AuditLog
from worker.feedback.caption_changes import read_generation
from worker.feedback.script import key
from worker.queue.job_state import LABEL_STUDIO_QUEUE, queue

ADMIN = ("admin", "right")
VERA = ("vera", "vera's password")
PAGE, API = "/admin/projects/1/", "/admin/api/projects/1"
PHOTO = "begins with: a photo of"
GUY = StyleRule(kind="word", before="man", after="guy", support=7, applicable=7)
SMALL = StyleRule(kind="first letter", before="capital", after="small", support=9, applicable=10)
COLORS = {1: "red", 2: "green", 3: "blue", 4: "white"}
OPEN_TASKS = {100: "black", 101: "yellow", 102: "purple"}


@pytest.fixture
def house(make_backend: Callable[..., BackendClient], label_studio: FakeLabelStudio, tmp_path: Path) -> BackendClient:
    """A backend with an operator and the viewer vera, and with a Label Studio in which nobody annotated OPEN_TASKS."""
    label_studio.add_project(id=1)
    label_studio.hold(*({"id": number, "data": {"captioning": address(color)}} for number, color in OPEN_TASKS.items()))
    house = make_backend(
        ADMIN,
        label_studio_url=label_studio.url,
        label_studio_api_key=LEGACY_TOKEN,
        basic_auth_user=ADMIN[0],
        basic_auth_pass=ADMIN[1],
        admin_users_file=str(tmp_path / "users"),
    )
    write_user(house.settings, VERA[0], "viewer", VERA[1])
    return house


@pytest.fixture
def annotator(house: BackendClient) -> Annotator:
    """An annotator who wrote "a photo of" before four suggestions."""
    annotator = Annotator(house)
    for number, color in COLORS.items():
        suggested = annotator.caption(number, address(color))
        annotator.submit(number, address(color), f"a photo of {suggested} {color}")
    return annotator


@pytest.fixture
def judged(house: BackendClient) -> BackendClient:
    """A backend whose project has the rules GUY and SMALL."""
    store_annotation(house.services.redis, make_correction())
    judge(house, caption=(GUY, SMALL))
    return house


def address(color: str) -> str:
    return "data:image/png;base64," + base64.b64encode(png(color)).decode()


def judge(backend: BackendClient, **styles: tuple[StyleRule, ...]) -> None:
    """Store what the memory found in the corrections of each field."""
    judgement = Judgement(generation=1, rows=7, is_open=False, limit=0.4)
    judgements = {field: asdict(replace(judgement, style=style)) for field, style in styles.items()}
    base_version = backend.services.captioners.registry.base_version
    backend.services.redis.hset(key("memory", 1), base_version, json.dumps(judgements))


def rows(page: str) -> list[list[str]]:
    """Return the texts in each row of the table of rules; a button is a text too."""
    table = page.partition('aria-label="Wording learned from corrections"')[2].partition("</table>")[0]
    return [
        [html.unescape(text).strip() for text in re.findall(r">([^<>]+)<", row) if text.strip()]
        for row in table.partition("<tbody>")[2].split("</tr>")[:-1]
    ]


def switch(backend: BackendClient, action: str, rule: str) -> str:
    response = backend.post(f"{API}/{action}", {"rule": rule})
    assert response.status_code == 200, response.text
    return str(response.get_json()["outcome"])


def memory_of(backend: BackendClient) -> dict[str, Any]:
    memory: dict[str, Any] = backend.get(API).get_json()["memory"]
    return memory


def switches(backend: BackendClient) -> list[AuditEntry]:
    return [entry for entry in AuditLog(backend.services.redis).read() if entry.action.startswith("wording rule")]


# The page


def test_a_project_without_rules_shows_no_table(house: BackendClient) -> None:
    store_annotation(house.services.redis, make_correction())

    page = house.get(PAGE)

    assert page.status_code == 200
    assert "Wording learned from corrections" not in page.text


def test_the_page_lists_the_rules_of_the_serving_version_below_the_sentence_about_the_memory(
    judged: BackendClient,
) -> None:
    page = judged.get(PAGE).text

    assert rows(page) == [
        ['"man" -> "guy" (7 of 7 corrections)', "on", "Switch off"],
        ["begins with a small letter (9 of 10 corrections)", "on", "Switch off"],
    ]
    assert page.index("they cannot show yet") < page.index("Wording learned")


def test_a_person_switches_a_rule_off_and_on_with_the_buttons_of_the_page(judged: BackendClient) -> None:
    browser = Browser(judged)
    browser.sign_in(*ADMIN)

    off = browser.press(f"{API}/switch_off", browser.token(PAGE), rule=GUY.name, back=PAGE)
    while_off = browser.open(PAGE).text
    browser.press(f"{API}/switch_on", browser.token(PAGE), rule=GUY.name, back=PAGE)
    at_last = browser.open(PAGE).text

    assert (off.status_code, off.headers["Location"]) == (303, PAGE)
    assert "is switched off; the next suggestion does without it" in while_off
    assert [row[1:] for row in rows(while_off)] == [["off", "Switch on"], ["on", "Switch off"]]
    assert [row[1:] for row in rows(at_last)] == [["on", "Switch off"], ["on", "Switch off"]]


def test_the_buttons_send_the_name_of_their_rule(judged: BackendClient) -> None:
    switch(judged, "switch_off", SMALL.name)

    forms = re.findall(r'action="[^"]*/(switch_\w+)".*?name="rule" value="([^"]+)"', judged.get(PAGE).text, re.DOTALL)

    assert [(action, html.unescape(name)) for action, name in forms] == [
        ("switch_off", GUY.name),
        ("switch_on", SMALL.name),
    ]


def test_a_form_without_the_token_of_the_page_switches_nothing(judged: BackendClient) -> None:
    browser = Browser(judged)
    browser.sign_in(*ADMIN)

    refused = browser.press(f"{API}/switch_off", rule=GUY.name, back=PAGE)

    assert refused.status_code == 400
    assert read_switched_off(judged.services.redis, 1) == frozenset()


def test_rules_of_several_fields_stand_beside_their_field(judged: BackendClient) -> None:
    judge(judged, title=(GUY,), caption=(GUY, SMALL))

    switch(judged, "switch_off", GUY.name)

    assert [(row[0], row[2]) for row in rows(judged.get(PAGE).text)] == [
        ("caption", "off"),
        ("caption", "on"),
        ("title", "off"),
    ]


def test_a_rule_that_is_switched_off_and_no_longer_found_can_be_switched_on_again(judged: BackendClient) -> None:
    switch(judged, "switch_off", GUY.name)
    judge(judged, caption=(SMALL,))

    page = judged.get(PAGE).text
    switch(judged, "switch_on", GUY.name)

    assert rows(page)[1] == ["word: man -> guy", "off", "(not found in the corrections now)", "Switch on"]
    assert len(rows(judged.get(PAGE).text)) == 1


# JSON, roles and the audit log


def test_the_json_names_the_rules_as_it_is_described(judged: BackendClient) -> None:
    switch(judged, "switch_off", GUY.name)

    answer = judged.get(API).get_json()

    assert answer["memory"]["switched_off"] == ["word: man -> guy"]
    assert answer["memory"]["wording"] == [
        {
            "name": "word: man -> guy",
            "field": "caption",
            "words": '"man" -> "guy" (7 of 7 corrections)',
            "is_off": True,
        },
        {"name": SMALL.name, "field": "caption", "words": str(SMALL), "is_off": False},
    ]
    description = yaml.safe_load((Path(api_module.__file__).parent / "openapi.yaml").read_text("utf-8"))
    schema = description["paths"]["/projects/{project_id}"]["get"]["responses"]["200"]["content"]["application/json"]
    jsonschema.validate(answer, schema["schema"] | {"components": description["components"]})


@pytest.mark.parametrize("action", ["switch_off", "switch_on"])
@pytest.mark.parametrize("fields", [{"rule": "word: man -> bloke"}, {"rule": ""}, {}])
def test_a_rule_that_is_not_there_cannot_be_switched(
    judged: BackendClient, action: str, fields: dict[str, str]
) -> None:
    before = read_generation(judged.services.redis, 1)

    response = judged.post(f"{API}/{action}", fields)

    assert response.status_code == 400
    assert "has no wording rule 'word: man -> bloke'" in response.text or "needs 'rule'" in response.text
    assert (memory_of(judged)["switched_off"], switches(judged)) == ([], [])
    assert read_generation(judged.services.redis, 1) == before


def test_a_viewer_sees_the_rules_and_may_not_switch_them(judged: BackendClient) -> None:
    viewer = Browser(judged)
    viewer.sign_in(*VERA)

    page = viewer.open(PAGE).text
    by_form = viewer.press(f"{API}/switch_off", viewer.token(PAGE), rule=GUY.name, back=PAGE)
    script = judged.app.test_client()
    by_script = script.post(f"{API}/switch_off", json={"rule": GUY.name}, headers=basic_auth(*VERA))

    assert re.search(r"<button\s+disabled\s*>Switch off</button>", page)
    assert (by_form.status_code, by_script.status_code) == (403, 403)
    assert (memory_of(judged)["switched_off"], switches(judged)) == ([], [])


def test_the_audit_log_says_who_switched_which_rule(judged: BackendClient) -> None:
    switch(judged, "switch_off", GUY.name)
    switch(judged, "switch_on", GUY.name)

    on, off = switches(judged)

    assert (off.who, off.action, off.project_id) == ("admin", "wording rule switched off", 1)
    assert (on.who, on.action, on.project_id) == ("admin", "wording rule switched on", 1)
    assert off.details == on.details == {"rule": "word: man -> guy"}


# Suggestions


def test_the_next_suggestion_follows_the_switch(house: BackendClient, annotator: Annotator) -> None:
    before = annotator.caption(100, address("black"))

    switch(house, "switch_off", PHOTO)
    while_off = annotator.caption(100, address("black"))
    switch(house, "switch_on", PHOTO)

    assert before == f"a photo of {while_off}"
    assert annotator.caption(100, address("black")) == before


def test_a_switch_begins_a_generation_so_that_label_studio_asks_again(
    house: BackendClient, annotator: Annotator
) -> None:
    def told() -> str:
        return str(house.post("/setup", {"project": "1.1", "schema": LABEL_CONFIG}).get_json()["model_version"])

    annotator.caption(100, address("black"))
    before = read_generation(house.services.redis, 1)
    labels = [told()]

    switch(house, "switch_off", PHOTO)
    labels.append(told())
    suggested = annotator.suggestions({100: address("black")})[100]["model_version"]
    switch(house, "switch_on", PHOTO)
    labels.append(told())

    after = read_generation(house.services.redis, 1)
    assert (after.number, after.reworded, after.names) == (before.number + 2, before.number + 2, before.names)
    assert len({*labels}) == 3
    assert suggested == labels[1]


def test_stored_suggestions_follow_each_switch_and_are_written_once(
    house: BackendClient,
    annotator: Annotator,
    label_studio: FakeLabelStudio,
    redis: Redis,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    label_studio.connect_ours(1, redis)
    for name, value in environment_of(house.settings).items():
        monkeypatch.setenv(name, value)
    version = house.services.captioners.version_of(1)

    def refreshed() -> tuple[dict[int, str], dict[str, Any]]:
        waiting = queue(redis, LABEL_STUDIO_QUEUE)
        enqueued = [job.args for job in waiting.get_jobs() if job.func_name == "backend.jobs.refresh_predictions"]
        waiting.empty()
        assert (1, version) in {tuple(args) for args in enqueued}, "no refresh was enqueued"
        report = jobs.refresh_predictions(1, version)
        newest = {row["task"]: row for row in sorted(label_studio.predictions.values(), key=lambda row: int(row["id"]))}
        return {number: text_of(newest[number]) for number in OPEN_TASKS}, report

    annotator.caption(100, address("black"))
    before, _ = refreshed()
    switch(house, "switch_off", PHOTO)
    while_off, report = refreshed()
    again = jobs.refresh_predictions(1, version)
    switch(house, "switch_on", PHOTO)
    at_last, _ = refreshed()

    assert before == at_last == {number: f"a photo of {text}" for number, text in while_off.items()}
    assert (report["refreshed"], report["current"]) == (3, 0)
    assert (again["refreshed"], again["current"]) == (0, 3)


def test_a_correction_does_not_make_every_stored_suggestion_out_of_date(
    house: BackendClient, annotator: Annotator, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in environment_of(house.settings).items():
        monkeypatch.setenv(name, value)
    version = house.services.captioners.version_of(1)
    annotator.caption(100, address("black"))
    switch(house, "switch_off", PHOTO)
    jobs.refresh_predictions(1, version)

    annotator.submit(1, address("red"), "a photo of something else")

    assert jobs.refresh_predictions(1, version)["refreshed"] == 0
