"""The two stories of the backend: suggest captions, and learn what annotators made of them."""

import logging
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

from redis import RedisError

from backend.captioning.backend_base import BackendBase
from backend.captioning.services import current_services
from backend.captioning.suggest import Suggester, TaskSuggestions
from backend.freed_memory import return_freed_memory
from backend.images.task_images import FETCH_BUDGET_S, LateImageError
from backend.protocol.json_fields import parse_project_id
from backend.protocol.label_config import parse_caption_controls
from backend.protocol.predictions import make_predictions
from backend.protocol.webhook_events import WebhookEvent, parse_webhook
from model.vision.files import in_batches
from worker.feedback.left_projects import why_left
from worker.feedback.record import AnnotationState
from worker.queue.backend_jobs import enqueue_refresh
from worker.queue.periodic_pull import schedule_pull
from worker.queue.retraining import enqueue_retraining
from worker.queue.trigger import retrain_when_due
from worker.telemetry import span

logger = logging.getLogger(__name__)

PULL_SOON_S = 10
"""Delay of the pull that verifies a doubtful event."""


ANSWER_S = 80.0
"""Label Studio gives up after 100 s. What is not ready by then is left to a job."""
LEAST_S = 5.0
"""Time for the images of a batch."""
TASKS_AT_ONCE = 200
"""The features of so many images are held at the same time."""
MANY_TASKS = 100
"""A call with so many tasks held so much memory that the rest of the machine gets it back."""


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
        until = time.monotonic() + ANSWER_S
        with self.services.turns.turn(self.project_id, len(tasks)):
            entries = self._entries(tasks, until)
        if len(tasks) >= MANY_TASKS:
            return_freed_memory()
        return entries

    @span("webhook")
    def fit(self, event: str, data: Mapping[str, Any], created: int | None = None, **kwargs: Any) -> dict[str, Any]:
        """Do what a webhook asks for; what it says about captions is durable when this returns.

        Args:
            event: its action.
            data: its body.
            created: Unix time of the project's creation, if it is known.

        Raises:
            RequestError: a key that this event needs is missing or of a wrong type; then nothing is stored.
            RedisError: it could not be stored.
        """
        news = parse_webhook(event, data)
        self.services.projects.note(news.project_id, created)
        if reason := why_left(self.services.redis, news.project_id):
            # Label Studio goes on sending after a model was removed. If it comes back, a pull reads what was missed.
            logger.info("webhook ignored action=%s project=%s reason=%s", event, news.project_id, reason)
            return {"changed": 0}
        if news.title is not None:
            self.services.projects.note_title(news.project_id, news.title)
        if news.ignored:
            logger.info("webhook ignored action=%s project=%s reason=%s", event, news.project_id, news.ignored)
        if news.wants_training:
            return {"job": self.start_training(news.project_id)}
        changed = sum(self._record(state) for state in news.annotations) + self._remove(news)
        job_id = self._retrain_when_due(news.project_id) if changed else None
        if changed:
            self.services.memories.renew_beside(news.project_id)
        logger.info("webhook done action=%s project=%s changed=%s job=%s", event, news.project_id, changed, job_id)
        return {"changed": changed}

    def start_training(self, project_id: int) -> str:
        """Return the id of the job that will train on everything annotated so far."""
        job_id = enqueue_retraining(self.services.redis, self.services.settings, project_id, "Start Training")
        logger.info("training requested project=%s job=%s", project_id, job_id)
        return job_id

    def _entries(self, tasks: Sequence[Mapping[str, Any]], until: float) -> list[Any]:
        """Return the entries that can be made until a monotonic time; the other tasks get an error."""
        suggester = Suggester(self.services, self.project_id, self.controls)
        entries: list[Any] = []
        for batch in in_batches(tasks, TASKS_AT_ONCE):
            left_s = until - time.monotonic()
            if entries and left_s < LEAST_S:
                break
            suggested = suggester.suggest(batch, min(FETCH_BUDGET_S, max(LEAST_S, left_s)))
            entries += [None if isinstance(task.error, LateImageError) else self._entry(task) for task in suggested]
        entries += [None] * (len(tasks) - len(entries))
        if late := entries.count(None):
            error = {"error": self._caption_later(late)}
            entries = [error if entry is None else entry for entry in entries]
        return entries

    def _caption_later(self, count: int) -> str:
        """Let a job caption what this call could not; return a sentence for the entries."""
        settings, job_id = self.services.settings, None
        if settings.label_studio_api_key is not None:
            with suppress(RedisError):
                version = self.services.captioners.version_of(self.project_id)
                job_id = enqueue_refresh(self.services.redis, settings, self.project_id, version)
        logger.warning("tasks not captioned in time project=%s tasks=%s job=%s", self.project_id, count, job_id)
        then = "a job captions it in the background" if job_id else "ask again for this task"
        return f"not captioned within {ANSWER_S:g} s, which is how long Label Studio waits for a call; {then}"

    def _entry(self, suggestions: TaskSuggestions) -> Any:
        if suggestions.error is not None:
            return {"error": str(suggestions.error)}
        predictions = make_predictions(suggestions.shown, suggestions.model_version)
        return predictions if self.services.settings.alternatives > 1 else predictions[0]

    def _record(self, state: AnnotationState) -> int:
        """Store what an annotation holds now; returns how many captions came, changed or went."""
        recorded = self.services.feedback.record(state, self.services.suggestions.find_for(state))
        for feedback in recorded.feedback:
            logger.info(
                "%s %s project=%s task=%s annotation=%s outcome=%s version=%s",
                "skip" if feedback.caption is None else "correction",
                "stored" if recorded.is_new else "known already",
                feedback.project_id,
                feedback.task_id,
                feedback.annotation_id,
                feedback.outcome,
                feedback.model_version,
            )
        if recorded.is_refused:
            self._pull_soon(f"annotation {state.annotation_id} seems old", state.project_id)
        return recorded.stored + recorded.removed

    def _remove(self, news: WebhookEvent) -> int:
        """Remove what is deleted; returns how many captions went."""
        removed = self.services.feedback.remove(
            news.project_id, annotation_ids=news.deleted_annotations, task_ids=news.deleted_tasks
        )
        if removed.is_doubtful:
            self._pull_soon("an id that was deleted may be in use again", news.project_id)
        return removed.count

    def _pull_soon(self, reason: str, project_id: int) -> None:
        """Bring the next pull forward, so that a mistake about an event lasts only seconds."""
        logger.info("annotations will be pulled soon project=%s reason=%s", project_id, reason)
        try:
            schedule_pull(self.services.redis, self.services.settings, delay_s=PULL_SOON_S)
        except RedisError as problem:  # the next periodic pull corrects it, too
            logger.warning("pull not scheduled project=%s problem=%s", project_id, problem)

    def _retrain_when_due(self, project_id: int) -> str | None:
        try:
            return retrain_when_due(self.services.redis, self.services.settings, project_id)
        except RedisError as problem:  # the corrections are safe, and the next one triggers again
            logger.warning("trigger lost project=%s problem=%s", project_id, problem)
            return None
