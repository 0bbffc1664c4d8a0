"""Writes a bundle again in another precision and measures what that changes, behind `captioner export`."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from model.bundle import load_bundle, save_bundle
from model.caption_files.read import CaptionedImage
from model.decoders.search import DecodingOptions
from model.errors import BundleError
from model.manifest import bundle_path, bundle_version, write_first_score
from model.metrics.comparison import Comparison, score_row
from model.metrics.evaluation import evaluate
from model.progress import OnProgress, ignore_progress

WEIGHTS = ("encoder.safetensors", "decoder.safetensors", "replay.safetensors")


@dataclass(frozen=True, kw_only=True)
class Exported:
    """The directories and versions of a bundle before and after."""

    before: Path
    after: Path
    before_version: str
    after_version: str
    precision: str

    def size_table(self) -> str:
        """Return the sizes of the files as lines for a terminal."""
        lines = [f"{'':22} {'before':>10} {'after':>10} {'change':>8}"]
        for file in WEIGHTS:
            before, after = ((path / file).stat().st_size for path in (self.before, self.after))
            lines.append(f"  {file:20} {before / 1e6:7.2f} MB {after / 1e6:7.2f} MB {after / before - 1:+8.0%}")
        return "\n".join(lines)


class ExportComparison(Comparison):
    """The scores of both bundles on the same images."""

    def table(self) -> str:
        """Return BLEU-4 and CIDEr-D as lines for a terminal, in per cent as papers print them."""
        rows = [score_row(*row, widths=(20, 10)) for row in self.scores() if row[0] in ("BLEU-4", "CIDEr-D")]
        same = f"  {self.same_captions} of {len(self.after.captions)} captions are the same, word for word"
        return "\n".join([*rows, same])


def export_bundle(name_or_path: str, precision: str, out: Path) -> Exported:
    """Write a bundle again with its weights and replay in this precision.

    Args:
        name_or_path: the bundle, in any precision.
        precision: one of PRECISIONS.
        out: directory of the new bundle; it must not hold one yet.

    Raises:
        BundleError: the bundle cannot be loaded, the precision cannot hold its numbers, or `out` holds a bundle.
    """
    if (out / "bundle.json").exists():
        raise BundleError(f"{out} holds a bundle already: choose another directory")
    bundle = load_bundle(name_or_path)
    version = save_bundle(
        out,
        name=bundle.name,
        encoder=bundle.encoder,
        decoder=bundle.decoder,
        tokenizer=bundle.tokenizer,
        replay=bundle.replay,
        record=dict(bundle.record) | {"exported": {"from": bundle.version, "precision": precision}},
        precision=precision,
        temperature=bundle.temperature,
    )
    if bundle.first_score is not None:
        write_first_score(out, bundle.first_score)
        version = bundle_version(out)
    card = bundle_path(name_or_path) / "MODEL_CARD.md"
    if card.exists():
        note = f"\n{version} is {bundle.version} stored in {precision}; the numbers above belong to {bundle.version}.\n"
        (out / card.name).write_text(card.read_text("utf-8") + note, "utf-8")
    return Exported(
        before=card.parent, after=out, before_version=bundle.version, after_version=version, precision=precision
    )


def evaluate_export(
    exported: Exported,
    images: Sequence[CaptionedImage],
    options: DecodingOptions,
    *,
    strict: bool = False,
    on_progress: OnProgress = ignore_progress,
) -> ExportComparison:
    """Caption the images with both bundles, each with its own encoder; raises as `evaluate` does."""
    before, after = (
        evaluate(load_bundle(path).captioner(), images, options, strict=strict, on_progress=on_progress)
        for path in (exported.before, exported.after)
    )
    return ExportComparison(before=before, after=after)
