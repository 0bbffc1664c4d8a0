"""Make the `photos` bundle: `python -m recipes.photos.train_photos --flickr8k DIR --weights FILE --out DIR`.

1. A new encoder learns to give the features of one with ImageNet's weights (`captioner distil`).
2. With it, `captioner train` makes a bundle.
3. The bundle is stored in 8 bits, captions the test photos, and gets its model card.

The encoder and the first bundle stay in the work directory. A killed run resumes there. A second run uses the finished
parts.
"""

import argparse
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch

from model.bundle import Bundle, load_bundle, save_bundle
from model.caption_files.read import CaptionSource, read_captions
from model.captioned_features import CaptionedFeatures
from model.decoders.search import DecodingOptions
from model.metrics.comparison import Comparison
from model.metrics.evaluation import evaluate
from model.progress import OnProgress, ProgressDisplay, ignore_progress
from model.training.bundle_options import BundleOptions, imagenet_encoder
from model.training.bundle_training import train_bundle
from model.training.distillation import ENCODER_FILE, DistillationOptions, distil
from model.vision.encoder_spec import EncoderSpec
from model.vision.files import caption_files
from recipes.photos.photos_card import draw_gallery, model_card

DECODING = DecodingOptions(beam_size=5)
REPLAY = 100
"""Captions that are kept for retraining; the 200 of `captioner train` would be half of the bundle's size."""


@dataclass(frozen=True, kw_only=True)
class PhotosRecipe:
    """Sources, directories and options of the bundle."""

    flickr8k: Path
    """Directory of `images/`, `Flickr8k.token.txt` and the lists `Flickr_8k.{train,dev,test}Images.txt`."""
    weights: str
    """Weights of the encoder to learn from, as `captioner distil` takes them."""
    work: Path
    """Directory of the encoder and the first bundle."""
    out: Path
    pictures: Path | None = None
    """Directory of pictures for the card; None draws no gallery."""
    encoder: EncoderSpec = field(default_factory=imagenet_encoder)
    distillation: DistillationOptions = field(default_factory=DistillationOptions)
    training: BundleOptions = field(default_factory=BundleOptions)
    command: str
    """Command that makes the bundle again."""

    def source(self, split: str) -> CaptionSource:
        return CaptionSource(
            captions=self.flickr8k / "Flickr8k.token.txt",
            images=self.flickr8k / "images",
            names=self.flickr8k / f"Flickr_8k.{split}Images.txt",
        )


def main(argv: Sequence[str] | None = None) -> int:
    with ProgressDisplay() as show:
        scores = make_photos(parse_arguments(argv), show)
    print(scores.before.table(), scores.after.table(), sep="\n")
    return 0


def parse_arguments(argv: Sequence[str] | None) -> PhotosRecipe:
    parser = argparse.ArgumentParser(
        prog="python -m recipes.photos.train_photos", description="Make the photos bundle."
    )
    parser.add_argument("--flickr8k", type=Path, required=True, help="directory of images/, captions and split lists")
    parser.add_argument("--weights", required=True, help="ImageNet weights of mobilenet_v2 to learn from")
    parser.add_argument(
        "--work", type=Path, default=Path(".photos"), help="directory of intermediate results (%(default)s)"
    )
    parser.add_argument("--out", type=Path, required=True, help="directory the bundle is written to")
    parser.add_argument("--pictures", type=Path, help="directory of pictures for the card")
    arguments = vars(parser.parse_args(argv))
    command = shlex.join(["python", "-m", "recipes.photos.train_photos", *(sys.argv[1:] if argv is None else argv)])
    return PhotosRecipe(**arguments, command=command)


def make_photos(recipe: PhotosRecipe, on_progress: OnProgress = ignore_progress) -> Comparison:
    """Write the bundle and return its scores on the test photos before and after it was stored in 8 bits."""
    encoder = distilled_encoder(recipe, on_progress)
    trained = trained_bundle(recipe, encoder, on_progress)
    save_smaller(recipe, trained)
    smaller = load_bundle(str(recipe.out))
    test = read_captions(recipe.source("test")).images
    scores = Comparison(
        before=evaluate(trained.captioner(), test, DECODING, on_progress=on_progress),
        after=evaluate(smaller.captioner(), test, DECODING, java=True, on_progress=on_progress),
    )
    card = model_card(smaller, scores, show_pictures(recipe, smaller))
    (recipe.out / "MODEL_CARD.md").write_text(card, "utf-8")
    return scores


def distilled_encoder(recipe: PhotosRecipe, on_progress: OnProgress) -> Path:
    """Return the file of the new encoder's weights."""
    folder = recipe.work / "encoder"
    if not (folder / ENCODER_FILE).exists():
        source = recipe.source("train")
        distil(
            folder,
            images=source.images,
            names=source.names,
            encoder=recipe.encoder,
            weights=recipe.weights,
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
            train=recipe.source("train"),
            held_out=recipe.source("dev"),
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
