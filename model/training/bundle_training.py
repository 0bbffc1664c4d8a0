"""The walk behind `captioner train`: captioned images to a bundle.

captions file -> images -> features -> vocabulary -> decoder -> held-out metrics -> bundle directory

Encoder, vocabulary and decoder begin with nothing, or as those of a bundle that goes on learning.
"""

import logging
import math
import random
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from model.bundle import Bundle, save_bundle
from model.caption_files.read import CaptionSource, LeftOut
from model.captioner import Captioner
from model.errors import TrainingError
from model.metrics.evaluation import Evaluation, evaluate
from model.progress import OnProgress, ignore_progress
from model.store import Store
from model.training.bundle_options import BundleOptions
from model.training.checkpoint import remove_checkpoint
from model.training.comparison import Comparison
from model.training.examples import CaptionedExample, ExampleReader
from model.training.fitting import fit_captions
from model.training.model_card import model_card
from model.training.processes import ALONE, Processes
from model.training.teacher_forcing import CaptionedFeatures
from model.vision.encoder import Encoder, EncoderSpec, as_stored, build_encoder
from model.vision.features import FeatureStore
from model.vision.trainable_stages import EncoderTail, join, part

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class TrainedBundle:
    """What `captioner train` reports."""

    path: Path
    version: str
    evaluation: Evaluation
    """On the held-out images."""
    comparison: Comparison | None
    """With the bundle that it went on from, on the same images; None when it began with nothing."""
    left_out: LeftOut
    """What of the captions files could not be used."""
    record: dict[str, Any]
    """What the bundle says of its own making."""


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
    """Train a decoder on captioned images and write it as a bundle that was tried on images it never saw.

    Until then `out` holds a checkpoint after each epoch, from which the same call goes on after a kill, and the
    training's record with its curves. Only the first of several processes writes and returns the bundle.

    Args:
        out: directory of the bundle; it must not hold one yet.
        train: captions and images to learn from.
        held_out: captions and images to choose the best epoch and to measure on; None holds back a part
            of `train`, the same part for the same images.
        encoder: the network that reads the images; its last stages learn too. None takes the base's.
        weights: its weights, as `build_encoder` takes them.
        base: the bundle to go on from; it is left as it was and measured on the same held-out images.
        options: sizes, training and decoding; with a base the sizes are the base's.
        features: where what the other stages see is kept between runs; None computes it each time.
        strict: stop when anything in the captions files cannot be used.
        on_progress: told after each batch.
        processes: train together; with `features` they also share out the images to encode.

    Raises:
        CaptionFileError: a captions file cannot be understood, or nothing in it can be used.
        BundleError: the encoder is unknown or its weights do not fit.
        TrainingError: the training came to nothing, or `out` holds a bundle already, or another training's checkpoint.
    """
    if (out / "bundle.json").exists():
        raise TrainingError(f"{out} holds a bundle already: choose another directory")
    started = time.monotonic()
    whole = _first_encoder(encoder, weights, base)
    has_seen_images = weights is not None or base is not None
    below, tail = part(whole, options.taught_stages, fixed_statistics=has_seen_images)
    seen = FeatureStore(features, below.fingerprint) if features else None
    examples = ExampleReader(below, features=seen, strict=strict, processes=processes, on_progress=on_progress)
    learned, judged = examples.read(train, held_out, options.held_out_share)
    learned = examples.with_views(learned, options.views, options.augmentation)
    left_out = examples.left_out
    logger.info("images encoded train=%s held_out=%s %s", len(learned), len(judged), left_out.summary())

    tokenizer, decoder, training = fit_captions(
        learned, judged, below, tail, options, on_progress, base=base, out=out, processes=processes
    )
    if not processes.is_first:
        return None
    network = as_stored(join(below, tail))
    captioner = Captioner(network, decoder, tokenizer, options.name)
    images = [example.image for example in judged]
    evaluation = evaluate(captioner, images, options.decoding, on_progress=on_progress)
    before = evaluate(base.captioner(), images, options.decoding, on_progress=on_progress) if base else None
    record = {
        "encoder": network.spec.name,
        "encoder_fingerprint": network.fingerprint,
        "train_images": len(learned),
        "held_out_images": len(judged),
        "left_out": left_out.counts(),
        "options": _finite(asdict(options)),
        "training": training,
        "held_out_metrics": asdict(evaluation.metrics),
        "started_from": _start(base, before),
        "seconds": round(time.monotonic() - started, 1),
    }
    version = save_bundle(
        out,
        name=options.name,
        encoder=network,
        decoder=decoder,
        tokenizer=tokenizer,
        replay=_replay(learned, tail, options),
        record=record,
    )
    (out / "MODEL_CARD.md").write_text(model_card(version, record), "utf-8")
    remove_checkpoint(out)
    logger.info("bundle written path=%s version=%s cider_d=%.3f", out, version, evaluation.metrics.cider_d)
    return TrainedBundle(
        path=out,
        version=version,
        evaluation=evaluation,
        comparison=Comparison(before=before, after=evaluation) if before else None,
        left_out=left_out,
        record=record,
    )


def _first_encoder(spec: EncoderSpec | None, weights: Path | str | None, base: Bundle | None) -> Encoder:
    """Return the network described, or a copy of the base's."""
    if base is None:
        assert spec is not None
        return as_stored(build_encoder(spec, weights))
    encoder = build_encoder(base.encoder.spec)
    encoder.network.load_state_dict(base.encoder.network.state_dict())
    return as_stored(encoder)


@torch.inference_mode()
def _replay(learned: Sequence[CaptionedExample], tail: EncoderTail, options: BundleOptions) -> list[CaptionedFeatures]:
    """Return one caption of each of some images, the same for the same seed."""
    choose = random.Random(options.training.seed)
    chosen = choose.sample(list(learned), min(options.replay, len(learned)))
    captions = [choose.choice(example.captioned()) for example in chosen]
    return [
        CaptionedFeatures(features=tail(caption.features[None].float())[0].half(), caption=caption.caption)
        for caption in captions
    ]


def _start(base: Bundle | None, before: Evaluation | None) -> dict[str, Any] | None:
    """Return what the record says of the bundle that the training went on from."""
    if base is None or before is None:
        return None
    return {"version": base.version, "digest": base.digest, "held_out_metrics": asdict(before.metrics)}


def _finite(fields: dict[str, Any]) -> dict[str, Any]:
    """Return the fields with None for infinity, which JSON does not know."""
    return {
        name: _finite(value) if isinstance(value, dict) else None if value == math.inf else value
        for name, value in fields.items()
    }
