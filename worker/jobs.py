"""The retraining of one project's decoder: corrections in, a new model version out."""

import logging
import math
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import Any

from redis import Redis
from rq import Retry, get_current_job

from model.bundle import Bundle, load_bundle
from model.captioner import Captioner, prefer_fast_products
from model.errors import JobError, TrainingError
from model.registry import ModelRegistry, ModelVersion
from model.store import Store
from model.training.captions import word_losses
from model.training.record import TrainingRecord
from model.vision.features import FeatureStore
from worker.acceptance import calibrate, roll_back_if_accepted_less
from worker.audit import THE_WORKER, AuditLog
from worker.bisection import find_culprits, may_come_from_items
from worker.corrections import CorrectionInbox
from worker.counts import JobCounts
from worker.culprits import problem_with_training
from worker.dataset import Dataset, build_dataset, find_served_wording, find_usable, find_wording
from worker.fine_tuning import fine_tune
from worker.gate import Decision, Sample, Trial, decide
from worker.holdout import Holdout
from worker.progress import Progress
from worker.queues import (
    connect_patiently,
    enqueue_backend_job,
    enqueue_retraining,
    last_before_pause,
    only_training,
    remember_beginning,
)
from worker.relevance import LOOKED_AT, measure_relevance, written_by
from worker.request_id import current_request_id
from worker.settings import Settings
from worker.side_by_side import side_by_side

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


@dataclass(frozen=True, kw_only=True)
class Attempt:
    """A candidate, what it was made of, and what came of it."""

    candidate: Captioner
    dataset: Dataset
    training: TrainingRecord
    trial: Trial
    decision: Decision
    new_words: tuple[str, ...]
    """That the candidate knows and the serving version does not."""
    samples: tuple[dict[str, Any], ...]
    """What both versions write about some held-out images, for a person to look at."""


def attempt(
    serving: Captioner, bundle: Captioner, dataset: Dataset, settings: Settings, seed: int, progress: Progress
) -> Attempt:
    """Train a candidate from the serving version, and decide whether it may serve.

    Args:
        serving: the version that serves.
        bundle: the captioner that all versions of the project began with.
        dataset: the project's corrections; some of them are to be learned.
        settings: the time to train and how strict the gate is.
        seed: of the order of training.
        progress: told the phases and steps.
    """
    dataset = dataset.restated(find_wording(dataset, bundle), find_served_wording(dataset, serving, bundle))
    candidate, training = fine_tune(serving, dataset, settings.retrain_budget_s, seed, progress)
    progress.phase("evaluating")
    trial = try_out(candidate, serving, dataset)
    decision = decide(
        trial, confidence=settings.gate_confidence / 100, tolerance=math.log1p(settings.gate_tolerance / 100)
    )
    return Attempt(
        candidate=candidate,
        dataset=dataset,
        training=training,
        trial=trial,
        decision=decision,
        new_words=candidate.tokenizer.words[len(serving.tokenizer.words) :],
        samples=side_by_side(serving, candidate, dataset.held_out),
    )


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


def find_unfinished(inbox: CorrectionInbox, registry: ModelRegistry, project_id: int) -> ModelVersion | None:
    """Return the newest version if the worker that recorded it was lost before `finish`.

    One that is published and does not serve is left alone: perhaps it never did, so its corrections are trained again.
    """
    newest = registry.newest(project_id)
    if newest is None or newest.metrics.get("change_number", 0) <= inbox.trained_number(project_id):
        return None
    return newest if not newest.published or registry.serving(project_id) == newest.name else None


def finish(redis: Redis, settings: Settings, version: ModelVersion) -> None:
    """See to what follows from a version that is recorded; what must not get lost comes first."""
    if version.published and settings.refresh_predictions:
        enqueue_backend_job(redis, "refresh_predictions", version.project_id, version.name)
    CorrectionInbox(redis).mark_trained(version.project_id, version.metrics["change_number"])
    decided = "version published" if version.published else "version refused"
    AuditLog(redis).write(THE_WORKER, decided, version.project_id, version=version.name, reason=version.decision)
    JobCounts(redis).gate_decided(version.published, version.project_id)


def record(
    registry: ModelRegistry, project_id: int, made: Attempt, change_number: int, parent: str, reason: str
) -> ModelVersion:
    """Publish or refuse the candidate, with all that led to the decision."""
    trial, dataset = made.trial, made.dataset
    keep = registry.publish if made.decision.publish else registry.refuse
    return keep(
        project_id,
        made.candidate,
        parent=parent,
        metrics={
            "metric": "loss in nats per word",
            "new": trial.new.summary(),
            "old": trial.old.summary(),
            "anchors": trial.anchors.summary(),
            "relevance": {name: asdict(found) for name, found in trial.relevances().items()},
            "training": asdict(made.training),
            "new_words": list(made.new_words),
            "samples": made.samples,
            "systematic_edits": [str(edit) for edit in dataset.edits],
            "corrections_left_out": dict(dataset.left_out),
            "known_states": dataset.known_states,
            "change_number": change_number,
            "trigger": reason,
            "request": current_request_id(),
            "requests": dataset.requests,
        },
        corrections=dataset.corrections,
        decision=made.decision.reason,
    )


def try_out(candidate: Captioner, serving: Captioner, dataset: Dataset) -> Trial:
    """Measure both versions on what no version was trained on, and how relevant the new captions are."""
    new = [one.example for one in dataset.held_out if one.is_new]
    old = [one.example for one in dataset.held_out if not one.is_new]
    written = [one.example for one in (*dataset.learned, *dataset.held_out) if one.is_new][-LOOKED_AT:]
    return Trial(
        new=Sample(candidate=word_losses(candidate, new), serving=word_losses(serving, new)),
        old=Sample(candidate=word_losses(candidate, old), serving=word_losses(serving, old)),
        anchors=Sample(candidate=anchor_losses(candidate, dataset), serving=anchor_losses(serving, dataset)),
        relevance=measure_relevance(serving, written),
        own=measure_relevance(serving, written_by(serving, written)),
        learned=measure_relevance(candidate, new),
        is_another_language=dataset.is_another_language,
    )


def anchor_losses(captioner: Captioner, dataset: Dataset) -> tuple[float, ...]:
    """Return the loss on each anchor, in the bundle's words or the project's, as the version is used to."""
    plain, restated = (word_losses(captioner, anchors) for anchors in (dataset.anchors, dataset.restated_anchors))
    return tuple(map(min, plain, restated)) if restated else plain


def outcome(version: ModelVersion, made: Attempt) -> dict[str, Any]:
    """Return what came of a retraining, as JSON, and say it in the log."""
    told = {
        "project_id": version.project_id,
        "version": version.name,
        "published": version.published,
        "decision": version.decision,
        "corrections": len(made.dataset.learned),
        "held_out": len(made.dataset.held_out),
        "left_out": dict(made.dataset.left_out),
        "training_s": round(made.training.seconds, 1),
    }
    logger.info(
        "retraining done project=%s version=%s published=%s corrections=%s held_out=%s training_s=%s requests=%s "
        "decision=%r",
        version.project_id,
        version.name,
        version.published,
        told["corrections"],
        told["held_out"],
        told["training_s"],
        ",".join(made.dataset.requests),
        version.decision,
    )
    return told
