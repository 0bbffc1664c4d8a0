"""Suggestions for tasks: the only way out of captioning, for /predict and for the refresh of stored predictions."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from redis import RedisError

from backend.captioning.services import CaptioningServices
from backend.images.task_images import TaskImage
from backend.protocol.label_config import CaptionControl
from model.captioner import Caption, Captioner
from model.decoders.search import DecodingOptions
from model.errors import StoreError, TaskError
from model.vision.features import FeatureStore
from model.vision.files import in_batches
from worker.feedback.score_calibration import read_calibration
from worker.feedback.suggestions import Suggestion
from worker.policy import is_withheld
from worker.telemetry import span

logger = logging.getLogger(__name__)

DECODER_BATCH = 64
"""Images decoded together. After each batch, other requests get their turn."""

Captions = Mapping[str, Sequence[Caption]]
"""Captions by image key, best first."""


@dataclass(frozen=True, kw_only=True)
class ControlSuggestions:
    """Captions for one control of one task."""

    control: CaptionControl
    image_ref: str
    """Address of the image as it is stored; a `data:` URL by its hash."""
    image_key: str
    captions: tuple[Caption, ...]
    """Best first. The score of each is calibrated once annotators have judged enough suggestions."""
    withheld: bool
    """True where HIDE_SUGGESTIONS_SHARE hides the captions from annotators."""


@dataclass(frozen=True, kw_only=True)
class TaskSuggestions:
    """Suggestions for one task, or the error that prevented them."""

    task_id: int
    model_version: str
    controls: tuple[ControlSuggestions, ...] = ()
    error: TaskError | None = None

    @property
    def shown(self) -> dict[CaptionControl, tuple[Caption, ...]]:
        """The captions that annotators see; empty where all of them are withheld."""
        return {suggested.control: suggested.captions for suggested in self.controls if not suggested.withheld}


class Suggester:
    """Suggests captions for the tasks of one project."""

    def __init__(
        self,
        services: CaptioningServices,
        project_id: int,
        controls: Sequence[CaptionControl],
        *,
        decoder_batch: int = DECODER_BATCH,
    ) -> None:
        self.services = services
        self.project_id = project_id
        self.controls = controls
        self.decoder_batch = decoder_batch

    @span("predict")
    def suggest(self, tasks: Sequence[Mapping[str, Any]]) -> list[TaskSuggestions]:
        """Return the suggestions for each task, in order; they are remembered for later corrections.

        Raises:
            ModelVersionError: the serving version is damaged or made for another bundle.
            StoreError: the version cannot be read.
        """
        captioner = self.services.captioners.captioner_for(self.project_id)
        features = FeatureStore(self.services.store, captioner.encoder.fingerprint)
        images = self.services.task_images.read(tasks, self.controls, captioner.encoder, features)
        captions = self._caption(captioner, images)
        calibrated = self._calibrate(captions)
        suggestions = [
            self._suggestions_of(task["id"], task_images, calibrated, captioner.version)
            for task, task_images in zip(tasks, images, strict=True)
        ]
        self._remember(suggestions, captions)
        self._report(suggestions)
        return suggestions

    def _caption(self, captioner: Captioner, images: Sequence[list[TaskImage] | TaskError]) -> Captions:
        """Caption the images of all tasks together."""
        readable = [task_images for task_images in images if not isinstance(task_images, TaskError)]
        features = {image.image_key: image.features for task_images in readable for image in task_images}
        settings = self.services.settings
        options = DecodingOptions(beam_size=settings.beam_size, alternatives=settings.alternatives)
        captions: list[list[Caption]] = []
        with self.services.metrics.timed_stage("decode"):
            for batch in in_batches(features.values(), self.decoder_batch):
                with self.services.compute_slots:
                    captions += captioner.caption(torch.stack(batch), options)
        return dict(zip(features, captions, strict=True))

    def _calibrate(self, captions: Captions) -> Captions:
        """Replace each score by the probability that an annotator accepts the caption, if that can be computed yet."""
        try:
            calibration = read_calibration(self.services.store, self.project_id)
        except StoreError as problem:
            logger.warning("scores not calibrated project=%s problem=%s", self.project_id, problem)
            return captions
        if calibration is None:
            return captions
        return {
            key: [replace(caption, score=calibration.score(caption.score, caption.text)) for caption in alternatives]
            for key, alternatives in captions.items()
        }

    def _suggestions_of(
        self, task_id: int, images: list[TaskImage] | TaskError, captions: Captions, version: str
    ) -> TaskSuggestions:
        if isinstance(images, TaskError):
            return TaskSuggestions(task_id=task_id, model_version=version, error=images)
        hidden_share = self.services.settings.hide_suggestions_share
        controls = tuple(
            ControlSuggestions(
                control=image.control,
                image_ref=image.image_ref,
                image_key=image.image_key,
                captions=tuple(captions[image.image_key]),
                withheld=is_withheld(image.image_key, hidden_share),
            )
            for image in images
        )
        return TaskSuggestions(task_id=task_id, model_version=version, controls=controls)

    def _remember(self, suggestions: Sequence[TaskSuggestions], captions: Captions) -> None:
        """Store the suggestions, so that a correction can be compared with them later; the best is the newest.

        Args:
            captions: carry the decoder's own scores, which the calibration is fitted on.
        """
        records = [
            Suggestion(
                project_id=self.project_id,
                task_id=task.task_id,
                control=suggested.control.from_name,
                image_ref=suggested.image_ref,
                image_key=suggested.image_key,
                caption=caption.text,
                model_version=task.model_version,
                score=caption.score,
                withheld=suggested.withheld,
            )
            for task in suggestions
            for suggested in task.controls
            for caption in reversed(captions[suggested.image_key])
        ]
        try:
            self.services.suggestions.remember(records)
        except RedisError as problem:  # the annotator still gets the suggestions
            logger.warning("suggestions not remembered project=%s problem=%s", self.project_id, problem)

    def _report(self, suggestions: Sequence[TaskSuggestions]) -> None:
        metrics = self.services.metrics
        for task in suggestions:
            if task.error is None:
                metrics.predictions.labels("captioned" if task.shown else "withheld").inc()
                continue
            metrics.predictions.labels("failed").inc()
            metrics.image_failures.labels(task.error.reason).inc()
            logger.warning("task not captioned project=%s task=%s reason=%s", self.project_id, task.task_id, task.error)
