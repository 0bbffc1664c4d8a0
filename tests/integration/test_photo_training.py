"""`captioner train` on real photos with ImageNet features, at a small scale."""

from pathlib import Path

import pytest

from model.bundle import load_bundle
from model.caption_files.read import CaptionSource
from model.decoders.search import DecodingOptions
from model.training.bundle_options import BundleOptions, imagenet_encoder
from model.training.bundle_training import train_bundle
from model.training.rewards import SelfCriticalOptions
from model.training.teacher_forcing import TrainingOptions
from model.vision.files import caption_files

SHARED = Path(__file__).parents[2] / "../shared/data"
FLICKR = SHARED / "flickr8k"
WEIGHTS = SHARED / "weights/mobilenet_v2-4c1ea311.pth"

pytestmark = pytest.mark.skipif(
    not (FLICKR.is_dir() and WEIGHTS.is_file()), reason="needs the Flickr8k photos and weights of ../shared/data"
)


def first_names(split: str, count: int, into: Path) -> CaptionSource:
    names = (FLICKR / f"Flickr_8k.{split}Images.txt").read_text().splitlines()[:count]
    into.write_text("\n".join(names))
    return CaptionSource(captions=FLICKR / "Flickr8k.token.txt", images=FLICKR / "images", names=into)


@pytest.mark.long
def test_a_captioner_trained_on_100_photos_describes_photos_it_never_saw(tmp_path: Path) -> None:
    options = BundleOptions(
        hidden=128,
        replay=5,
        training=TrainingOptions(epochs=5, batch_size=16, learning_rate=4e-3, warmup_steps=10, dropout=0.1),
        self_critical=SelfCriticalOptions(epochs=1),
    )

    trained = train_bundle(
        tmp_path / "photos",
        train=first_names("train", 100, tmp_path / "train.txt"),
        held_out=first_names("dev", 20, tmp_path / "dev.txt"),
        encoder=imagenet_encoder("mobilenet_v2"),
        weights=WEIGHTS,
        options=options,
    )

    assert trained is not None
    training = trained.record["training"]
    assert min(epoch["held_out_loss"] for epoch in training["epochs"]) < 0.6 * training["untrained_loss"]
    assert trained.evaluation.metrics.bleu_1 > 0.3
    captioner = load_bundle(str(tmp_path / "photos")).captioner()
    originals = sorted((FLICKR / "originals_sample").glob("*.jpg"))[:8]
    written = list(caption_files(captioner, originals, DecodingOptions()))
    assert all(captioned.captions[0].text for captioned in written)
