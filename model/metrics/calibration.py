"""Logistic regression that turns a decoder's own score into a probability (Platt 1999), and how good the result is.

Shapes:  N captions   I inputs of the regression
"""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from model.metrics.words import metric_words

BINS = 10
STEPS = 100
CONVERGED = 1e-9

Numbers = NDArray[np.float64]


def score_inputs(own_score: float, caption: str) -> Numbers:
    """Return 1, the log-odds of the decoder's own score, and the logarithm of the number of words, [3]."""
    bounded = min(max(own_score, 1e-4), 1 - 1e-4)
    return np.array([1.0, math.log(bounded / (1 - bounded)), math.log(1 + len(metric_words(caption)))])


def fit_weights(inputs: Numbers, outcomes: Numbers, prior: Numbers, variances: Numbers | None = None) -> Numbers:
    """Return the weights [I] that make the outcomes [N] most probable, with a normal prior.

    Newton's method: the loss is convex, and the prior keeps its curvature above 0.

    Args:
        inputs: of the captions, [N, I].
        outcomes: 0 or 1.
        prior: weights that are expected, [I].
        variances: of the prior, [I]; None: 1 each.
    """
    precisions = np.ones(len(prior)) if variances is None else 1 / variances
    weights = prior.copy()
    for _ in range(STEPS):
        predicted = sigmoid(inputs @ weights)
        gradient = inputs.T @ (predicted - outcomes) + (weights - prior) * precisions
        curvature = (inputs * (predicted * (1 - predicted))[:, None]).T @ inputs + np.diag(precisions)
        step = np.linalg.solve(curvature, gradient)
        weights -= step / max(1.0, np.abs(step).max())
        if np.abs(step).max() < CONVERGED:
            break
    return weights


def sigmoid(log_odds: Numbers) -> Numbers:
    return np.asarray(1 / (1 + np.exp(-np.clip(log_odds, -500, 500))))


def cross_validated(
    inputs: Numbers, outcomes: Numbers, prior: Numbers, folds: int, variances: Numbers | None = None
) -> Numbers:
    """Return the probability of each outcome by a fit on the other folds, [N]."""
    fold_of = np.arange(len(inputs)) % folds
    predicted = np.zeros(len(inputs))
    for fold in range(folds):
        weights = fit_weights(inputs[fold_of != fold], outcomes[fold_of != fold], prior, variances)
        predicted[fold_of == fold] = sigmoid(inputs[fold_of == fold] @ weights)
    return predicted


def expected_calibration_error(probabilities: Sequence[float], outcomes: Sequence[float]) -> float:
    """Return the mean distance between probability and frequency, over ten groups of equal size by probability."""
    order = sorted(range(len(probabilities)), key=lambda index: probabilities[index])
    total = 0.0
    for number in range(BINS):
        group = order[number * len(order) // BINS : (number + 1) * len(order) // BINS]
        total += abs(sum(probabilities[index] - outcomes[index] for index in group))
    return total / len(order)
