"""The retraining of one project's decoder: corrections in, a new model version out."""

import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from rq import Retry, get_current_job

from model.bundle import load_bundle
from model.captioner import Captioner
from model.errors import TrainingError
from model.registry import ModelRegistry, ModelVersion
from model.store import Store
from model.training.captions import CaptionedFeatures, caption_tokens, token_loss
from model.training.record import TrainingRecord
from model.vision.features import FeatureStore
from worker.corrections import CorrectionInbox
from worker.dataset import Dataset, build_dataset, wording_pairs
from worker.edits import find_systematic_edits
from worker.fine_tuning import fine_tune
from worker.policy import Metrics, is_better
from worker.progress import Progress
from worker.queues import connect_patiently, enqueue_backend_job, enqueue_retraining, only_training
from worker.settings import Settings

logger = logging.getLogger(__name__)


WHILE_ANOTHER_TRAINS = Retry(max=40, interval=15)
"""Only after something went wrong: a retraining is enqueued to follow the one that runs."""


@dataclass(frozen=True, kw_only=True)
class Trial:
    """How a candidate and the version it challenges did on the same captions."""

    candidate: Metrics
    serving: Metrics


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
    redis, store = connect_patiently(settings.redis_url), Store(settings.model_store)
    inbox, progress = CorrectionInbox(redis), Progress(get_current_job(), settings.redis_url)

    with only_training(redis, project_id, progress.job_id) as is_ours:
        if not is_ours:
            return WHILE_ANOTHER_TRAINS
        change_number = inbox.take(project_id)
        if change_number == inbox.trained_number(project_id):
            return no_version(project_id, "no correction came, changed or went since the last training")

        progress.phase("loading")
        bundle = load_bundle(settings.caption_bundle)
        registry = ModelRegistry(store, bundle.version)
        serving = registry.load(project_id, registry.serving(project_id), bundle)
        features = FeatureStore(store, bundle.encoder.fingerprint)
        dataset = build_dataset(inbox.corrections(project_id), features, bundle.replay)
        if not dataset.learned:
            return nothing_learned(inbox, project_id, change_number, dataset)

        dataset = dataset.restated(find_systematic_edits(wording_pairs(dataset, bundle.captioner())))
        candidate, training = fine_tune(serving, dataset, settings.retrain_budget_s, change_number, progress)

        progress.phase("evaluating")
        trial = Trial(candidate=measure(candidate, dataset), serving=measure(serving, dataset))

        progress.phase("publishing")
        if registry.serving(project_id) != serving.version:
            enqueue_retraining(redis, settings, project_id, "another version was promoted during the training")
            return no_version(project_id, f"{serving.version} serves no more; the one that does is trained next")
        version = publish_or_refuse(registry, project_id, candidate, serving, dataset, trial, training, reason)
        inbox.mark_trained(project_id, change_number)
        if version.published and settings.refresh_predictions:
            enqueue_backend_job(redis, "refresh_predictions", project_id, version.name)

    progress.phase("done")
    return outcome(version, dataset, training)


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
    if dataset.left_out:
        reasons = ", ".join(f"{reason}: {count}" for reason, count in dataset.left_out.items())
        raise TrainingError(
            f"no correction of project {project_id} can be trained on ({reasons}); can the worker reach Label Studio? "
            f"`captioner doctor` says what is wrong"
        )
    inbox.mark_trained(project_id, change_number)
    return no_version(project_id, "the project has no corrections any more")


def publish_or_refuse(
    registry: ModelRegistry,
    project_id: int,
    candidate: Captioner,
    serving: Captioner,
    dataset: Dataset,
    trial: Trial,
    training: TrainingRecord,
    reason: str,
) -> ModelVersion:
    """Let the gate decide, and record the version with all that led to the decision."""
    decision = is_better(trial.candidate, trial.serving)
    record = registry.publish if decision.publish else registry.refuse
    return record(
        project_id,
        candidate,
        parent=serving.version,
        metrics={
            **asdict(trial),
            "training": asdict(training),
            "systematic_edits": [str(edit) for edit in dataset.edits],
            "corrections_left_out": dict(dataset.left_out),
            "trigger": reason,
        },
        corrections=dataset.corrections,
        decision=decision.reason,
    )


def measure(captioner: Captioner, dataset: Dataset) -> Metrics:
    """Measure a version on what no version was trained on; on anchors in the bundle's words or the project's, as it is
    used to."""
    anchors = [caption_loss(captioner, anchors) for anchors in (dataset.anchors, dataset.restated_anchors) if anchors]
    return Metrics(
        held_out_loss=caption_loss(captioner, dataset.held_out),
        held_out=len(dataset.held_out),
        anchor_loss=min(filter(None, anchors), default=None),
        anchors=len(dataset.anchors),
    )


def caption_loss(captioner: Captioner, examples: Sequence[CaptionedFeatures]) -> float | None:
    """Return the mean negative log-likelihood of a caption in nats, or None without examples.

    Of a caption and not of a token: a vocabulary with new words cuts the same caption into fewer tokens.
    """
    if not examples:
        return None
    tokens = sum(len(caption_tokens(captioner.tokenizer, example.caption, spelled=True)) - 1 for example in examples)
    return token_loss(captioner.decoder, captioner.tokenizer, examples, spelled=True) * tokens / len(examples)


def outcome(version: ModelVersion, dataset: Dataset, training: TrainingRecord) -> dict[str, Any]:
    """Return what came of a retraining, as JSON, and say it in the log."""
    told = {
        "project_id": version.project_id,
        "version": version.name,
        "published": version.published,
        "decision": version.decision,
        "corrections": len(dataset.learned),
        "held_out": len(dataset.held_out),
        "left_out": dict(dataset.left_out),
        "training_s": round(training.seconds, 1),
    }
    logger.info("retraining done %s", " ".join(f"{name}={value!r}" for name, value in told.items()))
    return told
