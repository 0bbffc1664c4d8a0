"""Losses of fixed seeds, in a table: a change of the code that should change no loss prints the same numbers.

    python -m tests.benchmarks.bench_same_loss [--seeds 1 2]

Each row is one training on one thread. `retraining` fine-tunes the decoder of the bundle of scenes as the retraining
job does, on captions of the bundle in which annotators wrote "crimson" for "red". The time budget is so large that it
never shortens the training. Compare two commits on the same machine only.
"""

import argparse
import hashlib
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from model.bundle import Bundle, load_bundle
from model.captioner import prefer_fast_products
from model.store import Store
from model.training.training_record import TrainingProgress
from model.vision.features import FeatureStore
from tests.factories import make_correction
from worker.learning.candidate import train_candidate
from worker.learning.dataset import Dataset, build_dataset
from worker.learning.holdout import Holdout
from worker.queue.job_progress import Progress

CORRECTIONS = 40
BUDGET_S = 86_400
SHOWN_STEPS = (1, 16, 32, 48, 64)


@dataclass(frozen=True, kw_only=True)
class Row:
    """The losses of one training, in nats per token; those of the gate are in nats per word."""

    training: str
    seed: int
    steps: Sequence[float]
    """The loss of each training step."""
    measured: Sequence[float]
    """Mean losses afterwards, on captions that were not trained on."""


class RecordedProgress(Progress):
    """Keeps the loss of each training step."""

    def __init__(self) -> None:
        super().__init__(None, "redis://127.0.0.1:1/0")
        self.losses: list[float] = []

    def step(self, at: TrainingProgress) -> None:
        self.losses.append(at.loss)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="bench_same_loss", description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2], help="one training for each (%(default)s)")
    arguments = parser.parse_args(argv)
    torch.set_num_threads(1)
    prefer_fast_products()
    steps = " ".join(f"{f'step {step}':>11}" for step in SHOWN_STEPS)
    print(f"{'training':12} {'seed':>4} {steps}    measured afterwards")
    for row in retrainings(arguments.seeds):
        shown = " ".join(f"{row.steps[min(step, len(row.steps)) - 1]:11.7f}" for step in SHOWN_STEPS)
        print(
            f"{row.training:12} {row.seed:4} {shown}   {' '.join(f'{loss:10.7f}' for loss in row.measured)}", flush=True
        )


def retrainings(seeds: Sequence[int]) -> Iterator[Row]:
    """Train the built-in decoder of scenes as the retraining job does; measure what the gate measures."""
    bundle = load_bundle("scenes")
    with tempfile.TemporaryDirectory() as folder:
        dataset = make_dataset(bundle, Path(folder))
        for seed in seeds:
            progress = RecordedProgress()
            candidate = train_candidate(bundle.captioner(), bundle.captioner(), dataset, BUDGET_S, seed, progress)
            samples = (candidate.trial.new, candidate.trial.anchors)
            measured = [
                sum(losses) / len(losses) for sample in samples for losses in (sample.candidate, sample.serving)
            ]
            yield Row(training="retraining", seed=seed, steps=progress.losses, measured=measured)


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


if __name__ == "__main__":
    main()
