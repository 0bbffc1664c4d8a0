"""A real Label Studio, and the product beside it as its users run it: Redis, backend and worker processes."""

import os
import secrets
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import pytest
from redis import Redis
from rq.job import Job
from rq.serializers import JSONSerializer

from backend.demo.child_processes import (
    LOOPBACK,
    LabelStudioAccount,
    Service,
    Services,
    free_port,
    label_studio_executable,
    our_environment,
    start_backend,
    start_backend_and_worker,
    start_label_studio,
    start_redis,
    wait_until,
)
from backend.demo.user import LabelStudioUser
from backend.label_studio.client import LabelStudioClient, Task
from model.errors import ServiceError
from model.manifest import bundle_version
from model.registry import ModelRegistry
from model.store import Store
from tests.e2e.drawn_pictures import draw_pictures
from tests.missing import missing
from worker.feedback.feedback_store import FeedbackStore
from worker.feedback.record import Correction
from worker.queue.job_state import queue

FEW_S = 60
"""When a test gives up waiting for what takes a second or two; a busy machine gets its chance."""


@dataclass(frozen=True, kw_only=True)
class LabelStudio:
    """The server and its first account."""

    url: str
    account: LabelStudioAccount


@dataclass(kw_only=True)
class Product:
    """One backend, one worker, one Redis, and how a test looks into them."""

    services: Services
    settings: dict[str, str]
    backend: Service
    worker: Service

    @property
    def url(self) -> str:
        return self.backend.url

    @property
    def client(self) -> LabelStudioClient:
        return LabelStudioClient(self.settings["LABEL_STUDIO_URL"], self.settings["LABEL_STUDIO_API_KEY"])

    @property
    def registry(self) -> ModelRegistry:
        return ModelRegistry(Store(self.settings["MODEL_STORE"]), self.bundle_version)

    @property
    def bundle_version(self) -> str:
        return bundle_version(self.settings["CAPTION_BUNDLE"])

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run `captioner` with the product's settings, as an operator does."""
        command = [sys.executable, "-m", "backend.cli", *arguments]
        environment = our_environment(self.settings)
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)

    def inbox(self, project_id: int) -> dict[int, Correction]:
        """Return the stored corrections by annotation."""
        with Redis.from_url(self.settings["REDIS_URL"]) as redis:
            return {correction.annotation_id: correction for correction in FeedbackStore(redis).corrections(project_id)}

    def annotated_tasks(self, project_id: int) -> list[Task]:
        """Return the tasks that have annotations, as Label Studio stores them."""
        return list(self.client.tasks(project_id, self.client.annotated_task_times(project_id)))

    def finished_jobs(self, queue_name: str) -> list[Job]:
        with Redis.from_url(self.settings["REDIS_URL"]) as redis:
            home = queue(redis, queue_name)
            jobs = Job.fetch_many(home.finished_job_registry.get_job_ids(), redis, serializer=JSONSerializer)
            return [job for job in jobs if job is not None]

    def wait(self, expected: str, is_true: Callable[[], bool], timeout_s: float = FEW_S) -> None:
        wait_until(self.worker, is_true, timeout_s, expected)

    def stop_backend(self) -> None:
        self.services.stop(self.backend)

    def kill_backend(self) -> None:
        """End it and its server process in the middle of whatever they do, as a power cut would."""
        os.killpg(self.backend.process.pid, signal.SIGKILL)
        self.services.stop(self.backend)

    def start_backend(self) -> None:
        """Start it again at the same address."""
        self.backend = start_backend(self.services, self.settings)


@pytest.fixture(scope="session")
def services(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Services]:
    with Services(tmp_path_factory.mktemp("logs")) as services:
        yield services


@pytest.fixture(scope="session")
def label_studio(services: Services, tmp_path_factory: pytest.TempPathFactory) -> LabelStudio:
    """One server for all tests, each of which makes projects of its own."""
    try:
        label_studio_executable()
    except ServiceError as reason:
        missing(str(reason))
    account = LabelStudioAccount(
        username="annotator@example.com", password=secrets.token_urlsafe(9), token=secrets.token_hex(20)
    )
    server = start_label_studio(services, tmp_path_factory.mktemp("label-studio"), account)
    return LabelStudio(url=server.url, account=account)


@pytest.fixture(scope="session")
def user(label_studio: LabelStudio) -> LabelStudioUser:
    return LabelStudioUser(label_studio.url, label_studio.account)


@pytest.fixture(scope="session")
def start_product(
    services: Services, label_studio: LabelStudio, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str, Mapping[str, str]], Product]:
    """Start Redis, backend and worker; neither a retraining nor a pull starts by the clock."""

    def start(name: str, changes: Mapping[str, str]) -> Product:
        directory = tmp_path_factory.mktemp(name)
        settings = {
            "HOST": LOOPBACK,
            "PORT": str(free_port()),
            "REDIS_URL": start_redis(services, directory / "redis").url,
            "MODEL_STORE": str(directory / "store"),
            "CAPTION_BUNDLE": os.environ.get("CAPTION_BUNDLE", "scenes"),
            "LABEL_STUDIO_URL": label_studio.url,
            "LABEL_STUDIO_API_KEY": label_studio.account.token,
            "RETRAIN_AFTER": "1000",
            "RETRAIN_IDLE_S": "0",
            "RECONCILE_EVERY_S": "0",
            **changes,
        }
        backend, worker = start_backend_and_worker(services, settings)
        return Product(services=services, settings=settings, backend=backend, worker=worker)

    return start


@pytest.fixture(scope="session")
def product(start_product: Callable[[str, Mapping[str, str]], Product]) -> Product:
    """The product as `make run` starts it: open, with a legacy token."""
    return start_product("open", {})


@dataclass(frozen=True, kw_only=True)
class Connected:
    """A project with pictures and the backend connected."""

    project_id: int
    backend_id: int


@pytest.fixture(scope="session")
def connect(
    user: LabelStudioUser, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[Product, str, Sequence[int]], Connected]:
    """Make a project, upload the pictures of scenes in this order, and connect the backend in Settings > Model."""

    def connect(product: Product, title: str, seeds: Sequence[int]) -> Connected:
        project_id = user.create_project(title)
        user.upload(project_id, draw_pictures(tmp_path_factory.mktemp("pictures"), seeds))
        login = product.settings.get("BASIC_AUTH_USER"), product.settings.get("BASIC_AUTH_PASS")
        backend_id = user.connect_backend(project_id, product.url, *login)
        return Connected(project_id=project_id, backend_id=backend_id)

    return connect
