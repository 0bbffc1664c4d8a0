"""The retraining of one project's decoder: corrections in, a new model version out."""

import logging
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from rq import Retry, get_current_job

from model.bundle import Bundle, load_bundle
from model.captioner import Captioner, prefer_fast_products
from model.errors import JobError, TrainingError
from model.registry import ModelRegistry
from model.store import Store
from model.vision.features import FeatureStore
from worker.feedback.corrections import CorrectionInbox
from worker.learning.bad_corrections import problem_with_training
from worker.learning.candidate import Attempt, attempt
from worker.learning.dataset import Dataset, build_dataset, find_usable
from worker.learning.holdout import Holdout
from worker.learning.rollback import calibrate, roll_back_if_accepted_less
from worker.learning.version_record import find_unfinished, finish, outcome, record
from worker.queue.job_failure import find_culprits, may_come_from_items
from worker.queue.job_progress import Progress
from worker.queue.retraining import enqueue_retraining, last_before_pause, only_training, remember_beginning
from worker.redis_client import connect_patiently
from worker.settings import Settings

logger = logging.getLogger(__name__)


WHILE_ANOTHER_TRAINS = Retry(max=40, interval=15)
"""Only after something went wrong: a retraining is enqueued to follow the one that runs."""


def retrain(project_id: int, reason: str) -> dict[str, Any] | Retry:
    """RQ job: train the project's serving decoder on its corrections and publish the result if it is better.

    May run twice without harm: when nothing changed since the last training it says so and does nothing.

    Args:
        project_id: Label Studio's.
        reason: what triggered it, for the record.

    Returns:
        what came of it, or a Retry while another process trains this project.

    Raises:
        TrainingError: no correction can be used; the message counts why. The serving version stays.
    """
    settings = Settings.from_env()
    prefer_fast_products()  # as the backend, which will serve what is judged here
    redis, store = connect_patiently(settings.redis_url), Store(settings.model_store)
    inbox, progress = CorrectionInbox(redis), Progress(get_current_job(), settings.redis_url)

    if last_before_pause(redis, project_id) not in {None, progress.job_id}:
        return no_version(project_id, "retraining of the project is paused")
    with only_training(redis, project_id, progress.job_id) as is_ours:
        if not is_ours:
            return WHILE_ANOTHER_TRAINS
        remember_beginning(redis, project_id)
        change_number = inbox.take(project_id)
        if change_number == inbox.trained_number(project_id):
            return no_version(project_id, "no correction came, changed or went since the last training")

        progress.phase("loading")
        bundle = load_bundle(settings.caption_bundle)
        registry = ModelRegistry(store, bundle.version)
        unfinished = find_unfinished(inbox, registry, project_id)
        if unfinished is not None:
            finish(redis, settings, unfinished)
            if inbox.trained_number(project_id) == change_number:
                return no_version(project_id, f"{unfinished.name} is made of the same corrections; its worker was lost")
        roll_back_if_accepted_less(redis, registry, settings, project_id)
        serving = registry.load(project_id, registry.serving(project_id), bundle)
        features = FeatureStore(store, bundle.encoder.fingerprint)
        holdout = Holdout(store, project_id, bundle.encoder.fingerprint)
        known_states = registry.known_states(project_id, serving.version)

        lesson = Lesson(
            project_id=project_id,
            inbox=inbox,
            features=features,
            holdout=holdout,
            known_states=known_states,
            serving=serving,
            bundle=bundle,
            settings=settings,
            change_number=change_number,
            progress=progress,
        )
        change_number, dataset, made = lesson.learn()
        if made is None:
            return nothing_learned(inbox, project_id, change_number, dataset)

        progress.phase("publishing")
        if registry.serving(project_id) != serving.version:
            with suppress(JobError):  # paused meanwhile; the corrections wait
                enqueue_retraining(redis, settings, project_id, "another version was promoted during the training")
            return no_version(project_id, f"{serving.version} serves no more; the one that does is trained next")
        version = record(registry, project_id, made, change_number, serving.version, reason)
        finish(redis, settings, version)
        calibrate(redis, store, project_id)

    progress.phase("done")
    return outcome(version, made)


@dataclass(frozen=True, kw_only=True)
class Lesson:
    """What one retraining works with."""

    project_id: int
    inbox: CorrectionInbox
    features: FeatureStore
    holdout: Holdout
    known_states: frozenset[str]
    """Of corrections that the serving version was trained or measured on."""
    serving: Captioner
    bundle: Bundle
    settings: Settings
    change_number: int
    """The newest change that was taken; the seed too."""
    progress: Progress

    def learn(self) -> tuple[int, Dataset, "Attempt | None"]:
        """Train on what is in the inbox, once more if it fails for certain corrections; these are set aside then.

        Returns:
            the newest change it knows, what it was, and what came of it: None when there is nothing to train on.

        Raises:
            Exception: it fails, and not for any correction.
        """
        try:
            dataset, made = self._attempt()
        except Exception as problem:
            if may_come_from_items(problem) and self._set_culprits_aside():
                return self._learn_the_rest()
            raise
        if made is not None and not made.trial.is_finite and self._set_culprits_aside():
            return self._learn_the_rest()
        return self.change_number, dataset, made

    def _learn_the_rest(self) -> tuple[int, Dataset, "Attempt | None"]:
        """Train once more; that something was set aside is a change that this training knows."""
        change_number = self.inbox.take(self.project_id)
        return change_number, *self._attempt()

    def _attempt(self) -> tuple[Dataset, "Attempt | None"]:
        corrections, aside = self.inbox.corrections(self.project_id), self.inbox.set_aside_names(self.project_id)
        replay = self.bundle.replay
        dataset = build_dataset(corrections, self.features, replay, self.holdout, self.known_states, aside)
        if not dataset.learned:
            return dataset, None
        bundle = self.bundle.captioner()
        return dataset, attempt(self.serving, bundle, dataset, self.settings, self.change_number, self.progress)

    def _set_culprits_aside(self) -> int:
        """Find the corrections that make a training fail, and set them aside; returns how many that are."""
        self.progress.phase("searching")
        corrections, aside = self.inbox.corrections(self.project_id), self.inbox.set_aside_names(self.project_id)
        used, _ = find_usable(corrections, self.features, self.known_states, aside)
        bundle, replay = self.bundle.captioner(), self.bundle.replay
        found = find_culprits(used, lambda tried: problem_with_training(tried, self.serving, bundle, replay))
        for one, problem in found:
            name = one.correction.name
            self.inbox.set_aside(self.project_id, name, f"no training is possible with it: {problem}", by_job=True)
            logger.warning("correction set aside project=%s correction=%s problem=%r", self.project_id, name, problem)
        return len(found)


def no_version(project_id: int, why: str) -> dict[str, Any]:
    """Return the outcome of a retraining that made no version."""
    logger.info("retraining done project=%s version=None reason=%r", project_id, why)
    return {"project_id": project_id, "version": None, "published": False, "decision": why}


def nothing_learned(inbox: CorrectionInbox, project_id: int, change_number: int, dataset: Dataset) -> dict[str, Any]:
    """Say why there is nothing to train on; it is an error if corrections are there that should have been usable."""
    if dataset.held_out:
        return no_version(
            project_id, f"the only {len(dataset.held_out)} usable corrections are held out; more must come"
        )
    if not dataset.is_set_aside:
        reasons = ", ".join(f"{reason}: {count}" for reason, count in dataset.left_out.items())
        raise TrainingError(
            f"no correction of project {project_id} can be trained on ({reasons}); can the worker reach Label Studio? "
            f"`captioner doctor` says what is wrong"
        )
    inbox.mark_trained(project_id, change_number)
    why = "all its corrections are set aside" if dataset.left_out else "the project has no corrections any more"
    return no_version(project_id, why)
