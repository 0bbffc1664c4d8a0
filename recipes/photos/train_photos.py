"""Make the `photos` bundle: `python -m recipes.photos.train_photos --data DIR --weights FILE --out DIR`.

1. A new encoder learns to give the features of one with ImageNet's weights (`captioner distil`).
2. With it, `captioner train` makes a bundle from the captions of Flickr8k and of COCO (`photo_sets.py`).
3. The bundle is stored in 8 bits, and the score of its captions is fitted on dev photos (`model/first_score.py`).
4. It captions the test photos of both sets, and gets its model card.

The encoder and the first bundle stay in the work directory. A killed run resumes there. A second run uses the finished
parts.
"""

import argparse
import math
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

from model.bundle import Bundle, load_bundle, save_bundle
from model.caption_files.read import CaptionedImage
from model.captioned_features import CaptionedFeatures
from model.decoders.search import DecodingOptions
from model.first_score import FamiliarImages, FirstScore, JudgedPhoto, fit_first_score
from model.manifest import write_probabilities
from model.metrics.calibration import expected_calibration_error
from model.metrics.comparison import Comparison
from model.metrics.evaluation import evaluate
from model.metrics.faults import Usage, caption_faults, caption_words
from model.metrics.main_things import are_main_things_right
from model.progress import OnProgress, ProgressDisplay, ignore_progress
from model.tokenizer import caption_tokens
from model.training.bundle_options import BundleOptions, imagenet_encoder
from model.training.bundle_training import train_bundle
from model.training.distillation import ENCODER_FILE, DistillationOptions, distil
from model.training.losses import caption_losses
from model.training.rewards import SelfCriticalOptions
from model.vision.encoder_spec import EncoderSpec
from model.vision.files import caption_files, encode_files
from recipes.photos.photo_sets import PhotoSets
from recipes.photos.photos_card import SetScores, draw_gallery, model_card
from recipes.photos.teachers import load_teacher

DECODING = DecodingOptions(beam_size=5)
TEMPERATURES = tuple(round(1 + step / 20, 2) for step in range(21))
"""From 1 to 2."""
TRAINING_SAMPLE = 1500
"""Training photos that say how strange another image is."""
REPLAY = 100
"""Captions that are kept for retraining; the 200 of `captioner train` would be half of the bundle's size."""


@dataclass(frozen=True, kw_only=True)
class PhotosRecipe:
    """Sources, directories and options of the bundle."""

    sets: PhotoSets
    weights: Path
    """Weights of the encoder whose stages the new one learns (`teachers.py`)."""
    stronger: Path | None = None
    """Weights of a stronger encoder, whose features the new one learns; None: those of `weights`."""
    work: Path
    """Directory of the encoder and the first bundle."""
    out: Path
    pictures: Path | None = None
    """Directory of pictures for the card; None draws no gallery."""
    encoder: EncoderSpec = field(default_factory=imagenet_encoder)
    distillation: DistillationOptions = field(
        default_factory=lambda: DistillationOptions(apart_epochs=1, small_epochs=4, together_epochs=3, small_size=160)
    )
    training: BundleOptions = field(
        default_factory=lambda: BundleOptions(self_critical=SelfCriticalOptions(fault_penalty=0.5))
    )
    command: str
    """Command that makes the bundle again."""


def main(argv: Sequence[str] | None = None) -> int:
    with ProgressDisplay() as show:
        scores = make_photos(parse_arguments(argv), show)
    for of_set in scores:
        comparison = of_set.comparison
        print(f"{of_set.name}:", comparison.before.table(), comparison.after.table(), sep="\n")
        print(f"  captions with a fault: {of_set.faulty:.1%}; main things right: {of_set.right:.1%}")
        print(f"  expected calibration error of the score: {of_set.score_error:.1%}")
    return 0


def parse_arguments(argv: Sequence[str] | None) -> PhotosRecipe:
    parser = argparse.ArgumentParser(
        prog="python -m recipes.photos.train_photos", description="Make the photos bundle."
    )
    parser.add_argument("--data", type=Path, required=True, help="directory of flickr8k/ and coco-mixed/")
    parser.add_argument("--weights", type=Path, required=True, help="ImageNet weights of mobilenet_v2 to learn from")
    parser.add_argument("--stronger", type=Path, help="ImageNet weights of EfficientNet-Lite2 to learn from, too")
    parser.add_argument(
        "--work", type=Path, default=Path(".photos"), help="directory of intermediate results (%(default)s)"
    )
    parser.add_argument("--out", type=Path, required=True, help="directory the bundle is written to")
    parser.add_argument("--pictures", type=Path, help="directory of pictures for the card")
    arguments = vars(parser.parse_args(argv))
    command = shlex.join(["python", "-m", "recipes.photos.train_photos", *(sys.argv[1:] if argv is None else argv)])
    return PhotosRecipe(sets=PhotoSets(folder=arguments.pop("data")), **arguments, command=command)


def make_photos(recipe: PhotosRecipe, on_progress: OnProgress = ignore_progress) -> list[SetScores]:
    """Write the bundle and return its scores on the test photos of both sets."""
    recipe.work.mkdir(parents=True, exist_ok=True)
    encoder = distilled_encoder(recipe, on_progress)
    trained = trained_bundle(recipe, encoder, on_progress)
    save_smaller(recipe, trained)
    smaller = load_bundle(str(recipe.out))
    write_probabilities(recipe.out, fitted_score(recipe, smaller, on_progress), fitted_temperature(recipe, smaller))
    smaller = load_bundle(str(recipe.out))
    tests = {"Flickr8k": recipe.sets.flickr8k("test"), "COCO": recipe.sets.coco("test")}
    people = [caption for image in recipe.sets.images("train") for caption in image.captions]
    usage = Usage.of(map(caption_words, people))
    scores = [score(name, images, trained, smaller, usage, on_progress) for name, images in tests.items()]
    card = model_card(smaller, scores, show_pictures(recipe, smaller))
    (recipe.out / "MODEL_CARD.md").write_text(card, "utf-8")
    return scores


def score(
    name: str,
    images: Sequence[CaptionedImage],
    trained: Bundle,
    smaller: Bundle,
    usage: Usage,
    on_progress: OnProgress = ignore_progress,
) -> SetScores:
    """Return the scores on the test photos of a set."""
    before = evaluate(trained.captioner(), images, DECODING, on_progress=on_progress)
    after = evaluate(smaller.captioner(), images, DECODING, java=True, on_progress=on_progress)
    faulty = [bool(caption_faults(caption_words(judged.caption), usage)) for judged in after.captions]
    return SetScores(
        name=name,
        comparison=Comparison(before=before, after=after),
        faulty=sum(faulty) / max(1, len(faulty)),
        right=sum(are_main_things_right(judged.caption, judged.references) for judged in after.captions) / len(faulty),
        score_error=score_error(smaller, images),
    )


def score_error(bundle: Bundle, images: Sequence[CaptionedImage]) -> float:
    """Return the expected calibration error of the score of captions, 0 to 1; NaN for a bundle without such a score."""
    score = bundle.first_score
    if score is None:
        return math.nan
    references = {image.file: image.captions for image in images}
    scores, right = [], []
    for photo in caption_files(bundle.captioner(), list(references), DECODING):
        if photo.features is not None and photo.captions:
            best = photo.captions[0]
            scores.append(score.score(best.score, best.text, score.familiar.strangeness(photo.features)))
            right.append(float(are_main_things_right(best.text, references[photo.file])))
    return expected_calibration_error(scores, right)


def distilled_encoder(recipe: PhotosRecipe, on_progress: OnProgress) -> Path:
    """Return the file of the new encoder's weights."""
    folder = recipe.work / "encoder"
    if not (folder / ENCODER_FILE).exists():
        distil(
            folder,
            images=recipe.sets.folder,
            names=recipe.sets.write_photos(recipe.work),
            encoder=recipe.encoder,
            weights=recipe.weights,
            stronger=load_teacher(recipe.stronger) if recipe.stronger else None,
            options=recipe.distillation,
            on_progress=on_progress,
        )
    return folder / ENCODER_FILE


def trained_bundle(recipe: PhotosRecipe, encoder: Path, on_progress: OnProgress) -> Bundle:
    """Return the bundle in half precision, as `captioner train --weights <encoder>` makes it."""
    folder = recipe.work / "bundle"
    if not (folder / "bundle.json").exists():
        train_bundle(
            folder,
            train=recipe.sets.write("train", recipe.work),
            held_out=recipe.sets.write("dev", recipe.work),
            encoder=recipe.encoder,
            weights=encoder,
            options=recipe.training,
            on_progress=on_progress,
        )
    return load_bundle(str(folder))


def save_smaller(recipe: PhotosRecipe, trained: Bundle) -> None:
    """Write the bundle in 8 bits, with its own captions as replay.

    We may not pass on people's captions. The bundle's own captions serve the purpose, because retraining must not
    change them.
    """
    features = [example.features for example in trained.replay[:REPLAY]]
    captions = trained.captioner().caption(torch.stack(features), DECODING)
    replay = [
        CaptionedFeatures(features=values, caption=written[0].text)
        for values, written in zip(features, captions, strict=True)
    ]
    record = dict(trained.record) | {
        "command": recipe.command,
        "torch": torch.__version__,
        "exported": {"from": trained.version, "precision": "int8"},
    }
    save_bundle(
        recipe.out,
        name=trained.name,
        encoder=trained.encoder,
        decoder=trained.decoder,
        tokenizer=trained.tokenizer,
        replay=replay,
        record=record,
        precision="int8",
    )


def fitted_score(recipe: PhotosRecipe, bundle: Bundle, on_progress: OnProgress) -> FirstScore:
    """Fit the score of captions on the dev photos of both sets."""
    learned = [image.file for image in recipe.sets.images("train")]
    sample = learned[:: max(1, len(learned) // TRAINING_SAMPLE)]
    encoded = encode_files(bundle.encoder, sample, on_progress=on_progress)
    pooled = [image.features.mean(0, dtype=np.float32) for image in encoded if image.features is not None]
    familiar = FamiliarImages.of(np.stack(pooled))
    references = {image.file: image.captions for image in recipe.sets.images("dev")}
    captioned = caption_files(bundle.captioner(), list(references), DECODING, on_progress=on_progress)
    judged = [
        JudgedPhoto(
            caption=photo.captions[0].text,
            own_score=photo.captions[0].score,
            references=references[photo.file],
            strangeness=familiar.strangeness(photo.features),
        )
        for photo in captioned
        if photo.features is not None and photo.captions
    ]
    return fit_first_score(judged, familiar)


def fitted_temperature(recipe: PhotosRecipe, bundle: Bundle) -> float:
    """Return the temperature at which the decoder expects people's captions of the dev photos best."""
    examples = captioned_features(bundle, recipe.sets.images("dev"), captions=1)
    return min(TEMPERATURES, key=lambda temperature: people_loss(bundle, examples, temperature))


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


def show_pictures(recipe: PhotosRecipe, bundle: Bundle) -> list[str]:
    """Draw the gallery in the bundle's directory, if there are pictures, and return their names."""
    if recipe.pictures is None:
        return []
    files = sorted(file for file in recipe.pictures.iterdir() if file.is_file())
    captioned = [picture for picture in caption_files(bundle.captioner(), files, DECODING) if picture.captions]
    draw_gallery(recipe.out / "gallery.jpg", captioned)
    return [picture.file.name for picture in captioned]


if __name__ == "__main__":
    raise SystemExit(main())
