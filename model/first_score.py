"""The score of a caption before a project has judged suggestions: the probability that its main things are right.

What is right is decided by people's captions (`metrics/main_things.py`). A logistic regression predicts it from the
decoder's own score, from the length of the caption, and from the position of the image among the photos that the bundle
was trained on. It is fitted on photos that the bundle was not trained on, and is a part of the bundle (`first_score` in
bundle.json, and familiar.safetensors).

Shapes:  P image regions   D feature size   N images   A main axes   C coordinates
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from model.metrics.calibration import cross_validated, expected_calibration_error, fit_weights, score_inputs, sigmoid
from model.metrics.main_things import are_main_things_right

AXES, COORDINATES = 64, 16
PRIOR = np.array([-1.0, 1.0, -1.0, -10.0, *[0.0] * COORDINATES])
"""Expected weights. That of strangeness decides about images that are stranger than the photos of the fit, because
nobody judged such images. If the plane is half as far again, the log-odds lose 5."""
VARIANCES = np.array([1.0, 1.0, 1.0, 1.0, *[0.01] * COORDINATES])
"""How far the weights may be from these. For the coordinates cross-validation on dev photos chose it."""
FAMILIAR_SHARE = 0.9
SMALLEST_DISTANCE = 0.01
"""Of an image off the plane; less is rounding."""
FOLDS = 5

Numbers = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class ImagePosition:
    """Where an image is among the familiar ones."""

    distance: float
    """Distance of its direction from their plane, 0 to 1."""
    coordinates: Numbers
    """Along their first main axes, standardised, [C]."""


@dataclass(frozen=True, kw_only=True)
class FamiliarImages:
    """The images that a bundle was trained on, as a plane through the origin of the space of mean features.

    The features of strange images lie further off this plane (H. Wang and others 2022, ViM, section 3,
    https://arxiv.org/abs/2203.10807). Aerial photos, flowers, products and drawn scenes are told from dev photos of
    Flickr8k by the distance, with an area under the ROC curve of 0.96, 0.90, 0.95 and 0.96.
    """

    axes: NDArray[np.float32]
    """Main axes of the plane, [D, A]."""
    center: NDArray[np.float32]
    """Mean coordinates along the first axes, [C]."""
    scale: NDArray[np.float32]
    """1 / deviation of these, [C]."""

    @classmethod
    def of(cls, pooled: NDArray[Any]) -> Self:
        """Return the plane of images with these mean features [N, D]."""
        directions = _directions(pooled)
        _, _, rows = np.linalg.svd(directions, full_matrices=False)
        axes = rows[:AXES].T
        along = directions @ axes[:, :COORDINATES]
        center, scale = along.mean(0), 1 / (along.std(0) + 1e-6)
        return cls(axes=axes.astype(np.float32), center=center.astype(np.float32), scale=scale.astype(np.float32))

    def position(self, features: NDArray[Any]) -> ImagePosition:
        """Return where an image with features [P, D] is."""
        along = _directions(np.asarray(features, np.float32).mean(axis=0)) @ self.axes
        count = len(self.center)
        return ImagePosition(
            distance=float(np.sqrt(max(0.0, 1.0 - float(along @ along)))),
            coordinates=(along[:count] - self.center) * self.scale,
        )

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Return what a file stores: the axes in half precision."""
        return {"axes": np.ascontiguousarray(self.axes, np.float16), "center": self.center, "scale": self.scale}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]]) -> Self:
        """Read what `arrays` returned; raises KeyError for something else."""
        return cls(**{name: np.asarray(arrays[name], np.float32) for name in ("axes", "center", "scale")})


@dataclass(frozen=True, kw_only=True)
class FirstScore:
    """Weights of the regression."""

    intercept: float
    slope: float
    """Weight of the log-odds of the decoder's own score."""
    per_length: float
    """Weight of the logarithm of the number of words."""
    per_strangeness: float
    """Weight of the share by which the image's distance exceeds `usual_distance`."""
    per_coordinate: tuple[float, ...]
    """Weights of the image's coordinates, C of them."""
    usual_distance: float
    """Nine in ten of the photos that it was fitted on are nearer to the plane."""
    judged: int
    """Number of these photos."""
    error: float
    """Expected calibration error on photos outside the fit, 0 to 1."""
    familiar: FamiliarImages

    def score(self, own_score: float, caption: str, image: ImagePosition) -> float:
        """Return the probability that the main things of a caption are right, 0 to 1.

        Args:
            own_score: of the decoder.
            caption: to score.
            image: position of its image among the familiar ones.
        """
        weights = np.array([self.intercept, self.slope, self.per_length, self.per_strangeness, *self.per_coordinate])
        return float(sigmoid(_inputs(own_score, caption, image, self.usual_distance) @ weights))

    def to_json(self) -> dict[str, Any]:
        """Return everything but the familiar images."""
        values = {name: value for name, value in vars(self).items() if name != "familiar"}
        return values | {"per_coordinate": list(self.per_coordinate)}

    @classmethod
    def from_json(cls, fields: Mapping[str, Any], familiar: FamiliarImages) -> Self:
        """Read what `to_json` returned; raises KeyError, TypeError or ValueError for something else."""
        names = ("intercept", "slope", "per_length", "per_strangeness", "usual_distance", "error")
        numbers = {name: float(fields[name]) for name in names}
        weights = tuple(map(float, fields["per_coordinate"]))
        if len(weights) != len(familiar.center):
            raise ValueError(f"first_score needs {len(familiar.center)} weights per_coordinate, got {len(weights)}")
        return cls(judged=int(fields["judged"]), per_coordinate=weights, familiar=familiar, **numbers)


@dataclass(frozen=True, kw_only=True)
class JudgedPhoto:
    """A caption of the bundle for a photo that people captioned."""

    caption: str
    own_score: float
    references: tuple[str, ...]
    image: ImagePosition

    @property
    def is_right(self) -> bool:
        return are_main_things_right(self.caption, self.references)


def fit_first_score(photos: Sequence[JudgedPhoto], familiar: FamiliarImages) -> FirstScore:
    """Fit the score of a bundle.

    Args:
        photos: FOLDS or more, that it was not trained on.
        familiar: photos that it was trained on; they say where the others are.
    """
    usual = max(SMALLEST_DISTANCE, float(np.quantile([photo.image.distance for photo in photos], FAMILIAR_SHARE)))
    inputs = np.stack([_inputs(photo.own_score, photo.caption, photo.image, usual) for photo in photos])
    right = np.array([float(photo.is_right) for photo in photos])
    prior, variances = PRIOR[: inputs.shape[1]], VARIANCES[: inputs.shape[1]]
    weights = fit_weights(inputs, right, prior, variances).tolist()
    predicted = cross_validated(inputs, right, prior, FOLDS, variances)
    return FirstScore(
        **dict(zip(("intercept", "slope", "per_length", "per_strangeness"), weights, strict=False)),
        per_coordinate=tuple(weights[4:]),
        usual_distance=usual,
        judged=len(photos),
        error=expected_calibration_error(predicted.tolist(), right.tolist()),
        familiar=familiar,
    )


def _inputs(own_score: float, caption: str, image: ImagePosition, usual_distance: float) -> Numbers:
    strangeness = max(0.0, image.distance / usual_distance - 1)
    return np.array([*score_inputs(own_score, caption), strangeness, *image.coordinates])


def _directions(vectors: NDArray[Any]) -> Numbers:
    """Return the last axis scaled to length 1; zeros stay zeros."""
    values = np.asarray(vectors, np.float64)
    return np.asarray(values / np.maximum(np.linalg.norm(values, axis=-1, keepdims=True), 1e-12))
