"""Options of `captioner train`. The defaults gave the best results (tests/benchmarks/RESULTS.md)."""

from dataclasses import dataclass, field

from model.decoders.search import DecodingOptions
from model.errors import TrainingError
from model.training.rewards import SelfCriticalOptions
from model.training.teacher_forcing import TrainingOptions
from model.vision.augmentation import Augmentation
from model.vision.encoder_spec import EncoderSpec
from model.vision.images import IMAGENET_MEAN, IMAGENET_STD, Preprocessing

DEFAULT_ENCODER = "mobilenet_v2"


@dataclass(frozen=True, kw_only=True)
class BundleOptions:
    """Sizes of a new bundle's network, and options of its training."""

    name: str = "photos"
    """The bundle's version is `<name>-<8 hex digits>`."""
    hidden: int = 512
    """Size of the decoder's hidden state and word embedding; that of attention is half as large."""
    layers: int = 2
    cell: str = "lstm"
    """`lstm`, `peephole`, `gru`, `rnn` or `transformer`."""
    attention: bool = True
    recurrent_regions: bool = False
    residual: bool = False
    taught_stages: int | None = None
    """Number of the encoder's last stages that are trained with the decoder. None: those that see the final grid of
    regions; 0: none; ALL: the whole network."""
    views: int = 4
    """Number of views of each image to learn from: the image, its mirror image, and random views."""
    augmentation: Augmentation = field(default_factory=Augmentation)
    min_count: int = 4
    """A word that occurs fewer times in the captions is not in the vocabulary; it is spelled in bytes."""
    replay: int = 200
    """Captions, with the features of their images, that the bundle keeps for retraining."""
    held_out_share: int = 10
    """Without a held-out source one image in this many is held out, by the hash of its content."""
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
    """Second phase, after the captions are learned."""
    decoding: DecodingOptions = field(default_factory=lambda: DecodingOptions(beam_size=5))
    """Search for the captions that are scored on held-out images."""

    def __post_init__(self) -> None:
        for name, least in (("hidden", 2), ("views", 1), ("min_count", 1), ("replay", 0), ("held_out_share", 2)):
            if getattr(self, name) < least:
                raise TrainingError(f"{name} must be {least} or more, got {getattr(self, name)}")


def fine_tuning_options() -> BundleOptions:
    """Return options for training a bundle further on a few hundred captions.

    Small batches give enough steps, and the encoder's learning rate is half that of a first training. There are no
    rewards: they changed nothing (tests/benchmarks/RESULTS.md). The sizes of the network are those of the bundle.
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


def imagenet_encoder(name: str = DEFAULT_ENCODER, size: int = 224) -> EncoderSpec:
    """Return the description of a network of torchvision or timm, with the preprocessing of its ImageNet weights."""
    mean, std = IMAGENET_MEAN, IMAGENET_STD
    if name != DEFAULT_ENCODER:
        from model.vision.trunks import usual_colours

        mean, std = usual_colours(name) or (mean, std)
    return EncoderSpec(name=name, preprocessing=Preprocessing(size=size, mean=mean, std=std))
