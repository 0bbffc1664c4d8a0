"""Trains a bundle from captioned images, behind `captioner train`.

captions file -> images -> features -> vocabulary -> decoder -> held-out metrics -> bundle directory

Encoder, vocabulary and decoder are new, or those of a bundle that is trained further.
"""

import logging
import math
import random
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from model.bundle import Bundle, save_bundle
from model.caption_files.read import CaptionSource, LeftOut
from model.captioned_features import CaptionedFeatures
from model.errors import TrainingError
from model.metrics.comparison import Comparison
from model.metrics.evaluation import Evaluation, evaluate
from model.progress import OnProgress, ignore_progress
from model.store import Store
from model.torch_captioner import TorchCaptioner
from model.training.bundle_options import BundleOptions
from model.training.checkpoint import remove_checkpoint
from model.training.examples import CaptionedExample, ExampleReader
from model.training.fitting import fit_captions
from model.training.model_card import model_card
from model.training.optimization import prepare_training
from model.training.processes import ALONE, Processes
from model.vision.encoder import Encoder, as_stored, build_encoder
from model.vision.encoder_spec import EncoderSpec
from model.vision.trainable_stages import TrainableStages, join_encoder, split_encoder

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class TrainedBundle:
    """Result of `captioner train`."""

    path: Path
    version: str
    evaluation: Evaluation
    """On the held-out images."""
    comparison: Comparison | None
    """With the base bundle, on the same images; None for a new bundle."""
    left_out: LeftOut
    """Entries of the captions files that could not be used."""
    record: dict[str, Any]
    """The record in bundle.json."""


def train_bundle(
    out: Path,
    *,
    train: CaptionSource,
    held_out: CaptionSource | None = None,
    encoder: EncoderSpec | None = None,
    weights: Path | str | None = None,
    base: Bundle | None = None,
    options: BundleOptions,
    features: Store | None = None,
    strict: bool = False,
    on_progress: OnProgress = ignore_progress,
    processes: Processes = ALONE,
) -> TrainedBundle | None:
    """Train a decoder on captioned images and write a bundle; only the first of several processes returns it.

    While it trains, `out` holds the training log and a checkpoint, from which the same call resumes after a kill.

    Args:
        out: directory of the bundle; it must not hold one yet.
        train, held_out, features, strict, on_progress, processes: as in ExampleReader.
        encoder: the network that reads the images; its last stages are trained too. None takes the base's.
        base: bundle to train further. It does not change, and is measured on the same held-out images.
        options: sizes, training and decoding; with a base the sizes are the base's.

    Raises CaptionFileError if no captions can be read, BundleError if the encoder's weights do not fit, TrainingError
    if no image can be used, the loss is no longer a number, or `out` holds a bundle or another training.
    """
    if (out / "bundle.json").exists():
        raise TrainingError(f"{out} holds a bundle already: choose another directory")
    if base is None and not options.training.epochs:
        raise TrainingError("a new decoder must be trained for 1 epoch or more, got 0")
    started = time.monotonic()
    if base is not None:
        options = replace(options, training=replace(options.training, temperature=base.temperature))
    below, stages = _split_first_encoder(encoder, weights, base, options)
    prepare_training(stages, processes.device)
    reader = ExampleReader(below, features=features, strict=strict, processes=processes, on_progress=on_progress)
    below.to(processes.device)
    examples = _read_examples(reader, train, held_out, options)
    below.cpu()
    fitted = fit_captions(*examples, below, stages, options, on_progress, base=base, out=out, processes=processes)
    if not processes.is_first:
        return None
    tokenizer, decoder, training = fitted
    captioner = TorchCaptioner(as_stored(join_encoder(below, stages)), decoder, tokenizer, options.name)
    source = _Source(base=base, stages=stages, learned=examples[0], judged=examples[1], left_out=reader.left_out)
    return _write_bundle(out, captioner, source, options, training, started, on_progress)


@dataclass(frozen=True, kw_only=True)
class _Source:
    """Everything that a captioner was trained from."""

    base: Bundle | None
    stages: TrainableStages
    learned: Sequence[CaptionedExample]
    judged: Sequence[CaptionedExample]
    left_out: LeftOut


def _write_bundle(
    out: Path,
    captioner: TorchCaptioner,
    source: _Source,
    options: BundleOptions,
    training: dict[str, Any],
    started: float,
    on_progress: OnProgress,
) -> TrainedBundle:
    """Measure a trained captioner, write its bundle and its card, and remove the checkpoint."""
    images, base, left_out = [example.image for example in source.judged], source.base, source.left_out
    after = evaluate(captioner, images, options.decoding, on_progress=on_progress)
    before = evaluate(base.captioner(), images, options.decoding, on_progress=on_progress) if base else None
    record = {
        "encoder": captioner.encoder.spec.name,
        "encoder_fingerprint": captioner.encoder.fingerprint,
        "train_images": len(source.learned),
        "held_out_images": len(source.judged),
        "left_out": left_out.counts(),
        "options": _finite(asdict(options)),
        "training": training,
        "held_out_metrics": asdict(after.metrics),
        "started_from": _start(base, before),
        "seconds": round(time.monotonic() - started, 1),
    }
    version = save_bundle(
        out,
        name=options.name,
        encoder=captioner.encoder,
        decoder=captioner.decoder,
        tokenizer=captioner.tokenizer,
        replay=_replay(source.learned, source.stages, options),
        record=record,
        temperature=training["temperature"],
    )
    (out / "MODEL_CARD.md").write_text(model_card(version, record), "utf-8")
    remove_checkpoint(out)
    logger.info("bundle written path=%s version=%s cider_d=%.3f", out, version, after.metrics.cider_d)
    comparison = Comparison(before=before, after=after) if before else None
    return TrainedBundle(
        path=out, version=version, evaluation=after, comparison=comparison, left_out=left_out, record=record
    )


def _split_first_encoder(
    spec: EncoderSpec | None, weights: Path | str | None, base: Bundle | None, options: BundleOptions
) -> tuple[Encoder, TrainableStages]:
    """Return the frozen and the trainable stages of the described network, or of a copy of the base's."""
    if base is not None:
        encoder = build_encoder(base.encoder.spec)
        encoder.network.load_state_dict(base.encoder.network.state_dict())
    else:
        assert spec is not None
        encoder = build_encoder(spec, weights)
    has_statistics = weights is not None or base is not None
    return split_encoder(as_stored(encoder), options.taught_stages, fixed_statistics=has_statistics)


def _read_examples(
    reader: ExampleReader, train: CaptionSource, held_out: CaptionSource | None, options: BundleOptions
) -> tuple[Sequence[CaptionedExample], Sequence[CaptionedExample]]:
    learned, judged = reader.read(train, held_out, options.held_out_share)
    learned = reader.with_views(learned, options.views, options.augmentation)
    logger.info("images encoded train=%s held_out=%s %s", len(learned), len(judged), reader.left_out.summary())
    return learned, judged


@torch.inference_mode()
def _replay(
    learned: Sequence[CaptionedExample], stages: TrainableStages, options: BundleOptions
) -> list[CaptionedFeatures]:
    """Return one caption each of some random images; the seed decides which."""
    choose = random.Random(options.training.seed)
    chosen = choose.sample(list(learned), min(options.replay, len(learned)))
    captions = [choose.choice(example.captioned()) for example in chosen]
    return [
        CaptionedFeatures(features=stages(caption.features[None].float())[0].half(), caption=caption.caption)
        for caption in captions
    ]


def _start(base: Bundle | None, before: Evaluation | None) -> dict[str, Any] | None:
    """Return the record's entry about the base bundle; None for a new bundle."""
    if base is None or before is None:
        return None
    return {"version": base.version, "digest": base.digest, "held_out_metrics": asdict(before.metrics)}


def _finite(fields: dict[str, Any]) -> dict[str, Any]:
    """Return the fields with None for infinity, which JSON cannot express."""
    return {
        name: _finite(value) if isinstance(value, dict) else None if value == math.inf else value
        for name, value in fields.items()
    }
