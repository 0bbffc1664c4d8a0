"""Projects at a glance: what serves, what waits, what runs, and in one line how it stands."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from redis import Redis
from rq.job import JobStatus

from backend.admin.job_records import JobRecord, find_jobs
from backend.captioning.services import CaptioningServices
from model.errors import ModelVersionError
from model.registry import ModelRegistry, ModelVersion
from worker.feedback.corrections import Waiting
from worker.feedback.totals import Acceptance, read_acceptances
from worker.queue.control import RetrainingControl
from worker.queue.job_state import RETRAIN_QUEUE, queue
from worker.queue.retraining import Retrainings, retrainings_of

Standing = Literal["learning", "waiting", "current", "paused", "failed", "stuck"]
ENDED_LOOKED_AT = 50


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """How a project stands, in a word and in a sentence."""

    standing: Standing
    words: str


@dataclass(frozen=True, kw_only=True)
class ProjectStatus:
    """One project's model and inbox."""

    project_id: int
    serving: str | None
    """None where nobody knows, because its record is damaged."""
    waiting: int
    """Corrections no training has seen."""
    oldest_waiting_s: float | None
    last_version: str | None
    last_published: bool | None
    last_decision: str | None
    """Why the last retraining was published or refused."""
    accepted_rate: float | None
    """Of the serving version's suggestions that were judged, 0 to 1."""
    judged: int
    accepted_rate_before: float | None
    """Of the version it was trained from."""
    training: JobRecord | None
    """The retraining that runs."""
    verdict: Verdict


def project_statuses(
    services: CaptioningServices, workers: Mapping[str, bool], project_ids: Sequence[int]
) -> tuple[ProjectStatus, ...]:
    """Describe these projects.

    Args:
        workers: by name, whether each worker is alive.
    """
    registry, redis = services.captioners.registry, services.redis
    kept = {project_id: _look_up(registry, project_id) for project_id in project_ids}
    compared = {project_id: found.compared for project_id, found in kept.items()}
    acceptances = read_acceptances(redis, compared)
    waiting = services.inbox.waiting_of(project_ids)
    retrainings = retrainings_of(redis, project_ids)
    jobs = find_jobs(redis, [name for found in retrainings.values() for name in (found.running, found.waiting) if name])
    ended = _last_ended(redis)
    control = RetrainingControl(redis, services.settings)
    return tuple(
        _facts(
            services,
            project_id,
            kept[project_id],
            list(acceptances[project_id].values()),
            waiting[project_id],
            _present(retrainings[project_id], jobs),
            ended.get(project_id),
            control.state(project_id),
            workers,
        )
        for project_id in project_ids
    )


def _facts(
    services: CaptioningServices,
    project_id: int,
    kept: "_Kept",
    acceptances: Sequence[Acceptance],
    waiting: Waiting,
    jobs: tuple[JobRecord | None, JobRecord | None],
    ended: JobRecord | None,
    state: str,
    workers: Mapping[str, bool],
) -> ProjectStatus:
    running, queued = jobs
    newest = kept.newest
    now, before, *_ = (*acceptances, None, None)
    failed = ended if ended is not None and ended.status == JobStatus.FAILED else None
    if failed is not None and newest is not None and newest.created_at > (failed.at or ""):
        failed = None  # the one that ended well since is no longer kept, its version is
    verdict = (
        _damaged(kept)
        or _blocked(running, queued, workers)
        or _at_work(running, queued, state)
        or _idle(waiting, failed, services.settings.retrain_after)
    )
    return ProjectStatus(
        project_id=project_id,
        serving=kept.serving,
        waiting=waiting.count,
        oldest_waiting_s=waiting.oldest_s,
        last_version=newest.name if newest else None,
        last_published=newest.published if newest else None,
        last_decision=newest.decision if newest else None,
        accepted_rate=_rate(now),
        judged=now.judged if now else 0,
        accepted_rate_before=_rate(before),
        training=running,
        verdict=verdict,
    )


@dataclass(frozen=True, kw_only=True)
class _Kept:
    """What the store says of one project."""

    serving: str | None
    newest: ModelVersion | None
    damage: str | None
    """What cannot be read, in words."""

    @property
    def compared(self) -> list[str]:
        """The versions whose acceptance is told: the one that serves, and its parent if it is the newest."""
        if self.serving is None:
            return []
        parent = [self.newest.parent] if self.newest is not None and self.newest.name == self.serving else []
        return [self.serving, *parent]


def _look_up(registry: ModelRegistry, project_id: int) -> _Kept:
    """Read what there is of a project; a damaged record hides neither the rest nor other projects."""
    serving = newest = damage = None
    try:
        newest = registry.newest(project_id)
    except ModelVersionError as problem:
        damage = str(problem)
    try:
        serving = registry.serving(project_id)
    except ModelVersionError as problem:
        damage = str(problem)
    return _Kept(serving=serving, newest=newest, damage=damage)


def _damaged(kept: _Kept) -> Verdict | None:
    return None if kept.damage is None else Verdict(standing="stuck", words=f"stuck: {kept.damage}")


def _blocked(running: JobRecord | None, queued: JobRecord | None, workers: Mapping[str, bool]) -> Verdict | None:
    if running is not None and running.worker is not None and not workers.get(running.worker):
        return Verdict(standing="stuck", words=f"stuck: worker {running.worker} was lost; its job is taken up again")
    if queued is not None and not any(workers.values()):
        return Verdict(standing="stuck", words="stuck: no worker runs; start one with `captioner worker`")
    return None


def _at_work(running: JobRecord | None, queued: JobRecord | None, state: str) -> Verdict | None:
    if running is not None:
        left = "" if running.eta_s is None else f", about {running.eta_s:.0f} s left"
        return Verdict(standing="learning", words=f"learning: {running.phase or 'starting'}{left}")
    if state != "on":
        words = "paused: no training starts" if state == "paused" else "draining: what waits is trained, then it pauses"
        return Verdict(standing="paused", words=words)
    if queued is not None:
        return Verdict(standing="waiting", words="a training waits for its turn")
    return None


def _idle(waiting: Waiting, failed: JobRecord | None, retrain_after: int) -> Verdict:
    if failed is not None and waiting.count:  # else what it was to learn was learned since
        return Verdict(standing="failed", words=f"the last training failed: {failed.problem or 'its log says why'}")
    missing = retrain_after - waiting.untaken
    if waiting.untaken and missing > 0:
        return Verdict(standing="waiting", words=f"waiting for {missing} more correction{'s' if missing > 1 else ''}")
    if waiting.count:
        return Verdict(standing="waiting", words=f"{waiting.count} corrections wait for the next training")
    return Verdict(standing="current", words="up to date: every correction is learned")


def _present(named: Retrainings, jobs: Mapping[str, JobRecord]) -> tuple[JobRecord | None, JobRecord | None]:
    """Return the running and the waiting job, if Redis has not lost them."""
    running = jobs.get(named.running or "")
    if running is not None and not running.can_stop:
        running = None
    return running, jobs.get(named.waiting or "")


def _last_ended(redis: Redis) -> dict[int | None, JobRecord]:
    """Return the retraining of each project that ended last, be it well, among the ENDED_LOOKED_AT newest of both."""
    jobs = queue(redis, RETRAIN_QUEUE)
    job_ids = [
        job_id
        for registry in (jobs.failed_job_registry, jobs.finished_job_registry)
        for job_id in registry.get_job_ids(-ENDED_LOOKED_AT, -1, cleanup=False)
        if job_id.startswith("retrain-")
    ]
    by_end = sorted(find_jobs(redis, job_ids).values(), key=lambda job: job.at or "")
    return {job.project_id: job for job in by_end}


def _rate(found: Acceptance | None) -> float | None:
    return found.accepted / found.judged if found and found.judged else None
