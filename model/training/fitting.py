"""Features of captioned images to a decoder that captions: vocabulary, then teacher forcing, then rewards."""

import copy
import hashlib
import logging
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import torch

from model.bundle import Bundle
from model.decoders import build_decoder
from model.decoders.base import CaptionDecoder, DecoderSizes
from model.new_words import with_new_words
from model.progress import OnProgress, Progress, ignore_progress
from model.tokenizer import Tokenizer
from model.training.bundle_options import BundleOptions
from model.training.checkpoint import Checkpoint
from model.training.examples import CaptionedExample
from model.training.processes import ALONE, Processes
from model.training.rewards import reward_captions
from model.training.teacher_forcing import CaptionedFeatures, fit_decoder, token_loss
from model.training.trainer import Course
from model.training.training_log import write_training_log
from model.training.training_record import TrainingProgress
from model.vision.encoder import Encoder
from model.vision.trainable_stages import EncoderTail, join

logger = logging.getLogger(__name__)


def fit_captions(
    learned: Sequence[CaptionedExample],
    judged: Sequence[CaptionedExample],
    below: Encoder,
    tail: EncoderTail,
    options: BundleOptions,
    on_progress: OnProgress = ignore_progress,
    *,
    base: Bundle | None = None,
    out: Path | None = None,
    processes: Processes = ALONE,
) -> tuple[Tokenizer, CaptionDecoder, dict[str, Any]]:
    """Return the vocabulary, the trained decoder, and the record of the training.

    Args:
        learned: captioned images to learn from.
        judged: captioned images to choose the best epoch by.
        below: what gave the features: the encoder's stages that stay as they are.
        tail: the encoder's stages above them, which are taught in place.
        options: sizes and training.
        on_progress: told after each step.
        base: the bundle whose vocabulary and decoder go on learning; None begins with nothing.
        out: where each epoch is kept and can be looked at, and where an interrupted training goes on; None keeps none.
        processes: train together, on their devices; each returns the same.

    Raises:
        TrainingError: the training came to nothing, or another one was interrupted in `out`.
    """
    train = [caption for example in learned for caption in example.captioned()]
    held_out = [caption for example in judged for caption in example.captioned()]
    known = base.tokenizer if base else Tokenizer(())
    tokenizer = known.extended((example.caption for example in train), options.min_count)
    course = Course(processes)
    if out is not None:
        identity = _identity(learned, judged, tokenizer, join(below, tail), base, options, processes)
        course = Course(processes, Checkpoint(out, identity), partial(write_training_log, out))
        _say_where_it_goes_on(course, options, on_progress)
    begun = _further_decoder(base, train, tokenizer, tail) if base else _new_decoder(learned, tokenizer, tail, options)
    decoder = begun.to(processes.device)
    processes.start_alike(decoder)
    untrained = processes.from_first(lambda: [token_loss(decoder, tokenizer, held_out)], 1)[0]

    def reporter(phase: str) -> Callable[[TrainingProgress], None]:
        def report(progress: TrainingProgress) -> None:
            note = f"epoch {progress.epoch}/{progress.epochs} loss {progress.loss:.3f} {progress.eta_s:.0f} s left"
            on_progress(Progress(phase=phase, done=progress.step, total=progress.steps, note=note))

        return report

    fit_decoder(decoder, tokenizer, train, held_out, options.training, reporter("train decoder"), course)
    reward_captions(
        decoder,
        tokenizer,
        train,
        options.self_critical,
        reporter("reward captions"),
        held_out=held_out,
        course=course,
    )
    phases = course.records.items()
    record = {
        "untrained_loss": untrained,
        "vocabulary": tokenizer.size,
        "epochs": [asdict(epoch) for _, phase in phases for epoch in phase.epochs],
        "best_epochs": {name: phase.best_epoch for name, phase in phases},
        "steps": sum(phase.steps for _, phase in phases),
        "seconds": sum(phase.seconds for _, phase in phases),
        "device": processes.device.type,
        "processes": processes.count,
    }
    decoder.cpu().tail = None
    tail.eval().requires_grad_(False)
    return tokenizer, decoder, record


def _new_decoder(
    learned: Sequence[CaptionedExample], tokenizer: Tokenizer, tail: EncoderTail, options: BundleOptions
) -> CaptionDecoder:
    """Return a decoder with random weights that has measured the features and holds the tail, if that can learn."""
    some = torch.stack([example.features for example in learned[:: max(1, len(learned) // 500)]])
    with torch.no_grad():  # as they will be in training: a random start has no statistics to normalise by yet
        batches = [some[start : start + 64].float() for start in range(0, len(some), 64)]
        features = torch.cat([tail.train()(batch) for batch in batches])
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
    decoder.tail = tail if list(tail.parameters()) else None
    return decoder


def _further_decoder(
    base: Bundle, train: Sequence[CaptionedFeatures], tokenizer: Tokenizer, tail: EncoderTail
) -> CaptionDecoder:
    """Return a copy of a bundle's decoder that has the new words too and holds the tail, if that can learn.

    The bundle's own captions are not mixed in, as a project's retraining does: they are not how the new ones are
    worded, and their features are no longer what a tail that has learned gives.
    """
    decoder = copy.deepcopy(base.decoder)
    decoder.tail = tail if list(tail.parameters()) else None
    return with_new_words(decoder, tokenizer, train)


def _identity(
    learned: Sequence[CaptionedExample],
    judged: Sequence[CaptionedExample],
    tokenizer: Tokenizer,
    encoder: Encoder,
    base: Bundle | None,
    options: BundleOptions,
    processes: Processes,
) -> dict[str, str | float | None]:
    """Return all that the weights come from, by names that people know from the command line."""
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


def _flat(options: dict[str, Any], within: str = "") -> dict[str, str | float | None]:
    """Return options of options by names such as `training.epochs`."""
    flat: dict[str, str | float | None] = {}
    for name, value in options.items():
        flat |= _flat(value, f"{within}{name}.") if isinstance(value, dict) else {within + name: value}
    return flat


def _digest(examples: Sequence[CaptionedExample]) -> str:
    """Return the number of images and 12 hex digits that change with an image, a caption or their order."""
    digest = hashlib.sha256()
    for example in examples:
        digest.update(repr((example.image_key, example.image.captions)).encode())
    return f"{len(examples)} {digest.hexdigest()[:12]}"


def _say_where_it_goes_on(course: Course, options: BundleOptions, on_progress: OnProgress) -> None:
    if course.interrupted is None:
        return
    epochs = {"captions": options.training.epochs, "rewards": options.self_critical.epochs}[course.interrupted]
    done = len(course.records[course.interrupted].epochs)
    note = f"{course.interrupted}: goes on after epoch {done}"
    logger.info("training resumed phase=%s epoch=%s", course.interrupted, done)
    on_progress(Progress(phase="resume training", done=done, total=epochs, note=note))
