"""What `captioner train` makes, and how; the defaults are what came out best (tests/benchmarks/RESULTS.md)."""

from dataclasses import dataclass, field

from model.decoders.search import DecodingOptions
from model.errors import TrainingError
from model.training.rewards import SelfCriticalOptions
from model.training.teacher_forcing import TrainingOptions
from model.vision.augmentation import Augmentation
from model.vision.encoder import EncoderSpec
from model.vision.images import IMAGENET_MEAN, IMAGENET_STD, Preprocessing


@dataclass(frozen=True, kw_only=True)
class BundleOptions:
    """What bundle is made, and how."""

    name: str = "photos"
    """Versions of the bundle are called `<name>-<8 hex digits>`."""
    hidden: int = 512
    """Size of the decoder's hidden state and word embedding; attention has half of it."""
    layers: int = 2
    cell: str = "lstm"
    """`lstm`, `peephole`, `gru`, `rnn` or `transformer`."""
    attention: bool = True
    recurrent_regions: bool = False
    residual: bool = False
    taught_stages: int | None = None
    """How many of the encoder's last stages learn with the decoder; None: those that see the final grid of regions,
    0: none, ALL: the whole network."""
    views: int = 4
    """How many views of each image are learned from: itself, its mirrored picture, and random ones."""
    augmentation: Augmentation = field(default_factory=Augmentation)
    min_count: int = 4
    """A word that stands fewer times in the captions is spelled in bytes."""
    replay: int = 200
    """How many captions, with their images' features, the bundle keeps for retraining."""
    held_out_share: int = 10
    """Without a held-out source every such image is held out, chosen by its content's hash."""
    training: TrainingOptions = field(
        default_factory=lambda: TrainingOptions(
            epochs=10,
            batch_size=160,
            dropout=0.5,
            feature_dropout=0.2,
            averaging=0.998,
            reduced_precision=True,
            warmup_steps=200,
        )
    )
    self_critical: SelfCriticalOptions = field(default_factory=SelfCriticalOptions)
    """What follows once the decoder captions."""
    decoding: DecodingOptions = field(default_factory=lambda: DecodingOptions(beam_size=5))
    """For the held-out metrics."""

    def __post_init__(self) -> None:
        for name, least in (("hidden", 2), ("views", 1), ("min_count", 1), ("replay", 0), ("held_out_share", 2)):
            if getattr(self, name) < least:
                raise TrainingError(f"{name} must be {least} or more, got {getattr(self, name)}")


def fine_tuning_options() -> BundleOptions:
    """Return the recipe for going on from a bundle, where a few hundred captions are all there is.

    Small batches make enough steps of them, and the encoder moves half as fast as in a first training. Rewards are
    left out: they changed nothing (tests/benchmarks/RESULTS.md). The sizes of the network do not count.
    """
    training = TrainingOptions(
        epochs=15,
        batch_size=32,
        learning_rate=1e-3,
        encoder_learning_rate=5e-5,
        encoder_after=0.2,
        dropout=0.3,
        feature_dropout=0.2,
        averaging=0.998,
        reduced_precision=True,
        warmup_steps=50,
    )
    return BundleOptions(min_count=2, training=training, self_critical=SelfCriticalOptions(epochs=0))


def imagenet_encoder(name: str = "mobilenet_v2", size: int = 224) -> EncoderSpec:
    """Describe a torchvision backbone with ImageNet's usual preprocessing."""
    return EncoderSpec(name=name, preprocessing=Preprocessing(size=size, mean=IMAGENET_MEAN, std=IMAGENET_STD))
