"""Builders with defaults that work, so that a test states only what matters to it."""

from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image

from model.bundle import Bundle, load_bundle, save_bundle
from model.captioner import Captioner
from model.decoder import AttentionDecoder, DecoderSizes
from model.encoder import Encoder, EncoderSpec, build_encoder
from model.images import Preprocessing
from model.tokenizer import Tokenizer
from model.training import CaptionedFeatures

TWELVE_WORDS = ("a", "red", "green", "blue", "circle", "square", "on", "left", "right", "two", "the", "of")


def make_tokenizer(words: Sequence[str] = TWELVE_WORDS) -> Tokenizer:
    return Tokenizer(tuple(words))


def make_encoder(seed: int = 0) -> Encoder:
    """A real SceneCNN with random weights for 32-pixel images: 4 regions."""
    torch.manual_seed(seed)
    half = (0.5, 0.5, 0.5)
    return build_encoder(EncoderSpec(name="scene_cnn", preprocessing=Preprocessing(size=32, mean=half, std=half)))


def make_decoder(features: int, vocabulary: int | None = None, seed: int = 0) -> AttentionDecoder:
    torch.manual_seed(seed)
    sizes = DecoderSizes(
        vocabulary=vocabulary or make_tokenizer().size, features=features, hidden=32, embedding=32, attention=32
    )
    return AttentionDecoder(sizes).eval()


def make_captioner(seed: int = 0, version: str = "tiny-00000000") -> Captioner:
    encoder = make_encoder(seed)
    return Captioner(encoder, make_decoder(encoder.feature_size, seed=seed), make_tokenizer(), version)


def make_image(color: str = "red", size: tuple[int, int] = (64, 48)) -> Image.Image:
    return Image.new("RGB", size, color)


def make_replay(captioner: Captioner) -> list[CaptionedFeatures]:
    """A red, a green and a blue picture, four times each, with their captions."""
    colors = ("red", "green", "blue")
    features = captioner.encode([make_image(color) for color in colors]).half()
    return [
        CaptionedFeatures(features=features[i], caption=f"a {color} square") for i, color in enumerate(colors)
    ] * 4


def write_bundle(path: Path, seed: int = 0) -> Path:
    """Write a bundle of a tiny untrained captioner and return its directory, fit for CAPTION_BUNDLE."""
    captioner = make_captioner(seed)
    save_bundle(
        path,
        name="tiny",
        encoder=captioner.encoder,
        decoder=captioner.decoder,
        tokenizer=captioner.tokenizer,
        replay=make_replay(captioner),
        record={"trained_on": "nothing"},
    )
    return path


def make_bundle(path: Path, seed: int = 0) -> Bundle:
    return load_bundle(str(write_bundle(path, seed)))
