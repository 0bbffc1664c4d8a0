"""The id of one request, from its webhook to the version that follows, in the logs of real processes."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import requests

from backend.demo.child_processes import Services, free_port, start_backend
from tests.backend_client import BackendClient
from tests.image_server import ImageServer
from tests.payloads import load_payload
from tests.worker_process import WorkerProcess
from tests.workplace import DEADLINE_S, Workplace
from worker.request_id import current_request_id

ACCEPTED = "20_webhook_ANNOTATION_CREATED_accepted"
PROJECT = 6
"""Project of the recorded webhook."""


@pytest.fixture
def services(tmp_path: Path) -> Iterator[Services]:
    with Services(tmp_path / "logs") as services:
        yield services


def test_the_webhook_the_job_and_the_version_carry_one_id(
    workplace: Workplace,
    services: Services,
    start_worker: Callable[..., WorkerProcess],
    image_server: ImageServer,
) -> None:
    settings = workplace.environment(
        HOST="127.0.0.1",
        PORT=str(free_port()),
        RETRAIN_AFTER="9",
        LABEL_STUDIO_URL=image_server.url,
        LOG_FORMAT="json",
    )
    backend = start_backend(services, settings, DEADLINE_S)
    worker = start_worker(settings)
    workplace.correct(range(1001, 1009), PROJECT)
    body = load_payload(ACCEPTED)["body"]
    body["task"]["data"]["captioning"] = image_server.show("/dog.png", "yellow")

    answer = requests.post(
        f"{backend.url}/webhook", json=body, headers={"X-Request-ID": "find-me-7"}, timeout=DEADLINE_S
    )
    [webhook] = [line for line in lines(backend.log) if line["event"] == "webhook done"]
    workplace.result(webhook["job"])
    worker.stop()
    services.stop(backend)

    [version] = workplace.registry.versions(PROJECT)
    corrections = {correction.annotation_id: correction for correction in workplace.feedback.corrections(PROJECT)}
    of_backend, of_worker = lines(backend.log), lines(worker.log)
    assert answer.headers["X-Request-ID"] == "find-me-7"
    assert corrections[body["annotation"]["id"]].request_id == "find-me-7"
    assert corrections[1001].request_id is None
    assert workplace.job(webhook["job"]).meta["request_id"] == "find-me-7"
    assert (version.metrics["request"], version.metrics["requests"]) == ("find-me-7", ["find-me-7"])
    # The memory may be judged beside the request, before or after the answer.
    beside = {"captioner loaded", "memory judged"}
    answered = [event for event in events(of_backend, "find-me-7") if event not in beside]
    assert answered == ["correction stored", "webhook done", "request done"]
    assert set(events(of_worker, "find-me-7")) == {
        "annotations not pulled",
        "audit",
        "features completed",
        "job done",
        "retraining done",
    }
    [trained] = [line for line in of_worker if line["event"] == "retraining done"]
    assert (trained["project"], trained["version"], trained["requests"]) == (PROJECT, version.name, "find-me-7")
    [served] = [line for line in of_backend if line["event"] == "request done" and line["route"] == "/webhook"]
    assert (served["method"], served["status"]) == ("POST", 201)


def test_every_answer_has_its_id_and_probes_are_not_logged(
    backend: BackendClient, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level("INFO"):
        answers = [backend.get(path) for path in ("/health", "/metrics", "/nothing")]

    assert len({answer.headers["X-Request-ID"] for answer in answers}) == 3
    assert current_request_id() is None
    assert [record.message.split(" seconds")[0] for record in caplog.records if record.name == "backend.app"] == [
        "request done method=GET route=none status=404"
    ]


def events(log_lines: list[dict[str, Any]], request_id: str) -> list[str]:
    return [line["event"] for line in log_lines if line.get("request") == request_id]


def lines(log: Path) -> list[dict[str, Any]]:
    """Read a log; every line of it must be JSON."""
    return [json.loads(line) for line in log.read_text().splitlines()]
