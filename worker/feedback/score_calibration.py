"""What the score of a suggestion means: the probability that an annotator accepts it unchanged.

How sure the decoder is of its words says little of how annotators judge them, so the ledger decides: logistic
regression on the decoder's own score and the length of the caption (Platt 1999), drawn towards the score as it is while
little is known. Whoever sorts tasks by score, as Label Studio's uncertainty sampling does, then sees first what is
likely wrong.
"""

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from model.metrics.words import metric_words
from model.store import Store
from worker.feedback.record import Feedback

FEWEST = 30
"""Judged suggestions, before scores are no longer the decoder's own."""
ASKED = 2000
"""Records that one fit looks at."""
BINS = 10
FOLDS = 5
PRIOR = (0.0, 1.0, 0.0)
STEPS = 50


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """How a score comes from what the decoder says: log-odds by log-odds and length."""

    intercept: float
    slope: float
    """By the log-odds of the decoder's own score."""
    per_length: float
    """By the logarithm of the number of words."""
    judged: int
    """Suggestions that it was fitted on."""
    error: float
    """Expected calibration error (Guo et al. 2017, https://arxiv.org/abs/1706.04599), 0 to 1, on records that the fit
    had not seen."""
    error_before: float
    """Of the decoder's own score."""

    def score(self, own_score: float, caption: str) -> float:
        """Return the probability that the caption is accepted unchanged."""
        weights = torch.tensor([self.intercept, self.slope, self.per_length])
        return float((_signs(own_score, caption) @ weights).sigmoid())


def fit_calibration(records: Iterable[Feedback]) -> Calibration | None:
    """Fit on what annotators made of suggestions that they were shown; None while too few are judged."""
    judged = [
        (one.score, one.suggestion, one.outcome == "accepted")
        for one in records
        if one.arm == "shown" and one.outcome != "skipped" and one.score is not None and one.suggestion is not None
    ]
    if len(judged) < FEWEST:
        return None
    signs = torch.stack([_signs(score, caption) for score, caption, _ in judged])
    accepted = torch.tensor([float(found) for *_, found in judged])
    folds = torch.arange(len(judged)) % FOLDS
    unseen = torch.zeros(len(judged))
    for fold in range(FOLDS):
        weights = _fit(signs[folds != fold], accepted[folds != fold])
        unseen[folds == fold] = (signs[folds == fold] @ weights).sigmoid()
    intercept, slope, per_length = _fit(signs, accepted).tolist()
    return Calibration(
        intercept=intercept,
        slope=slope,
        per_length=per_length,
        judged=len(judged),
        error=expected_calibration_error(unseen.tolist(), accepted.tolist()),
        error_before=expected_calibration_error([score for score, *_ in judged], accepted.tolist()),
    )


def expected_calibration_error(probabilities: Sequence[float], outcomes: Sequence[float]) -> float:
    """Return the mean distance of probability and frequency over ten equally large groups in order of probability."""
    order = sorted(range(len(probabilities)), key=lambda place: probabilities[place])
    total = 0.0
    for number in range(BINS):
        group = order[number * len(order) // BINS : (number + 1) * len(order) // BINS]
        total += abs(sum(probabilities[place] - outcomes[place] for place in group))
    return total / len(order)


def read_calibration(store: Store, project_id: int) -> Calibration | None:
    """Return a project's calibration; None while there is none.

    Raises:
        StoreError: the store cannot be read.
    """
    content = store.read(_path(project_id))
    return Calibration(**json.loads(content)) if content else None


def write_calibration(store: Store, project_id: int, calibration: Calibration) -> None:
    store.write(_path(project_id), json.dumps(asdict(calibration)).encode())


def _signs(own_score: float, caption: str) -> Tensor:
    """Return what the log-odds are a sum of, [3]."""
    bounded = min(max(own_score, 1e-4), 1 - 1e-4)
    return torch.tensor([1.0, math.log(bounded / (1 - bounded)), math.log(1 + len(metric_words(caption)))])


def _fit(signs: Tensor, accepted: Tensor) -> Tensor:
    """Return the weights [3] that make the outcomes [N] most probable beside a prior at the decoder's own score."""
    prior = torch.tensor(PRIOR)
    weights = prior.clone().requires_grad_()
    optimizer = torch.optim.LBFGS([weights], max_iter=STEPS, line_search_fn="strong_wolfe")

    def surprise() -> Tensor:
        optimizer.zero_grad()
        loss = binary_cross_entropy_with_logits(signs @ weights, accepted, reduction="sum")
        loss = loss + 0.5 * (weights - prior).square().sum()
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    optimizer.step(surprise)  # type: ignore[no-untyped-call]
    return weights.detach()


def _path(project_id: int) -> str:
    return f"projects/{project_id}/calibration.json"
