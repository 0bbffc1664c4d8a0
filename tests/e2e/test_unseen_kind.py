"""Pictures of a kind that the bundle never saw, in a real Label Studio: ten corrections do, without a training."""

import random
from pathlib import Path

import pytest
from PIL import Image, ImageDraw

from backend.demo.user import LabelStudioUser, ShownSuggestion, ShownTask
from tests.e2e.conftest import Connected, Product

WORDS = {
    "fields": "an aerial view of green fields and a narrow road",
    "pond": "an aerial view of a round pond in the desert",
    "houses": "an aerial view of many houses with orange roofs",
}
KINDS = list(WORDS)
CORRECTED, OPEN = 10, 3
SIZE = 256


def draw(kind: str, number: int) -> Image.Image:
    """Draw what a plane would see; no two pictures are the same."""
    chance = random.Random(number)
    ground = {"fields": (96, 140, 60), "pond": (214, 190, 140), "houses": (120, 120, 118)}[kind]
    picture = Image.effect_noise((SIZE, SIZE), 60).convert("RGB")
    picture = Image.blend(picture, Image.new("RGB", (SIZE, SIZE), ground), 0.7)
    pen = ImageDraw.Draw(picture)
    if kind == "fields":
        for _ in range(6):
            at = chance.randrange(SIZE)
            pen.line([(at, 0), (at + chance.randrange(-40, 40), SIZE)], fill=(60, 100, 40), width=9)
        pen.line([(0, chance.randrange(SIZE)), (SIZE, chance.randrange(SIZE))], fill=(230, 230, 220), width=5)
    elif kind == "pond":
        left, top, wide = chance.randrange(20, 90), chance.randrange(20, 90), chance.randrange(90, 140)
        pen.ellipse([left, top, left + wide, top + wide], fill=(30, 90, 150), outline=(70, 110, 60), width=5)
    else:
        for _ in range(40):
            left, top = chance.randrange(SIZE), chance.randrange(SIZE)
            pen.rectangle([left, top, left + 22, top + 16], fill=(220, 110, 40), outline=(90, 40, 20), width=2)
    return picture


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
