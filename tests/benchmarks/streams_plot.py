"""Draws the rows of bench-streams: a panel for each stream, a line for each learner."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

if TYPE_CHECKING:  # bench_streams runs as __main__, and would be loaded twice
    from tests.benchmarks.bench_streams import Row

COLUMNS = 3
COLORS = {"memory": "tab:blue", "weights": "tab:orange", "both": "tab:green"}


def draw(rows: Sequence["Row"], path: Path) -> None:
    """Draw CIDEr-D over the corrections as an SVG; the same rows make the same file."""
    measured = [row for row in rows if not math.isnan(row.cider)]
    streams = list(dict.fromkeys(row.stream for row in measured))
    height = math.ceil(max(len(streams), 1) / COLUMNS)
    figure = Figure(figsize=(3.4 * COLUMNS, 2.6 * height + 0.4), layout="constrained")
    FigureCanvasSVG(figure)
    panels = figure.subplots(height, COLUMNS, squeeze=False)
    for stream, axes in zip(streams, panels.flat, strict=False):
        _draw_stream(axes, [row for row in measured if row.stream == stream])
        axes.set_title(stream, fontsize="medium")
    for axes in panels.flat[len(streams) :]:
        axes.set_visible(False)
    figure.supxlabel("corrections", fontsize="medium")
    figure.supylabel("CIDEr-D x 100", fontsize="medium")
    names = {name: line for axes in figure.axes for line, name in zip(*axes.get_legend_handles_labels(), strict=True)}
    if names:
        figure.legend(names.values(), names.keys(), loc="outside upper center", ncols=len(names), frameon=False)
    with rc_context({"svg.hashsalt": "bench-streams", "svg.fonttype": "none"}):
        figure.savefig(path, format="svg", metadata={"Date": None})


def _draw_stream(axes: Axes, rows: Sequence["Row"]) -> None:
    """Draw the mean of the seeds as a thick line, each seed as a thin line, and no learning as a dotted line."""
    without = [row.cider for row in rows if row.learner == "nothing"]
    if without:
        axes.axhline(_mean(without), color="grey", linestyle=":", label="without learning")
    for learner, color in COLORS.items():
        of_learner = [row for row in rows if row.learner == learner]
        seeds = sorted({row.seed for row in of_learner})
        for seed in seeds if len(seeds) > 1 else ():
            points = sorted((row.corrections, row.cider) for row in of_learner if row.seed == seed)
            axes.plot(*zip(*points, strict=True), color=color, linewidth=0.6, alpha=0.5)
        counts = sorted({row.corrections for row in of_learner})
        means = [_mean([row.cider for row in of_learner if row.corrections == count]) for count in counts]
        if counts:
            axes.plot(counts, means, color=color, linewidth=2, marker=".", label=learner)
    axes.grid(alpha=0.3)
    axes.set_xlim(left=0)


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
