"""Commands that measure: evaluate."""

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from backend.commands import shared_options as shared
from backend.commands.training_options import bundle_options, training_options
from model.errors import SettingsError

if TYPE_CHECKING:
    from model.caption_files.read import CaptionSource
    from model.vision.encoder_spec import EncoderSpec


@shared.command("captioner evaluate --captions my.csv --images pictures --gallery captions.html")
@shared.captions_source()
@shared.bundle
@shared.project
@shared.features
@shared.strict
@shared.option(
    "--no-java", "java", flag_value=False, default=True, show_default=False, help="Leave out METEOR and SPICE."
)
@shared.flag("--json", "as_json", help="Print metrics and every caption as JSON.")
@shared.option(
    "--gallery", type=shared.PATH, metavar="FILE", help="Write an HTML page of images, captions and attention."
)
@shared.option("--gallery-images", type=shared.count, default=100, metavar="N", help="Limit of images on that page.")
@shared.option(
    "--folds",
    type=int,
    metavar="K",
    help="Cross-validate: train K times without a K-th of the images and measure on that part. Prints mean and "
    "deviation, without METEOR. The options below need --folds.",
)
@training_options
def evaluate(source: "CaptionSource", folds: int | None, **others: Any) -> int:
    """Measure captions against captions that people wrote.

    Prints BLEU, METEOR, ROUGE-L, CIDEr-D and SPICE.
    """
    if folds is not None:
        return _cross_validate(source, folds, **others)
    if useless := shared.written_options(shared.ENCODER, shared.NETWORK, shared.TRAINING):
        raise SettingsError(f"{', '.join(useless)}: without --folds nothing is trained; add it, or leave these out")
    return _evaluate(source, **others)


def _evaluate(
    source: "CaptionSource",
    *,
    bundle: str | None,
    project: int | None,
    features: str | None,
    strict: bool,
    java: bool,
    as_json: bool,
    gallery: Path | None,
    gallery_images: int,
    **_: Any,
) -> int:
    from model.caption_files.read import read_captions
    from model.decoders.search import DecodingOptions
    from model.metrics.evaluation import evaluate as evaluate_captions
    from model.metrics.evaluation import unreadable_images
    from model.metrics.gallery import write_gallery
    from model.progress import ProgressDisplay
    from model.store import Store
    from model.vision.features import FeatureStore

    if gallery and not gallery.parent.is_dir():
        raise SettingsError(f"--gallery {gallery}: there is no directory {gallery.parent}")
    settings = shared.read_settings()
    captioned = read_captions(source, strict=strict)
    _bundle, captioner = shared.load_captioner(settings, bundle, project, in_torch=True)
    with ProgressDisplay() as show:
        evaluation = evaluate_captions(
            captioner,
            captioned.images,
            DecodingOptions(beam_size=settings.beam_size),
            java=java,
            strict=strict,
            features=FeatureStore(Store(features), captioner.encoder.fingerprint) if features else None,
            on_progress=show,
        )
    captioned.left_out.add_all(unreadable_images(evaluation.unreadable))
    record = evaluation.to_json() | {"left_out": captioned.left_out.cases}
    _print_result(as_json, record, evaluation.table(), captioned.left_out.summary())
    if gallery:
        drawn = write_gallery(gallery, evaluation, max_images=gallery_images)
        print(f"{gallery} is written (images: {drawn}); open it in a browser", file=sys.stderr)
    return 0


def _cross_validate(
    source: "CaptionSource",
    folds: int,
    *,
    encoder: "EncoderSpec",
    weights: str,
    features: str | None,
    strict: bool,
    as_json: bool,
    **others: Any,
) -> int:
    from model.decoders.search import DecodingOptions
    from model.progress import ProgressDisplay
    from model.store import Store
    from model.training.cross_validation import cross_validate

    for name in ("bundle", "project", "gallery"):
        if others[name] is not None:
            raise SettingsError(f"--folds trains decoders of its own: leave out --{name}")
    decoding = DecodingOptions(beam_size=shared.read_settings().beam_size)
    with ProgressDisplay() as show:
        validation = cross_validate(
            source,
            folds=folds,
            encoder=encoder,
            weights=None if weights == "none" else weights,
            options=replace(bundle_options(others, name="fold"), decoding=decoding),
            features=Store(features) if features else None,
            strict=strict,
            on_progress=show,
        )
    _print_result(as_json, validation.to_json(), validation.table(), validation.left_out.summary())
    return 0


def _print_result(as_json: bool, record: dict[str, Any], *lines: str) -> None:
    print(json.dumps(record, ensure_ascii=False, indent=1) if as_json else "\n".join(lines))
