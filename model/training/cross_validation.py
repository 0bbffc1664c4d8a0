"""K-fold cross-validation, behind `captioner evaluate --folds`.

Each image is measured once, by a decoder that did not learn from it. The spread over the folds shows how large a
difference between two numbers must be to mean something.
"""

import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import torch

from model.caption_files.read import CaptionSource, LeftOut
from model.decoders.search import DecodingOptions
from model.errors import TrainingError
from model.metrics.scores import Metrics, measure
from model.progress import OnProgress, Progress, ignore_progress
from model.store import Store
from model.torch_captioner import TorchCaptioner
from model.training.bundle_options import BundleOptions
from model.training.examples import CaptionedExample, ExampleReader
from model.training.fitting import fit_captions
from model.vision.encoder import Encoder, as_stored, build_encoder
from model.vision.encoder_spec import EncoderSpec
from model.vision.files import BATCH, in_batches
from model.vision.trainable_stages import TrainableStages, split_encoder

logger = logging.getLogger(__name__)

PRINTED = {
    "BLEU-1": "bleu_1",
    "BLEU-2": "bleu_2",
    "BLEU-3": "bleu_3",
    "BLEU-4": "bleu_4",
    "ROUGE-L": "rouge_l",
    "CIDEr-D": "cider_d",
}


@dataclass(frozen=True, kw_only=True)
class Fold:
    """Metrics on one part of the images, of a decoder that learned from the other parts."""

    number: int
    """From 1."""
    train_images: int
    metrics: Metrics


@dataclass(frozen=True, kw_only=True)
class CrossValidation:
    """Result of `captioner evaluate --folds`."""

    folds: tuple[Fold, ...]
    left_out: LeftOut
    """Entries of the captions file that could not be used."""

    def mean(self) -> dict[str, float]:
        """Return each metric's mean over the folds."""
        return {name: fmean(values) for name, values in self._values().items()}

    def deviation(self) -> dict[str, float]:
        """Return each metric's standard deviation over the folds, estimated with n - 1."""
        return {name: stdev(values) for name, values in self._values().items()}

    def table(self) -> str:
        """Return the metrics as lines for a terminal, in per cent as papers print them."""
        images = sum(fold.metrics.images for fold in self.folds)
        lines = [f"{len(self.folds)}-fold cross-validation on {images} images"]
        lines.append(f"  {'fold':>9} {'learned':>8} {'measured':>8}" + "".join(f" {name:>8}" for name in PRINTED))
        for fold in self.folds:
            counts = f"{fold.number:>9} {fold.train_images:>8} {fold.metrics.images:>8}"
            lines.append(f"  {counts}{_per_cent(asdict(fold.metrics))}")
        lines.append(f"  {'mean':>9} {'':17}{_per_cent(self.mean())}")
        lines.append(f"  {'deviation':>9} {'':17}{_per_cent(self.deviation())}")
        return "\n".join(lines)

    def to_json(self) -> dict[str, Any]:
        return {
            "folds": [asdict(fold) for fold in self.folds],
            "mean": self.mean(),
            "deviation": self.deviation(),
            "left_out": self.left_out.cases,
        }

    def _values(self) -> dict[str, list[float]]:
        every = [asdict(fold.metrics) for fold in self.folds]
        return {name: [float(metrics[name]) for metrics in every] for name in every[0] if name != "images"}


def cross_validate(
    source: CaptionSource,
    *,
    folds: int,
    encoder: EncoderSpec,
    weights: Path | str | None = None,
    options: BundleOptions,
    features: Store | None = None,
    strict: bool = False,
    on_progress: OnProgress = ignore_progress,
) -> CrossValidation:
    """For each fold, train a decoder on the other folds and measure it on this one.

    Args:
        folds: 2 or more.
        encoder: the network that reads the images; its last stages are trained too.
        options: sizes, training and decoding, the same for each fold.
        features, strict, on_progress: as in ExampleReader.

    Raises:
        CaptionFileError: the captions file cannot be read, or nothing in it can be used.
        BundleError: the encoder is unknown or its weights do not fit.
        TrainingError: a loss is no longer a number, or there are too few images for so many folds.
    """
    if folds < 2:
        raise TrainingError(f"folds must be 2 or more, got {folds}")
    network = as_stored(build_encoder(encoder, weights))
    below, _ = split_encoder(network, options.taught_stages)
    reader = ExampleReader(below, features=features, strict=strict, on_progress=on_progress)
    others, first = reader.read(source, None, folds)
    examples = reader.with_views([*first, *others], options.views, options.augmentation)
    splits = [_split(examples, number, folds, options.held_out_share) for number in range(1, folds + 1)]
    measured = [_measure_fold(split, network, options, on_progress) for split in splits]
    return CrossValidation(folds=tuple(measured), left_out=reader.left_out)


def fold_of(image_key: str, folds: int) -> int:
    """Return the fold of an image, from 1, by the hash of its content; `is_held_out` holds out the first fold."""
    return int(image_key[:8], 16) % folds + 1


@torch.inference_mode()
def measure_examples(
    captioner: TorchCaptioner,
    stages: TrainableStages,
    examples: Sequence[CaptionedExample],
    options: DecodingOptions,
    on_progress: OnProgress = ignore_progress,
) -> Metrics:
    """Score the captions that `caption_examples` returns."""
    captions = caption_examples(captioner, stages, examples, options, on_progress)
    return measure(captions, [example.image.captions for example in examples])


def caption_examples(
    captioner: TorchCaptioner,
    stages: TrainableStages,
    examples: Sequence[CaptionedExample],
    options: DecodingOptions,
    on_progress: OnProgress = ignore_progress,
) -> list[str]:
    """Caption images from the output of the frozen stages below these."""
    captions: list[str] = []
    for batch in in_batches(examples, BATCH):
        inputs = torch.stack([example.features for example in batch]).float()
        captions += [best.text for best, *_ in captioner.caption(stages(inputs), options)]
        on_progress(Progress(phase="caption images", done=len(captions), total=len(examples)))
    return captions


@dataclass(frozen=True, kw_only=True)
class _Split:
    """The examples of one fold by their use."""

    number: int
    folds: int
    learned: Sequence[CaptionedExample]
    judged: Sequence[CaptionedExample]
    """They choose the best epoch. They are not the fold itself, which would then be measured at its own best epoch."""
    measured: Sequence[CaptionedExample]


def _split(examples: Sequence[CaptionedExample], number: int, folds: int, share: int) -> _Split:
    """Return the examples of a fold; one image in `share` of the other folds, by content, chooses the best epoch."""
    measured = [example for example in examples if fold_of(example.image_key, folds) == number]
    rest = [example for example in examples if fold_of(example.image_key, folds) != number]
    keys = sorted({example.image_key for example in rest})
    apart = set(keys[: max(1, len(keys) // share)])
    learned = [example for example in rest if example.image_key not in apart]
    if not measured or not learned:
        raise TrainingError(
            f"fold {number} of {folds} has {len(measured)} images to measure on and {len(learned)} to learn from: "
            "give more images, or fewer folds"
        )
    judged = [example for example in rest if example.image_key in apart]
    return _Split(number=number, folds=folds, learned=learned, judged=judged, measured=measured)


def _measure_fold(split: _Split, encoder: Encoder, options: BundleOptions, on_progress: OnProgress) -> Fold:
    def report(progress: Progress) -> None:
        on_progress(replace(progress, phase=f"fold {split.number} of {split.folds}: {progress.phase}"))

    below, stages = split_encoder(encoder, options.taught_stages)
    tokenizer, decoder, _ = fit_captions(split.learned, split.judged, below, stages, options, report)
    captioner = TorchCaptioner(encoder, decoder, tokenizer, options.name)
    metrics = measure_examples(captioner, stages, split.measured, options.decoding, report)
    logger.info("fold measured fold=%s of=%s cider_d=%.3f", split.number, split.folds, metrics.cider_d)
    return Fold(number=split.number, train_images=len(split.learned), metrics=metrics)


def _per_cent(metrics: dict[str, float]) -> str:
    return "".join(f" {100 * metrics[field]:8.1f}" for field in PRINTED.values())
