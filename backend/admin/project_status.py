"""Status of projects: serving version, waiting corrections, running training, and a verdict in one line."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from redis import Redis
from rq.job import JobStatus

from backend.admin.job_records import JobRecord, find_jobs
from backend.admin.version_records import plain_decision
from backend.captioning.services import CaptioningServices
from backend.sync.refresh_progress import RefreshProgress, read_refreshes
from model.registry import ModelRegistry, ModelVersion
from worker.feedback.project_data import read_titles
from worker.feedback.totals import Acceptance, read_acceptances
from worker.feedback.waiting import Waiting, read_waitings
from worker.policy import corrections_needed
from worker.queue.control import RetrainingControl
from worker.queue.job_state import RETRAIN_QUEUE, queue
from worker.queue.retraining import Retrainings, retrainings_of

Standing = Literal["learning", "waiting", "current", "paused", "failed", "stuck"]
ENDED_LOOKED_AT = 50


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """State of a project, in a word and in a sentence."""

    standing: Standing
    words: str


@dataclass(frozen=True, kw_only=True)
class ProjectStatus:
    """Model and corrections of one project."""

    project_id: int
    title: str | None
    """In Label Studio; None before the first event or pull that tells it."""
    serving: str | None
    """Serving version; None if its record is damaged."""
    waiting: int
    """Corrections that no training has used."""
    oldest_waiting_s: float | None
    last_version: str | None
    last_published: bool | None
    last_decision: str | None
    """Reason why the last version was published or refused, in plain words."""
    accepted_rate: float | None
    """Share of the serving version's judged suggestions that were accepted, 0 to 1."""
    judged: int
    accepted_rate_before: float | None
    """The same share for the parent version."""
    training: JobRecord | None
    """The running training."""
    refresh: RefreshProgress | None
    """The last replacement of the suggestions that Label Studio stores; None if there was none lately."""
    verdict: Verdict

    @property
    def name(self) -> str:
        """Title and number for people."""
        return _name(self.project_id, self.title)


@dataclass(frozen=True, kw_only=True)
class _Versions:
    """Versions of one project in the store."""

    serving: str | None
    newest: ModelVersion | None
    bundle: str
    """Version of the bundle that serves."""
    damage: str | None
    """Reason why a record cannot be read."""

    @property
    def compared(self) -> list[str]:
        """Versions whose acceptance is shown: the serving version, and its parent if it is the newest."""
        if self.serving is None:
            return []
        parent = [self.newest.parent] if self.newest is not None and self.newest.name == self.serving else []
        return [self.serving, *parent]


@dataclass(frozen=True, kw_only=True)
class _Trainings:
    """Trainings of one project."""

    running: JobRecord | None
    queued: JobRecord | None
    failed: JobRecord | None
    """The last training, if it failed and no version was made since."""
    state: str
    """`on`, `paused` or `draining`."""


def project_statuses(
    services: CaptioningServices, workers: Mapping[str, bool], project_ids: Sequence[int]
) -> tuple[ProjectStatus, ...]:
    """Return the status of these projects.

    Args:
        workers: for each worker's name, True if it is alive.
    """
    versions = {project_id: _read_versions(services.captioners.registry, project_id) for project_id in project_ids}
    acceptances = read_acceptances(
        services.redis, {project_id: project_versions.compared for project_id, project_versions in versions.items()}
    )
    waiting = read_waitings(services.redis, project_ids)
    trainings = _read_trainings(services, versions)
    titles, refreshes = read_titles(services.redis, project_ids), read_refreshes(services.redis, project_ids)
    return tuple(
        _status(
            project_id,
            titles.get(project_id),
            refreshes.get(project_id),
            versions[project_id],
            list(acceptances[project_id].values()),
            waiting[project_id],
            trainings[project_id],
            _blocked(trainings[project_id], workers),
            services.settings.retrain_after,
        )
        for project_id in project_ids
    )


def project_name(redis: Redis, project_id: int) -> str:
    """Return the title and the number of a project, for people."""
    return _name(project_id, read_titles(redis, [project_id]).get(project_id))


def _name(project_id: int, title: str | None) -> str:
    return f"{title} (project {project_id})" if title else f"Project {project_id}"


def _status(
    project_id: int,
    title: str | None,
    refresh: RefreshProgress | None,
    versions: _Versions,
    acceptances: Sequence[Acceptance],
    waiting: Waiting,
    trainings: _Trainings,
    blocked: Verdict | None,
    retrain_after: int,
) -> ProjectStatus:
    newest = versions.newest
    now, before, *_ = (*acceptances, None, None)
    verdict = (
        _damaged(versions)
        or blocked
        or _at_work(trainings)
        or _of_another_bundle(versions)
        or _idle(waiting, trainings.failed, retrain_after)
    )
    return ProjectStatus(
        project_id=project_id,
        title=title,
        serving=versions.serving,
        waiting=waiting.count,
        oldest_waiting_s=waiting.oldest_s,
        last_version=newest.name if newest else None,
        last_published=newest.published if newest else None,
        last_decision=plain_decision(newest) if newest else None,
        accepted_rate=_rate(now),
        judged=now.judged if now else 0,
        accepted_rate_before=_rate(before),
        training=trainings.running,
        refresh=refresh,
        verdict=verdict,
    )


def _read_versions(registry: ModelRegistry, project_id: int) -> _Versions:
    """Read the versions of a project; a damaged record hides neither the rest nor other projects."""
    damages = registry.damages(project_id, records=1)
    return _Versions(
        serving=registry.serving(project_id),
        newest=registry.newest(project_id),
        bundle=registry.base_version,
        damage=damages[0] if damages else None,
    )


def _read_trainings(services: CaptioningServices, versions: Mapping[int, _Versions]) -> dict[int, _Trainings]:
    """Read the trainings of several projects with few questions to Redis."""
    redis = services.redis
    retrainings = retrainings_of(redis, list(versions))
    job_ids = [job_id for named in retrainings.values() for job_id in (named.running, named.waiting) if job_id]
    jobs, ended = find_jobs(redis, job_ids), _last_ended(redis)
    control = RetrainingControl(redis, services.settings)
    return {
        project_id: _Trainings(
            running=_running(retrainings[project_id], jobs),
            queued=jobs.get(retrainings[project_id].waiting or ""),
            failed=_failed(ended.get(project_id), project_versions.newest),
            state=control.state(project_id),
        )
        for project_id, project_versions in versions.items()
    }


def _running(retrainings: Retrainings, jobs: Mapping[str, JobRecord]) -> JobRecord | None:
    job = jobs.get(retrainings.running or "")
    return job if job is not None and job.can_stop else None


def _failed(ended: JobRecord | None, newest: ModelVersion | None) -> JobRecord | None:
    if ended is None or ended.status != JobStatus.FAILED:
        return None
    # A newer version proves that a later training ended well, though its job is no longer kept.
    return None if newest is not None and newest.created_at > (ended.at or "") else ended


def _last_ended(redis: Redis) -> dict[int | None, JobRecord]:
    """Return the last finished or failed training of each project, among the ENDED_LOOKED_AT newest of both kinds."""
    jobs = queue(redis, RETRAIN_QUEUE)
    job_ids = [
        job_id
        for registry in (jobs.failed_job_registry, jobs.finished_job_registry)
        for job_id in registry.get_job_ids(-ENDED_LOOKED_AT, -1, cleanup=False)
        if job_id.startswith("retrain-")
    ]
    by_end = sorted(find_jobs(redis, job_ids).values(), key=lambda job: job.at or "")
    return {job.project_id: job for job in by_end}


def _damaged(versions: _Versions) -> Verdict | None:
    return None if versions.damage is None else Verdict(standing="stuck", words=f"stuck: {versions.damage}")


def _blocked(trainings: _Trainings, workers: Mapping[str, bool]) -> Verdict | None:
    running = trainings.running
    if running is not None and running.worker is not None and not workers.get(running.worker):
        words = f"stuck: worker {running.worker} was lost; its job will be started again"
        return Verdict(standing="stuck", words=words)
    if trainings.queued is not None and not any(workers.values()):
        return Verdict(standing="stuck", words="stuck: no worker is running; start one with `captioner worker`")
    return None


def _at_work(trainings: _Trainings) -> Verdict | None:
    running = trainings.running
    if running is not None:
        left = "" if running.eta_s is None else f", about {running.eta_s:.0f} s left"
        return Verdict(standing="learning", words=f"learning: {running.phase or 'starting'}{left}")
    if trainings.state == "paused":
        return Verdict(standing="paused", words="paused: no training starts")
    if trainings.state == "draining":
        return Verdict(standing="paused", words="draining: one last training, then the project is paused")
    if trainings.queued is not None:
        return Verdict(standing="waiting", words="a training is waiting in the queue")
    return None


def _of_another_bundle(versions: _Versions) -> Verdict | None:
    if versions.newest is None or versions.newest.bundle == versions.bundle:
        return None
    words = "the bundle is another one than at the last training: choose “Train now”, or run captioner retrain"
    return Verdict(standing="waiting", words=words)


def _idle(waiting: Waiting, failed: JobRecord | None, retrain_after: int) -> Verdict:
    if failed is not None and waiting.count:  # without waiting corrections, a later training has learned them
        return Verdict(standing="failed", words=f"the last training failed: {failed.problem or 'its log says why'}")
    missing = corrections_needed(retrain_after, waiting.trained_on, waiting.is_taught_by_memory) - waiting.unclaimed
    if waiting.unclaimed and missing > 0:
        words = f"waiting for {missing} more correction{'s' if missing > 1 else ''}"
        meanwhile = "; the memory uses the corrections already" if waiting.is_taught_by_memory else ""
        return Verdict(standing="waiting", words=words + meanwhile)
    if waiting.count:
        return Verdict(standing="waiting", words=f"{waiting.count} corrections wait for the next training")
    if not waiting.corrections:
        words = "no captions yet: learning begins when annotators submit captions in Label Studio"
        return Verdict(standing="waiting", words=words)
    return Verdict(standing="current", words="up to date: every correction is learned")


def _rate(acceptance: Acceptance | None) -> float | None:
    return acceptance.accepted / acceptance.judged if acceptance and acceptance.judged else None
