"""How good a captioner is on captioned images it never saw."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from model.captioner import Captioner
from model.captions import CaptionedImage
from model.decoding import DecodingOptions
from model.errors import CaptionFileError
from model.features import FeatureStore
from model.image_files import caption_files
from model.metrics import Metrics, measure
from model.progress import OnProgress, ignore_progress


@dataclass(frozen=True, kw_only=True)
class JudgedCaption:
    """A caption beside what people wrote about the same image."""

    file: Path
    caption: str
    references: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """What `captioner evaluate` reports."""

    version: str
    """The model version that wrote the captions."""
    metrics: Metrics
    captions: tuple[JudgedCaption, ...]
    unreadable: dict[Path, str]
    """Image files that could not be captioned, and why; they are not in the metrics."""

    def to_json(self) -> dict[str, Any]:
        return {
            "version": self.version,
            "metrics": asdict(self.metrics),
            "unreadable": {str(file): problem for file, problem in self.unreadable.items()},
            "captions": [
                {"image": str(judged.file), "caption": judged.caption, "references": judged.references}
                for judged in self.captions
            ],
        }

    def table(self) -> str:
        """Return the metrics as lines for a terminal, in per cent as papers print them."""
        scores = asdict(self.metrics)
        lines = [f"{self.version} on {scores.pop('images')} images"]
        names = {"rouge_l": "ROUGE-L", "cider_d": "CIDEr-D"}
        lines += [
            f"  {names.get(name, name.upper().replace('_', '-')):8} {100 * value:6.1f}"
            for name, value in scores.items()
        ]
        return "\n".join(lines)


def evaluate(
    captioner: Captioner,
    images: Sequence[CaptionedImage],
    options: DecodingOptions,
    *,
    features: FeatureStore | None = None,
    on_progress: OnProgress = ignore_progress,
) -> Evaluation:
    """Caption the images and score the best caption of each against all its references.

    Raises:
        CaptionFileError: not one of the images can be read.
    """
    references = {image.file: image.captions for image in images}
    judged, unreadable = [], {}
    for captioned in caption_files(captioner, list(references), options, features=features, on_progress=on_progress):
        if captioned.problem is not None:
            unreadable[captioned.file] = captioned.problem
        else:
            judged.append(
                JudgedCaption(
                    file=captioned.file,
                    caption=captioned.captions[0].text,
                    references=references[captioned.file],
                )
            )
    if not judged:
        first = next(iter(unreadable.items()), "there is none")
        raise CaptionFileError(f"no image to evaluate on can be read: {first}")
    metrics = measure([j.caption for j in judged], [j.references for j in judged])
    return Evaluation(version=captioner.version, metrics=metrics, captions=tuple(judged), unreadable=unreadable)
