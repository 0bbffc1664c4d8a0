"""Make the `photos` bundle: `python -m recipes.photos.train_photos --flickr8k DIR --weights FILE --out DIR`.

An encoder with weights of its own learns to see what one with ImageNet's sees; with it the recipe of `captioner train`
makes a bundle; that is stored in 8 bits, captions the test photos and gets its card. Encoder and bundle stay in the
work directory, where a killed run goes on and a second one finds them done.
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
from model.decoders.search import DecodingOptions
from model.metrics.evaluation import Evaluation, evaluate
from model.progress import OnProgress, ProgressDisplay, ignore_progress
from model.training.bundle_options import BundleOptions, imagenet_encoder
from model.training.bundle_training import train_bundle
from model.training.distillation import ENCODER_FILE, DistillationOptions, distil
from model.training.teacher_forcing import CaptionedFeatures
from model.vision.encoder import EncoderSpec
from model.vision.files import caption_files
from recipes.photos.photos_card import draw_gallery, model_card

DECODING = DecodingOptions(beam_size=5)
REPLAY = 100
"""How many captions are kept for retraining; 200, as `captioner train` keeps, would be half of the bundle's size."""


@dataclass(frozen=True, kw_only=True)
class PhotosRecipe:
    """What the bundle is made from, and where."""

    flickr8k: Path
    """Directory of `images/`, `Flickr8k.token.txt` and the lists `Flickr_8k.{train,dev,test}Images.txt`."""
    weights: str
    """What the encoder learns to see from, as `captioner distil` takes it."""
    work: Path
    """Directory of what is made on the way."""
    out: Path
    pictures: Path | None = None
    """Directory of pictures that may be shown, for the card; None draws none."""
    encoder: EncoderSpec = field(default_factory=imagenet_encoder)
    distillation: DistillationOptions = field(default_factory=DistillationOptions)
    training: BundleOptions = field(default_factory=BundleOptions)
    command: str
    """Which a person would write to do it again."""

    def source(self, split: str) -> CaptionSource:
        return CaptionSource(
            captions=self.flickr8k / "Flickr8k.token.txt",
            images=self.flickr8k / "images",
            names=self.flickr8k / f"Flickr_8k.{split}Images.txt",
        )


def main(argv: Sequence[str] | None = None) -> int:
    with ProgressDisplay() as show:
        full, smaller = make_photos(parse_arguments(argv), show)
    print(full.table(), smaller.table(), sep="\n")
    return 0


def parse_arguments(argv: Sequence[str] | None) -> PhotosRecipe:
    parser = argparse.ArgumentParser(
        prog="python -m recipes.photos.train_photos", description="Make the photos bundle."
    )
    parser.add_argument("--flickr8k", type=Path, required=True, help="directory of images/, captions and split lists")
    parser.add_argument("--weights", required=True, help="ImageNet weights of mobilenet_v2 to learn to see from")
    parser.add_argument("--work", type=Path, default=Path(".photos"), help="what is made on the way (%(default)s)")
    parser.add_argument("--out", type=Path, required=True, help="directory the bundle is written to")
    parser.add_argument("--pictures", type=Path, help="directory of pictures for the card")
    arguments = vars(parser.parse_args(argv))
    command = shlex.join(["python", "-m", "recipes.photos.train_photos", *(sys.argv[1:] if argv is None else argv)])
    return PhotosRecipe(**arguments, command=command)


def make_photos(recipe: PhotosRecipe, on_progress: OnProgress = ignore_progress) -> tuple[Evaluation, Evaluation]:
    """Write the bundle; return what it scored on the test photos before and after it was stored in 8 bits."""
    encoder = distilled_encoder(recipe, on_progress)
    trained = trained_bundle(recipe, encoder, on_progress)
    save_smaller(recipe, trained)
    smaller = load_bundle(str(recipe.out))
    test = read_captions(recipe.source("test")).images
    before = evaluate(trained.captioner(), test, DECODING, on_progress=on_progress)
    after = evaluate(smaller.captioner(), test, DECODING, java=True, on_progress=on_progress)
    card = model_card(smaller, before, after, show_pictures(recipe, smaller))
    (recipe.out / "MODEL_CARD.md").write_text(card, "utf-8")
    return before, after


def distilled_encoder(recipe: PhotosRecipe, on_progress: OnProgress) -> Path:
    """Return the file of the encoder's own weights."""
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
    """Write the bundle in 8 bits.

    What it keeps for retraining are its own captions: the ones that people wrote are not ours to hand on, and what it
    would say anyway is just what retraining is not to change.
    """
    features = [example.features for example in trained.replay[:REPLAY]]
    captions = trained.captioner().caption(torch.stack(features), DECODING)
    replay = [
        CaptionedFeatures(features=seen, caption=written[0].text)
        for seen, written in zip(features, captions, strict=True)
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
    """Draw the gallery beside the bundle, if there are pictures, and return their names."""
    if recipe.pictures is None:
        return []
    files = sorted(file for file in recipe.pictures.iterdir() if file.is_file())
    captioned = [found for found in caption_files(bundle.captioner(), files, DECODING) if found.captions]
    draw_gallery(recipe.out / "gallery.jpg", captioned)
    return [found.file.name for found in captioned]


if __name__ == "__main__":
    raise SystemExit(main())
