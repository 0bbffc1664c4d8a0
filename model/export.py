"""The walk behind `captioner export`: a bundle written again in another precision, and what that costs."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from model.bundle import bundle_path, load_bundle, save_bundle
from model.caption_files.read import CaptionedImage
from model.decoders.search import DecodingOptions
from model.errors import BundleError
from model.metrics.evaluation import Evaluation, evaluate
from model.progress import OnProgress, ignore_progress

WEIGHTS = ("encoder.safetensors", "decoder.safetensors", "replay.safetensors")


@dataclass(frozen=True, kw_only=True)
class Exported:
    """A bundle before and after."""

    before: Path
    after: Path
    before_version: str
    after_version: str
    precision: str

    def size_table(self) -> str:
        """Return the sizes of the files as lines for a terminal."""
        lines = [f"{'':22} {'before':>10} {'after':>10} {'change':>8}"]
        for file in WEIGHTS:
            was, became = ((path / file).stat().st_size for path in (self.before, self.after))
            lines.append(f"  {file:20} {was / 1e6:7.2f} MB {became / 1e6:7.2f} MB {became / was - 1:+8.0%}")
        return "\n".join(lines)


@dataclass(frozen=True, kw_only=True)
class ExportEvaluation:
    """What a bundle scored before and after, on the same images."""

    before: Evaluation
    after: Evaluation

    def table(self) -> str:
        """Return the metrics as lines for a terminal, in per cent as papers print them."""
        lines = []
        was, became = dict(self.before.scores()), dict(self.after.scores())
        for name in ("BLEU-4", "CIDEr-D"):
            scores = [100 * (found[name] or 0.0) for found in (was, became)]
            lines.append(f"  {name:20} {scores[0]:10.1f} {scores[1]:10.1f} {scores[1] - scores[0]:+8.1f}")
        pairs = zip(self.before.captions, self.after.captions, strict=True)
        same = sum(one.caption == other.caption for one, other in pairs)
        lines.append(f"  {same} of {len(self.after.captions)} captions are the same, word for word")
        return "\n".join(lines)


def export_bundle(name_or_path: str, precision: str, out: Path) -> Exported:
    """Write a bundle again with weights and replay in this precision.

    Args:
        name_or_path: of the bundle, in any precision.
        precision: one of PRECISIONS.
        out: directory of the new bundle; it must not hold one yet.

    Raises:
        BundleError: the bundle cannot be loaded, the precision cannot hold it, or `out` holds a bundle already.
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
    )
    path = bundle_path(name_or_path)
    if (path / "MODEL_CARD.md").exists():
        note = (
            f"\n{version} is {bundle.version} stored in {precision}; the numbers here are those of {bundle.version}.\n"
        )
        (out / "MODEL_CARD.md").write_text((path / "MODEL_CARD.md").read_text("utf-8") + note, "utf-8")
    return Exported(before=path, after=out, before_version=bundle.version, after_version=version, precision=precision)


def evaluate_export(
    exported: Exported,
    images: Sequence[CaptionedImage],
    options: DecodingOptions,
    *,
    strict: bool = False,
    on_progress: OnProgress = ignore_progress,
) -> ExportEvaluation:
    """Caption the images with both bundles, each with its own encoder; raises as `evaluate` does."""
    before, after = (
        evaluate(load_bundle(str(path)).captioner(), images, options, strict=strict, on_progress=on_progress)
        for path in (exported.before, exported.after)
    )
    return ExportEvaluation(before=before, after=after)
