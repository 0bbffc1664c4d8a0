"""Builders of small real objects. Their defaults work, so a test states only what matters to it."""

from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from pydantic import SecretStr
from redis import Redis
from torch import Tensor

from model.bundle import Bundle, load_bundle, save_bundle
from model.captioned_features import CaptionedFeatures
from model.decoders.base import CaptionDecoder
from model.decoders.build import build_decoder
from model.decoders.sizes import DecoderSizes
from model.first_score import FamiliarImages, FirstScore
from model.tokenizer import Tokenizer
from model.torch_captioner import TorchCaptioner
from model.vision.encoder import Encoder, build_encoder
from model.vision.encoder_spec import EncoderSpec
from model.vision.images import Preprocessing
from worker.feedback.feedback_store import FeedbackStore, Recorded
from worker.feedback.proposals import Proposal, judge
from worker.feedback.record import AnnotationState, Correction, Feedback, Submission
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


def make_captioner(seed: int = 0, version: str = "tiny-00000000") -> TorchCaptioner:
    encoder = make_encoder(seed)
    return TorchCaptioner(encoder, make_decoder(encoder.feature_size, seed=seed), make_tokenizer(), version)


def make_image(color: str = "red", size: tuple[int, int] = (64, 48)) -> Image.Image:
    return Image.new("RGB", size, color)


def training_features(captioner: TorchCaptioner, images: Sequence[Image.Image]) -> Tensor:
    """Return the features [B, P, D] of images as decoders learn from them: in torch and in half precision."""
    return torch.from_numpy(captioner.encode(images)).half()


def make_replay(captioner: TorchCaptioner) -> list[CaptionedFeatures]:
    """A red, a green and a blue picture, four times each, with their captions."""
    colors = ("red", "green", "blue")
    features = training_features(captioner, [make_image(color) for color in colors])
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


def make_first_score(features: int) -> FirstScore:
    """Score captions of a bundle whose features have this size; it doubts every caption."""
    familiar = FamiliarImages.of(np.random.default_rng(0).normal(size=(20, features)))
    return FirstScore(
        intercept=-2.0,
        slope=1.0,
        per_length=0.0,
        per_strangeness=-1.0,
        per_coordinate=(0.1,) * len(familiar.center),
        usual_distance=1.0,
        error=0.04,
        judged=100,
        familiar=familiar,
    )


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
        "origin": "manual",
        "lead_time_s": 4.2,
        "ground_truth": False,
        "updated_at": "2025-01-31T12:00:00.000000+00:00",
    }
    assert set(changes) <= {declared.name for declared in fields(Correction)}
    values |= changes
    of_proposal = {"proposed", "model_version", "image_key", "score"}
    proposed = values["proposed"]
    proposal = Proposal(
        arm="none" if proposed is None else "shown",
        caption=proposed,
        model_version=values["model_version"],
        captions=() if proposed is None else (proposed,),
        score=values.get("score"),
        image_key=values["image_key"],
    )
    submission = Submission(**{name: value for name, value in values.items() if name not in of_proposal})
    correction = judge(submission, proposal)
    assert isinstance(correction, Correction)
    return correction


def make_state(*feedback: Feedback, **changes: Any) -> AnnotationState:
    """The annotation that holds these captions and skips, or nothing; by default that of `make_correction`."""
    names = ("project_id", "task_id", "annotation_id", "annotation_uid", "created_at", "updated_at")
    first = feedback[0] if feedback else make_correction(**{name: changes[name] for name in names if name in changes})
    values: dict[str, Any] = {name: getattr(first, name) for name in names}
    submitted = {declared.name for declared in fields(Submission)}
    submissions = [Submission(**{name: getattr(record, name) for name in submitted}) for record in feedback]
    return AnnotationState(**values | {"submissions": tuple(submissions)} | changes)


def store_annotation(redis: Redis, *feedback: Feedback, **changes: Any) -> Recorded:
    """Store one annotation as a webhook would that finds what was proposed; other controls of it stay."""
    state = make_state(*feedback, **{"is_whole": False} | changes)
    recorded = FeedbackStore(redis).record(state, {record.control: _proposed(record) for record in feedback})
    for record in recorded.feedback:
        image_key = next(given.image_key for given in feedback if given.name == record.name)
        if isinstance(record, Correction) and image_key is not None and record.image_key is None:
            FeedbackStore(redis).attach_image_key(record, image_key)
    return recorded


def _proposed(record: Feedback) -> list[Suggestion]:
    if record.suggestion is None or record.model_version is None:
        return []
    best = record.suggestion
    captions = [best] if record.proposed in {None, best} else [best, record.proposed]
    return [
        Suggestion(
            project_id=record.project_id,
            task_id=record.task_id,
            control=record.control,
            image_ref=record.image_ref,
            image_key=record.image_key or "",
            caption=str(caption),
            model_version=record.model_version,
            score=record.score,
            withheld=record.arm == "withheld",
        )
        for caption in captions
    ]


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
