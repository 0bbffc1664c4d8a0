"""The two stories of the backend: suggest captions, and learn what annotators made of them."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from redis import RedisError

from backend.captioning.backend_base import BackendBase
from backend.captioning.services import CaptioningServices, current_services
from backend.images.task_images import TaskImage
from backend.protocol.annotations import Submission, with_proposal
from backend.protocol.json_fields import parse_project_id
from backend.protocol.label_config import parse_caption_controls
from backend.protocol.predictions import make_predictions
from backend.protocol.webhook_events import WebhookEvent, parse_webhook
from model.captioner import Caption, Captioner
from model.decoders.search import DecodingOptions
from model.errors import StoreError, TaskError
from model.vision.features import FeatureStore
from worker.feedback.ledger_records import Skip, record_skip, record_submission
from worker.feedback.score_calibration import read_calibration
from worker.feedback.suggestions import Suggestion
from worker.policy import is_withheld
from worker.queue.retraining import enqueue_retraining
from worker.queue.trigger import retrain_when_due
from worker.request_id import current_request_id
from worker.telemetry import span

logger = logging.getLogger(__name__)

DECODER_BATCH = 64
"""Images decoded together; a call with more takes turns with others."""


class CaptionBackend(BackendBase):  # type: ignore[misc]  # label-studio-ml has no types
    """Image captions for one project and its labeling config; built for each request."""

    def __init__(
        self,
        project_id: int | str | None = None,
        label_config: str | None = None,
        *,
        services: CaptioningServices | None = None,
    ) -> None:
        """Bind to a project.

        Raises:
            LabelConfigError: the config has no TextArea that describes an Image.
        """
        super().__init__()
        self.controls = parse_caption_controls(label_config) if label_config is not None else ()
        self.project_id = parse_project_id(project_id) if project_id else 0
        self.services = services or current_services()

    @span("predict")
    def predict(
        self, tasks: Sequence[Mapping[str, Any]], context: Mapping[str, Any] | None = None, **kwargs: Any
    ) -> list[Any]:
        """Return one entry per task, in order.

        An entry is a prediction, or with ALTERNATIVES a list of them, or `{"error": reason}` for a task without. The
        prediction of an image whose suggestion is withheld is an empty one.

        Args:
            context: what the annotator typed so far; then nothing is suggested, because Label Studio would put
                the suggestion over that text.
        """
        if context:
            return [{"result": []} for _ in tasks]
        captioner = self.services.captioners.captioner_for(self.project_id)
        features = FeatureStore(self.services.store, captioner.encoder.fingerprint)
        images = self.services.task_images.read(tasks, self.controls, captioner.encoder, features)
        captions = self._caption(captioner, images)
        self._remember(tasks, images, captions, captioner.version)
        captions = self._calibrated(captions)
        return [self._entry(task, seen, captions, captioner.version) for task, seen in zip(tasks, images, strict=True)]

    @span("webhook")
    def fit(self, event: str, data: Mapping[str, Any], **kwargs: Any) -> dict[str, Any]:
        """Do what a webhook asks for; what it says about captions is durable when this returns.

        Raises:
            RequestError: a key that this event needs is missing or of a wrong type; then nothing is stored.
            RedisError: it could not be stored.
        """
        news = parse_webhook(event, data)
        if news.ignored:
            logger.info("webhook ignored action=%s project=%s reason=%s", event, news.project_id, news.ignored)
        changed = self._forget(news) + sum(self._store(submission) for submission in news.submissions)
        for skip in news.skips:
            self._record_skip(skip)
        if news.wants_training:
            return {"job": self.start_training(news.project_id)}
        job_id = self._retrain_when_due(news.project_id) if changed else None
        logger.info("webhook done action=%s project=%s changed=%s job=%s", event, news.project_id, changed, job_id)
        return {"changed": changed}

    def start_training(self, project_id: int) -> str:
        """Return the id of the job that will train on everything annotated so far."""
        job_id = enqueue_retraining(self.services.redis, self.services.settings, project_id, "Start Training")
        logger.info("training requested project=%s job=%s", project_id, job_id)
        return job_id

    def _caption(self, captioner: Captioner, images: Sequence[list[TaskImage] | TaskError]) -> dict[str, list[Caption]]:
        """Caption all images of all tasks together; returns the captions by image key, best first."""
        features = {image.image_key: image.features for seen in images for image in _readable(seen)}
        settings = self.services.settings
        options = DecodingOptions(beam_size=settings.beam_size, alternatives=settings.alternatives)
        captions: list[list[Caption]] = []
        with self.services.metrics.timed_stage("decode"):
            for start in range(0, len(features), DECODER_BATCH):
                batch = list(features.values())[start : start + DECODER_BATCH]
                with self.services.compute_slots:
                    captions += captioner.caption(torch.stack(batch), options)
        return dict(zip(features, captions, strict=True))

    def _calibrated(self, captions: dict[str, list[Caption]]) -> dict[str, list[Caption]]:
        """Return the captions with the probability of being accepted as their score, once that can be told."""
        try:
            calibration = read_calibration(self.services.store, self.project_id)
        except StoreError as problem:
            logger.warning("scores not calibrated project=%s problem=%s", self.project_id, problem)
            return captions
        if calibration is None:
            return captions
        return {
            key: [replace(caption, score=calibration.score(caption.score, caption.text)) for caption in found]
            for key, found in captions.items()
        }

    def _entry(
        self,
        task: Mapping[str, Any],
        seen: list[TaskImage] | TaskError,
        captions: Mapping[str, list[Caption]],
        model_version: str,
    ) -> Any:
        if isinstance(seen, TaskError):
            self.services.metrics.predictions.labels("failed").inc()
            self.services.metrics.image_failures.labels(seen.reason).inc()
            logger.warning("task not captioned project=%s task=%s reason=%s", self.project_id, task["id"], seen)
            return {"error": str(seen)}
        alternatives = self.services.settings.alternatives
        found = {image.control: captions[image.image_key] for image in seen if not self._is_withheld(image)}
        self.services.metrics.predictions.labels("captioned" if found else "withheld").inc()
        predictions = make_predictions(found, model_version, alternatives)
        return predictions if alternatives > 1 else predictions[0]

    def _remember(
        self,
        tasks: Sequence[Mapping[str, Any]],
        images: Sequence[list[TaskImage] | TaskError],
        captions: Mapping[str, list[Caption]],
        model_version: str,
    ) -> None:
        """Keep what was suggested, so that a correction can say what it corrects; the best is the newest."""
        suggestions = [
            Suggestion(
                project_id=self.project_id,
                task_id=task["id"],
                control=image.control.from_name,
                image_ref=image.image_ref,
                image_key=image.image_key,
                caption=caption.text,
                model_version=model_version,
                score=caption.score,
                withheld=self._is_withheld(image),
            )
            for task, seen in zip(tasks, images, strict=True)
            for image in _readable(seen)
            for caption in reversed(captions[image.image_key])
        ]
        try:
            self.services.suggestions.remember(suggestions)
        except RedisError as problem:  # a suggestion unremembered is better than none
            logger.warning("suggestions not remembered project=%s problem=%s", self.project_id, problem)

    def _is_withheld(self, image: TaskImage) -> bool:
        return is_withheld(image.image_key, self.services.settings.hide_suggestions_share)

    def _forget(self, news: WebhookEvent) -> int:
        """Forget deleted tasks and what deleted, skipped or emptied annotations corrected; returns how many."""
        services, project_id = self.services, news.project_id
        services.suggestions.forget_tasks(project_id, news.deleted_tasks)
        forgotten = services.inbox.forget_tasks(project_id, news.deleted_tasks)
        skipped = {skip.annotation_id for skip in news.skips}
        for skip in news.skips:  # may come late, after the annotation was taken up again
            forgotten += services.inbox.remove(project_id, [skip.annotation_id], skip.updated_at)
        forgotten += services.inbox.remove(project_id, set(news.removed_annotations) - skipped)
        for annotation_id, control in news.emptied_controls:
            forgotten += services.inbox.remove_control(project_id, annotation_id, control)
        services.ledger.forget_tasks(project_id, news.deleted_tasks)
        services.ledger.remove(project_id, set(news.removed_annotations) - skipped)
        services.ledger.remove_controls(project_id, news.emptied_controls)
        return forgotten

    def _store(self, submission: Submission) -> bool:
        submitted = submission.correction
        suggestions = self.services.suggestions.find(
            submitted.project_id, submitted.task_id, submitted.control, submitted.image_ref
        )
        correction = replace(with_proposal(submission, suggestions), request_id=current_request_id())
        is_news = self.services.inbox.store(correction)
        record = record_submission(correction, suggestions)
        self.services.ledger.store(record)
        logger.info(
            "correction %s project=%s task=%s annotation=%s outcome=%s version=%s",
            "stored" if is_news else "known",
            correction.project_id,
            correction.task_id,
            correction.annotation_id,
            record.outcome,
            correction.model_version,
        )
        return is_news

    def _record_skip(self, skip: Skip) -> None:
        suggestions = self.services.suggestions.find(skip.project_id, skip.task_id, skip.control, skip.image_ref)
        self.services.ledger.store(record_skip(skip, suggestions))

    def _retrain_when_due(self, project_id: int) -> str | None:
        try:
            return retrain_when_due(self.services.redis, self.services.settings, project_id)
        except RedisError as problem:  # the corrections are safe, and the next one triggers again
            logger.warning("trigger lost project=%s problem=%s", project_id, problem)
            return None


def _readable(seen: list[TaskImage] | TaskError) -> list[TaskImage]:
    return [] if isinstance(seen, TaskError) else seen
