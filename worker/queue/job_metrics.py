"""Counters of all processes together, in Redis: jobs, decisions of the gate, and annotators' submissions.

    captioner:counts   hash   "job:<kind>:<outcome>:<bucket>" -> jobs that took so long, "...:ms" -> their total time
                              "gate:<project>:<decision>" -> retrainings
                              "correction:<project>:<outcome>", "edit:<project>:<kind>" -> records of the ledger

The numbers only grow, and start again at 0 if Redis loses its data, as Prometheus expects of counters. A correction is
counted by the script that stores it.
"""

from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from redis import Redis
from rq.job import Job
from rq.utils import as_text

from worker.feedback.script import COUNTS_KEY

JOB_BUCKETS_S = (0.1, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1800.0)
"""Upper ends of the buckets; longer jobs are in one more bucket."""


@dataclass(frozen=True, kw_only=True)
class JobTimes:
    """Times of the jobs of one kind that ended in one way."""

    buckets: Sequence[int]
    """Jobs in each bucket of JOB_BUCKETS_S and in the last one; not cumulative."""
    seconds: float
    """Total."""


@dataclass(frozen=True, kw_only=True)
class Counts:
    """All counters."""

    jobs: Mapping[tuple[str, str], JobTimes] = field(default_factory=dict)
    """By kind and outcome."""
    decisions: Mapping[tuple[str, str], int] = field(default_factory=dict)
    """Of the gate, by project: published or refused."""
    corrections: Mapping[tuple[str, str], int] = field(default_factory=dict)
    """By project and the ledger's outcome, or `removed`."""
    edits: Mapping[tuple[str, str], int] = field(default_factory=dict)
    """By project and kind; one edit may be of several kinds."""

    def without(self, projects: Iterable[int]) -> "Counts":
        """Return the counters without those of some projects."""
        names = {str(project_id) for project_id in projects}
        of_others = {
            noun: {labels: number for labels, number in getattr(self, noun).items() if labels[0] not in names}
            for noun in ("decisions", "corrections", "edits")
        }
        return replace(self, **of_others)


def kind_of(job: Job) -> str:
    """Return the name of a job's function."""
    return str(job.func_name).rpartition(".")[2]


class JobCounts:
    """Counters that every process increases."""

    def __init__(self, redis: Redis) -> None:
        self.redis = redis

    def job_ended(self, kind: str, outcome: str, seconds: float) -> None:
        """Count a job.

        Args:
            kind: name of its function.
            outcome: RQ's status of the job; `repeated` if it will run again, `lost` if its worker was lost.
            seconds: duration.
        """
        prefix = f"job:{kind}:{outcome}"
        with self.redis.pipeline(transaction=True) as pipeline:
            pipeline.hincrby(COUNTS_KEY, f"{prefix}:{bisect_left(JOB_BUCKETS_S, seconds)}", 1)
            pipeline.hincrby(COUNTS_KEY, f"{prefix}:ms", round(seconds * 1000))
            pipeline.execute()

    def gate_decided(self, published: bool, project_id: int) -> None:
        self.redis.hincrby(COUNTS_KEY, f"gate:{project_id}:{'published' if published else 'refused'}", 1)

    def read(self) -> Counts:
        """Return all counters; costs the same however much was counted."""
        return _counts(self.redis.hgetall(COUNTS_KEY))


def _counts(fields: Mapping[bytes | str, bytes | str]) -> Counts:
    others: dict[str, dict[tuple[str, str], int]] = {"gate": {}, "correction": {}, "edit": {}}
    jobs: defaultdict[tuple[str, str], Counter[str]] = defaultdict(Counter)
    for name, number in fields.items():
        noun, first, second, *bucket = as_text(name).split(":")
        if noun == "job":
            jobs[first, second][bucket[0]] = int(number)
        else:
            others[noun][first, second] = int(number)
    return Counts(
        jobs={kind_and_outcome: _times(numbers) for kind_and_outcome, numbers in jobs.items()},
        decisions=others["gate"],
        corrections=others["correction"],
        edits=others["edit"],
    )


def _times(numbers: Mapping[str, int]) -> JobTimes:
    buckets = tuple(numbers.get(str(bucket), 0) for bucket in range(len(JOB_BUCKETS_S) + 1))
    return JobTimes(buckets=buckets, seconds=numbers.get("ms", 0) / 1000)
