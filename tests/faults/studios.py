"""Label Studio with annotators at work: a stub for many rounds, the real one for some."""

import contextlib
import random
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

import requests
from PIL import Image

from backend.demo.child_processes import LabelStudioAccount
from backend.demo.user import LabelStudioUser
from backend.label_studio.client import LabelStudioClient
from model.errors import LabelStudioError
from tests.fake_label_studio import LABEL_CONFIG, LEGACY_TOKEN, FakeLabelStudio, Json, Reply, Request
from tests.image_server import png

COLORS = ("red", "green", "blue", "yellow", "black", "white", "orange", "purple")
WORDS = ("a", "red", "green", "blue", "circle", "square", "on", "left", "right", "two", "the", "of", "crimson")
WEBHOOK_WAITS_S = 5.0
"""Label Studio itself waits 1 s; a caption that the backend accepts later is stored all the same."""
PREDICT_WAITS_S = 20.0


class Studio(Protocol):
    """What the rounds need of Label Studio and its annotators."""

    project_id: int

    def act(self, draw: random.Random) -> None:
        """Let an annotator do something, and let its event arrive if the backend answers."""

    def held(self) -> Mapping[str, str]:
        """Return the captions that Label Studio holds, by name."""

    def acknowledged(self) -> Mapping[str, str]:
        """Return the captions whose newest event was answered well, by name."""

    def prediction_body(self, draw: random.Random) -> Json:
        """Return a request for captions of some of its tasks."""

    def failing(self) -> contextlib.AbstractContextManager[None]:
        """Let requests to Label Studio fail meanwhile."""


class BusyLabelStudio(FakeLabelStudio):
    """The stub, for several annotators at once; it can fail."""

    def __init__(self) -> None:
        super().__init__()
        self.lock = threading.Lock()
        """Held while somebody reads or changes what the stub holds."""
        self.fails = False

    def answer_by_itself(self, request: Request) -> Reply:
        if self.fails:
            return Reply(body={"detail": "an error of the test"}, status=500)
        if request.path.startswith("/api/ml"):  # asks the backend, and annotators must not wait for that
            return super().answer_by_itself(request)
        with self.lock:
            return super().answer_by_itself(request)


class StubStudio:
    """A project in the stub, whose events we deliver ourselves: so we know what the backend has answered."""

    def __init__(self, label_studio: BusyLabelStudio) -> None:
        self.label_studio, self.api_key = label_studio, LEGACY_TOKEN
        self.project_id = label_studio.add_project()
        self._backend, self._version = "", ""
        self._lock = label_studio.lock
        self._delivered: dict[int, tuple[str, bool]] = {}
        """Of each annotation: time of its newest event, and whether it was answered well."""

    def connect(self, backend: str) -> None:
        """Connect the backend."""
        self._backend = backend
        self.label_studio.setup_answers[backend] = self._setup
        self.label_studio.connect_backend(self.project_id, backend)

    def _setup(self, project_id: int) -> str:
        """Return what the backend answers, or what it answered before."""
        body = {"project": f"{project_id}.1", "schema": LABEL_CONFIG}
        with contextlib.suppress(requests.RequestException, ValueError, KeyError):
            reply = requests.post(f"{self._backend}/setup", json=body, timeout=WEBHOOK_WAITS_S)
            self._version = reply.json()["model_version"]
        return self._version

    def act(self, draw: random.Random) -> None:
        studio = self.label_studio
        with self._lock:
            mine = [number for number, it in studio.annotations.items() if it["project"] == self.project_id]
        kind = draw.random()
        if kind < 0.7 or not mine:
            self._annotate_new_task(draw)
            return
        number = draw.choice(mine)
        with self._lock:
            if number not in studio.annotations:
                return  # another annotator deleted it
            if kind < 0.9:
                studio.update(number, _caption(draw))
            else:
                studio.delete_annotation(number)
            event = studio.events.pop()
        self._deliver(event)

    def _annotate_new_task(self, draw: random.Random) -> None:
        """Open a task, with its suggestion if the backend gives one, and submit a caption or skip it."""
        path = f"/data/upload/{self.project_id}/{draw.getrandbits(48):012x}.png"
        size = (draw.randint(33, 90), draw.randint(33, 90))
        with self._lock:
            self.label_studio.files[path] = png(draw.choice(COLORS), size)
            task_id = self.label_studio.add_task(self.project_id, {"captioning": path})
            self.label_studio.events.pop()
        suggestion, version = self._suggestion(task_id, path)
        with self._lock:
            if suggestion:
                self.label_studio.add_prediction(task_id, suggestion, version)
            if draw.random() < 0.1:
                self.label_studio.skip(task_id)
            else:
                keeps = suggestion and draw.random() < 0.2
                self.label_studio.submit(task_id, suggestion if keeps else _caption(draw))
            event = self.label_studio.events.pop()
        self._deliver(event)

    def _suggestion(self, task_id: int, path: str) -> tuple[str, str]:
        try:
            body = self._body({task_id: path})
            reply = requests.post(f"{self._backend}/predict", json=body, timeout=PREDICT_WAITS_S)
            [entry] = reply.json()["results"]
            return entry["result"][0]["value"]["text"][0], entry["model_version"]
        except (requests.RequestException, ValueError, KeyError):
            return "", ""

    def _body(self, tasks: Mapping[int, str]) -> Json:
        listed = [{"id": number, "data": {"captioning": path}} for number, path in tasks.items()]
        return {"tasks": listed, "project": f"{self.project_id}.1", "label_config": LABEL_CONFIG, "params": {}}

    def _deliver(self, event: Json) -> None:
        try:
            reply = requests.post(f"{self._backend}/webhook", json=event, timeout=WEBHOOK_WAITS_S)
            is_kept = reply.status_code in {200, 201}
        except requests.RequestException:
            is_kept = False
        if (annotation := event.get("annotation")) is not None:
            with self._lock:
                newest = self._delivered.get(annotation["id"], ("", False))
                self._delivered[annotation["id"]] = max(newest, (annotation["updated_at"], is_kept))

    def held(self) -> dict[str, str]:
        with self._lock:
            return {
                f"{number}/caption": annotation["result"][0]["value"]["text"][0]
                for number, annotation in self.label_studio.annotations.items()
                if annotation["project"] == self.project_id and not annotation["was_cancelled"]
            }

    def acknowledged(self) -> dict[str, str]:
        answered_well = {f"{number}/caption" for number, (_, is_kept) in self._delivered.items() if is_kept}
        return {name: caption for name, caption in self.held().items() if name in answered_well}

    def prediction_body(self, draw: random.Random) -> Json:
        tasks = {
            number: str(task["data"]["captioning"])
            for number, task in self.label_studio.tasks.items()
            if task["project"] == self.project_id
        }
        chosen = draw.sample(sorted(tasks), min(3, len(tasks)))
        return self._body({number: tasks[number] for number in chosen})

    @contextmanager
    def failing(self) -> Iterator[None]:
        self.label_studio.fails = True
        try:
            yield
        finally:
            self.label_studio.fails = False


class RealStudio:
    """A project in a real Label Studio, which delivers its events itself."""

    def __init__(self, url: str, account: LabelStudioAccount, folder: Path, pictures: int) -> None:
        self.user = LabelStudioUser(url, account)
        self.url, self.api_key = url, account.token
        self.project_id = self.user.create_project("faults")
        files = []
        for number in range(pictures):
            files.append(folder / f"{number}.png")
            Image.new("RGB", (40 + number, 40), COLORS[number % len(COLORS)]).save(files[-1])
        self.user.upload(self.project_id, files)
        self._lock = threading.Lock()

    def connect(self, backend: str) -> None:
        self.user.connect_backend(self.project_id, backend)

    def act(self, draw: random.Random) -> None:
        with self._lock, contextlib.suppress(LabelStudioError):  # one browser session does one thing at a time
            annotated = sorted(int(name.split("/")[0]) for name in self.held())
            kind = draw.random()
            if kind < 0.7 or not annotated:
                task = self.user.next_task(self.project_id)
                self.user.submit(self.project_id, task, _caption(draw))
            elif kind < 0.9:
                self.user.update(self.project_id, draw.choice(annotated), _caption(draw))
            else:
                self.user.delete_annotation(self.project_id, draw.choice(annotated))

    def held(self) -> dict[str, str]:
        client = LabelStudioClient(self.url, self.api_key)
        tasks = client.tasks(self.project_id, client.annotated_task_times(self.project_id))
        return {
            f"{annotation['id']}/caption": annotation["result"][0]["value"]["text"][0]
            for task in tasks
            for annotation in task["annotations"]
            if not annotation["was_cancelled"]
        }

    def acknowledged(self) -> dict[str, str]:
        return {}  # Label Studio does not say which of its events were answered

    def prediction_body(self, draw: random.Random) -> Json:
        client = LabelStudioClient(self.url, self.api_key)
        project = client.project(self.project_id)
        tasks = self.user._json("GET", "/api/tasks", params={"project": self.project_id, "fields": "all"})["tasks"]
        chosen = [{"id": task["id"], "data": task["data"]} for task in draw.sample(tasks, 3)]
        config = project.label_config
        return {"tasks": chosen, "project": f"{self.project_id}.1", "label_config": config, "params": {}}

    @contextmanager
    def failing(self) -> Iterator[None]:
        yield  # the stub is for that


def _caption(draw: random.Random) -> str:
    return " ".join(draw.choices(WORDS, k=draw.randint(2, 8)))
