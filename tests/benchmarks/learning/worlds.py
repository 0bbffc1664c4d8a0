"""Worlds for streams of corrections: pictures of several topics, and a captioner that knows all but five topics.

`scenes` are drawn, with the encoder of the bundle of that name; `flickr8k` are photos, with the encoder of `photos`.
"""

import hashlib
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from backend.demo.scenes.drawing import draw_scene
from backend.demo.scenes.scene import Scene, sample_scene
from backend.demo.scenes.wording import write_captions
from model.bundle import load_bundle
from model.caption_files.read import CaptionSource
from model.captioned_features import CaptionedFeatures
from model.decoders.build import build_decoder
from model.decoders.search import DecodingOptions
from model.decoders.sizes import DecoderSizes
from model.progress import OnProgress, Progress
from model.store import Store
from model.tokenizer import Tokenizer
from model.torch_captioner import TorchCaptioner
from model.training.examples import CaptionedExample, ExampleReader
from model.training.teacher_forcing import TrainingOptions, fit_decoder
from model.training.training_record import TrainingProgress
from model.vision.encoder import Encoder
from model.vision.files import encode_images

REPLAYED = 125
"""Base pictures whose captions a bundle would contain; a fifth of them become anchors."""


@dataclass(frozen=True, kw_only=True)
class Picture:
    """A picture whose captions are known."""

    key: str
    features: Tensor
    """[P, D], half precision."""
    captions: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Topic:
    """Pictures of one kind."""

    name: str
    train: tuple[Picture, ...]
    test: tuple[Picture, ...]


@dataclass(frozen=True, kw_only=True)
class World:
    """A base captioner, its training pictures, and five topics that it has never seen."""

    name: str
    base: TorchCaptioner
    replay: tuple[CaptionedFeatures, ...]
    """Captions that the bundle keeps of its training."""
    old: Topic
    """All pictures that the base was trained on, and other pictures of the same kind."""
    topics: tuple[Topic, ...]


SCENE_TOPICS = ("star", "heart", "cross", "striped", "dotted")


def scenes_world(*, scenes: int, corrections: int, tested: int, on_progress: OnProgress, spare: int = 0) -> World:
    """Return drawn scenes; the topics are three shapes and two grounds, and each scene of a topic has one of them.

    Args:
        scenes: number of scenes to train the base on.
        corrections: scenes of each topic to learn from.
        tested: scenes of each topic, and of the base, to measure on.
        on_progress: called while scenes are drawn and the base is trained.
        spare: further scenes of the base's kind, not trained on; they come last in its test.
    """
    encoder = load_bundle("scenes").encoder
    wanted = {"known": scenes + tested + spare, **dict.fromkeys(SCENE_TOPICS, corrections + tested)}
    drawn: dict[str, list[Scene]] = {name: [] for name in wanted}
    seeds = random.Random("worlds")
    while any(len(drawn[name]) < count for name, count in wanted.items()):
        scene = sample_scene(seeds.getrandbits(48))
        name = scene_topic(scene)
        if name is not None and len(drawn[name]) < wanted[name]:
            drawn[name].append(scene)
    pictures = {name: list(_pictured(encoder, group, name, on_progress)) for name, group in drawn.items()}
    base_pictures = pictures.pop("known")
    old = Topic(name="known", train=tuple(base_pictures[tested + spare :]), test=tuple(base_pictures[: tested + spare]))
    topics = [
        Topic(name=name, train=tuple(group[tested:]), test=tuple(group[:tested])) for name, group in pictures.items()
    ]
    base = _train_base(encoder, old.train, epochs=8, min_count=2, on_progress=on_progress)
    return World(name="scenes", base=base, replay=_replay(old), old=old, topics=tuple(topics))


FLICKR_TOPICS = {
    "snow": ("snow", "snowy", "ski", "skis", "skier", "skiing", "snowboard", "snowboarder", "snowboarding", "sled"),
    "water": ("surf", "surfer", "surfing", "surfboard", "wave", "waves", "pool", "swim", "swims", "swimming"),
    "wheels": ("bike", "bikes", "biker", "bicycle", "bicycles", "bicyclist", "cyclist", "motorcycle", "motorbike"),
    "ball games": ("football", "soccer", "basketball", "baseball", "tennis", "volleyball", "rugby", "hockey"),
    "climbing": ("climb", "climbs", "climber", "climbing", "cliff", "mountain", "mountains", "rock", "rocks"),
}


def flickr8k_world(folder: Path, features: Path, *, corrections: int, tested: int, on_progress: OnProgress) -> World:
    """Return photos of Flickr8k. A photo has a topic if three or more of its captions have a keyword of the topic.

    Args:
        folder: with Flickr8k.token.txt, images/ and the lists of its splits.
        features: directory that keeps the features of the images between runs.
        corrections: photos of each topic to learn from.
        tested: photos of each topic to measure on, and five times as many of all others.
        on_progress: called while photos are encoded and the base is trained.
    """
    encoder = load_bundle("photos").encoder
    reader = ExampleReader(encoder, features=Store(features), on_progress=on_progress)

    def source(split: str) -> CaptionSource:
        names = folder / f"Flickr_8k.{split}Images.txt"
        return CaptionSource(captions=folder / "Flickr8k.token.txt", images=folder / "images", names=names)

    learned, tests = reader.read(source("train"), source("dev"), 2)
    tests = [*tests, *reader.read(source("dev"), source("test"), 2)[1]]
    train, test = _by_topic(learned), _by_topic(tests)
    base = _train_base(encoder, train["known"], epochs=4, min_count=4, on_progress=on_progress)
    old = Topic(name="known", train=tuple(train["known"]), test=tuple(test["known"][: 5 * tested]))
    topics = tuple(
        Topic(name=name, train=tuple(train[name][:corrections]), test=tuple(test[name][:tested]))
        for name in FLICKR_TOPICS
    )
    return World(name="flickr8k", base=base, replay=_replay(old), old=old, topics=topics)


def write_captions_of(captioner: TorchCaptioner, pictures: Sequence[Picture]) -> list[str]:
    """Return what the captioner suggests for each picture."""
    captions = []
    for start in range(0, len(pictures), 64):
        features = torch.stack([picture.features for picture in pictures[start : start + 64]])
        captions += [beam[0].text for beam in captioner.caption(features, DecodingOptions())]
    return captions


def scene_topic(scene: Scene) -> str | None:
    """Return the topic of a scene, or "known". None if it has several topics or a checked background."""
    parts = {*(group.shape for group in scene.groups), scene.background.pattern}
    topics = [name for name in SCENE_TOPICS if name in parts]
    if len(topics) > 1 or "checked" in parts:
        return None
    return topics[0] if topics else "known"


def _pictured(encoder: Encoder, scenes: Sequence[Scene], name: str, on_progress: OnProgress) -> Iterator[Picture]:
    for start in range(0, len(scenes), 50):
        batch = scenes[start : start + 50]
        pictures = [draw_scene(scene, 192) for scene in batch]
        features = torch.from_numpy(encode_images(encoder, pictures))
        for scene, picture, encoded in zip(batch, pictures, features, strict=True):
            key = hashlib.sha256(picture.tobytes()).hexdigest()
            yield Picture(key=key, features=encoded.clone(), captions=tuple(write_captions(scene, 3)))
        on_progress(Progress(phase=f"draw {name}", done=min(start + 50, len(scenes)), total=len(scenes)))


def _by_topic(examples: Sequence[CaptionedExample]) -> dict[str, list[Picture]]:
    topics: dict[str, list[Picture]] = {name: [] for name in ("known", *FLICKR_TOPICS)}
    for example in examples:
        picture = Picture(key=example.image_key, features=example.features, captions=example.image.captions)
        topics[_flickr_topic(example.image.captions)].append(picture)
    return topics


def _flickr_topic(captions: Sequence[str]) -> str:
    words = [set(caption.lower().replace(".", " ").replace(",", " ").split()) for caption in captions]
    for name, keywords in FLICKR_TOPICS.items():
        if sum(bool(said & set(keywords)) for said in words) >= 3:
            return name
    return "known"


def _train_base(
    encoder: Encoder, pictures: Sequence[Picture], *, epochs: int, min_count: int, on_progress: OnProgress
) -> TorchCaptioner:
    """Train a decoder on only these pictures."""
    examples = examples_of(pictures)
    tokenizer = Tokenizer.build((example.caption for example in examples), min_count)
    torch.manual_seed(0)
    sizes = DecoderSizes(
        vocabulary=tokenizer.size, features=encoder.feature_size, hidden=256, embedding=256, attention=256, layers=2
    )
    decoder = build_decoder(sizes)
    decoder.standardise(torch.stack([picture.features for picture in pictures[:500]]))
    options = TrainingOptions(epochs=epochs, batch_size=64, learning_rate=2e-3, averaging=0.999, reduced_precision=True)

    def show(at: TrainingProgress) -> None:
        on_progress(Progress(phase="train base", done=at.step, total=at.steps, note=f"loss {at.loss:.3f}"))

    fit_decoder(decoder, tokenizer, examples, [], options, on_progress=show)
    return TorchCaptioner(encoder, decoder, tokenizer, "base")


def examples_of(pictures: Sequence[Picture]) -> list[CaptionedFeatures]:
    """Return one training example for each caption."""
    return [
        CaptionedFeatures(features=picture.features, caption=caption)
        for picture in pictures
        for caption in picture.captions
    ]


def _replay(old: Topic) -> tuple[CaptionedFeatures, ...]:
    chosen = random.Random(0).sample(old.train, min(REPLAYED, len(old.train)))
    return tuple(CaptionedFeatures(features=picture.features, caption=picture.captions[0]) for picture in chosen)
