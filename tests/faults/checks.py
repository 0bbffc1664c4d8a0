"""What must hold when a fault is over: everything is reconciled, nothing is half done, and the product works."""

import random
import time
from collections.abc import Callable, Mapping

import requests
from redis import Redis
from rq.job import Job, JobStatus
from rq.serializers import JSONSerializer

from tests.faults.installation import Installation
from tests.faults.studios import Studio
from tests.feedback_world import totals_from, totals_of
from worker.feedback.feedback_store import FeedbackStore
from worker.queue.job_state import QUEUES, queue, text_or_none
from worker.queue.periodic_pull import NEXT_PULL_KEY, schedule_pull

SETTLES_S = 90
"""The loss of a worker is noticed after 15 s, and a retraining of these projects takes 5 s."""


class ViolationError(Exception):
    """What must not happen."""


def require(expected: str, is_true: Callable[[], bool], timeout_s: float = SETTLES_S) -> None:
    """Wait until something holds that no event announces.

    Raises:
        ViolationError: it does not, after `timeout_s`.
    """
    give_up_at = time.monotonic() + timeout_s
    while not is_true():
        if time.monotonic() > give_up_at:
            raise ViolationError(f"after {timeout_s:.0f} s it does not hold that {expected}")
        time.sleep(0.05)


def check(installation: Installation, studio: Studio, draw: random.Random, *, trains: bool) -> None:
    """Check everything; the faults are over and the annotators rest.

    Raises:
        ViolationError: something is wrong.
    """
    _check_processes(installation)
    _check_acknowledged(installation, studio)
    _pull(installation, studio)
    require("no job waits or runs", lambda: _is_quiet(installation.redis))
    _check_captions(installation, studio)
    _check_versions(installation, studio.project_id)
    _check_predictions(installation, studio, draw)
    if trains:
        _check_training(installation, studio.project_id)
    _check_processes(installation)


def _check_processes(installation: Installation) -> None:
    for service in (installation.backend, installation.worker):
        if not service.is_running:
            raise ViolationError(f"{service.name} has ended:\n{service.last_lines(30)}")
    require("the backend is ready", lambda: _answers(installation.backend.url + "/ready"))


def _answers(url: str) -> bool:
    try:
        return requests.get(url, timeout=10).ok
    except requests.RequestException:
        return False


def stored(installation: Installation, project_id: int) -> dict[str, str]:
    """Return the stored captions by name."""
    corrections = FeedbackStore(installation.redis).corrections(project_id)
    return {correction.name: correction.caption for correction in corrections}


def _check_acknowledged(installation: Installation, studio: Studio) -> None:
    """Check that nothing is lost whose event was answered well."""
    acknowledged, here = studio.acknowledged(), stored(installation, studio.project_id)
    lost = {name: (caption, here.get(name)) for name, caption in acknowledged.items() if here.get(name) != caption}
    if lost:
        raise ViolationError(f"{len(lost)} captions were answered well and are lost (written, stored): {_some(lost)}")


def _pull(installation: Installation, studio: Studio) -> None:
    """Let the next regular pull begin now, and wait until its captions are here."""

    def agree() -> bool:
        schedule_pull(installation.redis, installation.worker_settings, delay_s=installation.clock.ahead_s)
        job_id = text_or_none(installation.redis.get(NEXT_PULL_KEY)) or ""
        require(f"pull {job_id} ends", lambda: _has_ended(installation.redis, job_id))
        return stored(installation, studio.project_id) == studio.held()

    require("a pull brings what Label Studio holds", agree)


def _has_ended(redis: Redis, job_id: str) -> bool:
    ended = {JobStatus.FINISHED, JobStatus.FAILED, JobStatus.STOPPED, JobStatus.CANCELED}
    if not Job.exists(job_id, connection=redis):
        return True
    return Job.fetch(job_id, connection=redis, serializer=JSONSerializer).get_status() in ended


def _is_quiet(redis: Redis) -> bool:
    """Say whether no job waits or runs; a pull that is scheduled for later may be there."""
    queues = [queue(redis, name) for name in QUEUES]
    return not any(
        home.count or home.started_job_registry.get_job_ids(cleanup=False) or home.deferred_job_registry.count
        for home in queues
    )


def _check_captions(installation: Installation, studio: Studio) -> None:
    here, there = stored(installation, studio.project_id), dict(studio.held())
    if here != there:
        differ = {
            name: (there.get(name), here.get(name)) for name in {*here, *there} if here.get(name) != there.get(name)
        }
        raise ViolationError(f"{len(differ)} captions differ (Label Studio's, ours): {_some(differ)}")
    counted, expected = (count(installation.redis, studio.project_id) for count in (totals_of, totals_from))
    if counted != expected:
        raise ViolationError("the ledger's totals do not fit its records")


def _check_versions(installation: Installation, project_id: int) -> None:
    registry = installation.registry
    for version in registry.versions(project_id):
        folder = installation.store / "projects" / str(project_id) / "versions" / version.name
        is_damaged = any(folder in file.parents for file in installation.damaged)
        if (
            version.published
            and not version.pruned
            and not is_damaged
            and not registry.is_whole(project_id, version.name)
        ):
            raise ViolationError(f"version {version.name} is not whole, and no fault has damaged it")
    serving = registry.serving(project_id)

    def serves() -> bool:
        reply = requests.get(f"{installation.backend.url}/versions", params={"project": project_id}, timeout=10)
        return bool(reply.json()["model_version"] == serving)

    require(f"the backend serves {serving}", serves, 30)


def _check_predictions(installation: Installation, studio: Studio, draw: random.Random) -> None:
    reply = installation.post("/predict", studio.prediction_body(draw))
    if reply.status_code != 200:
        raise ViolationError(f"/predict answers {reply.status_code}: {reply.text[:300]}")
    silent = [entry for entry in reply.json()["results"] if not entry.get("result")]
    if silent:
        raise ViolationError(f"/predict gives no caption: {silent[:1]}")


def _check_training(installation: Installation, project_id: int) -> None:
    """Let a person start a training, and wait for its end."""
    reply = installation.post("/train", {"project": project_id})
    if reply.status_code != 201:
        raise ViolationError(f"/train answers {reply.status_code}: {reply.text[:300]}")
    job_id = reply.json()["job"]
    require(f"training {job_id} ends", lambda: _has_ended(installation.redis, job_id))
    job = Job.fetch(job_id, connection=installation.redis, serializer=JSONSerializer)
    if job.get_status() != JobStatus.FINISHED:
        result = job.latest_result()
        raise ViolationError(f"training {job_id} ends {job.get_status()}: {result.exc_string if result else ''}")


class Bystander:
    """A project that no fault is about: its captions and its version must stay as they are."""

    def __init__(self, installation: Installation, studio: Studio) -> None:
        self._installation, self._project_id = installation, studio.project_id
        self._before = self._state()

    def check(self) -> None:
        """Compare.

        Raises:
            ViolationError: something has changed.
        """
        if (state := self._state()) != self._before:
            raise ViolationError(f"the other project has changed: {self._before} became {state}")

    def _state(self) -> tuple[str, dict[str, str]]:
        serving = self._installation.registry.serving(self._project_id)
        return serving, stored(self._installation, self._project_id)


def _some(differences: Mapping[str, tuple[str | None, str | None]]) -> str:
    return str(dict(sorted(differences.items())[:3]))
