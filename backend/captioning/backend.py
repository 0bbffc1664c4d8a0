"""The two stories of the backend: suggest captions, and learn what annotators made of them."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from redis import RedisError

from backend.captioning.backend_base import BackendBase
from backend.captioning.services import current_services
from backend.captioning.suggest import Suggester, TaskSuggestions
from backend.protocol.annotations import Submission, with_proposal
from backend.protocol.json_fields import parse_project_id
from backend.protocol.label_config import parse_caption_controls
from backend.protocol.predictions import make_predictions
from backend.protocol.webhook_events import WebhookEvent, parse_webhook
from worker.feedback.ledger_records import Skip, record_skip, record_submission
from worker.queue.retraining import enqueue_retraining
from worker.queue.trigger import retrain_when_due
from worker.request_id import current_request_id
from worker.telemetry import span

logger = logging.getLogger(__name__)


class CaptionBackend(BackendBase):  # type: ignore[misc]  # label-studio-ml has no types
    """Image captions for one project and its labeling config; built for each request."""

    def __init__(self, project_id: int | str | None = None, label_config: str | None = None) -> None:
        """Bind to a project.

        Raises:
            LabelConfigError: the config has no TextArea that describes an Image.
        """
        super().__init__()
        self.controls = parse_caption_controls(label_config) if label_config is not None else ()
        self.project_id = parse_project_id(project_id) if project_id else 0
        self.services = current_services()

    def predict(
        self, tasks: Sequence[Mapping[str, Any]], context: Mapping[str, Any] | None = None, **kwargs: Any
    ) -> list[Any]:
        """Return one entry per task, in order: a prediction, or a list of predictions with ALTERNATIVES.

        A task that cannot be captioned gets `{"error": reason}`. A task whose suggestions are withheld gets an empty
        prediction.

        Args:
            context: text that the annotator has typed. If there is any, nothing is suggested, because Label Studio
                would replace the text by the suggestion.
        """
        if context:
            return [{"result": []} for _ in tasks]
        suggester = Suggester(self.services, self.project_id, self.controls)
        return [self._entry(suggestions) for suggestions in suggester.suggest(tasks)]

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

    def _entry(self, suggestions: TaskSuggestions) -> Any:
        if suggestions.error is not None:
            return {"error": str(suggestions.error)}
        predictions = make_predictions(suggestions.shown, suggestions.model_version)
        return predictions if self.services.settings.alternatives > 1 else predictions[0]

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
