"""Prints the losses of small seeded trainings, to compare them before and after a change of the code.

    python -m tests.benchmarks.bench_same_loss --json FILE       writes the numbers to the file
    python -m tests.benchmarks.bench_same_loss --against FILE    compares with the file; exits with 1 if any differs

The trainings cover teacher forcing, rewards, the encoder's trainable stages, averaging, further training of a bundle,
self-distillation, every optimizer, the distillation of an encoder, and retraining (the decoder of the scenes bundle,
with corrections that say "crimson" for "red"). All run on the CPU, in one process and one thread. The numbers are equal
on one machine only.
"""

import argparse
import hashlib
import json
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from model.bundle import Bundle, load_bundle
from model.caption_files.read import CaptionSource
from model.captioned_features import CaptionedFeatures
from model.decoders.search import DecodingOptions
from model.store import Store
from model.torch_captioner import prefer_fast_products
from model.training.bundle_options import BundleOptions
from model.training.bundle_training import TrainedBundle, train_bundle
from model.training.distillation import DistillationOptions, distil
from model.training.rewards import SelfCriticalOptions
from model.training.self_distillation import expected_words
from model.training.teacher_forcing import OPTIMIZERS, TrainingOptions, fit_decoder
from model.training.training_record import TrainingProgress
from model.vision.features import FeatureStore
from tests.factories import make_captioner, make_correction, make_encoder, make_replay
from tests.squares import in_own_words, write_squares
from worker.learning.candidate import train_candidate
from worker.learning.dataset import Dataset, build_dataset
from worker.learning.holdout import Holdout
from worker.queue.job_progress import Progress
from worker.settings import Settings

CORRECTIONS = 40
BUDGET_S = 86_400  # never shortens a retraining

OPTIONS = BundleOptions(
    name="squares",
    hidden=32,
    min_count=1,
    replay=5,
    held_out_share=4,
    training=TrainingOptions(
        epochs=3, batch_size=16, averaging=0.9, encoder_after=0.3, dropout=0.4, feature_dropout=0.1
    ),
    self_critical=SelfCriticalOptions(epochs=2, images_per_step=8, max_tokens=8),
    decoding=DecodingOptions(max_tokens=10),
)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="file to write the numbers to")
    parser.add_argument("--against", type=Path, help="file of the numbers to compare with")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    numbers = dict(all_trainings())
    if arguments.json:
        arguments.json.write_text(json.dumps(numbers, indent=1) + "\n", "utf-8")
    before = json.loads(arguments.against.read_text("utf-8")) if arguments.against else {}
    return print_table(before, numbers)


def print_table(before: Mapping[str, float], after: Mapping[str, float]) -> int:
    """Print all numbers with six digits; return 1 if a number differs between the columns."""
    different = [name for name in before.keys() & after.keys() if before[name] != after[name]]
    print(f"{'':60} {'before':>12} {'after':>12}")
    for name in {**after, **before}:
        columns = [f"{column[name]:12.6f}" if name in column else f"{'-':>12}" for column in (before, after)]
        print(f"{name:60} {' '.join(columns)}{'  DIFFERENT' if name in different else ''}")
    print(f"{len(before.keys() & after.keys())} numbers compared, {len(different)} differ")
    return 1 if different else 0


def all_trainings() -> Iterator[tuple[str, float]]:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        source = write_squares(folder, 40, "a {color} square on the left .", "the square is {color}")
        networks: dict[str, dict[str, Any]] = {
            "lstm, frozen encoder": {"taught_stages": 0},
            "lstm, trainable stages": {"taught_stages": None},
            "whole encoder": {"taught_stages": -1, "layers": 1, "attention": False},
            "transformer": {"taught_stages": 0, "cell": "transformer", "layers": 1},
            "gru, regions read in order": {
                "taught_stages": 0,
                "cell": "gru",
                "recurrent_regions": True,
                "residual": True,
            },
        }
        for title, changes in networks.items():
            trained = train(source, folder / title.replace(" ", "-"), replace(OPTIONS, **changes))
            yield from bundle_numbers(title, trained)
        base = load_bundle(str(folder / "lstm,-trainable-stages"))
        further = replace(OPTIONS, taught_stages=None, self_critical=SelfCriticalOptions(epochs=0))
        trained_further = train_bundle(folder / "further", train=in_own_words(source), base=base, options=further)
        assert trained_further is not None
        yield from bundle_numbers("further training", trained_further)
        yield from distillation_numbers(folder, source.images)
    for optimizer in OPTIMIZERS:
        options = TrainingOptions(epochs=3, batch_size=4, optimizer=optimizer, averaging=0.8, seed=7)
        yield from step_numbers(f"fit_decoder, {optimizer}", options)
    yield from step_numbers(
        "fit_decoder, inner rate 0", TrainingOptions(epochs=2, batch_size=4, inner_learning_rate=0.0)
    )
    yield from self_distillation_numbers()
    yield from retraining_numbers()


def train(source: CaptionSource, out: Path, options: BundleOptions) -> TrainedBundle:
    encoder = make_encoder()
    weights = source.images.parent / "encoder.pth"
    torch.save(encoder.network.state_dict(), weights)
    trained = train_bundle(out, train=source, encoder=encoder.spec, weights=weights, options=options)
    assert trained is not None
    return trained


def bundle_numbers(title: str, trained: TrainedBundle) -> Iterator[tuple[str, float]]:
    """Yield the numbers of the record, and sums over the weights that show any difference in a bit."""
    training = trained.record["training"]
    yield f"{title}: untrained loss", training["untrained_loss"]
    for epoch in training["epochs"]:
        for field in ("train_loss", "reward", "held_out_loss", "cider_d", "bleu_4", "learning_rate"):
            if epoch[field] is not None:
                yield f"{title}: {epoch['phase']} epoch {epoch['epoch']} {field}", epoch[field]
    yield f"{title}: CIDEr-D of the bundle", trained.evaluation.metrics.cider_d
    bundle = load_bundle(str(trained.path))
    yield f"{title}: sum of the decoder", checksum(bundle.decoder)
    yield f"{title}: sum of the encoder", checksum(bundle.encoder)
    yield f"{title}: sum of the replay", float(sum(example.features.double().sum() for example in bundle.replay))


def distillation_numbers(folder: Path, images: Path) -> Iterator[tuple[str, float]]:
    encoder, out = make_encoder(), folder / "distilled"
    options = DistillationOptions(apart_epochs=2, together_epochs=2, batch_size=4, averaging=0.8, held_out_share=4)
    weights = images.parent / "encoder.pth"
    distilled = distil(out, images=images, encoder=encoder.spec, weights=weights, options=options)
    assert distilled is not None
    for epoch in json.loads((out / "training.json").read_text("utf-8"))["epochs"]:
        yield f"distillation: {epoch['phase']} epoch {epoch['epoch']} train_loss", epoch["train_loss"]
    yield "distillation: unexplained", distilled.unexplained


def step_numbers(title: str, options: TrainingOptions) -> Iterator[tuple[str, float]]:
    captioner = make_captioner()
    losses: list[float] = []
    examples = make_replay(captioner)
    held_out = [CaptionedFeatures(features=examples[0].features, caption="a red circle")]
    record = fit_decoder(
        captioner.decoder,
        captioner.tokenizer,
        examples,
        held_out,
        options,
        lambda progress: losses.append(progress.loss),
    )
    yield from ((f"{title}: step {step}", loss) for step, loss in enumerate(losses, 1))
    yield from ((f"{title}: held out {epoch}", loss) for epoch, loss in enumerate(record.held_out_losses, 1))
    yield f"{title}: sum of the decoder", checksum(captioner.decoder)


def self_distillation_numbers() -> Iterator[tuple[str, float]]:
    captioner, used = make_captioner(), make_captioner(seed=1)
    features = [example.features for example in make_replay(captioner)[:3]]
    captions = [
        ("two red circle", ("a red circle", "two circle")),
        ("a blue circle", ()),
        ("of green", ("a green square",)),
    ]
    examples = [
        CaptionedFeatures(features=feature, caption=caption, paraphrases=paraphrases)
        for feature, (caption, paraphrases) in zip(features, captions, strict=True)
    ]
    expected = expected_words(used, used.tokenizer, examples)
    losses: list[float] = []
    options = TrainingOptions(epochs=3, batch_size=2)
    fit_decoder(
        captioner.decoder, captioner.tokenizer, examples, [], options, lambda p: losses.append(p.loss), None, expected
    )
    yield from ((f"self-distillation: step {step}", loss) for step, loss in enumerate(losses, 1))


class RecordedProgress(Progress):
    """Records the loss of each training step."""

    def __init__(self) -> None:
        super().__init__(None, "redis://127.0.0.1:1/0")
        self.losses: list[float] = []

    def step(self, at: TrainingProgress) -> None:
        self.losses.append(at.loss)


def retraining_numbers() -> Iterator[tuple[str, float]]:
    """Retrain the scenes bundle's decoder as the job does; yield the losses of the steps and the gate's mean losses."""
    prefer_fast_products()
    bundle, settings = load_bundle("scenes"), Settings(retrain_budget_s=BUDGET_S)
    with tempfile.TemporaryDirectory() as folder:
        dataset = make_dataset(bundle, Path(folder))
        for seed in (1, 2):
            title, progress = f"retraining, seed {seed}", RecordedProgress()
            candidate = train_candidate(bundle.captioner(), bundle.captioner(), dataset, settings, seed, progress)
            yield from ((f"{title}: step {step}", loss) for step, loss in enumerate(progress.losses, 1))
            for name, sample in (("new captions", candidate.trial.new), ("anchors", candidate.trial.anchors)):
                yield f"{title}: {name}, candidate", sum(sample.candidate) / len(sample.candidate)
                yield f"{title}: {name}, serving", sum(sample.serving) / len(sample.serving)


def make_dataset(bundle: Bundle, folder: Path) -> Dataset:
    """Return a dataset whose corrections are captions of the bundle, with another word for "red"."""
    store = Store(folder)
    features = FeatureStore(store, bundle.encoder.fingerprint)
    red = [example for example in bundle.replay if " red " in example.caption]
    corrections = []
    for number, example in enumerate(red[:CORRECTIONS], start=1):
        key = hashlib.sha256(str(number).encode()).hexdigest()
        features.put(key, example.features)
        caption = example.caption.replace(" red ", " crimson ")
        corrections.append(
            make_correction(annotation_id=number, image_key=key, proposed=example.caption, caption=caption)
        )
    return build_dataset(corrections, features, bundle.replay, Holdout(store, 1, bundle.encoder.fingerprint))


def checksum(network: torch.nn.Module) -> float:
    """Return a sum in which every weight counts with a factor of its own."""
    total = 0.0
    for value in network.state_dict().values():
        flat = value.double().flatten()
        total += float((flat * torch.linspace(1, 2, len(flat), dtype=torch.float64)).sum())
    return total


if __name__ == "__main__":
    sys.exit(main())
