"""Several machines: two backends behind one address, two workers, a store on S3, Redis with a password and TLS.

Each backend and each worker is a process with an own empty home. They share Redis, the bucket and nothing else.
"""

import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest
import requests
import trustme
from redis import Redis
from rq.job import Job, JobStatus
from rq.serializers import JSONSerializer

from backend.demo.child_processes import Service, Services, captioner_command, free_port, our_environment, wait_until
from tests.factories import environment_of, write_bundle
from tests.fake_label_studio import LABEL_CONFIG, LEGACY_TOKEN, FakeLabelStudio
from tests.image_server import png
from tests.one_address import OneAddress
from tests.redis_server import SecuredRedis, require_redis_with_tls
from tests.s3_server import S3Server
from tests.workplace import COLORS, DEADLINE_S, Workplace
from worker.feedback.feedback_store import FeedbackStore
from worker.queue.heartbeats import living_workers
from worker.queue.lost_jobs import Run, running
from worker.settings import Settings

PROJECT = 1
STARTS_WITHIN_S = 90
APPEARS_WITHIN_S = 5
ANNOTATOR_WAITS_S = 15
"""On an idle machine it takes a second for each caption."""
REQUEST_S = 60
LOGIN = ("label-studio", "of-the-test")


@dataclass(kw_only=True)
class Installation:
    """The processes of the product, and what they share."""

    folder: Path
    settings: Settings
    label_studio: FakeLabelStudio
    s3: S3Server
    redis_server: SecuredRedis
    redis: Redis
    services: Services
    address: OneAddress
    backends: list[Service]
    workers: list[Service]

    def environment(self, machine: str, **changes: str) -> dict[str, str]:
        """Return the environment of a process on a machine of its own, where the home is empty."""
        home = self.folder / machine
        home.mkdir(exist_ok=True)
        own = {"HOME": str(home), "TMPDIR": str(home)}
        return our_environment(environment_of(self.settings) | self.s3.environment | own | changes)

    def start_worker(self, machine: str) -> None:
        environ = self.environment(machine)
        self.workers.append(self.services.start(machine, captioner_command("worker"), url="", environ=environ))

    def start_backend(self, machine: str, port: int) -> None:
        environ, url = self.environment(machine, HOST="127.0.0.1", PORT=str(port)), f"http://127.0.0.1:{port}"
        self.backends.append(self.services.start(machine, captioner_command("serve"), url=url, environ=environ))

    def wait_until_ready(self) -> None:
        for backend in self.backends:
            wait_until(backend, lambda url=backend.url: _is_ready(url), STARTS_WITHIN_S)  # type: ignore[misc]
        wait_until(self.workers[-1], lambda: len(living_workers(self.redis)) >= len(self.workers), STARTS_WITHIN_S)

    def start_training(self) -> str:
        """Press Start Training; return the id of the job."""
        answer = self.ask("/train", {"project": f"{PROJECT}.1"})
        assert answer is not None
        assert answer.ok, answer.text
        return str(answer.json()["job"])

    def run_of(self, job_id: str) -> Run | None:
        return next((run for run in running(self.redis) if run.job_id == job_id and run.worker), None)

    def outcome(self, job_id: str) -> dict[str, Any]:
        """Wait until a training ends; return what it says."""
        job = Job.fetch(job_id, self.redis, serializer=JSONSerializer)
        # A result alone does not mean the end: a training waits 15 s while a check for a rollback has the project.
        Workplace.wait_until(lambda: job.get_status() in {JobStatus.FINISHED, JobStatus.FAILED})
        result = job.latest_result()
        assert result is not None
        assert isinstance(result.return_value, dict), result.exc_string
        return result.return_value

    def worker_of(self, run: Run) -> Service:
        [worker] = [it for it in self.workers if run.worker.startswith(f"{socket.gethostname()}-{it.process.pid}-")]
        return worker

    def annotate(self, number: int) -> None:
        """Open a new task and correct its caption, as an annotator does. Every request goes to the one address."""
        path = f"/data/upload/{PROJECT}/{number}.png"
        color = COLORS[number % 3]
        self.label_studio.files[path] = png(color, size=(40 + number, 40))
        task_id = self.label_studio.add_task(PROJECT, {"captioning": path})
        self.ask("/predict", _prediction_of(self.label_studio.tasks[task_id]))
        self.label_studio.submit(task_id, f"two {color} circle left of the square")
        # Label Studio sends an event once, whatever the answer is.
        self.ask("/webhook", self.label_studio.events[-1])

    def ask(self, path: str, body: Any) -> requests.Response | None:
        """Return the answer at the one address; None if the connection broke."""
        with suppress(requests.ConnectionError):
            return requests.post(self.address.url + path, json=body, auth=LOGIN, timeout=REQUEST_S)
        return None

    def set_up(self, project_id: int) -> str:
        """Return what `/setup` answers at the one address, as Label Studio asks it."""
        answer = self.ask("/setup", {"project": f"{project_id}.1", "schema": LABEL_CONFIG})
        return str(answer.json()["model_version"]) if answer is not None and answer.ok else ""

    def served(self) -> set[str]:
        """Return the versions that the backends serve now."""
        asked = [f"{backend.url}/versions?project={PROJECT}" for backend in self.backends]
        return {requests.get(url, auth=LOGIN, timeout=REQUEST_S).json()["model_version"] for url in asked}

    def held(self) -> dict[int, str]:
        """Return the captions that we hold, by annotation."""
        return {it.annotation_id: it.caption for it in FeedbackStore(self.redis).corrections(PROJECT)}

    def submitted(self) -> dict[int, str]:
        annotations = self.label_studio.annotations.items()
        return {number: annotation["result"][0]["value"]["text"][0] for number, annotation in annotations}


def _is_ready(url: str) -> bool:
    with suppress(requests.RequestException):
        return requests.get(f"{url}/ready", timeout=REQUEST_S).ok
    return False


def _prediction_of(task: dict[str, Any]) -> dict[str, Any]:
    return {"tasks": [task], "project": f"{PROJECT}.1", "label_config": LABEL_CONFIG, "params": {}}


def cut_off(service: Service) -> None:
    """End a process and every process that it started, as a power cut would."""
    own = psutil.Process(service.process.pid)
    for process in [own, *own.children(recursive=True)]:
        with suppress(psutil.NoSuchProcess):
            process.kill()
    service.process.wait()


@pytest.fixture
def s3(tmp_path: Path) -> Iterator[S3Server]:
    server = S3Server(tmp_path / "s3.log")
    server.start()
    yield server
    server.kill()


@pytest.fixture
def secured_redis(tmp_path: Path) -> Iterator[SecuredRedis]:
    require_redis_with_tls()
    server = SecuredRedis(tmp_path / "redis", trustme.CA())
    server.start()
    yield server
    server.kill()


@pytest.fixture
def settings(s3: S3Server, secured_redis: SecuredRedis, label_studio: FakeLabelStudio, tmp_path: Path) -> Settings:
    return Settings(
        redis_url=secured_redis.url,
        model_store=f"s3://{s3.bucket}/store",
        caption_bundle=str(write_bundle(tmp_path / "bundle")),
        label_studio_url=label_studio.url,
        label_studio_api_key=LEGACY_TOKEN,
        basic_auth_user=LOGIN[0],
        basic_auth_pass=LOGIN[1],
        retrain_budget_s=5,
        reconcile_every_s=10,
        refresh_predictions=False,
    )


@pytest.fixture
def installation(
    settings: Settings, s3: S3Server, secured_redis: SecuredRedis, label_studio: FakeLabelStudio, tmp_path: Path
) -> Iterator[Installation]:
    ports = [free_port(), free_port()]
    with OneAddress(ports) as address, Services(tmp_path / "logs") as services, secured_redis.client() as redis:
        installation = Installation(
            folder=tmp_path,
            settings=settings,
            label_studio=label_studio,
            s3=s3,
            redis_server=secured_redis,
            redis=redis,
            services=services,
            address=address,
            backends=[],
            workers=[],
        )
        for number, port in enumerate(ports, 1):
            installation.start_backend(f"backend-{number}", port)
            installation.start_worker(f"worker-{number}")
        installation.wait_until_ready()
        label_studio.add_project(id=PROJECT)
        label_studio.setup_answers[address.url] = installation.set_up
        label_studio.connect_backend(PROJECT, address.url)
        yield installation


def test_doctor_and_queue_pages_reach_a_redis_with_a_private_authority(installation: Installation) -> None:
    pages = requests.get(f"{installation.address.url}/admin/queues/", auth=LOGIN, timeout=REQUEST_S)
    environ = installation.environment("laptop")

    with_authority = examine(environ)
    without = examine(environ | {"REDIS_URL": installation.redis_server.address_without_authority})

    assert (pages.status_code, "RQ" in pages.text) == (200, True)
    assert "Redis: answers at rediss://***@" in with_authority
    assert "store: s3://captions/store can be read and written" in with_authority
    assert "add ?ssl_ca_certs=FILE to REDIS_URL" in without


def examine(environ: dict[str, str]) -> str:
    return subprocess.run(
        captioner_command("doctor"), env=environ, capture_output=True, text=True, check=False, timeout=DEADLINE_S
    ).stdout


def test_a_version_appears_on_both_backends_within_5_s(installation: Installation) -> None:
    for number in range(1, 13):
        installation.annotate(number)

    outcome = installation.outcome(installation.start_training())
    published_at = time.monotonic()
    Workplace.wait_until(lambda: installation.served() == {outcome["version"]})

    assert time.monotonic() - published_at < APPEARS_WITHIN_S
    assert outcome["published"]
    assert installation.held() == installation.submitted()


def test_while_the_store_is_away_captions_and_corrections_go_on(installation: Installation) -> None:
    for number in (1, 2):
        installation.annotate(number)
    installation.s3.kill()

    began = time.monotonic()
    installation.annotate(3)
    installation.annotate(4)
    took_s = time.monotonic() - began

    assert took_s < 2 * ANNOTATOR_WAITS_S
    assert installation.held() == installation.submitted()
    assert len(installation.submitted()) == 4


@pytest.mark.long
def test_no_correction_and_no_training_is_lost_when_any_one_part_is_cut_off(installation: Installation) -> None:
    for number in range(1, 13):
        installation.annotate(number)
    job_id = installation.start_training()
    Workplace.wait_until(lambda: installation.run_of(job_id))
    run = installation.run_of(job_id)
    assert run is not None

    cut_off(installation.worker_of(run))
    installation.annotate(13)
    cut_off(installation.backends.pop(0))
    installation.annotate(14)
    installation.redis_server.kill()
    installation.annotate(15)
    installation.redis_server.start()

    outcome = installation.outcome(job_id)
    Workplace.wait_until(lambda: installation.served() == {outcome["version"]})
    Workplace.wait_until(lambda: installation.held() == installation.submitted())
    assert len(installation.submitted()) == 15
