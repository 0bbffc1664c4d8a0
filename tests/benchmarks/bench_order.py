"""Compares two orders of tasks: the suggestion least likely to be accepted first, and a random order.

    python -m tests.benchmarks.bench_order [--pool 600] [--steps 12]

A project has drawn scenes. The captioner knows most kinds of them and has never seen five. The annotator accepts a
suggestion that says the same as a true caption and rewrites the others. After each 20 tasks the decoder is retrained
and the scores are calibrated again. The result is the number of corrections until suggestions for other scenes are as
good as after all steps in random order.
"""

import argparse
import json
import random
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from model.captioner import Caption
from model.decoders.search import DecodingOptions
from model.metrics.scores import measure
from model.progress import Progress, ProgressDisplay
from model.torch_captioner import TorchCaptioner, prefer_fast_products
from tests.benchmarks.learning.learners import Ours
from tests.benchmarks.learning.worlds import Picture, World, scenes_world, write_captions_of
from tests.factories import make_correction
from worker.feedback.record import Feedback
from worker.feedback.score_calibration import Calibration, fit_calibration

BATCH = 20
RANDOM_ORDERS = 3


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="bench_order", description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("--pool", type=int, default=600, help="tasks of the project (%(default)s)")
    parser.add_argument("--steps", type=int, default=12, help="times 20 corrections (%(default)s)")
    parser.add_argument("--scenes", type=int, default=1500, help="scenes to train the base on (%(default)s)")
    arguments = parser.parse_args(argv)
    torch.set_num_threads(1)
    prefer_fast_products()
    with ProgressDisplay() as show:
        spare, each = 2 * arguments.pool // 3, arguments.pool // 15
        world = scenes_world(scenes=arguments.scenes, corrections=each, tested=40, spare=spare, on_progress=show)
        pool = [*world.old.test[40:], *(picture for topic in world.topics for picture in topic.train)]
        tested = [*world.old.test[:40], *(picture for topic in world.topics for picture in topic.test)]
        seeds: dict[str, int | None] = {f"random {number}": number for number in range(1, RANDOM_ORDERS + 1)}
        seeds["least likely first"] = None
        annotated = {name: annotate(world, pool, tested, arguments.steps, seed, show) for name, seed in seeds.items()}
    report(annotated)


@dataclass(frozen=True, kw_only=True)
class Annotated:
    """A project after some hundred corrections."""

    curve: list[float]
    """CIDEr-D x 100 before any correction and after each 20."""
    calibration: Calibration | None
    """Calibration of the scores by all judged suggestions."""


def annotate(
    world: World,
    pool: Sequence[Picture],
    tested: Sequence[Picture],
    steps: int,
    seed: int | None,
    show: ProgressDisplay,
) -> Annotated:
    """Correct the tasks of the pool and return the quality of suggestions after each step.

    Args:
        seed: of a random order; None orders the tasks by score.
    """
    waiting = list(pool)
    random.Random(seed or 0).shuffle(waiting)
    records: list[Feedback] = []
    with tempfile.TemporaryDirectory() as folder:
        learner = Ours(world, Path(folder))
        curve = [quality(learner.captioner, tested)]
        for step in range(1, steps + 1):
            suggested = suggestions(learner.captioner, waiting if seed is None else waiting[:BATCH])
            if seed is None:
                calibration = fit_calibration(records)
                waiting.sort(key=lambda picture: likelihood(suggested[picture.key], calibration))
            chosen, waiting = waiting[:BATCH], waiting[BATCH:]
            corrections = []
            for picture in chosen:
                proposed = suggested[picture.key]
                caption = proposed.text if is_right(proposed.text, picture) else picture.captions[0]
                corrections.append((picture, caption))
                correction = make_correction(annotation_id=len(records) + 1, proposed=proposed.text, caption=caption)
                records.append(replace(correction, score=proposed.score))
            learner.learn(corrections)
            curve.append(quality(learner.captioner, tested))
            show(Progress(phase=f"order {seed or 'by score'}", done=step, total=steps, note=f"CIDEr-D {curve[-1]:.1f}"))
    return Annotated(curve=curve, calibration=fit_calibration(records))


def suggestions(captioner: TorchCaptioner, pictures: Sequence[Picture]) -> dict[str, Caption]:
    suggested: dict[str, Caption] = {}
    for start in range(0, len(pictures), 64):
        batch = pictures[start : start + 64]
        written = captioner.caption(torch.stack([picture.features for picture in batch]), DecodingOptions())
        suggested |= {picture.key: captions[0] for picture, captions in zip(batch, written, strict=True)}
    return suggested


def likelihood(suggested: Caption, calibration: Calibration | None) -> float:
    return suggested.score if calibration is None else calibration.score(suggested.score, suggested.text)


def is_right(caption: str, picture: Picture) -> bool:
    """Return True if the caption has the same words as a true caption, in any order."""
    return any(sorted(caption.split()) == sorted(reference.split()) for reference in picture.captions)


def quality(captioner: TorchCaptioner, tested: Sequence[Picture]) -> float:
    return 100 * measure(write_captions_of(captioner, tested), [picture.captions for picture in tested]).cider_d


def report(annotated: dict[str, Annotated]) -> None:
    for name, project in annotated.items():
        if project.calibration is not None:
            errors = f"{project.calibration.error:.1%}, the decoder's own {project.calibration.error_before:.1%}"
            print(f"{name}: expected calibration error of scores after {project.calibration.judged} judged: {errors}")
    curves = {name: project.curve for name, project in annotated.items()}
    steps = range(len(next(iter(curves.values()))))
    print(f"{'corrections':20} " + " ".join(f"{BATCH * step:6}" for step in steps))
    for name, curve in curves.items():
        print(f"{name:20} " + " ".join(f"{score:6.1f}" for score in curve))
    by_chance = [curve for name, curve in curves.items() if name.startswith("random")]
    goal = sum(curve[-1] for curve in by_chance) / len(by_chance)
    by_score = curves["least likely first"]
    needed = next((step for step in steps if by_score[step] >= goal), None)
    share = needed / steps[-1] if needed is not None else 1.0
    corrections = "more" if needed is None else BATCH * needed
    print(f"as good as {BATCH * steps[-1]} in random order ({goal:.1f}): after {corrections}")
    print(json.dumps({"bars": {"corrections_x_random": {"value": round(share, 3), "bar": 0.7, "holds": share <= 0.7}}}))


if __name__ == "__main__":
    main()
