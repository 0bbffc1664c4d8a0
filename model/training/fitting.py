"""Fits a decoder to features of captioned images: vocabulary, then teacher forcing, then rewards."""

import copy
import hashlib
import logging
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import torch

from model.bundle import Bundle
from model.captioned_features import CaptionedFeatures
from model.decoders.base import CaptionDecoder
from model.decoders.build import build_decoder
from model.decoders.sizes import DecoderSizes
from model.new_words import with_new_words
from model.progress import OnProgress, Progress, ignore_progress
from model.tokenizer import Tokenizer
from model.training.bundle_options import BundleOptions
from model.training.checkpoint import Checkpoint
from model.training.examples import CaptionedExample
from model.training.losses import best_temperature, token_loss
from model.training.processes import ALONE, Processes
from model.training.rewards import reward_captions
from model.training.teacher_forcing import fit_decoder
from model.training.trainer import Trainer, step_reporter
from model.training.training_log import write_training_log
from model.vision.encoder import Encoder
from model.vision.trainable_stages import TrainableStages, join_encoder

logger = logging.getLogger(__name__)

Identity = dict[str, str | float | None]


def fit_captions(
    learned: Sequence[CaptionedExample],
    judged: Sequence[CaptionedExample],
    below: Encoder,
    stages: TrainableStages,
    options: BundleOptions,
    on_progress: OnProgress = ignore_progress,
    *,
    base: Bundle | None = None,
    out: Path | None = None,
    processes: Processes = ALONE,
) -> tuple[Tokenizer, CaptionDecoder, dict[str, Any]]:
    """Return the vocabulary, the trained decoder, and the record of the training.

    Args:
        learned: captioned images to learn from, with features of `below`.
        judged: captioned images that choose the best epoch.
        below: the frozen stages of the encoder.
        stages: the stages above them; they are trained in place.
        base: bundle whose vocabulary and decoder are trained further; None starts a new decoder.
        out: directory of the checkpoint and the training log; None writes neither.
        processes: train together, on their devices; each gets the same result.

    Raises:
        TrainingError: the loss is no longer a number, or `out` has the checkpoint of another training.
    """
    train, held_out = _captions_of(learned), _captions_of(judged)
    vocabulary = base.tokenizer if base else Tokenizer(())
    tokenizer = vocabulary.extended((example.caption for example in train), options.min_count)
    trainer = Trainer(processes)
    if out is not None:
        identity = _identity(learned, judged, tokenizer, join_encoder(below, stages), base, options, processes)
        trainer = Trainer(processes, Checkpoint(out, identity), partial(write_training_log, out))
        _report_resumption(trainer, options, on_progress)
    if base is None:
        decoder = new_decoder(learned, tokenizer, stages, options)
    else:
        decoder = further_decoder(base, train, tokenizer, stages)
    record = _train(decoder, tokenizer, train, held_out, options, on_progress, trainer)
    decoder.cpu().trainable_stages = None
    stages.eval().requires_grad_(False)
    return tokenizer, decoder, record


def _captions_of(examples: Sequence[CaptionedExample]) -> list[CaptionedFeatures]:
    return [caption for example in examples for caption in example.captioned()]


def _train(
    decoder: CaptionDecoder,
    tokenizer: Tokenizer,
    train: Sequence[CaptionedFeatures],
    held_out: Sequence[CaptionedFeatures],
    options: BundleOptions,
    on_progress: OnProgress,
    trainer: Trainer,
) -> dict[str, Any]:
    """Train the decoder in place and return the record."""
    processes = trainer.processes
    decoder.to(processes.device)
    processes.start_alike(decoder)
    untrained = processes.from_first(lambda: token_loss(decoder, tokenizer, held_out))
    report = step_reporter("train decoder", on_progress)
    fit_decoder(decoder, tokenizer, train, held_out, options.training, report, trainer)
    report = step_reporter("reward captions", on_progress)
    reward_captions(decoder, tokenizer, train, options.self_critical, report, held_out=held_out, trainer=trainer)
    phases = trainer.records
    return {
        "temperature": processes.from_first(lambda: best_temperature(decoder, tokenizer, held_out)),
        "untrained_loss": untrained,
        "vocabulary": tokenizer.size,
        "epochs": [asdict(epoch) for phase in phases.values() for epoch in phase.epochs],
        "best_epochs": {name: phase.best_epoch for name, phase in phases.items()},
        "steps": sum(phase.steps for phase in phases.values()),
        "seconds": sum(phase.seconds for phase in phases.values()),
        "device": processes.device.type,
        "processes": processes.count,
    }


def new_decoder(
    learned: Sequence[CaptionedExample], tokenizer: Tokenizer, stages: TrainableStages, options: BundleOptions
) -> CaptionDecoder:
    """Return a decoder with random weights, standardised to the features of about 500 of the images."""
    sample = torch.stack([example.features for example in learned[:: max(1, len(learned) // 500)]])
    with torch.no_grad():  # In training mode, because untrained batch normalisation has no statistics yet.
        batches = [sample[start : start + 64].float() for start in range(0, len(sample), 64)]
        features = torch.cat([stages.train()(batch) for batch in batches])
    torch.manual_seed(options.training.seed)
    decoder = build_decoder(
        DecoderSizes(
            vocabulary=tokenizer.size,
            features=features.shape[-1],
            hidden=options.hidden,
            embedding=options.hidden,
            attention=options.hidden // 2 if options.attention else 0,
            layers=options.layers,
            cell=options.cell,
            recurrent_regions=options.recurrent_regions,
            residual=options.residual,
        ),
        dropout=options.training.dropout,
    )
    decoder.standardise(features)
    decoder.trainable_stages = stages if list(stages.parameters()) else None
    return decoder


def further_decoder(
    base: Bundle, train: Sequence[CaptionedFeatures], tokenizer: Tokenizer, stages: TrainableStages
) -> CaptionDecoder:
    """Return a copy of a bundle's decoder with rows for the new words.

    The bundle's own captions are not mixed in, as a project's retraining does. They are worded differently from the new
    ones, and their features no longer fit once the encoder's stages have changed.
    """
    decoder = copy.deepcopy(base.decoder)
    decoder.trainable_stages = stages if list(stages.parameters()) else None
    return with_new_words(decoder, tokenizer, train)


def _identity(
    learned: Sequence[CaptionedExample],
    judged: Sequence[CaptionedExample],
    tokenizer: Tokenizer,
    encoder: Encoder,
    base: Bundle | None,
    options: BundleOptions,
    processes: Processes,
) -> Identity:
    """Return everything that the weights depend on, by names that users know from the command line."""
    return {
        **_flat(asdict(options)),
        "encoder": f"{encoder.spec.name} {encoder.fingerprint}",
        "bundle to go on from": f"{base.name} {base.digest[:12]}" if base else None,
        "training images and captions": _digest(learned),
        "held-out images and captions": _digest(judged),
        "vocabulary": f"{tokenizer.size} words {hashlib.sha256(repr(tokenizer.words).encode()).hexdigest()[:12]}",
        "device": processes.device.type,
        "processes": processes.count,
    }


def _flat(options: dict[str, Any], within: str = "") -> Identity:
    """Return nested options by names such as `training.epochs`."""
    flat: Identity = {}
    for name, value in options.items():
        flat |= _flat(value, f"{within}{name}.") if isinstance(value, dict) else {within + name: value}
    return flat


def _digest(examples: Sequence[CaptionedExample]) -> str:
    """Return the number of images and 12 hex digits that change with any image, any caption or their order."""
    digest = hashlib.sha256()
    for example in examples:
        digest.update(repr((example.image_key, example.image.captions)).encode())
    return f"{len(examples)} {digest.hexdigest()[:12]}"


def _report_resumption(trainer: Trainer, options: BundleOptions, on_progress: OnProgress) -> None:
    phase = trainer.interrupted
    if phase is None:
        return
    epochs = {"captions": options.training.epochs, "rewards": options.self_critical.epochs}[phase]
    done = len(trainer.records[phase].epochs)
    logger.info("training resumed phase=%s epoch=%s", phase, done)
    on_progress(Progress(phase="resume training", done=done, total=epochs, note=f"{phase}: goes on after epoch {done}"))
