"""Builders of small real objects. Their defaults work, so a test states only what matters to it."""

from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from pydantic import SecretStr

from model.bundle import Bundle, load_bundle, save_bundle
from model.captioned_features import CaptionedFeatures
from model.captioner import Captioner
from model.decoders import build_decoder
from model.decoders.base import CaptionDecoder, DecoderSizes
from model.tokenizer import Tokenizer
from model.vision.encoder import Encoder, EncoderSpec, build_encoder
from model.vision.images import Preprocessing
from worker.feedback.corrections import Correction
from worker.feedback.suggestions import Suggestion
from worker.settings import Settings

TWELVE_WORDS = ("a", "red", "green", "blue", "circle", "square", "on", "left", "right", "two", "the", "of")


def make_tokenizer(words: Sequence[str] = TWELVE_WORDS) -> Tokenizer:
    return Tokenizer(tuple(words))


def make_encoder(seed: int = 0) -> Encoder:
    """A real SceneCNN with random weights for 32-pixel images: 4 regions, which tell colours apart."""
    torch.manual_seed(seed)
    half = (0.5, 0.5, 0.5)
    encoder = build_encoder(EncoderSpec(name="scene_cnn", preprocessing=Preprocessing(size=32, mean=half, std=half)))
    normalise(encoder)
    return encoder


def normalise(encoder: Encoder) -> None:
    """Set the batch statistics by pictures of many colours; those of a fresh network would drown all differences."""
    for layer in encoder.modules():
        if isinstance(layer, torch.nn.BatchNorm2d):
            layer.momentum = 1.0
    encoder.network.train()
    with torch.no_grad():
        encoder(torch.rand(64, 3, 1, 1).expand(-1, -1, 32, 32) * 2 - 1)
    encoder.network.eval()


def make_decoder(features: int, vocabulary: int | None = None, seed: int = 0) -> CaptionDecoder:
    torch.manual_seed(seed)
    sizes = DecoderSizes(
        vocabulary=vocabulary or make_tokenizer().size, features=features, hidden=32, embedding=32, attention=32
    )
    return build_decoder(sizes).eval()


def make_captioner(seed: int = 0, version: str = "tiny-00000000") -> Captioner:
    encoder = make_encoder(seed)
    return Captioner(encoder, make_decoder(encoder.feature_size, seed=seed), make_tokenizer(), version)


def make_image(color: str = "red", size: tuple[int, int] = (64, 48)) -> Image.Image:
    return Image.new("RGB", size, color)


def make_replay(captioner: Captioner) -> list[CaptionedFeatures]:
    """A red, a green and a blue picture, four times each, with their captions."""
    colors = ("red", "green", "blue")
    features = captioner.encode([make_image(color) for color in colors]).half()
    return [CaptionedFeatures(features=features[i], caption=f"a {color} square") for i, color in enumerate(colors)] * 4


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


def make_task(**changes: Any) -> dict[str, Any]:
    """A task as Label Studio sends it to /predict, in the plain captioning project."""
    task: dict[str, Any] = {
        "id": 1,
        "data": {"captioning": "/data/upload/1/0a1b2c3d-dog.jpg"},
        "meta": {},
        "project": 1,
        "is_labeled": False,
        "overlap": 1,
        "inner_id": 1,
        "annotations": [],
        "predictions": [],
    }
    return task | changes


def make_correction(**changes: Any) -> Correction:
    """A correction of our "a dog" to "a black dog"; annotation_id also tells task, image and UUID apart."""
    number = changes.get("annotation_id", 1)
    values: dict[str, Any] = {
        "project_id": 1,
        "task_id": number,
        "annotation_id": number,
        "annotation_uid": f"00000000-0000-4000-8000-{number:012d}",
        "control": "caption",
        "image_ref": f"/data/upload/1/{number:08x}-dog.jpg",
        "image_key": None,
        "proposed": "a dog",
        "caption": "a black dog",
        "model_version": "scenes-1a2b3c4d",
        "annotator": 1,
        "lead_time_s": 4.2,
        "ground_truth": False,
        "updated_at": "2025-01-31T12:00:00.000000+00:00",
    }
    assert set(changes) <= {declared.name for declared in fields(Correction)}
    return Correction(**values | changes)


def make_suggestion(**changes: Any) -> Suggestion:
    """The suggestion that `make_correction` corrects; task_id also tells the image apart."""
    number = changes.get("task_id", 1)
    values: dict[str, Any] = {
        "project_id": 1,
        "task_id": number,
        "control": "caption",
        "image_ref": f"/data/upload/1/{number:08x}-dog.jpg",
        "image_key": "ab" * 32,
        "caption": "a dog",
        "model_version": "scenes-1a2b3c4d",
        "score": 0.5,
    }
    return Suggestion(**values | changes)


def changed_settings(settings: Settings, **changes: Any) -> Settings:
    return Settings(**{**dict(settings), **changes})


def environment_of(settings: Settings) -> dict[str, str]:
    """Return the environment variables with which another process reads the same settings."""
    values = {name.upper(): value for name, value in settings if value is not None}
    return {
        name: value.get_secret_value() if isinstance(value, SecretStr) else str(value) for name, value in values.items()
    }
