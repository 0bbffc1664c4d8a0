"""Make the `photos` bundle: `python -m recipes.photos.train_photos --data DIR --weights FILE --out DIR`.

1. A new encoder learns to give the features of one with ImageNet's weights (`captioner distil`).
2. With it, `captioner train` makes a bundle from the captions of Flickr8k and of COCO (`photo_sets.py`).
3. Further passes, which start anew at a high learning rate, reward good captions.
4. The bundle is stored in 8 bits, and the score of its captions is fitted on dev photos (`model/first_score.py`).
5. It captions the test photos of both sets, and gets its model card.

The encoder and the first two bundles stay in the work directory. A killed run resumes there. A second run uses the
finished parts.
"""

import argparse
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
import torch

from model.bundle import Bundle, load_bundle, save_bundle
from model.captioned_features import CaptionedFeatures
from model.first_score import FamiliarImages, FirstScore, JudgedPhoto, fit_first_score
from model.manifest import write_first_score
from model.progress import OnProgress, ProgressDisplay, ignore_progress
from model.store import Store
from model.training.bundle_options import BundleOptions, imagenet_encoder
from model.training.bundle_training import train_bundle
from model.training.distillation import ENCODER_FILE, DistillationOptions, distil
from model.training.rewards import SelfCriticalOptions
from model.training.teacher_forcing import TrainingOptions
from model.vision.encoder_spec import EncoderSpec
from model.vision.files import caption_files, encode_files
from recipes.photos.measure_photos import DECODING, measure_photos, print_scores
from recipes.photos.photo_sets import PhotoSets
from recipes.photos.photos_card import SetScores, draw_gallery, model_card
from recipes.photos.teachers import load_teacher

TRAINING_SAMPLE = 1500
"""Training photos that say how strange another image is."""
FIRST = "bundle"
"""Directory of the bundle before the further passes, in the work directory."""
REPLAY = 100
"""Captions that are kept for retraining; the 200 of `captioner train` would be half of the bundle's size."""


@dataclass(frozen=True, kw_only=True)
class PhotosRecipe:
    """Sources, directories and options of the bundle."""

    sets: PhotoSets
    weights: Path
    """Weights of an encoder of the same network, whose stages the new one learns. They are used with torch's padding,
    because the new one has it too."""
    stronger: Path | None = None
    """Weights of a stronger encoder (`teachers.py`), whose features the new one learns; None: those of `weights`."""
    distilled: Path | None = None
    """Weights of the new encoder, if it was made before; None: it is made first."""
    work: Path
    """Directory of the encoder and the first two bundles."""
    out: Path
    pictures: Path | None = None
    """Directory of pictures for the card; None draws no gallery."""
    encoder: EncoderSpec = field(default_factory=imagenet_encoder)
    distillation: DistillationOptions = field(
        default_factory=lambda: DistillationOptions(apart_epochs=1, small_epochs=4, together_epochs=3, small_size=160)
    )
    training: BundleOptions = field(
        default_factory=lambda: BundleOptions(min_count=5, self_critical=SelfCriticalOptions(fault_penalty=0.5))
    )
    further: BundleOptions = field(
        default_factory=lambda: BundleOptions(
            min_count=5,
            training=TrainingOptions(epochs=0),
            self_critical=SelfCriticalOptions(fault_penalty=0.5, bleu_weight=1.0, learning_rate=1e-4, seed=1),
        )
    )
    """Options of the passes that start anew at a high learning rate (Loshchilov and Hutter 2017, section 3,
    https://arxiv.org/abs/1608.03983)."""
    command: str
    """Command that makes the bundle again."""


def main(argv: Sequence[str] | None = None) -> int:
    with ProgressDisplay() as show:
        scores = make_photos(parse_arguments(argv), show)
    print_scores(scores)
    return 0


def parse_arguments(argv: Sequence[str] | None) -> PhotosRecipe:
    parser = argparse.ArgumentParser(
        prog="python -m recipes.photos.train_photos", description="Make the photos bundle."
    )
    parser.add_argument("--data", type=Path, required=True, help="directory of flickr8k/ and coco-mixed/")
    parser.add_argument("--weights", type=Path, required=True, help="ImageNet weights of mobilenet_v2 to learn from")
    parser.add_argument("--stronger", type=Path, help="ImageNet weights of EfficientNet-Lite2 to learn from, too")
    parser.add_argument(
        "--encoder",
        dest="distilled",
        type=Path,
        metavar="FILE",
        help="new encoder that was made before; skips this part",
    )
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
    smaller = load_bundle(recipe.out)
    write_first_score(recipe.out, fitted_score(recipe, smaller, on_progress))
    smaller = load_bundle(recipe.out)
    scores = measure_photos(smaller, recipe.sets, trained, on_progress)
    card = model_card(smaller, scores, show_pictures(recipe, smaller))
    (recipe.out / "MODEL_CARD.md").write_text(card, "utf-8")
    return scores


def distilled_encoder(recipe: PhotosRecipe, on_progress: OnProgress) -> Path:
    """Return the file of the new encoder's weights."""
    if recipe.distilled:
        return recipe.distilled
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
    """Return the bundle in half precision, as `captioner train --weights <encoder>` and then `--from` make it."""
    first, further = recipe.work / FIRST, recipe.work / "further"
    if not (further / "bundle.json").exists():
        train = partial(
            train_bundle,
            train=recipe.sets.write("train", recipe.work),
            held_out=recipe.sets.write("dev", recipe.work),
            features=Store(recipe.work / "features"),
            on_progress=on_progress,
        )
        if not (first / "bundle.json").exists():
            train(first, encoder=recipe.encoder, weights=encoder, options=recipe.training)
        train(further, base=load_bundle(first), options=recipe.further)
    return load_bundle(further)


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
    first = load_bundle(recipe.work / FIRST).record
    record = dict(trained.record) | {
        "first_training": first["training"],
        "seconds": first["seconds"] + trained.record["seconds"],
        "teacher": "EfficientNet-Lite2" if recipe.stronger else f"another {trained.encoder.spec.name}",
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
        temperature=trained.temperature,
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
            image=familiar.position(photo.features),
        )
        for photo in captioned
        if photo.features is not None and photo.captions
    ]
    return fit_first_score(judged, familiar)


def show_pictures(recipe: PhotosRecipe, bundle: Bundle) -> list[str]:
    """Draw the gallery in the bundle's directory, if there are pictures, and return their names."""
    if recipe.pictures is None:
        return []
    files = sorted(file for file in recipe.pictures.iterdir() if file.is_file())
    captioned = [picture for picture in caption_files(bundle.captioner(), files, DECODING) if picture.captions]
    draw_gallery(recipe.out / "gallery.jpg", captioned, bundle.first_score)
    return [picture.file.name for picture in captioned]


if __name__ == "__main__":
    raise SystemExit(main())
