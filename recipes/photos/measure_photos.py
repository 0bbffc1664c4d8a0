"""Measure a bundle on photos: `python -m recipes.photos.measure_photos --data DIR --bundle photos`.

It prints metrics, faults and calibration on the test photos of Flickr8k and COCO. Then it prints the mean score of the
captions of images unlike the training photos: aerial photos, flowers, products of a shop, and drawn scenes.
"""

import argparse
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean, median
from tempfile import TemporaryDirectory

import torch

from backend.demo.scenes.drawing import draw_scenes
from model.bundle import Bundle, load_bundle
from model.caption_files.read import CaptionedImage
from model.captioned_features import CaptionedFeatures
from model.decoders.search import DecodingOptions
from model.errors import BundleError
from model.first_score import FirstScore
from model.metrics.calibration import expected_calibration_error
from model.metrics.evaluation import evaluate
from model.metrics.faults import Usage, caption_faults, caption_words
from model.metrics.main_things import are_main_things_right
from model.progress import OnProgress, ProgressDisplay, ignore_progress
from model.runtime.serving_bundle import load_serving_bundle
from model.tokenizer import caption_tokens
from model.training.losses import caption_losses
from model.vision.files import CaptionedFile, caption_files, encode_files
from model.vision.images import decode_image
from recipes.photos.photo_sets import PhotoSets
from recipes.photos.photos_card import SetScores

DECODING = DecodingOptions(beam_size=5)
STRANGE = ("rsicd", "oxford-flowers", "fashion-products")
"""Sets that no bundle learns from."""
ROUNDS, IMAGES_OF_A_ROUND = 15, 40
SERVED = DecodingOptions(beam_size=3)
STRANGE_IMAGES = 300
"""Of each set, and drawn scenes."""


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m recipes.photos.measure_photos", description=(__doc__ or "").split(":", maxsplit=1)[0]
    )
    parser.add_argument("--data", type=Path, required=True, help="directory of the sets")
    parser.add_argument("--bundle", default="photos", help="bundle to measure (%(default)s)")
    parser.add_argument("--beside", metavar="BUNDLE", help="compare only the speed with that of this bundle")
    arguments = parser.parse_args(argv)
    if arguments.beside:
        print_speeds(arguments.bundle, arguments.beside, PhotoSets(folder=arguments.data).coco("test"))
        return 0
    strange = {name: sorted((arguments.data / name / "images").iterdir())[:STRANGE_IMAGES] for name in STRANGE}
    bundle = load_bundle(arguments.bundle)
    print(f"{bundle.version}, temperature {bundle.temperature:g}")
    with ProgressDisplay() as show:
        print_scores(measure_photos(bundle, PhotoSets(folder=arguments.data), on_progress=show))
    if bundle.first_score is None:
        return 0
    for name, files in strange.items():
        print(f"mean score on {name}: {mean_score(bundle, bundle.first_score, files):.1%}")
    with TemporaryDirectory() as folder:
        files = [Path(folder) / f"{number}.png" for number in range(STRANGE_IMAGES)]
        for file, (picture, _) in zip(files, draw_scenes(STRANGE_IMAGES), strict=True):
            picture.save(file)
        print(f"mean score on drawn scenes: {mean_score(bundle, bundle.first_score, files):.1%}")
    return 0


def measure_photos(
    bundle: Bundle, sets: PhotoSets, before: Bundle | None = None, on_progress: OnProgress = ignore_progress
) -> list[SetScores]:
    """Return the scores on the test photos of both sets.

    Args:
        bundle: to measure.
        before: the same bundle in another precision, to compare; None compares nothing.
    """
    people = [caption for image in sets.images("train") for caption in image.captions]
    usage = Usage.of(map(caption_words, people))
    scores = []
    for name, of_split in {"Flickr8k": sets.flickr8k, "COCO": sets.coco}.items():
        images = of_split("test")
        now = evaluate(bundle.captioner(), images, DECODING, java=True, on_progress=on_progress)
        earlier = evaluate(before.captioner(), images, DECODING, on_progress=on_progress) if before else None
        scores.append(
            SetScores(
                name=name,
                before=earlier,
                after=now,
                faulty=fmean(bool(caption_faults(caption_words(judged.caption), usage)) for judged in now.captions),
                right=fmean(are_main_things_right(judged.caption, judged.references) for judged in now.captions),
                score_error=score_error(bundle, images),
                people_loss=people_loss(bundle, captioned_features(bundle, of_split("dev")), bundle.temperature),
            )
        )
    return scores


def print_speeds(bundle: str, other: str, images: Sequence[CaptionedImage]) -> None:
    """Print how fast two bundles encode and caption in ONNX Runtime, one image at a time, in turns."""
    captioners = {name: load_serving_bundle(name).captioner() for name in (bundle, other)}
    pictures = [decode_image(image.file.read_bytes()) for image in images[:IMAGES_OF_A_ROUND]]
    seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in captioners}
    for _ in range(ROUNDS):
        for name, captioner in captioners.items():
            started = time.perf_counter()
            encoded = [captioner.encode([picture]) for picture in pictures]
            between = time.perf_counter()
            for features in encoded:
                captioner.caption(features, SERVED)
            seconds[name].append((between - started, time.perf_counter() - between))
    for step, what in enumerate(("encoding", "captioning")):
        ours, theirs = (median(taken[step] for taken in seconds[name]) for name in (bundle, other))
        per_image = f"{1000 * ours / len(pictures):.2f} against {1000 * theirs / len(pictures):.2f} ms"
        print(f"{what}: {theirs / ours:.2f} x as fast ({per_image} an image)")


def print_scores(scores: Sequence[SetScores]) -> None:
    """Print everything that was measured on the test photos."""
    for of_set in scores:
        print(f"{of_set.name}:", *([of_set.before.table()] if of_set.before else []), of_set.after.table(), sep="\n")
        print(f"  captions with a fault: {of_set.faulty:.2%}; main things right: {of_set.right:.1%}")
        print(f"  expected calibration error of the score: {of_set.score_error:.1%}")
        print(f"  people's captions of the dev photos: {of_set.people_loss:.2f} nats a token")


def score_error(bundle: Bundle, images: Sequence[CaptionedImage]) -> float:
    """Return the expected calibration error of the score of captions, 0 to 1; NaN for a bundle without such a score."""
    score = bundle.first_score
    if score is None:
        return float("nan")
    references = {image.file: image.captions for image in images}
    photos = captioned(bundle, list(references))
    scores = [first_score_of(score, photo) for photo in photos]
    right = [float(are_main_things_right(photo.captions[0].text, references[photo.file])) for photo in photos]
    return expected_calibration_error(scores, right)


def mean_score(bundle: Bundle, score: FirstScore, files: Sequence[Path]) -> float:
    """Return the mean score of the captions of some images, 0 to 1."""
    return fmean(first_score_of(score, photo) for photo in captioned(bundle, files))


def captioned(bundle: Bundle, files: Sequence[Path]) -> list[CaptionedFile]:
    """Return the files that can be read, with their captions and features."""
    return [photo for photo in caption_files(bundle.captioner(), files, DECODING) if photo.captions]


def first_score_of(score: FirstScore, photo: CaptionedFile) -> float:
    """Return the score of the best caption of a file."""
    if photo.features is None:
        raise BundleError(f"{photo.file} has no features: {photo.problem}")
    best = photo.captions[0]
    return score.score(best.score, best.text, score.familiar.position(photo.features))


def captioned_features(
    bundle: Bundle, images: Sequence[CaptionedImage], captions: int | None = None
) -> list[CaptionedFeatures]:
    """Return the first captions of each image, or all of them, with its features."""
    files = {image.file: image for image in images}
    return [
        CaptionedFeatures(features=features, caption=caption)
        for encoded in encode_files(bundle.encoder, list(files))
        if encoded.features is not None
        for features in [torch.from_numpy(encoded.features)]
        for caption in files[encoded.file].captions[:captions]
    ]


def people_loss(bundle: Bundle, examples: Sequence[CaptionedFeatures], temperature: float) -> float:
    """Return the negative log-likelihood of people's captions, in nats per token."""
    losses = caption_losses(bundle.decoder, bundle.tokenizer, examples, temperature=temperature)
    return sum(losses) / sum(len(caption_tokens(bundle.tokenizer, example.caption)) - 1 for example in examples)


if __name__ == "__main__":
    raise SystemExit(main())
