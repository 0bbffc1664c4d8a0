"""The admin pages: contents and actions, on the pages and as JSON."""

import io
import json
import math
import re
import zipfile
from collections.abc import Callable
from dataclasses import asdict, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from rq import Queue, SimpleWorker
from rq.job import JobStatus
from rq.serializers import DefaultSerializer
from werkzeug.routing import Rule

from backend.admin import api as api_module
from backend.admin.actions import JOB_ACTIONS, PROJECT_ACTIONS
from backend.sync.refresh_progress import RefreshProgress
from model.bundle import load_bundle
from model.registry import ModelRegistry, ModelVersion
from tests.backend_client import BackendClient
from tests.factories import make_correction, store_annotation, write_bundle
from tests.payloads import load_payload
from tests.scrape import samples
from worker.audit import AuditLog
from worker.feedback.script import PROJECTS_KEY
from worker.feedback.waiting import mark_trained, note_taught_by_memory, read_waiting
from worker.queue.control import RetrainingControl, cancel_job
from worker.queue.job_state import LABEL_STUDIO_QUEUE, RETRAIN_QUEUE, queue
from worker.queue.retraining import enqueue_retraining

ADMIN = ("admin", "right")
LOGIN = {"basic_auth_user": ADMIN[0], "basic_auth_pass": ADMIN[1]}
PAGES = (
    "/admin/",
    "/admin/audit/",
    "/admin/jobs/",
    "/admin/jobs/?state=failed",
    "/admin/projects/1/",
    "/admin/projects/1/corrections/",
)


@pytest.fixture
def admin(make_backend: Callable[..., BackendClient]) -> BackendClient:
    """Protected backend whose project 1 has 25 corrections and one version; the caller is logged in."""
    backend = make_backend(ADMIN, **LOGIN)
    captioner = backend.trainable_captioner()
    for number in range(1, 26):
        correction = make_correction(annotation_id=number, caption=f"a black dog number {number}", annotator=number % 3)
        store_annotation(backend.services.redis, replace(correction, updated_at=f"2025-01-31T12:{number:02}:00+00:00"))
    learned = backend.services.feedback.find(1, "25/caption")
    assert learned is not None
    backend.services.captioners.registry.publish(
        1,
        captioner,
        parent=captioner.version,
        metrics={
            "known_states": [learned.state],
            "new": {"captions": 4, "candidate": 1.0, "serving": 2.0, "better_in": 0.97},
            "new_words": ["puppy"],
            "samples": [
                {
                    "correction": "25/caption",
                    "written": "a black dog number 25",
                    "before": {"caption": "a dog", "columns": 2, "words": [["a", "00ff00ff"], ["dog", "ff00ff00"]]},
                    "after": {"caption": "a black dog", "columns": 2, "words": [["black", "00ff00ff"]]},
                }
            ],
        },
        corrections=["25/caption"],
        decision="better in 97% of draws",
    )
    return backend


@pytest.mark.parametrize("path", PAGES)
def test_each_page_opens(admin: BackendClient, path: str) -> None:
    response = admin.get(path)

    assert response.status_code == 200, response.text
    assert "<h1>" in response.text
    assert "script-src" not in response.headers["Content-Security-Policy"], "scripts only from here"


def test_the_overview_says_the_state_of_a_project_in_words(admin: BackendClient) -> None:
    overview = admin.get("/admin/api/overview").get_json()

    (project,) = overview["projects"]
    assert project["verdict"]["words"] == "25 corrections wait for the next training"
    assert project["waiting"] == 25
    assert project["last_decision"] == "better in 97% of draws"
    assert "25 corrections wait" in admin.get("/admin/").text


def test_a_project_is_shown_by_the_title_that_the_newest_event_told(admin: BackendClient) -> None:
    assert "<h1>Project 1</h1>" in admin.get("/admin/projects/1/").text
    event = load_payload("47_webhook_PROJECT_UPDATED_title")["body"]

    for title in ("ship & <b>", "Aerial photos"):
        event["project"] |= {"id": 1, "title": title}
        assert admin.post("/webhook", event).status_code == 200

    assert "<h1>Aerial photos</h1>" in admin.get("/admin/projects/1/").text
    assert "Aerial photos (project 1)</a>" in admin.get("/admin/").text


def test_the_owners_page_says_what_suggestions_save_in_plain_words(admin: BackendClient) -> None:
    page = admin.get("/admin/projects/1/").text

    cells = re.findall(r"<t[hd][^>]*>([^<]*)</t[hd]>", page[page.index("Week from") :])
    assert cells[6:13] == ["2025-01-27", "25", "0%", "3.0", "5.0", "40%", "0"]
    assert re.search(r"<dt>Before</dt><dd>a dog</dd>.*<dt>Now</dt><dd>a black dog</dd>", page)
    assert re.search(r"<span>a</span>\s*<ins>black</ins>\s*<span>dog</span>\s*<ins>number 25</ins>", page)
    assert "nats" not in page
    chart = admin.get("/admin/api/projects/1/weeks").get_json()
    assert chart == [
        {"name": "words in a caption", "data": [["2025-01-27", 5]]},
        {"name": "words changed", "data": [["2025-01-27", 3]]},
    ]


def test_a_page_without_data_says_what_to_do_next(admin: BackendClient) -> None:
    admin.services.redis.sadd(PROJECTS_KEY, 2)

    page = admin.get("/admin/projects/2/").text

    assert "Label a task of this project in Label Studio, and submit it." in page
    assert "Learning begins with the first corrections." in page
    assert "The first starts by itself once there are enough corrections" in page


def test_a_refresh_tells_its_progress_on_the_pages(admin: BackendClient) -> None:
    redis = admin.services.redis
    progress = RefreshProgress.begin(redis, 1, "v2-00000000", 0).after(done=3250, refreshed=3000, failed=2, left=6750)
    progress.write(redis, 1)

    for page in ("/admin/", "/admin/projects/1/"):
        assert "3,250 of 10,000 tasks" in admin.get(page).text

    replace(progress, at="2025-01-31T12:00:00+00:00").write(redis, 1)
    assert "The work goes on when a worker is free" in admin.get("/admin/projects/1/").text
    progress.after(done=10_000, refreshed=9990, failed=2, left=0).ended(None, None).write(redis, 1)
    assert "9,990 suggestions replaced, 2 tasks without a suggestion" in admin.get("/admin/projects/1/").text
    assert "tasks" not in admin.get("/admin/").text
    progress.ended("the owner chose others", None).write(redis, 1)
    assert "in Label Studio stopped: the owner chose others." in admin.get("/admin/projects/1/").text
    redis.set("captioner:refresh-progress:1", "{}")
    assert admin.get("/admin/projects/1/").status_code == 200


def test_a_refresh_does_not_write_over_the_progress_of_a_later_one(admin: BackendClient) -> None:
    redis = admin.services.redis
    earlier = RefreshProgress.begin(redis, 1, "v2-00000000", 0)
    later = replace(earlier, version="v3-00000000", started_at="2125-01-31T12:00:00+00:00")
    later.after(done=5, refreshed=5, failed=0, left=2).write(redis, 1)

    earlier.ended("v2-00000000 no longer serves", None).write(redis, 1)

    assert "those of v3-00000000: 5 of 7 tasks" in admin.get("/admin/projects/1/").text


def test_after_a_change_of_the_bundle_a_project_is_not_called_up_to_date(admin: BackendClient) -> None:
    registry = admin.services.captioners.registry
    earlier = ModelRegistry(admin.services.store, "earlier-00000000")
    earlier.publish(
        1, admin.trainable_captioner(), parent="earlier-00000000", metrics={}, corrections=[], decision="better"
    )
    assert registry.serving(1) == registry.base_version

    [project] = admin.get("/admin/api/overview").get_json()["projects"]
    assert project["verdict"]["words"].startswith("the bundle is another one than at the last training")


def test_the_overview_names_each_worker_and_its_queues(admin: BackendClient) -> None:
    redis = admin.services.redis
    worker = SimpleWorker([LABEL_STUDIO_QUEUE, RETRAIN_QUEUE], connection=redis, name="worker-7")
    worker.register_birth()

    page = admin.get("/admin/")

    assert page.status_code == 200, page.text
    assert re.search(r"<td>worker-7</td>.*>label-studio, retrain</td>", page.text)


def end_job(admin: BackendClient, minute: int, status: JobStatus = JobStatus.FAILED, name: str = RETRAIN_QUEUE) -> None:
    """Make a job of project 1 that ended this many minutes after the newest version."""
    jobs = queue(admin.services.redis, name)
    job = jobs.create_job("worker.jobs.retrain", args=[1, "a test"], job_id=f"{name}-1-{minute}", status=status)
    job.ended_at = datetime.now(UTC) + timedelta(minutes=minute)
    job.save()
    registry = jobs.failed_job_registry if status == JobStatus.FAILED else jobs.finished_job_registry
    registry.add(job, ttl=86_400 + minute)


def verdict(admin: BackendClient, project_id: int = 1) -> tuple[str, str]:
    project = admin.get(f"/admin/api/projects/{project_id}").get_json()["project"]
    return project["verdict"]["standing"], project["verdict"]["words"]


def test_a_failed_training_is_shown_even_if_many_other_jobs_failed_since(admin: BackendClient) -> None:
    end_job(admin, 1)
    for minute in range(2, 62):
        end_job(admin, minute, name=LABEL_STUDIO_QUEUE)

    assert verdict(admin) == ("failed", "the last training failed: its log says why")


def test_a_failed_training_is_no_longer_shown_after_a_successful_one(admin: BackendClient) -> None:
    end_job(admin, 1)
    end_job(admin, 2, JobStatus.FINISHED)
    assert verdict(admin) == ("waiting", "25 corrections wait for the next training")

    end_job(admin, 3)
    assert verdict(admin)[0] == "failed"


def test_a_failed_training_is_no_longer_shown_when_no_correction_waits(admin: BackendClient) -> None:
    end_job(admin, 1)

    mark_trained(admin.services.redis, 1, read_waiting(admin.services.redis, 1).change_number)

    assert verdict(admin)[0] == "current"


def test_a_cancelled_training_is_not_shown_as_failed(admin: BackendClient) -> None:
    redis = admin.services.redis
    store_annotation(admin.services.redis, make_correction(project_id=2))
    retraining = enqueue_retraining(redis, admin.settings, 2, "a test")
    (pull,) = queue(redis, LABEL_STUDIO_QUEUE).job_ids
    cancel_job(redis, pull)

    cancel_job(redis, retraining)

    assert verdict(admin, 2) == ("waiting", "waiting for 19 more corrections")


def test_the_overview_says_how_many_corrections_a_project_still_needs_that_its_memory_teaches(
    admin: BackendClient,
) -> None:
    note_taught_by_memory(admin.services.redis, 1, True)

    words = "waiting for 75 more corrections; the memory uses the corrections already"
    assert verdict(admin) == ("waiting", words)


@pytest.mark.parametrize("record", ["serving.json", "versions/{version}/version.json"])
@pytest.mark.parametrize("content", [b"half", b"[]", b"{}", b'{"metrics": null, "corrections": null}'])
def test_a_damaged_record_is_named_and_everything_else_is_shown(
    admin: BackendClient, record: str, content: bytes
) -> None:
    store_annotation(admin.services.redis, make_correction(project_id=2))
    path = f"projects/1/{record.format(version=admin.services.captioners.registry.versions(1)[0].name)}"
    (Path(admin.settings.model_store) / path).write_bytes(content)

    overview = admin.get("/admin/api/overview").get_json()

    damaged, whole = overview["projects"]
    assert damaged["verdict"]["standing"] == "stuck"
    assert path in damaged["verdict"]["words"]
    assert overview["verdict"] == f"project 1 {damaged['verdict']['words']}"
    assert whole["verdict"]["words"] == "waiting for 19 more corrections"
    for page in ("/admin/", "/admin/projects/1/"):
        assert path in admin.get(page).text
    assert admin.get("/admin/projects/1/corrections/").status_code == 200
    metrics = samples(admin.get("/metrics").text)
    assert metrics['captioner_neighbour_up{neighbour="store"}'] == 1
    assert metrics[f'captioner_serving_version{{project="2",version="{whole["serving"]}"}}'] == 1


def test_a_foreign_job_is_shown_as_unreadable(admin: BackendClient) -> None:
    redis = admin.services.redis
    Queue(RETRAIN_QUEUE, connection=redis, serializer=DefaultSerializer).enqueue_call("math.sqrt", args=[4])

    for path in ("/admin/", "/admin/jobs/", f"/admin/jobs/{queue(redis, RETRAIN_QUEUE).job_ids[0]}/"):
        page = admin.get(path)
        assert page.status_code == 200
        assert "unreadable" in page.text.casefold()
    assert admin.get("/admin/projects/1/").status_code == 200


def test_a_search_shows_the_newest_corrections_first(admin: BackendClient) -> None:
    def names(query: str) -> list[str]:
        rows = admin.get(f"/admin/api/projects/1/corrections?{query}").get_json()["corrections"]
        return [row["name"] for row in rows]

    assert names("") == [f"{number}/caption" for number in range(25, 0, -1)]
    assert names("text=NUMBER+25") == ["25/caption"]
    assert len(names("annotator=1")) == 9
    assert names("version=v9") == []
    page = admin.get("/admin/projects/1/corrections/?text=number+25").text
    assert re.search(r"<span>a</span>\s*<ins>black</ins>\s*<span>dog</span>", page)
    assert "v1-" in page


def test_a_correction_names_the_published_version_that_learned_its_present_caption(admin: BackendClient) -> None:
    registry, captioner = admin.services.captioners.registry, admin.trainable_captioner()

    def keep(as_what: Callable[..., ModelVersion], corrections: list[str], **metrics: Any) -> str:
        return as_what(
            1, captioner, parent=registry.serving(1), metrics=metrics, corrections=corrections, decision="a test"
        ).name

    keep(registry.refuse, ["20/caption"])
    corrected = admin.services.feedback.find(1, "20/caption")
    assert corrected is not None
    before = replace(corrected, updated_at="2025-01-01T12:00:00Z")
    keep(registry.publish, ["20/caption"], known_states=[before.state])
    learned = keep(registry.publish, ["20/caption"], known_states=[corrected.state])
    store_annotation(
        admin.services.redis, make_correction(annotation_id=25, caption="a puppy", updated_at="2045-01-31T12:00:00Z")
    )

    rows = admin.get("/admin/api/projects/1/corrections").get_json()["corrections"]
    named = {row["name"]: row["trained_in"] for row in rows}

    assert (named["20/caption"], named["25/caption"], named["1/caption"]) == (learned, None, None)


def test_new_words_are_those_of_the_serving_version(admin: BackendClient) -> None:
    registry, captioner = admin.services.captioners.registry, admin.trainable_captioner()

    def keep(as_what: Callable[..., ModelVersion], parent: str, *words: str) -> str:
        metrics = {"new_words": words}
        return as_what(1, captioner, parent=parent, metrics=metrics, corrections=[], decision="a test").name

    first = registry.serving(1)
    keep(registry.refuse, first, "gnu")
    serving = keep(registry.publish, first, "puppy", "kitten")
    keep(registry.publish, serving, "zebra")
    registry.rollback(1, by="a test")

    page = admin.get("/admin/projects/1/").text

    assert "<h3>New words: 2</h3><p>puppy, kitten</p>" in page


def test_a_version_shows_what_changed_on_held_out_images(admin: BackendClient) -> None:
    name = admin.services.captioners.registry.versions(1)[0].name

    page = admin.get(f"/admin/projects/1/versions/{name}/").text

    assert "puppy" in page
    assert re.search(r'class="word changed" data-attention="00ff00ff">black<', page)


def test_a_project_with_very_many_versions_shows_the_newest(admin: BackendClient) -> None:
    registry = admin.services.captioners.registry
    (first,) = registry.versions(1)
    parent, folder = first.name, Path(admin.settings.model_store) / "projects" / "1" / "versions"
    for number in range(2, 1101):
        made_at = (datetime(2040, 1, 1, tzinfo=UTC) + timedelta(minutes=number)).isoformat()
        version = replace(first, name=f"v{number}-{number:08x}", parent=parent, created_at=made_at)
        (folder / version.name).mkdir()
        (folder / version.name / "version.json").write_text(json.dumps(asdict(version)))
        parent = version.name

    page = admin.get("/admin/projects/1/").text

    assert re.findall(r">(v\d+)-\w+</a>", page) == ["v1", *(f"v{number}" for number in range(1051, 1101))]
    assert "1049 older versions are not shown" in page
    assert len(admin.get("/admin/api/projects/1").get_json()["versions"]) == 1101


def test_an_older_child_of_the_same_parent_is_a_branch(admin: BackendClient) -> None:
    registry, captioner = admin.services.captioners.registry, admin.trainable_captioner()
    (first,) = registry.versions(1)

    def add(parent: str) -> str:
        made = registry.publish(1, captioner, parent=parent, metrics={}, corrections=[], decision="a test")
        return made.name

    older, younger = add(first.name), add(first.name)
    below_older, below_younger = add(older), add(younger)

    tree = admin.get("/admin/api/projects/1").get_json()["versions"]

    assert [(record["name"], record["depth"]) for record in tree] == [
        (captioner.version, 0),
        (first.name, 1),
        (older, 1),
        (below_older, 2),
        (younger, 1),
        (below_younger, 1),
    ]


@pytest.mark.parametrize(
    "path",
    [
        "/admin/projects/9/",
        "/admin/projects/1/versions/v9-12345678/",
        "/admin/jobs/nothing/",
        "/admin/jobs/a b/",
        "/admin/jobs/%00/",
        "/admin/api/projects/9",
        "/admin/api/projects/9/corrections",
        "/admin/api/jobs/nothing",
        "/admin/api/jobs/a b",
    ],
)
def test_an_unknown_address_is_not_found_and_its_page_links_back(admin: BackendClient, path: str) -> None:
    response = admin.get(path, {"Accept": "text/html"})

    assert response.status_code == 404
    if "/api/" in path:
        assert "error" in response.get_json()
    else:
        assert '<a href="/admin/">Back to the overview</a>' in response.text


@pytest.fixture
def description() -> dict[str, Any]:
    text = (Path(api_module.__file__).parent / "openapi.yaml").read_text("utf-8")
    described: dict[str, Any] = yaml.safe_load(text)
    return described


def test_a_missing_number_is_a_dash_on_the_pages_and_null_in_json(admin: BackendClient) -> None:
    registry, captioner = admin.services.captioners.registry, admin.trainable_captioner()
    half: dict[str, Any] = {"candidate": 1.25, "captions": 4}
    diverged = {"candidate": math.nan, "serving": 2.5, "captions": 3, "better_in": None}
    metrics = {"new": half, "old": None, "anchors": diverged, "new_words": None, "samples": None}
    made = registry.publish(1, captioner, parent=captioner.version, metrics=metrics, corrections=[], decision="old")
    job = queue(admin.services.redis, RETRAIN_QUEUE).enqueue_call("worker.jobs.retrain", args=[1, "a test"])
    job.meta = {"loss": math.nan, "losses": [[1, 2.0], [2, math.inf]]}
    job.save_meta()

    page = admin.get(f"/admin/projects/1/versions/{made.name}/").text
    assert re.findall(r'class="number">([^<]+)<', page) == ["4", "1.250", "–", "–", "0", "3", "–", "2.500", "–"]
    assert "2.000 at first, – now" in admin.get(f"/admin/jobs/{job.id}/").text
    for path in ("overview", "projects/1", f"projects/1/versions/{made.name}", "jobs", f"jobs/{job.id}/losses"):
        json.loads(admin.get(f"/admin/api/{path}").text, parse_constant=pytest.fail)
    assert admin.get(f"/admin/api/jobs/{job.id}/losses").get_json()[0]["data"] == [[1, 2.0], [2, None]]


@pytest.mark.parametrize(
    "path", ["projects/1/corrections?annotator=anna", "projects/1/corrections?start=x", "audit?before=0-0"]
)
def test_an_invalid_argument_is_refused_with_the_reason(admin: BackendClient, path: str) -> None:
    response = admin.get(f"/admin/api/{path}")

    assert response.status_code == 400
    assert " must be " in response.get_json()["error"]


def test_a_page_after_the_last_correction_is_empty(admin: BackendClient) -> None:
    page = admin.get("/admin/api/projects/1/corrections?annotator=&start=99999999999999999999999").get_json()

    assert page == {"corrections": [], "looked_at": 0, "next": None}


def test_the_api_description_names_exactly_the_routes_that_exist(
    admin: BackendClient, description: dict[str, Any]
) -> None:
    def readable(rule: Rule) -> str:
        return re.sub(r"<(?:\w+:)?(\w+)>", r"{\1}", rule.rule).removeprefix("/admin/api")

    rules = [rule for rule in admin.app.url_map.iter_rules() if rule.rule.startswith("/admin/api/")]
    there = {(readable(rule), method.lower()) for rule in rules for method in (rule.methods or set()) & {"GET", "POST"}}
    described = {
        (path, method) for path, methods in description["paths"].items() for method in methods if method != "parameters"
    }

    assert described == there


def test_the_api_description_names_every_action(description: dict[str, Any]) -> None:
    def actions(path: str) -> set[str]:
        (action,) = [each for each in description["paths"][path]["parameters"] if each.get("name") == "action"]
        return set(action["schema"]["enum"])

    assert actions("/projects/{project_id}/{action}") == set(PROJECT_ACTIONS)
    assert actions("/jobs/{job_id}/{action}") == set(JOB_ACTIONS)


def test_answers_match_the_api_description(admin: BackendClient, description: dict[str, Any]) -> None:
    job_id = enqueue_retraining(admin.services.redis, admin.settings, 1, "a test")
    version = admin.services.captioners.registry.versions(1)[0].name
    addresses = {
        "/overview": "/overview",
        "/projects/{project_id}": "/projects/1",
        "/projects/{project_id}/versions/{name}": f"/projects/1/versions/{version}",
        "/projects/{project_id}/ledger": "/projects/1/ledger",
        "/projects/{project_id}/weeks": "/projects/1/weeks",
        "/projects/{project_id}/edits": "/projects/1/edits",
        "/projects/{project_id}/corrections": "/projects/1/corrections",
        "/audit": "/audit",
        "/jobs": "/jobs",
        "/jobs/{job_id}": f"/jobs/{job_id}",
        "/jobs/{job_id}/losses": f"/jobs/{job_id}/losses",
    }
    for path, address in addresses.items():
        answer = description["paths"][path]["get"]["responses"]["200"]
        if "$ref" in answer:
            answer = description["components"]["responses"][answer["$ref"].rpartition("/")[2]]
        schema = answer["content"]["application/json"]["schema"]
        jsonschema.validate(
            admin.get(f"/admin/api{address}").get_json(), schema | {"components": description["components"]}
        )


def test_an_action_is_done_and_reported(admin: BackendClient) -> None:
    version = admin.services.captioners.registry.versions(1)[0].name

    response = admin.post("/admin/api/projects/1/rollback", {})

    assert response.status_code == 200, response.text
    assert "serves project 1 again" in response.get_json()["outcome"]
    assert admin.post("/admin/api/projects/1/promote", {"version": version}).status_code == 200
    assert admin.services.captioners.registry.serving(1) == version


def test_a_version_for_another_encoder_cannot_be_promoted_and_has_no_button(
    admin: BackendClient, make_backend: Callable[..., BackendClient], tmp_path: Path
) -> None:
    name = admin.services.captioners.registry.versions(1)[0].name
    assert admin.post("/admin/api/projects/1/rollback", {}).status_code == 200
    write_bundle(tmp_path / "other", seed=9)
    other = make_backend(ADMIN, caption_bundle=str(tmp_path / "other"), **LOGIN)
    base = other.services.captioners.bundle().version

    response = other.post("/admin/api/projects/1/promote", {"version": name})

    assert response.status_code == 409
    assert "was trained on bundle tiny-" in response.get_json()["error"]
    assert other.services.captioners.registry.serving(1) == base
    for path in ("/admin/projects/1/", f"/admin/projects/1/versions/{name}/"):
        assert 'action="/admin/api/projects/1/promote"' in admin.get(path).text
        assert 'action="/admin/api/projects/1/promote"' not in other.get(path).text


def test_a_refused_or_unknown_version_is_neither_promoted_nor_downloaded(admin: BackendClient) -> None:
    registry, captioner = admin.services.captioners.registry, admin.trainable_captioner()
    serving = registry.serving(1)
    made = registry.refuse(1, captioner, parent=serving, metrics={}, corrections=[], decision="worse")
    refused = made.name

    promotions = [
        admin.post("/admin/api/projects/1/promote", {"version": version})
        for version in (refused, "v9-00000000", f"{serving}/")
    ]
    download = admin.get(f"/admin/api/projects/1/versions/{refused}/bundle")

    assert [response.status_code for response in promotions] == [409, 409, 409]
    assert "was refused" in promotions[0].get_json()["error"]
    assert registry.serving(1) == serving
    assert (download.status_code, "was refused" in download.get_json()["error"]) == (404, True)


def test_a_rollback_from_the_first_version_is_refused(admin: BackendClient) -> None:
    admin.post("/admin/api/projects/1/rollback", {})

    response = admin.post("/admin/api/projects/1/rollback", {})

    assert response.status_code == 409
    assert "no earlier version" in response.get_json()["error"]


@pytest.mark.parametrize("name", ["action", "project_id", "who", "self", "note"])
def test_values_that_an_action_does_not_use_are_ignored_and_not_logged(admin: BackendClient, name: str) -> None:
    response = admin.post("/admin/api/projects/1/exclude", {"correction": "25/caption", name: "x"})

    assert response.status_code == 200, response.text
    (entry,) = AuditLog(admin.services.redis).read()
    assert (entry.who, entry.action, entry.project_id) == ("admin", "correction excluded", 1)
    assert entry.details == {"correction": "25/caption"}


@pytest.mark.parametrize("body", [[], None, "25/caption", {"correction": "x" * 1001}])
def test_an_action_with_an_invalid_body_is_refused_and_not_done(admin: BackendClient, body: Any) -> None:
    response = admin.send("/admin/api/projects/1/pause", json.dumps(body).encode())

    assert response.status_code == 400
    assert "may have at most 1000 characters" in response.text or "must be a JSON object" in response.text
    assert RetrainingControl(admin.services.redis, admin.settings).state(1) == "on"


def test_a_version_can_be_downloaded_as_a_bundle(admin: BackendClient, tmp_path: Path) -> None:
    version = admin.services.captioners.registry.versions(1)[0].name

    response = admin.get(f"/admin/api/projects/1/versions/{version}/bundle")

    with zipfile.ZipFile(io.BytesIO(response.data)) as archive:
        archive.extractall(tmp_path / "taken")
    assert load_bundle(str(tmp_path / "taken" / version)).name == f"tiny-{version}"
