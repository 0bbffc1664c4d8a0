"""What the admin pages and `captioner versions` show of the memory."""

import html
import json
import logging
import re
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from backend.admin import api as api_module
from backend.captioning.judgement import Judgement, read_judgements, write_judgements
from backend.cli import main
from model.memory.evidence import Evidence
from model.memory.experiment import Experiment
from tests.backend_client import BackendClient
from tests.factories import make_correction, make_state, make_suggestion, make_task, store_annotation
from tests.image_server import ImageServer
from worker.feedback.script import key
from worker.feedback.suggestions import Suggestion

ADMIN = ("admin", "right")
VERSION = "v3-1a2b3c4d"
LABEL = f"{VERSION}+m41"
GENERATION = 4
"""Of the four annotations of project 1."""
OPENED = Judgement(
    generation=3,
    rows=57,
    is_open=True,
    limit=0.4,
    evidence=Evidence(corrections=57, chance=0.001, gain=0.1, gains_in=0.97, alikeness=0.05, readable=0.9),
)
LEARNED = (
    "Suggestions for look-alike images use the words of 57 corrections. Compared with the decoder alone, they are "
    "nearer to what annotators wrote (leave-one-out, 57 images: in 97% of random samples)."
)


@pytest.fixture
def pages(make_backend: Callable[..., BackendClient], image_server: ImageServer) -> BackendClient:
    """A backend whose project 1 has three corrections, and a fourth whose suggestion was chosen because of them."""
    logins = {"basic_auth_user": ADMIN[0], "basic_auth_pass": ADMIN[1]}
    backend = make_backend(ADMIN, label_studio_url=image_server.url, label_studio_api_key="f" * 40, **logins)
    address = image_server.show("/dog.png")
    for number, caption in enumerate(("a brown dog", 'a "wet" dog', "a <big> dog"), start=1):
        store_annotation(
            backend.services.redis, make_correction(annotation_id=number, caption=caption, image_ref=address)
        )
    like = ("1/caption", "2/caption", "3/caption")
    record(backend, make_suggestion(task_id=4, model_version=VERSION, generation=41, like=like))
    return backend


def record(backend: BackendClient, suggestion: Suggestion) -> None:
    """Store an annotation of the suggestion's task: "a black dog" instead of the suggestion."""
    number = suggestion.task_id
    at = f"2025-02-01T12:{number:02}:00+00:00"
    state = make_state(replace(make_correction(annotation_id=number), image_ref=suggestion.image_ref, updated_at=at))
    backend.services.feedback.record(state, {"caption": [suggestion]})


def judge(backend: BackendClient, version: str, **judgements: Judgement) -> None:
    stored = json.dumps({control: asdict(judgement) for control, judgement in judgements.items()})
    backend.services.redis.hset(key("memory", 1), version, stored)


def row_of(backend: BackendClient, number: int = 4) -> dict[str, Any]:
    rows = backend.get(f"/admin/api/projects/1/corrections?name={number}/caption").get_json()["corrections"]
    (row,) = rows
    found: dict[str, Any] = row
    return found


def shown_row(backend: BackendClient, number: int = 4) -> str:
    page = backend.get(f"/admin/projects/1/corrections/?name={number}/caption")
    assert page.status_code == 200, page.text
    return page.text.partition("<tbody>")[2].partition("</tbody>")[0]


def publish(backend: BackendClient) -> str:
    """Let a version of its own serve project 1."""
    captioner, registry = backend.trainable_captioner(), backend.services.captioners.registry
    parent = registry.serving(1)
    made = registry.publish(1, captioner, parent=parent, metrics={}, corrections=[], decision="better")
    return made.name


def test_a_suggestion_of_the_memory_shows_the_corrected_images_it_came_from(pages: BackendClient) -> None:
    row = shown_row(pages)

    assert "Like these three corrected images:" in row
    pictures = re.findall(r'<a href="([^"]+)"><img loading="lazy" alt="([^"]*)" title="([^"]*)" src="([^"]+)">', row)
    captions = ["a brown dog", 'a "wet" dog', "a <big> dog"]
    assert [html.unescape(alt) for _, alt, _, _ in pictures] == captions
    assert [html.unescape(title) for _, _, title, _ in pictures] == captions
    for number, (link, _, _, source) in enumerate(pictures, start=1):
        assert re.findall(r'name="correction" value="([^"]+)"', pages.get(html.unescape(link)).text) == [
            f"{number}/caption"
        ]
        image = pages.get(source)
        assert (image.status_code, image.mimetype) == (200, "image/jpeg")
    assert LABEL in row


def test_the_corrections_behind_a_suggestion_are_in_the_json(pages: BackendClient) -> None:
    row = row_of(pages)

    assert row["like"] == [
        {"name": "1/caption", "caption": "a brown dog"},
        {"name": "2/caption", "caption": 'a "wet" dog'},
        {"name": "3/caption", "caption": "a <big> dog"},
    ]
    assert row["suggested_by"] == LABEL
    assert (row["correction"]["model_version"], row["correction"]["generation"]) == (VERSION, 41)


def test_a_correction_that_is_gone_or_skipped_meanwhile_is_said_to_be_removed(pages: BackendClient) -> None:
    pages.services.feedback.remove(1, annotation_ids=[2])
    state = make_state(make_correction(annotation_id=3, updated_at="2045-01-31T12:00:00Z"))
    skipped = replace(state, submissions=(replace(state.submissions[0], caption=None),))
    pages.services.feedback.record(skipped, {"caption": []})

    row = shown_row(pages)

    assert [like["caption"] for like in row_of(pages)["like"]] == ["a brown dog", None, None]
    assert row.count("<img") == 1
    assert "Correction 2/caption was removed." in row
    assert "Correction 3/caption was removed." in row


def test_a_suggestion_of_the_decoder_alone_names_no_corrections(pages: BackendClient) -> None:
    record(pages, make_suggestion(task_id=5, model_version=VERSION))

    row = shown_row(pages, 5)

    assert "Like th" not in row
    assert VERSION in row
    assert "+m" not in row
    assert (row_of(pages, 5)["like"], row_of(pages, 5)["suggested_by"]) == ([], VERSION)


def test_a_suggestion_that_nobody_saw_names_no_corrections(pages: BackendClient) -> None:
    record(
        pages,
        make_suggestion(task_id=5, model_version=VERSION, generation=41, like=("1/caption",), withheld=True),
    )

    assert "Like th" not in shown_row(pages, 5)
    assert (row_of(pages, 5)["like"], row_of(pages, 5)["suggested_by"]) == ([], None)


@pytest.mark.parametrize(
    ("search", "names"),
    [
        ("name=2/caption", ["2/caption"]),
        ("name=9/caption", []),
        ("name=2/caption&text=brown", []),
        ("name=2/caption&start=1", []),
        (f"version={VERSION}", ["4/caption"]),
        ("version=v3-1a2b3c4d%2Bm41", ["4/caption"]),
        ("version=v3-1a2b3c4d%2Bm40", []),
    ],
)
def test_a_correction_is_found_by_its_name_and_by_its_label(
    pages: BackendClient, search: str, names: list[str]
) -> None:
    rows = pages.get(f"/admin/api/projects/1/corrections?{search}").get_json()["corrections"]

    assert [row["name"] for row in rows] == names


def test_the_project_page_says_what_was_learned_from_the_last_corrections(pages: BackendClient) -> None:
    base = pages.services.captioners.registry.base_version
    judge(pages, base, caption=OPENED)

    page, answer = pages.get("/admin/projects/1/"), pages.get("/admin/api/projects/1").get_json()

    assert f"<p>{LEARNED.partition(' (leave-one-out')[0]}.</p>" in page.text
    assert f"memory: 57 corrections, open, generation {GENERATION}</span>" in page.text
    memory = answer["memory"]
    assert (memory["learned"], memory["is_open"], memory["generation"]) == (LEARNED, True, GENERATION)
    assert memory["fields"]["caption"] == json.loads(json.dumps(asdict(OPENED)))
    description = yaml.safe_load((Path(api_module.__file__).parent / "openapi.yaml").read_text("utf-8"))
    schema = description["paths"]["/projects/{project_id}"]["get"]["responses"]["200"]["content"]["application/json"]
    jsonschema.validate(answer, schema["schema"] | {"components": description["components"]})


def test_the_sentence_is_that_of_the_serving_version(pages: BackendClient) -> None:
    judge(pages, pages.services.captioners.registry.base_version, caption=OPENED)
    name = publish(pages)
    waits = "The corrections are not compared with the serving version yet."

    assert pages.get("/admin/api/projects/1").get_json()["memory"]["learned"].startswith(waits)
    judge(pages, name, caption=replace(OPENED, is_open=False, rows=3, evidence=None))
    assert "<p>Too few corrections so far: 3 of 5.</p>" in pages.get("/admin/projects/1/").text


def test_a_judgement_comes_back_with_the_experiment(pages: BackendClient) -> None:
    experiment = Experiment(by_memory=70, by_decoder=30, gain=0.1, gains_in=0.9, losses_in=0.1)
    assert OPENED.evidence is not None
    judged = {"caption": replace(OPENED, evidence=replace(OPENED.evidence, experiment=experiment))}

    write_judgements(pages.services.redis, 1, VERSION, judged)

    assert read_judgements(pages.services.redis, 1, VERSION) == judged


def test_a_judgement_of_before_there_were_experiments_is_read(pages: BackendClient) -> None:
    values = asdict(OPENED)
    del values["evidence"]["experiment"]

    pages.services.redis.hset(key("memory", 1), VERSION, json.dumps({"caption": values}))

    assert read_judgements(pages.services.redis, 1, VERSION) == {"caption": OPENED}


@pytest.mark.parametrize("damage", ["half", "[]", '{"caption": 1}', '{"caption": {"rows": 3, "evidence": null}}'])
def test_a_damaged_judgement_is_no_judgement(pages: BackendClient, damage: str) -> None:
    base = pages.services.captioners.registry.base_version
    pages.services.redis.hset(key("memory", 1), base, damage)

    assert pages.get("/admin/projects/1/").status_code == 200
    assert read_judgements(pages.services.redis, 1, base) == {}
    assert pages.get("/admin/api/projects/1").get_json()["memory"]["fields"] == {}


def test_the_pages_open_where_the_memory_cannot_be_read(pages: BackendClient) -> None:
    name = publish(pages)
    pages.services.redis.set(key("memory", 1), "no hash")

    for path in ("/admin/projects/1/", f"/admin/projects/1/versions/{name}/"):
        page = pages.get(path)
        assert page.status_code == 200, page.text
        assert "emory" not in page.text
    assert pages.get("/admin/api/projects/1").get_json()["memory"] is None


def test_the_pages_open_where_the_pointer_to_the_serving_version_is_damaged(pages: BackendClient) -> None:
    version = publish(pages)
    (Path(pages.settings.model_store) / "projects/1/serving.json").write_bytes(b"half")

    assert pages.get("/admin/projects/1/").status_code == 200
    assert version in pages.get("/admin/api/projects/1").text


def test_only_the_page_of_the_serving_version_tells_the_memory(pages: BackendClient) -> None:
    before, serving = publish(pages), publish(pages)
    for name in (before, serving):
        judge(pages, name, caption=OPENED)

    def page(name: str) -> str:
        return pages.get(f"/admin/projects/1/versions/{name}/").text

    assert f"<dt>Memory</dt><dd>57 corrections, open, generation {GENERATION}. {LEARNED}</dd>" in page(serving)
    assert "<dt>Memory</dt>" not in page(before)
    judge(pages, serving, caption=replace(OPENED, is_open=False))
    assert "<dt>Memory</dt><dd>closed. " in page(serving)


@pytest.fixture
def list_versions(
    pages: BackendClient,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> Callable[..., str]:
    """Run `captioner versions 1` and return its output, by default with the Redis of the pages."""
    for name in ("model_store", "caption_bundle"):
        monkeypatch.setenv(name.upper(), str(getattr(pages.settings, name)))

    def list_versions(*options: str, redis_url: str = pages.settings.redis_url) -> str:
        monkeypatch.setenv("REDIS_URL", redis_url)
        assert main(["versions", "1", *options]) == 0
        output = capsys.readouterr()
        assert output.err == ""
        assert [record for record in caplog.records if record.levelno >= logging.WARNING] == [], "it would be printed"
        return output.out

    return list_versions


def test_captioner_versions_tells_the_memory_of_the_serving_version(
    pages: BackendClient, list_versions: Callable[..., str]
) -> None:
    base = pages.services.captioners.registry.base_version
    judge(pages, base, caption=OPENED)
    opened = f"; memory: 57 corrections, open, generation {GENERATION}"

    assert list_versions().splitlines() == [f"* {base:16} the bundle every project starts with{opened}"]
    name = publish(pages)
    bundle, retrained = list_versions().splitlines()
    assert "memory" not in bundle
    assert retrained.startswith(f"* {name}")
    assert retrained.endswith("published: better; memory: closed")
    judge(pages, name, caption=OPENED)
    assert list_versions().splitlines()[1].endswith(f"published: better{opened}")
    listed = json.loads(list_versions("--json"))
    assert (listed["serving"], listed["memory"]["learned"]) == (name, LEARNED)


def test_captioner_versions_lists_the_versions_without_redis(
    pages: BackendClient, list_versions: Callable[..., str]
) -> None:
    name = publish(pages)
    away = "redis://127.0.0.1:1/0"

    assert list_versions(redis_url=away).splitlines()[1].endswith("published: better")
    listed = json.loads(list_versions("--json", redis_url=away))
    assert (listed["serving"], listed["memory"], listed["versions"][0]["name"]) == (name, None, name)


def test_the_pages_show_what_the_memory_itself_learned_from_corrections(
    pages: BackendClient, image_server: ImageServer
) -> None:
    shades = [(family, level) for level in range(170, 250, 10) for family in ("red", "green", "blue")]
    for number, (family, level) in enumerate(shades, start=101):
        address = image_server.show(f"/{number}.png", shade(family, level))
        pages.predict([make_task(id=number, data={"captioning": address})])
        caption = f"one {family} square on paper"
        state = make_state(make_correction(annotation_id=number, image_ref=address, caption=caption))
        pages.services.feedback.record(state, pages.services.suggestions.find_for(state))

    address = image_server.show("/200.png", shade("blue", 165))
    (prediction,) = pages.predict([make_task(id=200, data={"captioning": address})])
    state = make_state(make_correction(annotation_id=200, image_ref=address, updated_at="2025-03-01T12:00:00Z"))
    pages.services.feedback.record(state, pages.services.suggestions.find_for(state))

    learned = re.search(r"use the words of (\d+) corrections\. Compared", pages.get("/admin/projects/1/").text)
    assert learned is not None
    row = row_of(pages, 200)
    assert row["suggested_by"] == prediction["model_version"]
    assert "+m" in row["suggested_by"]
    assert [like["caption"] for like in row["like"]] == ["one blue square on paper"] * 3
    assert shown_row(pages, 200).count("<img") == 3


def shade(family: str, level: int) -> str:
    """Return a color that is mostly red, green or blue."""
    return "#" + "".join(f"{level if family == name else 20:02x}" for name in ("red", "green", "blue"))
