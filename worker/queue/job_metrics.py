"""What all processes count together, in Redis: jobs, the gate's decisions, and what annotators submitted.

    captioner:counts   hash   "job:<kind>:<outcome>:<bucket>" -> jobs that took so long, "...:ms" -> what all took
                              "gate:<project>:<decision>" -> retrainings
                              "correction:<project>:<outcome>", "edit:<project>:<kind>" -> records of the ledger

The numbers only grow, and begin anew where Redis lost its data; Prometheus knows such counters. Corrections are counted
by the ledger's own scripts, each in the same step as it is stored.
"""

from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from redis import Redis
from rq.job import Job

from worker.feedback.ledger_scripts import COUNTS_KEY

JOB_BUCKETS_S = (0.1, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1800.0)
"""Upper ends; what takes longer is in one more bucket."""


@dataclass(frozen=True, kw_only=True)
class JobTimes:
    """How long the jobs of one kind took that ended in one way."""

    buckets: Sequence[int]
    """Jobs in each bucket of JOB_BUCKETS_S, and in the one behind; not summed up."""
    seconds: float
    """All together."""


@dataclass(frozen=True, kw_only=True)
class Counts:
    """All that was counted."""

    jobs: Mapping[tuple[str, str], JobTimes] = field(default_factory=dict)
    """By kind and outcome."""
    decisions: Mapping[tuple[str, str], int] = field(default_factory=dict)
    """Of the gate, by project: published or refused."""
    corrections: Mapping[tuple[str, str], int] = field(default_factory=dict)
    """By project and the ledger's outcome, or `removed`."""
    edits: Mapping[tuple[str, str], int] = field(default_factory=dict)
    """By project and kind; one edit may be of several."""


def kind_of(job: Job) -> str:
    """Return the name of a job's function."""
    return str(job.func_name).rpartition(".")[2]


class JobCounts:
    """The counts that every process adds to."""

    def __init__(self, redis: Redis) -> None:
        self.redis = redis

    def job_ended(self, kind: str, outcome: str, seconds: float) -> None:
        """Count a job.

        Args:
            kind: name of its function.
            outcome: RQ's status of it; where it will run once more `repeated`, or `lost` with its worker.
            seconds: what it took.
        """
        place = f"job:{kind}:{outcome}"
        with self.redis.pipeline(transaction=True) as pipeline:
            pipeline.hincrby(COUNTS_KEY, f"{place}:{bisect_left(JOB_BUCKETS_S, seconds)}", 1)
            pipeline.hincrby(COUNTS_KEY, f"{place}:ms", round(seconds * 1000))
            pipeline.execute()

    def gate_decided(self, published: bool, project_id: int) -> None:
        self.redis.hincrby(COUNTS_KEY, f"gate:{project_id}:{'published' if published else 'refused'}", 1)

    def read(self) -> Counts:
        """Return all of it; one question, however much was counted."""
        return _counts(self.redis.hgetall(COUNTS_KEY))


def _counts(fields: Mapping[bytes | str, bytes | str]) -> Counts:
    found: dict[str, dict[tuple[str, str], int]] = {"gate": {}, "correction": {}, "edit": {}}
    jobs: defaultdict[tuple[str, str], Counter[str]] = defaultdict(Counter)
    for name, number in fields.items():
        noun, first, second, *bucket = (name.decode() if isinstance(name, bytes) else name).split(":")
        if noun == "job":
            jobs[first, second][bucket[0]] = int(number)
        else:
            found[noun][first, second] = int(number)
    return Counts(
        jobs={place: _times(numbers) for place, numbers in jobs.items()},
        decisions=found["gate"],
        corrections=found["correction"],
        edits=found["edit"],
    )


def _times(numbers: Mapping[str, int]) -> JobTimes:
    buckets = tuple(numbers.get(str(bucket), 0) for bucket in range(len(JOB_BUCKETS_S) + 1))
    return JobTimes(buckets=buckets, seconds=numbers.get("ms", 0) / 1000)
