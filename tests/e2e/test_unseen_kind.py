"""Pictures of a kind that the bundle never saw, in a real Label Studio: ten corrections do, without a training."""

from pathlib import Path

import pytest

from backend.demo.user import LabelStudioUser, ShownSuggestion, ShownTask
from tests.aerial import KINDS, WORDS, draw
from tests.e2e.conftest import Connected, Product

CORRECTED, OPEN = 10, 3


def kind_of(task: ShownTask) -> str:
    return task.image_name.split("-")[1].removesuffix(".png")


def suggestion_of(task: ShownTask) -> ShownSuggestion:
    assert task.prefilled is not None, f"task {task.task_id} came without a suggestion"
    return task.prefilled


@pytest.fixture(scope="module")
def connected(user: LabelStudioUser, product: Product, tmp_path_factory: pytest.TempPathFactory) -> Connected:
    directory = tmp_path_factory.mktemp("aerial")
    paths: list[Path] = []
    for number in range(CORRECTED + OPEN):
        kind = KINDS[number % len(KINDS)]
        paths.append(directory / f"{number:02}-{kind}.png")
        draw(kind, number).save(paths[-1])
    project_id = user.create_project("An unseen kind")
    user.upload(project_id, paths)
    return Connected(project_id=project_id, backend_id=user.connect_backend(project_id, product.url))


def test_the_eleventh_picture_is_described_in_the_words_of_ten_corrections_as_long_as_they_are_there(
    user: LabelStudioUser, product: Product, connected: Connected
) -> None:
    project_id = connected.project_id

    def look() -> ShownTask:
        return user.next_task(project_id)

    version = user.serving_version(connected.backend_id)
    user.retrieve_predictions(project_id)
    before = {task.task_id: suggestion_of(task).caption for task in user.tasks(project_id)}
    annotations = []
    for _ in range(CORRECTED):
        task = look()
        annotations.append(user.submit(project_id, task, WORDS[kind_of(task)]))

    product.wait("to suggest by its memory", lambda: suggestion_of(look()).caption in WORDS.values())
    eleventh = look()
    assert suggestion_of(eleventh).caption == WORDS[kind_of(eleventh)]
    assert suggestion_of(eleventh).model_version.startswith(f"{version}+m")
    assert product.registry.versions(project_id) == [], "nothing was trained"

    for annotation_id in annotations:
        user.delete_annotation(project_id, annotation_id)

    def is_forgotten() -> bool:
        shown = suggestion_of(user.open_task(project_id, eleventh.task_id))
        return (shown.caption, shown.model_version) == (before[eleventh.task_id], version)

    product.wait("to forget what was deleted", is_forgotten)
