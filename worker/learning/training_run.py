"""The retraining of one project's decoder: prepare -> train -> decide -> publish."""

import logging
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, NoReturn

from redis import Redis
from rq import Retry, get_current_job

from model.bundle import Bundle, load_bundle
from model.errors import JobError, TrainingError
from model.registry import ModelRegistry, ModelVersion
from model.store import Store
from model.torch_captioner import TorchCaptioner, prefer_fast_products
from model.vision.features import FeatureStore
from worker.feedback.feedback_store import FeedbackStore
from worker.feedback.left_projects import why_left
from worker.feedback.waiting import claim, mark_trained, trained_number
from worker.learning.bad_corrections import find_bad_corrections
from worker.learning.candidate import Candidate, train_candidate
from worker.learning.dataset import Dataset, build_dataset, find_usable
from worker.learning.holdout import Holdout
from worker.learning.rollback import calibrate, roll_back_if_accepted_less
from worker.learning.version_record import find_unfinished, finish, outcome, record
from worker.queue.job_failure import may_come_from_items
from worker.queue.job_progress import Progress
from worker.queue.retraining import (
    LEFT,
    enqueue_retraining,
    last_before_pause,
    only_training,
    remember_beginning,
)
from worker.redis_client import connect_patiently
from worker.settings import Settings

logger = logging.getLogger(__name__)

WHILE_ANOTHER_TRAINS = Retry(max=40, interval=15)
"""Needed only after something went wrong: normally a retraining is enqueued to follow the running one."""


class NoVersion(Exception):  # noqa: N818 - it is no failure
    """The retraining ends here and makes no version; the message says why."""


def retrain(project_id: int, reason: str) -> dict[str, Any] | Retry:
    """RQ job: train the project's decoder on its corrections, and publish the result if it is better.

    The job may run twice without harm: if nothing changed since the last training, it says so and does nothing.

    Args:
        project_id: Label Studio's.
        reason: the trigger, for the record.

    Returns:
        the outcome as JSON, or a Retry while another process trains this project.

    Raises:
        TrainingError: no correction can be used; the message counts the reasons. The served version stays.
    """
    settings = Settings.from_env()
    prefer_fast_products()  # as in the backend, which will serve the version that is judged here
    redis, progress = connect_patiently(settings.redis_url), Progress(get_current_job(), settings.redis_url)
    try:
        stop_while_paused(redis, project_id, progress.job_id)
        with only_training(redis, project_id, progress.job_id) as is_ours:
            if not is_ours:
                return WHILE_ANOTHER_TRAINS
            run = prepare(redis, settings, project_id, progress)
            candidate = run.train()
            version = run.publish(candidate, reason)
    except NoVersion as ending:
        logger.info("retraining done project=%s version=None reason=%r", project_id, str(ending))
        return {"project_id": project_id, "version": None, "published": False, "decision": str(ending)}
    progress.phase("done")
    return outcome(version, candidate)


def stop_while_paused(redis: Redis, project_id: int, job_id: str) -> None:
    """Raise NoVersion if the project has left, or is paused and this is not the last job that may still train."""
    if reason_left := why_left(redis, project_id):
        raise NoVersion(LEFT.format(project_id=project_id, reason=reason_left))
    if last_before_pause(redis, project_id) not in {None, job_id}:
        raise NoVersion("Retraining of the project is paused.")


def prepare(redis: Redis, settings: Settings, project_id: int, progress: Progress) -> "TrainingRun":
    """Claim the waiting corrections, tidy up after a lost worker, and load the served version.

    Raises:
        NoVersion: nothing changed since the last training.
    """
    remember_beginning(redis, project_id)
    change_number = claim(redis, project_id)
    registry = ModelRegistry.open(settings.model_store, settings.caption_bundle)
    if change_number == trained_number(redis, project_id) and not needs_another_start(registry, project_id):
        raise NoVersion("No correction was added, changed or removed since the last training.")
    progress.phase("loading")
    bundle, store = load_bundle(settings.caption_bundle), Store(settings.model_store)
    finish_after_lost_worker(redis, settings, registry, project_id, change_number)
    roll_back_if_accepted_less(redis, registry, settings, project_id)
    return TrainingRun(
        project_id=project_id,
        redis=redis,
        settings=settings,
        store=store,
        registry=registry,
        bundle=bundle,
        serving=registry.load(project_id, registry.serving(project_id), bundle),
        seed=change_number,
        change_number=change_number,
        progress=progress,
    )


def needs_another_start(registry: ModelRegistry, project_id: int) -> bool:
    """Return True if the last training of the project was made with another bundle than the one that serves now."""
    newest = registry.newest(project_id)
    return newest is not None and newest.bundle != registry.base_version


def finish_after_lost_worker(
    redis: Redis, settings: Settings, registry: ModelRegistry, project_id: int, change_number: int
) -> None:
    """Finish the newest version if its worker was lost before it could do so.

    Raises:
        NoVersion: that version was trained on the same corrections.
    """
    unfinished = find_unfinished(redis, registry, project_id)
    if unfinished is None:
        return
    finish(redis, settings, unfinished)
    if trained_number(redis, project_id) == change_number:
        raise NoVersion(f"{unfinished.name} was trained on the same corrections before its worker was lost.")


@dataclass(kw_only=True)
class TrainingRun:
    """One retraining of one project, and everything it works with."""

    project_id: int
    redis: Redis
    settings: Settings
    store: Store
    registry: ModelRegistry
    bundle: Bundle
    serving: TorchCaptioner
    """The served version, which the training starts from."""
    seed: int
    change_number: int
    """The newest change of the corrections that this training knows."""
    progress: Progress

    @property
    def feedback(self) -> FeedbackStore:
        return FeedbackStore(self.redis)

    @property
    def features(self) -> FeatureStore:
        return FeatureStore(self.store, self.bundle.encoder.fingerprint)

    @property
    def trained_states(self) -> frozenset[str]:
        """States of the corrections that the served version was trained or measured on."""
        return self.registry.known_states(self.project_id, self.serving.version)

    def train(self) -> Candidate:
        """Train a candidate on the project's corrections.

        If the training fails because of certain corrections, these are excluded and the training starts once more.

        Raises:
            NoVersion: there is nothing to train on.
            TrainingError: the project has corrections, but none of them can be used.
        """
        try:
            dataset, candidate = self._train_once()
        except Exception as problem:
            if not may_come_from_items(problem) or not self._exclude_bad_corrections():
                raise
            dataset, candidate = self._train_once()
        else:
            if candidate is not None and not candidate.trial.is_finite and self._exclude_bad_corrections():
                dataset, candidate = self._train_once()
        if candidate is None:
            self._end_without_training(dataset)
        return candidate

    def publish(self, candidate: Candidate, reason: str) -> ModelVersion:
        """Record the candidate as published or refused, and do what follows from that.

        Raises:
            NoVersion: another version was promoted during the training.
        """
        self.progress.phase("publishing")
        parent = self.serving.version
        if self.registry.serving(self.project_id) != parent:
            with suppress(JobError):  # if the project was paused meanwhile, the corrections wait
                trigger = "another version was promoted during the training"
                enqueue_retraining(self.redis, self.settings, self.project_id, trigger)
            raise NoVersion(f"{parent} is not served any more; the next training starts from the new one.")
        version = record(self.registry, self.project_id, candidate, self.change_number, parent, reason)
        finish(self.redis, self.settings, version)
        pruned = self.registry.prune(self.project_id, self.settings.keep_versions)
        if pruned:
            logger.info("old weights deleted project=%s versions=%s", self.project_id, ",".join(pruned))
        calibrate(self.redis, self.store, self.project_id)
        return version

    def _train_once(self) -> tuple[Dataset, Candidate | None]:
        """Return the dataset and the candidate trained on it; None if the dataset has nothing to train on."""
        dataset = build_dataset(
            self.feedback.corrections(self.project_id),
            self.features,
            self.bundle.replay,
            Holdout(self.store, self.project_id, self.bundle.encoder.fingerprint),
            self.trained_states,
            self.feedback.excluded(self.project_id),
        )
        if not dataset.learned:
            return dataset, None
        bundle = self.bundle.captioner()
        return dataset, train_candidate(self.serving, bundle, dataset, self.settings, self.seed, self.progress)

    def _exclude_bad_corrections(self) -> int:
        """Exclude the corrections that make the training fail; return their number."""
        self.progress.phase("searching")
        corrections, excluded = self.feedback.corrections(self.project_id), self.feedback.excluded(self.project_id)
        usable, _ = find_usable(corrections, self.features, self.trained_states, excluded)
        bad = find_bad_corrections(usable, self.serving, self.bundle.captioner(), self.bundle.replay)
        for corrected, problem in bad:
            name, reason = corrected.correction.name, f"training fails with it: {problem}"
            self.feedback.exclude(self.project_id, name, reason, automatic=True)
            logger.warning("correction excluded project=%s correction=%s problem=%r", self.project_id, name, problem)
        if bad:  # each exclusion is a change, and the next attempt knows it
            self.change_number = claim(self.redis, self.project_id)
        return len(bad)

    def _end_without_training(self, dataset: Dataset) -> NoReturn:
        """Say why there is nothing to train on; this is a failure if some corrections should have been usable."""
        if dataset.held_out:
            raise NoVersion(
                f"All usable corrections ({len(dataset.held_out)}) are held out for evaluation. Correct more images."
            )
        if not dataset.is_all_excluded:
            reasons = ", ".join(f"{reason}: {count}" for reason, count in dataset.left_out.items())
            raise TrainingError(
                f"No correction of project {self.project_id} can be used for training ({reasons}). "
                f"Check that the worker can reach Label Studio: run `captioner doctor`."
            )
        mark_trained(self.redis, self.project_id, self.change_number)
        raise NoVersion(
            "All corrections of the project are excluded." if dataset.left_out else "The project has no corrections."
        )
