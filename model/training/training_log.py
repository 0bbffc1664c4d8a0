"""Files that show a training while it runs: `training.json` and `curves.png` in the output directory."""

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

Curves = dict[str, Callable[[EpochRecord], float | None]]
PANELS: dict[str, Curves] = {
    "loss, nats per token": {"training": lambda e: e.train_loss, "held out": lambda e: e.held_out_loss},
    "held-out captions, decoded greedily": {"CIDEr-D": lambda e: e.cider_d, "BLEU-4": lambda e: e.bleu_4},
    "reward": {"mean of samples": lambda e: e.reward},
    "learning rate": {"learning rate": lambda e: e.learning_rate},
}


def write_training_log(folder: Path, epochs: Sequence[EpochRecord]) -> None:
    """Replace both files; each is replaced as a whole."""
    with replaced_file(folder / RECORD_FILE) as file:
        file.write((json.dumps({"epochs": [asdict(epoch) for epoch in epochs]}, indent=1) + "\n").encode())
    draw_curves(folder / CURVES_FILE, epochs)


def draw_curves(path: Path, epochs: Sequence[EpochRecord]) -> None:
    """Draw loss, held-out metrics, reward and learning rate over the epochs of all phases, as a PNG."""
    # Imported here, because only trainings draw: a serving process must not spend memory on matplotlib.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    figure = Figure(figsize=(10, 7))
    figure.subplots_adjust(0.07, 0.07, 0.98, 0.95)
    FigureCanvasAgg(figure)
    panels = figure.subplots(2, 2, sharex=True)
    for axes, (title, curves) in zip(panels.flat, PANELS.items(), strict=True):
        _draw(axes, epochs, curves)
        axes.set_title(title)
        axes.grid(alpha=0.3)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    for axes in panels[1]:
        axes.set_xlabel("epoch")
    with replaced_file(path) as file:
        figure.savefig(file, format="png", dpi=100)


def _draw(axes: "Axes", epochs: Sequence[EpochRecord], curves: Curves) -> None:
    """Draw the curves that have values, and a dotted line between phases."""
    for label, read in curves.items():
        points = [(number, value) for number, epoch in enumerate(epochs, 1) if (value := read(epoch)) is not None]
        if points:
            axes.plot(*zip(*points, strict=True), marker=".", label=label)
            axes.legend()
    for number, (before, after) in enumerate(pairwise(epochs), 1):
        if before.phase != after.phase:
            axes.axvline(number + 0.5, color="grey", linestyle=":")
