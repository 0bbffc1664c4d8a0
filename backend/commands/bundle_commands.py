"""Commands that use a bundle: caption, and the half of export that writes a bundle."""

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from backend.commands import shared_options as shared

if TYPE_CHECKING:
    from model.caption_files.read import CaptionSource
    from model.first_score import FirstScore
    from model.vision.files import CaptionedFile


@shared.command("captioner caption photo.jpg --alternatives 3")
@click.argument("images", nargs=-1, required=True, type=shared.PATH, metavar="IMAGE...")
@shared.bundle
@shared.project
@shared.option(
    "--alternatives",
    type=shared.count,
    metavar="K",
    help="Captions for each image, the best one first.  [default: the setting ALTERNATIVES]",
)
@shared.flag("--json", "as_json", help="Print one JSON object for each image.")
def caption(
    images: tuple[Path, ...], bundle: str | None, project: int | None, alternatives: int | None, as_json: bool
) -> int:
    """Write captions of image files.

    Exits with 1 if an image cannot be read.
    """
    from model.decoders.search import DecodingOptions
    from model.progress import ProgressDisplay
    from model.vision.files import caption_files

    settings = shared.read_settings()
    start, captioner = shared.load_captioner(settings, bundle, project)
    options = DecodingOptions(beam_size=settings.beam_size, alternatives=alternatives or settings.alternatives)
    unreadable = 0
    with ProgressDisplay() as show:
        for captioned in caption_files(captioner, images, options, on_progress=show):
            unreadable += captioned.problem is not None
            right = _right(start.first_score, captioned)
            if as_json:
                captions = captioned.to_json()
                for fields, probability in zip(captions.get("captions", ()), right, strict=True):
                    fields["subject_and_action_right"] = probability
                print(json.dumps(captions, ensure_ascii=False))
            elif captioned.problem is not None:
                print(f"{captioned.file}: {captioned.problem}", file=sys.stderr)
            else:
                for suggestion, probability in zip(captioned.captions, right, strict=True):
                    likely = "" if probability is None else f" (subject and action are right: {probability:.0%})"
                    print(f"{captioned.file}: {suggestion.text}{likely}")
    return 1 if unreadable else 0


def _right(first_score: "FirstScore | None", captioned: "CaptionedFile") -> list[float | None]:
    """Return the probability that a caption names the right subject and action; None where the bundle cannot tell."""
    if first_score is None or captioned.features is None:
        return [None] * len(captioned.captions)
    position = first_score.familiar.position(captioned.features)
    return [first_score.score(caption.score, caption.text, position) for caption in captioned.captions]


def export_bundle(source: "CaptionSource | None", bundle: str | None, precision: str, out: Path, strict: bool) -> int:
    """Write a bundle again in another precision; print how much smaller it is, and how much worse its captions are."""
    from model.caption_files.read import read_captions
    from model.decoders.search import DecodingOptions
    from model.export import evaluate_export
    from model.export import export_bundle as write_bundle
    from model.metrics.evaluation import unreadable_images
    from model.progress import ProgressDisplay

    settings = shared.read_settings()
    captioned = read_captions(source, strict=strict) if source else None
    exported = write_bundle(bundle or settings.caption_bundle, precision, out)
    print(exported.size_table())
    if captioned:
        options = DecodingOptions(beam_size=settings.beam_size)
        with ProgressDisplay() as show:
            evaluation = evaluate_export(exported, captioned.images, options, strict=strict, on_progress=show)
        captioned.left_out.add_all(unreadable_images(evaluation.after.unreadable))
        print(evaluation.table())
        print(captioned.left_out.summary())
    print(f"{exported.after_version} is in {exported.after}; CAPTION_BUNDLE={exported.after} uses it")
    return 0
