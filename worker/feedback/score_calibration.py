"""Calibration of scores: the score of a suggestion is the probability that an annotator accepts it unchanged.

A decoder's own score says little about how annotators judge a suggestion: on photos of its own kind the bundle `photos`
gives itself 0.83, and annotators keep 29 % of the words; on aerial photos it gives itself 0.75, and they keep 6 %
(tests/benchmarks/RESULTS.md). So the score is fitted on the ledger, by logistic regression on the own score and on the
length of the caption (Platt 1999). A prior that expects little holds until suggestions are judged. Captions that the
memory chose have a fit of their own. Label Studio can then show the least certain tasks first (uncertainty sampling).
"""

import json
import logging
import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass

import numpy as np
from redis import Redis

from model.metrics.calibration import (
    cross_validated,
    expected_calibration_error,
    fit_weights,
    score_inputs,
    sigmoid,
)
from model.store import Store
from worker.feedback.feedback_store import FeedbackStore
from worker.feedback.record import Feedback

logger = logging.getLogger(__name__)

FEWEST = 30
"""Judged suggestions that a calibration needs. Until then the bundle scores its captions (model/first_score.py), or the
prior, where the bundle has no such score."""
SAMPLE = 2000
"""Records that one fit reads."""
FOLDS = 5
PRIOR = (-2.0, 1.0, 0.0)
"""An own score of 0.83 becomes 0.4."""


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """Weights that turn the log-odds of the decoder's own score, and the length, into the log-odds of the score."""

    intercept: float
    slope: float
    """Weight of the log-odds of the decoder's own score."""
    per_length: float
    """Weight of the logarithm of the number of words."""
    judged: int
    """Number of suggestions that it was fitted on."""
    error: float
    """Expected calibration error (Guo et al. 2017, https://arxiv.org/abs/1706.04599), 0 to 1, on records
    outside the fit."""
    error_before: float
    """The same error of the decoder's own score."""

    def score(self, own_score: float, caption: str) -> float:
        """Return the probability that the caption is accepted unchanged."""
        weights = np.array([self.intercept, self.slope, self.per_length])
        return float(sigmoid(score_inputs(own_score, caption) @ weights))


UNJUDGED = Calibration(
    intercept=PRIOR[0], slope=PRIOR[1], per_length=PRIOR[2], judged=0, error=math.nan, error_before=math.nan
)
"""Makes scores before anybody judged a suggestion."""


def renew_calibrations(redis: Redis, store: Store, project_id: int) -> None:
    """Fit the scores of a project to how often annotators accepted such suggestions so far.

    Raises:
        RedisError: the ledger cannot be read.
        StoreError: the fit cannot be kept.
    """
    records = FeedbackStore(redis).sample(project_id, SAMPLE)
    for of_memory in (False, True):
        calibration = fit_calibration(records, of_memory=of_memory)
        if calibration is not None:
            write_calibration(store, project_id, calibration, of_memory=of_memory)


def fit_calibration(records: Iterable[Feedback], *, of_memory: bool = False) -> Calibration | None:
    """Fit on the suggestions that annotators were shown and judged; None while too few are judged.

    Args:
        records: of one project.
        of_memory: fit on the suggestions that a memory chose, else on the others.
    """
    judged = [
        (record.score, record.suggestion, record.outcome == "accepted")
        for record in records
        if (record.generation is not None) == of_memory
        if record.arm == "shown" and record.outcome != "skipped"
        if record.score is not None and record.suggestion is not None
    ]
    if len(judged) < FEWEST:
        return None
    inputs = np.stack([score_inputs(score, caption) for score, caption, _ in judged])
    accepted = np.array([float(is_accepted) for *_, is_accepted in judged])
    prior = np.array(PRIOR)
    predicted = cross_validated(inputs, accepted, prior, FOLDS)
    intercept, slope, per_length = fit_weights(inputs, accepted, prior).tolist()
    return Calibration(
        intercept=intercept,
        slope=slope,
        per_length=per_length,
        judged=len(judged),
        error=expected_calibration_error(predicted.tolist(), accepted.tolist()),
        error_before=expected_calibration_error([score for score, *_ in judged], accepted.tolist()),
    )


def read_calibration(store: Store, project_id: int, *, of_memory: bool = False) -> Calibration | None:
    """Return a project's calibration, of suggestions that a memory chose or of the others; None while there is none.

    A damaged one is logged and counts as none; the next training fits another.

    Raises:
        StoreError: the store cannot be read.
    """
    path = _path(project_id, of_memory)
    content = store.read(path)
    if content is None:
        return None
    try:
        fields = {name: float(value) for name, value in json.loads(content).items()}
        calibration = Calibration(**fields | {"judged": int(fields["judged"])})  # type: ignore[arg-type]
    except (ValueError, TypeError, AttributeError, LookupError, RecursionError, OverflowError) as problem:
        logger.warning("calibration is damaged path=%s problem=%r", path, problem)
        return None
    return calibration if calibration.judged >= FEWEST else None  # an earlier program was content with fewer


def write_calibration(store: Store, project_id: int, calibration: Calibration, *, of_memory: bool = False) -> None:
    store.write(_path(project_id, of_memory), json.dumps(asdict(calibration)).encode())


def _path(project_id: int, of_memory: bool) -> str:
    return f"projects/{project_id}/calibration{'-of-memory' if of_memory else ''}.json"
