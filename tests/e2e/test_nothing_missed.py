"""A pull brings the annotations that webhooks lost: the backend was killed, or its webhook goes elsewhere."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

import pytest

from backend.demo.user import LabelStudioUser, ShownTask
from tests.e2e.conftest import Connected, Product
from tests.e2e.drawn_pictures import seeds_with

PICTURES, EACH = 20, 5
"""So many annotators caption so many pictures: 100 submissions."""
KILLED_AT, STARTED_AT = 35, 65


@pytest.fixture(scope="module")
def product(start_product: Callable[[str, Mapping[str, str]], Product]) -> Product:
    return start_product("pulling", {"RECONCILE_EVERY_S": "2"})


class Annotators:
    """Submit caption after caption, change their mind about some, and know what must be left in the end."""

    def __init__(self, user: LabelStudioUser, project_id: int, tasks: Sequence[ShownTask], *, drafts: bool) -> None:
        self.user = user
        self.gives_up = user.convert_to_draft if drafts else self._delete
        self.project_id = project_id
        self.tasks = tasks
        self.submitted = 0
        self.left: dict[int, str] = {}
        """Caption by annotation."""

    def work(self) -> None:
        """Of ten submissions one is edited, one deleted, one made a draft, all a while later, and one is a skip."""
        undone: list[Callable[[], None]] = []
        for number in range(EACH * len(self.tasks)):
            undone += self._submit(number)
            if len(undone) > 7:
                undone.pop(0)()
            self.submitted += 1
        for undo in undone:
            undo()

    def _submit(self, number: int) -> Iterator[Callable[[], None]]:
        """Annotate once; yields what the annotator will do about it later."""
        task = self.tasks[number % len(self.tasks)]
        if number % 10 == 3:
            self.user.skip(self.project_id, task)
            return
        caption = f"caption number {number}"
        annotation = self.user.submit(self.project_id, task, caption)
        self.left[annotation] = caption
        match number % 10:
            case 5:
                yield lambda: self._edit(annotation)
            case 7:
                yield lambda: self._forget(annotation, self.gives_up)
            case 8:
                yield lambda: self._forget(annotation, self._delete)

    def _edit(self, annotation: int) -> None:
        self.left[annotation] += ", edited"
        self.user.update(self.project_id, annotation, self.left[annotation])

    def _delete(self, annotation: int) -> None:
        self.user.delete_annotation(self.project_id, annotation)

    def _forget(self, annotation: int, how: Callable[[int], None]) -> None:
        how(annotation)
        del self.left[annotation]


def captions_in_inbox(product: Product, project_id: int) -> dict[int, str]:
    return {number: correction.caption for number, correction in product.inbox(project_id).items()}


def captions_in_label_studio(product: Product, project_id: int) -> dict[int, str]:
    """Return what is submitted there and not skipped, by annotation."""
    return {
        annotation["id"]: annotation["result"][0]["value"]["text"][0]
        for task in product.annotated_tasks(project_id)
        for annotation in task["annotations"]
        if not annotation["was_cancelled"]
    }


def test_a_backend_killed_while_people_annotate_misses_nothing(
    user: LabelStudioUser, product: Product, connect: Callable[[Product, str, Sequence[int]], Connected]
) -> None:
    project_id = connect(product, "Killed", seeds_with("circle", PICTURES)).project_id
    user.retrieve_predictions(project_id)
    # Where a webhook is connected, Label Studio 1.18 and 1.20 fail with 500 when an annotation is made a draft.
    drafts = not product.client.server_version().startswith(("1.18.", "1.20."))
    annotators = Annotators(user, project_id, user.tasks(project_id), drafts=drafts)

    with ThreadPoolExecutor(1) as pool:
        working = pool.submit(annotators.work)
        product.wait("to see annotations", lambda: annotators.submitted >= KILLED_AT or working.done())
        product.kill_backend()
        product.wait("to miss annotations", lambda: annotators.submitted >= STARTED_AT or working.done())
        product.start_backend()
        working.result()

    product.wait("to agree", lambda: captions_in_inbox(product, project_id) == annotators.left)
    assert captions_in_label_studio(product, project_id) == annotators.left
    assert len(annotators.left) == 70
    assert all(correction.proposed for correction in product.inbox(project_id).values())


@pytest.fixture
def silent(product: Product, connect: Callable[[Product, str, Sequence[int]], Connected]) -> Iterator[int]:
    """A project whose events go to an address where nobody listens; later tests find its webhook repaired."""
    project_id = connect(product, "Never told", seeds_with("square", 2)).project_id
    [webhook] = product.client.webhooks(project_id)
    product.client.mend_webhook(webhook.webhook_id, "http://127.0.0.1:9/webhook", {})
    yield project_id
    product.client.mend_webhook(webhook.webhook_id, webhook.url, {})


def test_a_project_whose_webhook_never_came_is_pulled_too(user: LabelStudioUser, product: Product, silent: int) -> None:
    project_id = silent

    annotation = user.submit(project_id, user.next_task(project_id), "nobody was told")

    product.wait("to pull", lambda: captions_in_inbox(product, project_id) == {annotation: "nobody was told"})
