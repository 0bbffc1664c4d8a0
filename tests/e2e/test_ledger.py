"""The ledger beside a real Label Studio, with half of the suggestions hidden."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import pytest
from redis import Redis

from backend.demo.user import LabelStudioUser, ShownTask
from backend.sync.pull import reconcile
from tests.e2e.conftest import Connected, Product
from tests.e2e.drawn_pictures import seeds_with
from worker.feedback.feedback_store import FeedbackStore
from worker.feedback.record import Feedback

PICTURES = 12


@dataclass(frozen=True, kw_only=True)
class Opened:
    """The project's tasks when the annotator opened them."""

    shown: Sequence[ShownTask]
    hidden: Sequence[ShownTask]


@pytest.fixture(scope="module")
def product(start_product: Callable[[str, Mapping[str, str]], Product]) -> Product:
    return start_product("hiding", {"HIDE_SUGGESTIONS_SHARE": "50"})


@pytest.fixture(scope="module")
def connected(product: Product, connect: Callable[[Product, str, Sequence[int]], Connected]) -> Connected:
    return connect(product, "The ledger", seeds_with("square", PICTURES))


@pytest.fixture(scope="module")
def opened(user: LabelStudioUser, connected: Connected) -> Opened:
    user.retrieve_predictions(connected.project_id)
    tasks = user.tasks(connected.project_id)
    return Opened(
        shown=[task for task in tasks if task.prefilled is not None],
        hidden=[task for task in tasks if task.prefilled is None],
    )


@pytest.fixture(scope="module")
def outcomes(user: LabelStudioUser, connected: Connected, opened: Opened) -> Mapping[int, tuple[str, str]]:
    """Outcome and arm by annotation, as the annotator made them."""
    project_id = connected.project_id
    accepted, edited, skipped, *_ = opened.shown
    written, passed, *_ = opened.hidden
    cancelled = user.skip(project_id, edited)
    user.delete_annotation(project_id, cancelled)
    return {
        user.submit(project_id, accepted, caption_of(accepted)): ("accepted", "shown"),
        user.submit(project_id, edited, f"{caption_of(edited)} indeed"): ("edited", "shown"),
        user.skip(project_id, skipped): ("skipped", "shown"),
        user.submit(project_id, written, "some drawn shapes"): ("written", "withheld"),
        user.skip(project_id, passed): ("skipped", "withheld"),
    }


def caption_of(task: ShownTask) -> str:
    assert task.prefilled is not None
    return task.prefilled.caption


def records(redis: Redis, connected: Connected) -> dict[int, Feedback]:
    """Return the records by annotation, without the two values that only an event has."""
    stored = FeedbackStore(redis).records(connected.project_id)
    return {record.annotation_id: replace(record, request_id=None, annotation_uid="") for record in stored}


def test_hidden_suggestions_are_stored_as_empty_predictions_that_label_studio_does_not_ask_for_again(
    user: LabelStudioUser, product: Product, connected: Connected, opened: Opened
) -> None:
    assert 0 < len(opened.hidden) < PICTURES

    user.retrieve_predictions(connected.project_id)
    for task in opened.hidden:
        assert user.open_task(connected.project_id, task.task_id).prefilled is None

    stored = list(product.client.unannotated_tasks(connected.project_id))
    assert [len(task["predictions"]) for task in stored] == [1] * PICTURES
    assert {task["predictions"][0]["model_version"] for task in stored} == {product.bundle_version}


def test_the_ledger_knows_what_the_annotator_did_and_a_pull_makes_it_again(
    product: Product, connected: Connected, outcomes: Mapping[int, tuple[str, str]]
) -> None:
    with Redis.from_url(product.settings["REDIS_URL"]) as redis:
        by_webhooks = records(redis, connected)
        assert {number: (record.outcome, record.arm) for number, record in by_webhooks.items()} == outcomes
        assert {record.model_version for record in by_webhooks.values()} == {product.bundle_version}
        lost = [f"captioner:feedback:{connected.project_id}", *redis.keys("captioner:ledger*")]
        redis.delete(*lost)
        assert records(redis, connected) == {}

        reconcile(product.client, redis, product.client.project(connected.project_id))

        assert records(redis, connected) == by_webhooks


@pytest.mark.usefixtures("outcomes")
def test_an_empty_prediction_can_be_written_when_another_version_serves(
    product: Product, connected: Connected, opened: Opened
) -> None:
    empty = [{"task": task.task_id, "model_version": "v1-00000000", "result": []} for task in opened.hidden]

    assert product.client.import_predictions(connected.project_id, empty) == len(empty)


@pytest.mark.usefixtures("outcomes")
def test_the_command_compares_captions_with_and_without_a_suggestion(product: Product, connected: Connected) -> None:
    done = product.run("ledger", str(connected.project_id))

    assert done.returncode == 0, done.stderr
    assert product.bundle_version in done.stdout
    assert "suggestion was" in done.stdout
