"""Suggestions for tasks: the only way out of captioning, for /predict and for the refresh of stored predictions."""

import logging
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from redis import RedisError

from backend.captioning.image_vectors import DECODER_CAPTIONS
from backend.captioning.memory import ProjectMemory, Request
from backend.captioning.services import CaptioningServices
from backend.images.task_images import FETCH_BUDGET_S, TaskImage
from backend.protocol.label_config import CaptionControl, compact_image_ref, read_image_ref
from backend.protocol.predictions import SuggestedCaption
from model.captioner import Caption, Captioner
from model.errors import StoreError, TaskError
from model.first_score import ImagePosition
from model.vision.features import FeatureStore
from worker.feedback.score_calibration import UNJUDGED, read_calibration
from worker.feedback.suggestions import Suggestion, with_form
from worker.policy import is_withheld
from worker.telemetry import span

logger = logging.getLogger(__name__)

DECODER_BATCH = 16
"""Images decoded together. After each batch, smaller requests get their turn."""

Place = tuple[int, str]
"""Task and field of a caption."""
Captions = Mapping[Place, Sequence[SuggestedCaption]]
"""Captions by place, best first."""


@dataclass(frozen=True, kw_only=True)
class ControlSuggestions:
    """Captions for one control of one task."""

    control: CaptionControl
    image_ref: str
    """Address of the image as it is stored; a `data:` URL by its hash."""
    image_key: str
    captions: tuple[SuggestedCaption, ...]
    """Best first. The score of each is the probability that an annotator accepts it, or at first that its main things
    are right."""
    withheld: bool
    """True where HIDE_SUGGESTIONS_SHARE hides the captions from annotators."""


@dataclass(frozen=True, kw_only=True)
class TaskSuggestions:
    """Suggestions for one task, or the error that prevented them."""

    task_id: int
    model_version: str
    """That Label Studio is told: of the decoder, with the generation of the memory where that may speak."""
    controls: tuple[ControlSuggestions, ...] = ()
    error: TaskError | None = None

    @property
    def shown(self) -> dict[CaptionControl, tuple[SuggestedCaption, ...]]:
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
        self.form = services.form_of(project_id, controls)
        self.decoder_batch = decoder_batch

    @span("predict")
    def suggest(
        self, tasks: Sequence[Mapping[str, Any]], fetch_budget_s: float = FETCH_BUDGET_S
    ) -> list[TaskSuggestions]:
        """Return the suggestions for each task, in order; they are remembered for later corrections.

        Args:
            tasks: to caption; their images are held at the same time.
            fetch_budget_s: images that have not arrived by then are errors of their tasks.

        Raises:
            ModelVersionError: the serving version is damaged or made for another bundle.
            StoreError: the version cannot be read.
        """
        captioner = self.services.captioners.captioner_for(self.project_id)
        features = FeatureStore(self.services.store, captioner.encoder.fingerprint)
        images = self.services.task_images.read(tasks, self.controls, captioner.encoder, features, fetch_budget_s)
        with self.services.metrics.timed_stage("read_memory"):
            memory = self.services.memories.open(self.project_id, captioner)
        captions = self._choose(captioner, memory, tasks, images)
        shown = self._calibrate(captions, tasks, images)
        label = with_form(memory.label(captioner.version) if memory else captioner.version, self.form)
        suggestions = [
            self._suggestions_of(task["id"], task_images, shown, label)
            for task, task_images in zip(tasks, images, strict=True)
        ]
        self._remember(suggestions, captioner.version, memory.generation if memory else None)
        self._note(memory, tasks, images, captions)
        self._report(suggestions)
        return suggestions

    def has_another_image(self, task: Mapping[str, Any]) -> bool:
        """Say whether a task shows another image than the one that its newest suggestion was made for.

        Raises:
            RedisError: Redis does not answer.
        """
        for control in self.controls:
            with suppress(TaskError):
                image_ref = compact_image_ref(read_image_ref(task["data"], control))
                place = (self.project_id, int(task["id"]), control.from_name)
                if self.services.suggestions.is_of_another_image(*place, image_ref):
                    return True
        return False

    def _choose(
        self,
        captioner: Captioner,
        memory: ProjectMemory | None,
        tasks: Sequence[Mapping[str, Any]],
        images: Sequence[list[TaskImage] | TaskError],
    ) -> Captions:
        """Caption the images of all tasks together, and let the memory choose where it may."""
        placed = [
            (task["id"], image)
            for task, task_images in zip(tasks, images, strict=True)
            if not isinstance(task_images, TaskError)
            for image in task_images
        ]
        decoded = self._decode_each(captioner, memory, [image for _, image in placed])
        requests = [
            Request(task_id=task_id, image=image, decoded=captions)
            for (task_id, image), captions in zip(placed, decoded, strict=True)
        ]
        count = self.services.settings.alternatives
        with self.services.metrics.timed_stage("recall"):
            if memory is None:
                chosen = [request.decoded for request in requests]
            else:
                chosen = memory.recall(requests, captioner.version, count)
        return {
            (request.task_id, request.image.control.from_name): captions[:count]
            for request, captions in zip(requests, chosen, strict=True)
        }

    def _decode_each(
        self, captioner: Captioner, memory: ProjectMemory | None, images: Sequence[TaskImage]
    ) -> list[Sequence[SuggestedCaption]]:
        """Return the decoder's captions of each image; images of another kind are left to the bundle's decoder."""
        if memory is None or captioner.version == self.services.captioners.registry.base_version:
            is_other = [False] * len(images)
        else:
            is_other = memory.is_of_another_kind(images, captioner.version)
        ours = self._decode(captioner, [image for image, other in zip(images, is_other, strict=True) if not other])
        others = [image for image, other in zip(images, is_other, strict=True) if other]
        by_bundle = self._decode(self.services.captioners.bundle().captioner(), others) if others else {}
        return [(by_bundle if other else ours)[image.image_key] for image, other in zip(images, is_other, strict=True)]

    def _decode(self, captioner: Captioner, images: Sequence[TaskImage]) -> dict[str, Sequence[SuggestedCaption]]:
        """Return the decoder's captions of each image, best first; a few more than are shown."""
        options, cache = self.services.memories.options, self.services.captions
        is_shared = captioner.version == self.services.captioners.registry.base_version
        kind = "decode", 0 if is_shared else self.project_id, captioner.version, options
        captions = {image.image_key: cache.get((kind, image.image_key)) for image in images}
        features = {image.image_key: image.features for image in images if captions[image.image_key] is None}

        def decode(batch: list[NDArray[np.float16]]) -> list[list[SuggestedCaption]]:
            written = captioner.caption(np.stack(batch), options, DECODER_CAPTIONS)
            return [[_suggested(caption, captioner.version) for caption in of_image] for of_image in written]

        with self.services.metrics.timed_stage("decode"):
            decoded = self.services.batches.run(kind, decode, list(features.values()), self.decoder_batch)
        for image_key, written in zip(features, decoded, strict=True):
            cache.put((kind, image_key), written)
            captions[image_key] = written
        return {image_key: of_image for image_key, of_image in captions.items() if of_image is not None}

    def _calibrate(
        self,
        captions: Captions,
        tasks: Sequence[Mapping[str, Any]],
        images: Sequence[list[TaskImage] | TaskError],
    ) -> Captions:
        """Replace each score by the probability that an annotator accepts the caption.

        Before the project has judged enough suggestions of the decoder, it is the probability that the caption names
        the right subject and action, if the bundle has a first score.
        """
        store = self.services.store
        try:
            of_kinds = [read_calibration(store, self.project_id, of_memory=of_memory) for of_memory in (False, True)]
        except StoreError as problem:
            logger.warning("scores not calibrated project=%s problem=%s", self.project_id, problem)
            of_kinds = [None, None]
        calibrations = [calibration or UNJUDGED for calibration in of_kinds]
        bundle = self.services.captioners.bundle()
        positions: dict[Place, ImagePosition] = {}
        if bundle.first_score is not None and of_kinds[0] is None:
            familiar = bundle.first_score.familiar
            positions = {
                (task["id"], image.control.from_name): familiar.position(image.features)
                for task, task_images in zip(tasks, images, strict=True)
                if not isinstance(task_images, TaskError)
                for image in task_images
            }

        def score(place: Place, caption: SuggestedCaption) -> float:
            if bundle.first_score is not None and place in positions and not caption.like:
                return bundle.first_score.score(caption.own_score, caption.text, positions[place])
            return calibrations[bool(caption.like)].score(caption.own_score, caption.text)

        return {
            place: [replace(caption, score=score(place, caption)) for caption in alternatives]
            for place, alternatives in captions.items()
        }

    def _suggestions_of(
        self, task_id: int, images: list[TaskImage] | TaskError, captions: Captions, label: str
    ) -> TaskSuggestions:
        if isinstance(images, TaskError):
            return TaskSuggestions(task_id=task_id, model_version=label, error=images)
        hidden_share = self.services.settings.hide_suggestions_share
        controls = tuple(
            ControlSuggestions(
                control=image.control,
                image_ref=image.image_ref,
                image_key=image.image_key,
                captions=tuple(captions[task_id, image.control.from_name]),
                withheld=is_withheld(image.image_key, hidden_share),
            )
            for image in images
        )
        return TaskSuggestions(task_id=task_id, model_version=label, controls=controls)

    def _remember(self, suggestions: Sequence[TaskSuggestions], version: str, generation: int | None) -> None:
        """Store the suggestions, so that a correction can be compared with them later; the best is the newest.

        Args:
            suggestions: of all tasks.
            version: of the decoder.
            generation: of the memory, if there is one.
        """
        records = [
            Suggestion(
                project_id=self.project_id,
                task_id=task.task_id,
                control=suggested.control.from_name,
                image_ref=suggested.image_ref,
                image_key=suggested.image_key,
                caption=caption.text,
                model_version=caption.version or version,
                score=caption.own_score,
                generation=generation if caption.like else None,
                like=caption.like,
                withheld=suggested.withheld,
            )
            for task in suggestions
            for suggested in task.controls
            for caption in reversed(suggested.captions)
        ]
        try:
            self.services.suggestions.remember(records)
        except RedisError as problem:  # the annotator still gets the suggestions
            logger.warning("suggestions not remembered project=%s problem=%s", self.project_id, problem)

    def _note(
        self,
        memory: ProjectMemory | None,
        tasks: Sequence[Mapping[str, Any]],
        images: Sequence[list[TaskImage] | TaskError],
        captions: Captions,
    ) -> None:
        """Let the memory know which images there are, so that stored suggestions of look-alikes can be renewed."""
        if memory is None:
            return
        suggested = {
            task["id"]: (task_images[0], captions[task["id"], task_images[0].control.from_name][0].like)
            for task, task_images in zip(tasks, images, strict=True)
            if not isinstance(task_images, TaskError) and task_images
        }
        try:
            memory.tasks.note(suggested)
        except RedisError as problem:  # the annotator still gets the suggestions
            logger.warning("images not noted project=%s problem=%s", self.project_id, problem)

    def _report(self, suggestions: Sequence[TaskSuggestions]) -> None:
        metrics = self.services.metrics
        for task in suggestions:
            if task.error is None:
                metrics.predictions.labels("captioned" if task.shown else "withheld").inc()
                continue
            metrics.predictions.labels("failed").inc()
            metrics.image_failures.labels(task.error.reason).inc()
            logger.warning("task not captioned project=%s task=%s reason=%s", self.project_id, task.task_id, task.error)


def _suggested(caption: Caption, version: str) -> SuggestedCaption:
    return SuggestedCaption(text=caption.text, score=caption.score, own_score=caption.score, version=version)
