"""A training that can be looked at while it runs: `training.json` and `curves.png` beside the coming bundle."""

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

from model.store import replaced_file
from model.training.training_record import EpochRecord

if TYPE_CHECKING:
    from matplotlib.axes import Axes

RECORD_FILE = "training.json"
CURVES_FILE = "curves.png"


def write_training_log(folder: Path, epochs: Sequence[EpochRecord]) -> None:
    """Put both files in place of those of the epoch before; a reader sees them whole."""
    told = {"epochs": [asdict(epoch) for epoch in epochs]}
    with replaced_file(folder / RECORD_FILE) as file:
        file.write((json.dumps(told, indent=1) + "\n").encode())
    draw_curves(folder / CURVES_FILE, epochs)


def draw_curves(path: Path, epochs: Sequence[EpochRecord]) -> None:
    """Draw loss, held-out metrics, reward and learning rate over the epochs of all phases as a PNG."""
    # Only a training draws; imported here, matplotlib costs a serving process neither time nor memory.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    figure = Figure(figsize=(10, 7))
    figure.subplots_adjust(0.07, 0.07, 0.98, 0.95)
    FigureCanvasAgg(figure)
    (loss, quality), (reward, rate) = figure.subplots(2, 2, sharex=True)
    _draw(loss, epochs, {"training": lambda e: e.train_loss, "held out": lambda e: e.held_out_loss})
    _draw(quality, epochs, {"CIDEr-D": lambda e: e.cider_d, "BLEU-4": lambda e: e.bleu_4})
    _draw(reward, epochs, {"mean of samples": lambda e: e.reward})
    _draw(rate, epochs, {"learning rate": lambda e: e.learning_rate})
    for axes, title in (
        (loss, "loss, nats per token"),
        (quality, "held-out captions, most probable words"),
        (reward, "reward"),
        (rate, "learning rate"),
    ):
        axes.set_title(title)
        axes.grid(alpha=0.3)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    reward.set_xlabel("epoch")
    rate.set_xlabel("epoch")
    with replaced_file(path) as file:
        figure.savefig(file, format="png", dpi=100)


def _draw(
    axes: "Axes", epochs: Sequence[EpochRecord], curves: dict[str, Callable[[EpochRecord], float | None]]
) -> None:
    """Draw what is known, with a line between the phases."""
    for label, read in curves.items():
        known = [(number, value) for number, epoch in enumerate(epochs, 1) if (value := read(epoch)) is not None]
        if known:
            axes.plot(*zip(*known, strict=True), marker=".", label=label)
            axes.legend()
    for number, (before, after) in enumerate(pairwise(epochs), 1):
        if before.phase != after.phase:
            axes.axvline(number + 0.5, color="grey", linestyle=":")
