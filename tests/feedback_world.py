"""Label Studio and our store of feedback in one process: a test decides when events arrive, and pulls cost no HTTP."""

import copy
import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from types import SimpleNamespace
from typing import Any, cast

from flask import Flask
from redis import Redis
from rq.utils import as_text

from backend.captioning.backend import CaptionBackend
from backend.captioning.services import EXTENSION, CaptioningServices
from backend.label_studio.client import LabelStudioClient, Project, Task
from backend.sync.pull import Reconciliation, reconcile
from tests.fake_label_studio import FakeLabelStudio, Json
from worker.feedback.feedback_store import FeedbackStore
from worker.feedback.record import Feedback
from worker.feedback.script import key
from worker.feedback.suggestions import Suggestion, SuggestionLog
from worker.settings import Settings

LABEL_CONFIG = """<View><Image name="image" value="$captioning"/><TextArea name="caption" toName="image"/>
<TextArea name="title" toName="image"/></View>"""
VERSION = "v1-0a1b2c3d"


class World:
    """A project of Label Studio, and our side of it."""

    def __init__(self, redis: Redis, label_studio: FakeLabelStudio, *, has_api_key: bool = False) -> None:
        self.redis = redis
        self.label_studio = label_studio
        self.during_pull: Callable[[], None] | None = None
        """Happens once while the next pull reads."""
        key = {"label_studio_api_key": "0" * 40} if has_api_key else {}
        settings = Settings(label_studio_url=label_studio.url, retrain_after=10**6, retrain_idle_s=0, **key)
        parts = {"redis": redis, "settings": settings, "feedback": FeedbackStore(redis)}
        # Without a bundle no memory is judged.
        parts["memories"] = SimpleNamespace(renew_beside=lambda _project_id: None)
        parts["projects"] = SimpleNamespace(note=lambda *_: None, note_title=lambda *_: None)
        services = cast(CaptioningServices, SimpleNamespace(**parts, suggestions=SuggestionLog(redis)))
        self._app = Flask("world")
        self._app.extensions[EXTENSION] = services
        self.project_id = label_studio.add_project(label_config=LABEL_CONFIG)

    @property
    def store(self) -> FeedbackStore:
        return FeedbackStore(self.redis)

    # Label Studio's side

    def add_task(self, image: str = "/data/upload/1/dog.png") -> int:
        """Import a task, and suggest a caption for it."""
        task_id = self.label_studio.add_task(self.project_id, {"captioning": image})
        self.label_studio.events.pop()
        self.suggest(task_id)
        return task_id

    def suggest(self, task_id: int) -> None:
        """Suggest the same captions for the task as before, and let Label Studio store the one of `caption`."""
        image = self.label_studio.tasks[task_id]["data"]["captioning"]
        caption = suggestion_for(image)
        self.label_studio.add_prediction(task_id, caption, VERSION)
        place = {"project_id": self.project_id, "task_id": task_id, "image_ref": image, "image_key": "ab" * 32}
        suggestion = Suggestion(**place, control="caption", caption=caption, model_version=VERSION, score=None)
        SuggestionLog(self.redis).remember([suggestion])

    def event(self) -> Json:
        """Take the event of the last act, which has not arrived yet."""
        return self.label_studio.events.pop()

    # Our side

    def deliver(self, *events: Json) -> int:
        """Let events arrive; returns how many captions changed."""
        with self._app.app_context():
            return sum(CaptionBackend().fit(event["action"], event)["changed"] for event in copy.deepcopy(events))

    def pull(self) -> Reconciliation:
        client = cast(LabelStudioClient, _InProcessClient(self))
        fields = self.label_studio.projects[self.project_id]
        project = Project(
            project_id=self.project_id,
            title=fields["title"],
            label_config=fields["label_config"],
            model_version="",
            prelabels=True,
            created=None,
        )
        return reconcile(client, self.redis, project)

    def captions(self) -> dict[str, str]:
        """Return the recorded captions by name."""
        return {correction.name: correction.caption for correction in self.store.corrections(self.project_id)}

    def records(self) -> dict[str, Feedback]:
        return {record.name: record for record in self.store.records(self.project_id)}


class _InProcessClient:
    """The four requests of a pull, answered from what the fake holds."""

    def __init__(self, world: World) -> None:
        self._world = world

    def annotated_task_times(self, project_id: int) -> dict[int, str]:
        return self._times(project_id, "total_annotations")

    def skipped_task_times(self, project_id: int) -> dict[int, str]:
        return self._times(project_id, "cancelled_annotations")

    def tasks(self, project_id: int, task_ids: Iterable[int]) -> Iterator[Task]:
        label_studio = self._world.label_studio
        wanted = [label_studio.tasks[task_id] for task_id in task_ids if task_id in label_studio.tasks]
        page = [copy.deepcopy(label_studio._task_in_page(task, None, details=True)) for task in wanted]
        if (happens := self._world.during_pull) is not None:
            self._world.during_pull = None
            happens()
        yield from page

    def annotation(self, annotation_id: int) -> dict[str, Any] | None:
        annotation = self._world.label_studio.annotations.get(annotation_id)
        return None if annotation is None else {key: value for key, value in annotation.items() if key != "unique_id"}

    def _times(self, project_id: int, count: str) -> dict[int, str]:
        label_studio = self._world.label_studio
        mine = [task for task in label_studio.tasks.values() if task["project"] == project_id]
        return {task["id"]: task["updated_at"] for task in mine if label_studio._counts(task["id"])[count]}


def suggestion_for(image: str) -> str:
    return f"a dog looks at {image}"


def texts(*, origin: str = "manual", **captions: str) -> list[Json]:
    """Return the result of an annotation by control; an empty caption leaves its control out."""
    return [
        {
            "id": control,
            "from_name": control,
            "to_name": "image",
            "type": "textarea",
            "origin": origin,
            "value": {"text": [caption]},
        }
        for control, caption in captions.items()
        if caption
    ]


def totals_of(redis: Redis, project_id: int) -> tuple[dict[str, int], ...]:
    """Return the totals, the captions that contain each word, the words that are in so many captions, and the weeks."""
    nouns = ("ledger-totals", "ledger-words", "ledger-spectrum", "ledger-weeks")
    hashes = [redis.hgetall(key(noun, project_id)) for noun in nouns]
    totals, *others = [{as_text(name): int(number) for name, number in counts.items()} for counts in hashes]
    return {name: number for name, number in totals.items() if not name.startswith("tasks:")}, *others


def totals_from(redis: Redis, project_id: int) -> tuple[dict[str, int], ...]:
    """Return what `totals_of` must return, counted anew from the records."""
    stored = [json.loads(text) for text in redis.hvals(key("feedback", project_id))]
    totals: Counter[str] = Counter()
    of_words: Counter[str] = Counter()
    weeks: Counter[str] = Counter()
    for values in stored:
        cells = [f"{values['arm']}::{values.get('model_version', '')}"]
        if values.get("annotator") is not None:
            cells.append(f"{values['arm']}:{values['annotator']}:{values.get('model_version', '')}")
        for cell in cells:
            totals.update({f"{counter}:{cell}": number for counter, number in values["counts"].items()})
        of_words.update(f"{values['arm']}:{word}" for word in values["words"])
        if "week" in values:
            for counter, number in values["counts"].items():
                if not counter.startswith("took_"):
                    weeks[f"{counter}:{values['arm']}:{values['week']}"] += number
    spectrum = Counter(f"{name.split(':', 1)[0]}:{number}" for name, number in of_words.items())
    return dict(totals), dict(of_words), dict(spectrum), dict(weeks)
