"""Evaluates a captioner on captioned images, behind `captioner evaluate`."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from model.caption_files.read import CaptionedImage, LeftOut
from model.captioner import Caption, Captioner
from model.decoders.search import DecodingOptions
from model.errors import CaptionFileError
from model.metrics.java import JavaMetric, java_metrics
from model.metrics.scores import ImageMetrics, Metrics, measure, measure_each
from model.progress import OnProgress, ignore_progress
from model.vision.features import FeatureStore
from model.vision.files import CaptionedFile, caption_files


@dataclass(frozen=True, kw_only=True)
class JudgedCaption:
    """A caption with people's references for the same image, and its scores."""

    file: Path
    caption: str
    references: tuple[str, ...]
    metrics: ImageMetrics
    tokens: tuple[str, ...]
    """Readable forms of its token ids."""
    attention: NDArray[np.float32] = field(compare=False, repr=False)
    """Weights over the regions for each token, [T, P]."""

    def to_json(self) -> dict[str, Any]:
        return {
            "image": str(self.file),
            "caption": self.caption,
            "references": self.references,
            **asdict(self.metrics),
        }


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """Result of `captioner evaluate`."""

    version: str
    """Of the model that wrote the captions."""
    metrics: Metrics
    java: tuple[JavaMetric, ...] = ()
    """METEOR and SPICE, if they were requested."""
    captions: tuple[JudgedCaption, ...]
    unreadable: dict[Path, str]
    """Image files that could not be captioned, each with the problem. The metrics do not include them."""

    def to_json(self) -> dict[str, Any]:
        return {
            "version": self.version,
            "metrics": asdict(self.metrics) | {metric.name.lower(): metric.score for metric in self.java},
            "missing_metrics": {metric.name.lower(): metric.missing for metric in self.java if metric.missing},
            "unreadable": {str(file): problem for file, problem in self.unreadable.items()},
            "captions": [judged.to_json() for judged in self.captions],
        }

    def table(self) -> str:
        """Return the metrics as lines for a terminal, in per cent as papers print them."""
        lines = [f"{self.version} on {self.metrics.images} images"]
        lines += [f"  {name:8} {'-' if score is None else f'{100 * score:.1f}':>6}" for name, score in self.scores()]
        lines.append(
            f"  words to edit until the nearest reference is reached: {self.metrics.word_edits:.1f} a caption "
            f"({self.metrics.word_error_rate:.1%}); none in {self.metrics.unedited:.1%} of the captions"
        )
        return "\n".join([*lines, *(f"  {metric.name} {metric.missing}" for metric in self.java if metric.missing)])

    def scores(self) -> list[tuple[str, float | None]]:
        """Return names and scores in the order of papers; None for a score that cannot be computed here."""
        java: dict[str, float | None] = {metric.name: metric.score for metric in self.java}
        ordered = {f"BLEU-{n}": getattr(self.metrics, f"bleu_{n}") for n in range(1, 5)}
        ordered |= {name: java[name] for name in ("METEOR",) if name in java}
        ordered |= {"ROUGE-L": self.metrics.rouge_l, "CIDEr-D": self.metrics.cider_d}
        return list((ordered | java).items())


def evaluate(
    captioner: Captioner,
    images: Sequence[CaptionedImage],
    options: DecodingOptions,
    *,
    java: bool = False,
    strict: bool = False,
    features: FeatureStore | None = None,
    on_progress: OnProgress = ignore_progress,
) -> Evaluation:
    """Caption images and score the best caption of each against all its references.

    Args:
        images: captioned images that it did not learn from.
        java: True adds METEOR and SPICE, where their runtime is installed; METEOR starts a process of 2 GB.

    Raises:
        CaptionFileError: no image can be read, or `strict` is set and one of them cannot.
    """
    captioned = caption_files(
        captioner, [image.file for image in images], options, features=features, on_progress=on_progress
    )
    written, unreadable = _divide(captioned, strict)
    if not written:
        first = next(iter(unreadable.items()), "there is none")
        raise CaptionFileError(f"no image to evaluate on can be read: {first}")
    captions = [caption.text for caption in written.values()]
    people = {image.file: image.captions for image in images}
    references = [people[file] for file in written]
    return Evaluation(
        version=captioner.version,
        metrics=measure(captions, references),
        java=java_metrics(captions, references, on_progress) if java else (),
        captions=tuple(_judged(written, references)),
        unreadable=unreadable,
    )


def _divide(captioned: Iterable[CaptionedFile], strict: bool) -> tuple[dict[Path, Caption], dict[Path, str]]:
    """Return the best caption of each image, and the problems of those that cannot be read."""
    written: dict[Path, Caption] = {}
    unreadable: dict[Path, str] = {}
    for image in captioned:
        if image.problem is None:
            written[image.file] = image.captions[0]
            continue
        unreadable[image.file] = image.problem
        if strict:
            raise CaptionFileError(unreadable_images(unreadable).summary())
    return written, unreadable


def unreadable_images(problems: Mapping[Path, str]) -> LeftOut:
    """Return image files that cannot be read, as entries that were left out."""
    left_out = LeftOut()
    for file, problem in problems.items():
        left_out.add("unreadable images", f"{file.name}: {problem}")
    return left_out


def _judged(written: Mapping[Path, Caption], references: Sequence[tuple[str, ...]]) -> Iterator[JudgedCaption]:
    metrics = measure_each([caption.text for caption in written.values()], references)
    for (file, caption), several, scores in zip(written.items(), references, metrics, strict=True):
        yield JudgedCaption(
            file=file,
            caption=caption.text,
            references=several,
            metrics=scores,
            tokens=caption.tokens,
            attention=caption.attention,
        )
