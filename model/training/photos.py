"""The walk behind `captioner train`: captioned images to a bundle.

captions file -> images -> features -> vocabulary -> decoder -> held-out metrics -> bundle directory

Encoder, vocabulary and decoder begin with nothing, or as those of a bundle that goes on learning.
"""

import copy
import hashlib
import logging
import math
import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch

from model.bundle import Bundle, save_bundle
from model.captioner import Captioner
from model.captions import CaptionSource, LeftOut
from model.decoders import build_decoder
from model.decoders.base import CaptionDecoder, DecoderSizes
from model.decoders.search import DecodingOptions
from model.errors import TrainingError
from model.metrics.evaluation import Evaluation, evaluate
from model.new_words import with_new_words
from model.progress import OnProgress, Progress, ignore_progress
from model.store import Store
from model.tokenizer import Tokenizer
from model.training.captions import CaptionedFeatures, TrainingOptions, fit_decoder, token_loss
from model.training.checkpoint import Checkpoint, remove_checkpoint
from model.training.comparison import Comparison
from model.training.course import Course
from model.training.examples import CaptionedExample, ExampleReader
from model.training.log import write_training_log
from model.training.processes import ALONE, Processes
from model.training.record import TrainingProgress
from model.training.rewards import SelfCriticalOptions, reward_captions
from model.vision.augmentation import Augmentation
from model.vision.encoder import Encoder, EncoderSpec, build_encoder
from model.vision.features import FeatureStore
from model.vision.images import IMAGENET_MEAN, IMAGENET_STD, Preprocessing
from model.vision.tail import EncoderTail, join, part

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class BundleOptions:
    """What bundle is made, and how."""

    name: str = "photos"
    """Versions of the bundle are called `<name>-<8 hex digits>`."""
    hidden: int = 512
    """Size of the decoder's hidden state and word embedding; attention has half of it."""
    layers: int = 2
    cell: str = "lstm"
    """`lstm`, `peephole`, `gru`, `rnn` or `transformer`."""
    attention: bool = True
    recurrent_regions: bool = False
    residual: bool = False
    taught_stages: int | None = None
    """How many of the encoder's last stages learn with the decoder; None: those that see the final grid of regions,
    0: none, ALL: the whole network."""
    views: int = 4
    """How many views of each image are learned from: itself, its mirrored picture, and random ones."""
    augmentation: Augmentation = field(default_factory=Augmentation)
    min_count: int = 4
    """A word that stands fewer times in the captions is spelled in bytes."""
    replay: int = 200
    """How many captions, with their images' features, the bundle keeps for retraining."""
    held_out_share: int = 10
    """Without a held-out source every such image is held out, chosen by its content's hash."""
    training: TrainingOptions = field(
        default_factory=lambda: TrainingOptions(
            epochs=10,
            batch_size=160,
            dropout=0.5,
            feature_dropout=0.2,
            averaging=0.998,
            reduced_precision=True,
            warmup_steps=200,
        )
    )
    self_critical: SelfCriticalOptions = field(default_factory=SelfCriticalOptions)
    """What follows once the decoder captions."""
    decoding: DecodingOptions = field(default_factory=lambda: DecodingOptions(beam_size=5))
    """For the held-out metrics."""

    def __post_init__(self) -> None:
        for name, least in (("hidden", 2), ("views", 1), ("min_count", 1), ("replay", 0), ("held_out_share", 2)):
            if getattr(self, name) < least:
                raise TrainingError(f"{name} must be {least} or more, got {getattr(self, name)}")


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


def fine_tuning_options() -> BundleOptions:
    """Return the recipe for going on from a bundle, where a few hundred captions are all there is.

    Small batches make enough steps of them, and the encoder moves half as fast as in a first training. Rewards are
    left out: they changed nothing (tests/benchmarks/RESULTS.md). The sizes of the network do not count.
    """
    training = TrainingOptions(
        epochs=15,
        batch_size=32,
        learning_rate=1e-3,
        encoder_learning_rate=5e-5,
        encoder_after=0.2,
        dropout=0.3,
        feature_dropout=0.2,
        averaging=0.998,
        reduced_precision=True,
        warmup_steps=50,
    )
    return BundleOptions(min_count=2, training=training, self_critical=SelfCriticalOptions(epochs=0))


def imagenet_encoder(name: str = "mobilenet_v2", size: int = 224) -> EncoderSpec:
    """Describe a torchvision backbone with ImageNet's usual preprocessing."""
    return EncoderSpec(name=name, preprocessing=Preprocessing(size=size, mean=IMAGENET_MEAN, std=IMAGENET_STD))


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
    (out / "MODEL_CARD.md").write_text(_model_card(version, record), "utf-8")
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


def as_stored(encoder: Encoder) -> Encoder:
    """Round the weights to the half precision of the bundle, so that its features are the very ones trained on."""
    for values in encoder.network.state_dict().values():
        if values.is_floating_point():
            values.copy_(values.half())
    return encoder


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


def _model_card(version: str, record: Mapping[str, Any]) -> str:
    start = record["started_from"]
    first = f" It went on from {start['version']}, whose model card says what that had learned." if start else ""
    return f"""# {version}

An attention LSTM over the features of {record["encoder"]}, made by `captioner train` from
{record["train_images"]} captioned images.{first} It writes what people wrote about images like those; it sees nothing
else, states no certainty about people, and must be corrected by the annotator where it is wrong.
The terms of the training images, captions and encoder weights are those of their owners.

Measured on {record["held_out_images"]} images that it was not trained on:

{_metrics_table(record["held_out_metrics"], start and start["held_out_metrics"])}

How it was made, losses included, is the `record` in bundle.json.
"""


def _metrics_table(metrics: Mapping[str, float], before: Mapping[str, float] | None) -> str:
    """Return Markdown, with the bundle's before beside those after if it went on from one."""
    rows: list[tuple[str, ...]] = [("metric", "before", "after") if before else ("metric", "value")]
    rows.append(("---",) * len(rows[0]))
    for name, value in metrics.items():
        if name != "images":
            rows.append((name, *([f"{before[name]:.4g}"] if before else []), f"{value:.4g}"))
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)
