"""The backend as Label Studio calls it: the real application on a real Redis, without a web server between."""

import base64
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from flask import Flask
from rq import SimpleWorker
from rq.serializers import JSONSerializer
from werkzeug.test import TestResponse

from backend.app import create_app
from backend.captioning.services import EXTENSION, CaptioningServices
from model.bundle import load_bundle
from model.torch_captioner import TorchCaptioner
from tests.payloads import load_payload
from worker.feedback.record import Correction
from worker.queue.job_state import LABEL_STUDIO_QUEUE, queue
from worker.settings import Settings

LABEL_CONFIG = """<View><Image name="image" value="$captioning"/><Header value="Describe the image:"/>
<TextArea name="caption" toName="image" rows="5" maxSubmissions="1" editable="true"/></View>"""


BROWSER_ACCEPTS = {"Accept": "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"}


class BackendClient:
    """One backend process and a caller that may log in."""

    def __init__(self, settings: Settings, login: tuple[str, str] | None = None) -> None:
        self.settings = settings
        self.app: Flask = create_app(settings)
        self.headers = basic_auth(*login) if login else {}

    @property
    def services(self) -> CaptioningServices:
        services: CaptioningServices = self.app.extensions[EXTENSION]
        return services

    def trainable_captioner(self) -> TorchCaptioner:
        """Return the captioner of the bundle in torch, as a training makes one and publishes it."""
        return load_bundle(self.settings.caption_bundle).captioner()

    def corrections(self, project_id: int) -> list[Correction]:
        return self.services.feedback.corrections(project_id)

    def get(self, path: str, headers: Mapping[str, str] | None = None) -> TestResponse:
        return self.app.test_client().get(path, headers={**self.headers, **(headers or {})})

    def post(self, path: str, body: Any, headers: Mapping[str, str] | None = None) -> TestResponse:
        return self.app.test_client().post(path, json=body, headers={**self.headers, **(headers or {})})

    def send(self, path: str, content: bytes, content_type: str = "application/json") -> TestResponse:
        return self.app.test_client().post(path, data=content, content_type=content_type, headers=self.headers)

    def replay(self, name: str) -> TestResponse:
        """Send a recorded request of Label Studio, headers included."""
        recorded = load_payload(name)
        left_out = {"Host", "Content-Type", "Connection"}
        headers = {key: value for key, value in recorded["headers"].items() if key not in left_out}
        if recorded["method"] == "GET":
            return self.get(recorded["path"], headers)
        return self.post(recorded["path"], recorded["body"], headers)

    def predict(self, tasks: list[dict[str, Any]], label_config: str = LABEL_CONFIG, **params: Any) -> list[Any]:
        body = {
            "tasks": tasks,
            "project": "1.1795230827",
            "label_config": label_config,
            "params": {"login": None, "password": None, "context": None} | params,
        }
        response = self.post("/predict", body)
        assert response.status_code == 200, response.text
        results: list[Any] = response.get_json()["results"]
        return results


class Browser:
    """A person in a browser: keeps cookies, reads pages, fills forms in."""

    def __init__(self, backend: BackendClient, address: str = "192.0.2.1") -> None:
        self.client = backend.app.test_client()
        self._environ = {"REMOTE_ADDR": address}

    def open(self, path: str) -> TestResponse:
        return self.client.get(path, headers=BROWSER_ACCEPTS, environ_base=self._environ)

    def press(self, path: str, token: str | None = None, **fields: str) -> TestResponse:
        """Send a form of one of our pages, by default without its token."""
        form = fields if token is None else fields | {"csrf_token": token}
        headers = BROWSER_ACCEPTS | {"Origin": "http://localhost", "Sec-Fetch-Site": "same-origin"}
        return self.client.post(path, data=form, headers=headers, environ_base=self._environ)

    def sign_in(self, name: str, password: str, path: str = "/admin/login") -> TestResponse:
        return self.press(path, self.token(path), name=name, password=password)

    def token(self, path: str = "/admin/audit/") -> str:
        """Return the token of the first form of a page."""
        field = re.search(r'name="csrf_token" value="([^"]+)"', self.open(path).text)
        assert field is not None, f"{path} has no token"
        return field[1]


def basic_auth(user: str, password: str) -> dict[str, str]:
    return {"Authorization": "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()}


def make_settings(folder: Path, **changes: Any) -> Settings:
    """Settings of a backend on the bundle in this folder, with a Label Studio that does not answer."""
    values: dict[str, Any] = {
        "model_store": str(folder / "store"),
        "caption_bundle": str(folder / "bundle"),
        "label_studio_url": "http://127.0.0.1:9",
    }
    return Settings(**values | changes)


def failed_job(backend: BackendClient) -> str:
    """Let a worker run a job that fails; returns its id."""
    jobs = queue(backend.services.redis, LABEL_STUDIO_QUEUE)
    job = jobs.enqueue_call("math.sqrt", args=[-1], meta={"phase": "training"})
    SimpleWorker([jobs], connection=backend.services.redis, serializer=JSONSerializer).work(burst=True)
    return str(job.id)
