"""The main job inside a real Label Studio: suggest, correct, retrain, suggest better, roll back.

One project lives through it step by step; each step is a fixture that keeps what a person saw then.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import pytest

from backend.demo.user import LabelStudioUser, ShownSuggestion, ShownTask
from tests.e2e.conftest import Connected, Product
from tests.e2e.drawn_pictures import in_house_style, is_right, scene_of, seeds_with
from worker.feedback.record import Correction
from worker.feedback.suggestions import version_of_label
from worker.queue.job_state import LABEL_STUDIO_QUEUE

CORRECTED, UNSEEN = 22, 12
MOST = 0.6
"""How often the captioner is right is measured elsewhere on many scenes; by chance it would be hardly ever."""
TRAINING_S = 150
"""Two processes start, and RETRAIN_BUDGET_S of fitting."""


@dataclass(frozen=True, kw_only=True)
class Shown:
    """The suggestions of one version, as Label Studio shows them."""

    version: str
    stream: ShownSuggestion
    quick_view: Mapping[int, ShownSuggestion]
    """By task; only tasks that nobody annotated."""
    tasks: Mapping[int, ShownTask]


@dataclass(frozen=True, kw_only=True)
class Annotated:
    """Everything that the annotator did; annotations by id."""

    accepted: int
    corrected: Mapping[int, str]
    skipped: int
    deleted: int


@pytest.fixture(scope="module")
def connected(product: Product, connect: Callable[[Product, str, Sequence[int]], Connected]) -> Connected:
    return connect(product, "The loop", seeds_with("circle", CORRECTED + UNSEEN + 2))


@pytest.fixture(scope="module")
def look(user: LabelStudioUser, connected: Connected) -> Callable[[], Shown]:
    """Open the label stream, then every task in Quick View."""

    def look() -> Shown:
        stream = suggestion_of(user.next_task(connected.project_id))
        tasks = [task for task in user.tasks(connected.project_id) if not task.is_annotated]
        opened = {task.task_id: user.open_task(connected.project_id, task.task_id) for task in tasks}
        return Shown(
            version=version_of_label(user.serving_version(connected.backend_id))[0],
            stream=stream,
            quick_view={task_id: suggestion_of(task) for task_id, task in opened.items()},
            tasks=opened,
        )

    return look


@pytest.fixture(scope="module")
def suggested(user: LabelStudioUser, connected: Connected, look: Callable[[], Shown]) -> Shown:
    user.next_task(connected.project_id)
    user.retrieve_predictions(connected.project_id)
    return look()


@pytest.fixture(scope="module")
def annotated(user: LabelStudioUser, connected: Connected, suggested: Shown) -> Annotated:
    project_id = connected.project_id
    skipped = user.skip(project_id, user.next_task(project_id))
    task = user.next_task(project_id)
    accepted = user.submit(project_id, task, suggestion_of(task).caption)
    deleted = user.submit(project_id, user.next_task(project_id), "a mistake")
    user.delete_annotation(project_id, deleted)
    corrected = {}
    for _ in range(CORRECTED):
        task = user.next_task(project_id)
        caption = in_house_style(suggestion_of(task).caption)
        corrected[user.submit(project_id, task, caption)] = caption
    return Annotated(accepted=accepted, corrected=corrected, skipped=skipped, deleted=deleted)


@pytest.fixture(scope="module")
def inbox(product: Product, connected: Connected, annotated: Annotated) -> Mapping[int, Correction]:
    """The corrections as webhooks brought them, before any training pulls."""
    return product.inbox(connected.project_id)


@pytest.fixture(scope="module")
def retrained(
    user: LabelStudioUser,
    product: Product,
    connected: Connected,
    inbox: Mapping[int, Correction],
    look: Callable[[], Shown],
) -> Shown:
    user.start_training(connected.backend_id)
    project_id, registry = connected.project_id, product.registry
    product.wait("to end a retraining", lambda: bool(registry.versions(project_id)), TRAINING_S)
    [version] = registry.versions(project_id)
    assert version.published, version.decision
    wait_for_suggestions(user, product, connected, version.name)
    return look()


@pytest.fixture(scope="module")
def rolled_back(
    user: LabelStudioUser, product: Product, connected: Connected, retrained: Shown, look: Callable[[], Shown]
) -> Shown:
    done = product.run("rollback", str(connected.project_id))
    assert done.returncode == 0, done.stderr

    def is_new() -> bool:
        return version_of_label(user.serving_version(connected.backend_id))[0] != retrained.version

    product.wait("to serve another version", is_new)
    version, _ = version_of_label(user.serving_version(connected.backend_id))
    wait_for_suggestions(user, product, connected, version)
    return look()


def wait_for_suggestions(user: LabelStudioUser, product: Product, connected: Connected, version: str) -> None:
    """Wait until the newest suggestion of every open task is of this version."""

    def are_written() -> bool:
        tasks = [task for task in user.tasks(connected.project_id) if not task.is_annotated]
        return all(version_of_label(suggestion_of(task).model_version)[0] == version for task in tasks)

    product.wait(f"to write the suggestions of {version}", are_written)


def suggestion_of(task: ShownTask) -> ShownSuggestion:
    assert task.prefilled is not None, f"task {task.task_id} came without a suggestion"
    return task.prefilled


def share(holds: list[bool]) -> float:
    assert holds
    return sum(holds) / len(holds)


def test_every_uploaded_picture_opens_with_a_caption_of_the_bundles_version(product: Product, suggested: Shown) -> None:
    assert suggested.version == product.bundle_version
    assert len(suggested.quick_view) == CORRECTED + UNSEEN + 2
    assert {suggestion.model_version for suggestion in suggested.quick_view.values()} == {product.bundle_version}
    assert suggested.stream in suggested.quick_view.values()
    assert all(suggestion.caption for suggestion in suggested.quick_view.values())


def test_most_captions_state_no_wrong_fact(suggested: Shown) -> None:
    right = [
        is_right(in_house_style(suggestion.caption), scene_of(suggested.tasks[task_id]))
        for task_id, suggestion in suggested.quick_view.items()
    ]

    assert share(right) >= MOST


def test_what_was_accepted_and_corrected_is_in_the_inbox_and_nothing_else(
    annotated: Annotated, inbox: Mapping[int, Correction]
) -> None:
    assert set(inbox) == {annotated.accepted, *annotated.corrected}
    assert annotated.skipped not in inbox
    assert annotated.deleted not in inbox


def test_a_correction_stands_beside_what_was_proposed(
    product: Product, annotated: Annotated, inbox: Mapping[int, Correction]
) -> None:
    accepted = inbox[annotated.accepted]

    assert not accepted.is_edit
    for annotation_id, caption in annotated.corrected.items():
        correction = inbox[annotation_id]
        assert correction.caption == caption
        assert correction.proposed is not None
        assert in_house_style(correction.proposed) == caption
        assert correction.model_version == product.bundle_version
        assert correction.image_key is not None


def test_start_training_makes_a_new_version_from_these_corrections(
    product: Product, connected: Connected, annotated: Annotated, retrained: Shown
) -> None:
    [version] = product.registry.versions(connected.project_id)

    assert retrained.version == version.name
    assert version.published
    assert version.parent == product.bundle_version
    assert {int(name.partition("/")[0]) for name in version.corrections} <= {*annotated.corrected, annotated.accepted}


def test_pulling_again_what_webhooks_brought_changes_no_correction(
    product: Product, connected: Connected, inbox: Mapping[int, Correction], retrained: Shown
) -> None:
    assert product.inbox(connected.project_id) == inbox


def test_label_stream_and_quick_view_show_the_new_version(retrained: Shown) -> None:
    labels = {suggestion.model_version for suggestion in (retrained.stream, *retrained.quick_view.values())}
    assert {version_of_label(label)[0] for label in labels} == {retrained.version}
    assert retrained.stream.caption in {suggestion.caption for suggestion in retrained.quick_view.values()}


def test_new_suggestions_follow_the_house_style_and_are_right(suggested: Shown, retrained: Shown) -> None:
    spoke_of_circles = [
        task_id for task_id in retrained.quick_view if "circle" in suggested.quick_view[task_id].caption
    ]
    now = {task_id: retrained.quick_view[task_id].caption for task_id in spoke_of_circles}

    assert share([now[task_id] != suggested.quick_view[task_id].caption for task_id in now]) >= 0.8
    assert share(["ball" in caption and "circle" not in caption for caption in now.values()]) >= 0.8
    assert share([is_right(caption, scene_of(retrained.tasks[task_id])) for task_id, caption in now.items()]) >= MOST


def test_annotated_tasks_keep_their_suggestions(
    product: Product, connected: Connected, retrained: Shown, suggested: Shown
) -> None:
    tasks = product.annotated_tasks(connected.project_id)

    assert len(tasks) == CORRECTED + 1
    # The project's wording is learned while they are annotated, so later ones name a generation of the memory too.
    labels = [prediction["model_version"] for task in tasks for prediction in task["predictions"]]
    assert {version_of_label(label)[0] for label in labels} == {suggested.version}


def test_the_refresh_tells_the_admin_how_far_it_came(product: Product, retrained: Shown) -> None:
    jobs = [job for job in product.finished_jobs(LABEL_STUDIO_QUEUE) if retrained.version in job.args]

    done = len(retrained.quick_view) + 1  # the skipped task too
    progress = [{name: job.meta[name] for name in ("phase", "done", "total")} for job in jobs]
    assert progress == [{"phase": "refreshing", "done": done, "total": done}]
    assert [job.return_value() for job in jobs] == [
        {"refreshed": done, "current": 0, "failed": 0, "stopped": None, "rest_after": None}
    ]


def test_rollback_restores_the_old_suggestions_in_the_wording_of_the_project(
    suggested: Shown, rolled_back: Shown
) -> None:
    labels = {rolled_back.version, rolled_back.stream.model_version}
    labels |= {suggestion.model_version for suggestion in rolled_back.quick_view.values()}
    assert {version_of_label(label)[0] for label in labels} == {suggested.version}
    for task_id, suggestion in rolled_back.quick_view.items():
        before = suggested.quick_view[task_id].caption
        assert suggestion.caption in {before, in_house_style(before)}


def test_the_doctor_finds_everything_in_order(product: Product, connected: Connected, rolled_back: Shown) -> None:
    done = product.run("doctor")

    assert done.returncode == 0, done.stdout
    assert f"project {connected.project_id} (The loop), webhook: reports every annotation" in done.stdout
