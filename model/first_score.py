"""The score of a caption before a project has judged suggestions: the probability that its main things are right.

What is right is decided by people's captions (`metrics/main_things.py`). A logistic regression predicts it from the
decoder's own score, from the length of the caption, and from how strange the image is to the bundle. It is fitted on
photos that the bundle was not trained on, and is a part of the bundle (`first_score` in bundle.json, and
familiar.safetensors).

Shapes:  P image regions   D feature size   N images   A main axes
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from model.metrics.calibration import cross_validated, expected_calibration_error, fit_weights, score_inputs, sigmoid
from model.metrics.main_things import are_main_things_right

PRIOR = np.array([-1.0, 1.0, -1.0, -1.0])
FOLDS = 5
AXES = 64

Numbers = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class FamiliarImages:
    """The images that a bundle was trained on, as a plane in the space of mean features."""

    center: NDArray[np.float32]
    """[D]"""
    scale: NDArray[np.float32]
    """1 / deviation of each channel, [D]."""
    axes: NDArray[np.float32]
    """Main axes of the plane, after the scale, [D, A]."""

    @classmethod
    def of(cls, pooled: NDArray[Any]) -> Self:
        """Return the plane of images with these mean features [N, D]."""
        features = np.asarray(pooled, np.float64)
        center, scale = features.mean(0), 1 / (features.std(0) + 1e-6)
        _, _, rows = np.linalg.svd((features - center) * scale, full_matrices=False)
        axes = rows[:AXES].T
        return cls(center=center.astype(np.float32), scale=scale.astype(np.float32), axes=axes.astype(np.float32))

    def strangeness(self, features: NDArray[Any]) -> float:
        """Return the distance of an image with features [P, D] from the plane.

        The bundle `photos` tells aerial photos, flowers and products from photos of Flickr8k by it (area under the ROC
        curve 0.94, 0.94 and 0.91; by the nearest of 1,500 training photos 0.70, 0.76 and 0.81).
        """
        offset = (np.asarray(features, np.float32).mean(axis=0) - self.center) * self.scale
        along = offset @ self.axes
        return float(np.sqrt(max(0.0, float(offset @ offset - along @ along))))

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Return what a file stores: the axes in half precision."""
        return {"center": self.center, "scale": self.scale, "axes": np.ascontiguousarray(self.axes, np.float16)}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]]) -> Self:
        """Read what `arrays` returned; raises KeyError for something else."""
        return cls(**{name: np.asarray(arrays[name], np.float32) for name in ("center", "scale", "axes")})


@dataclass(frozen=True, kw_only=True)
class FirstScore:
    """Weights of the regression."""

    intercept: float
    slope: float
    """Weight of the log-odds of the decoder's own score."""
    per_length: float
    """Weight of the logarithm of the number of words."""
    per_strangeness: float
    """Weight of the strangeness of the image, relative to `usual`, minus 1."""
    usual: float
    """Median strangeness of the photos that it was fitted on."""
    judged: int
    """Number of these photos."""
    error: float
    """Expected calibration error on photos outside the fit, 0 to 1."""
    familiar: FamiliarImages

    def score(self, own_score: float, caption: str, strangeness: float) -> float:
        """Return the probability that the main things of a caption are right, 0 to 1.

        Args:
            own_score: of the decoder.
            caption: to score.
            strangeness: of its image.
        """
        weights = np.array([self.intercept, self.slope, self.per_length, self.per_strangeness])
        return float(sigmoid(_inputs(own_score, caption, strangeness / self.usual) @ weights))

    def to_json(self) -> dict[str, float | int]:
        """Return everything but the familiar images."""
        return {name: value for name, value in vars(self).items() if name != "familiar"}

    @classmethod
    def from_json(cls, fields: Mapping[str, Any], familiar: FamiliarImages) -> Self:
        """Read what `to_json` returned; raises KeyError, TypeError or ValueError for something else."""
        names = ("intercept", "slope", "per_length", "per_strangeness", "usual", "error")
        numbers = {name: float(fields[name]) for name in names}
        return cls(judged=int(fields["judged"]), familiar=familiar, **numbers)


@dataclass(frozen=True, kw_only=True)
class JudgedPhoto:
    """A caption of the bundle for a photo that people captioned."""

    caption: str
    own_score: float
    references: tuple[str, ...]
    strangeness: float

    @property
    def is_right(self) -> bool:
        return are_main_things_right(self.caption, self.references)


def fit_first_score(photos: Sequence[JudgedPhoto], familiar: FamiliarImages) -> FirstScore:
    """Fit the score of a bundle.

    Args:
        photos: FOLDS or more, that it was not trained on.
        familiar: photos that it was trained on; they say how strange the others are.
    """
    usual = float(np.median([photo.strangeness for photo in photos]))
    inputs = np.stack([_inputs(photo.own_score, photo.caption, photo.strangeness / usual) for photo in photos])
    right = np.array([float(photo.is_right) for photo in photos])
    weights = fit_weights(inputs, right, PRIOR)
    predicted = cross_validated(inputs, right, PRIOR, FOLDS)
    return FirstScore(
        **dict(zip(("intercept", "slope", "per_length", "per_strangeness"), weights.tolist(), strict=True)),
        usual=usual,
        judged=len(photos),
        error=expected_calibration_error(predicted.tolist(), right.tolist()),
        familiar=familiar,
    )


def _inputs(own_score: float, caption: str, relative_strangeness: float) -> NDArray[np.float64]:
    return np.array([*score_inputs(own_score, caption), relative_strangeness - 1])
