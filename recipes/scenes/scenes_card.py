"""The model card of the `scenes` bundle."""

from collections.abc import Mapping
from typing import Any

from backend.demo.scenes.scene import COLOURS, GROUNDS, MAX_COUNT, NAMED_PATTERNS, SHAPES
from recipes.scenes.scene_evaluation import FactReport
from recipes.scenes.scene_examples import CELLS, IMAGE_SIZE

TEXT = """# Model card: {version}

A captioner that describes small drawn scenes in English. With it the whole product can be tried and tested without a
download, on pictures of which every fact is known.

## Data

The scenes are drawn by `backend/demo/scenes` from seeds, so the bundle has no picture, text or weight of anybody else.
A scene has one to three groups of one to {max_count} equal objects: {shapes}; {colours}; small or large. Backgrounds
are {grounds}, plain, shaded, grainy, {patterns}. Objects may stand in front of others, and there may be shadows and
pixel noise. Captions name every group in several wordings. They state positions and relations only where these are
clear.

## Model

`scene_cnn` (four strided stages with coordinate channels, from {image_size} pixels a side to a grid of {cells} x
{cells} regions) and an attention LSTM of {hidden} units, trained together from random weights. During training, linear
layers on each region also predicted the group it shows (`recipes/scenes/auxiliary_loss.py`); they are not part of the
bundle. Weights are stored in half precision.

## Training

    {command}

{scenes:,} scenes, {epochs} epochs of all parts together, then {decoder_epochs} of the decoder alone, seed {seed};
{minutes} minutes with {threads} CPU threads (drawing and evaluation included), torch {torch}.

## Numbers

{unseen:,} scenes of unseen seeds, one caption each (beam 3); every claim is checked against the scene graph.

| | |
|---|---|
| captions without a wrong fact | **{correct:.1%}** |
| ... that also name every group | {complete:.1%} |
{by_groups}

Wrong facts by kind: {wrong}.

`python -m tests.benchmarks.bench_scenes` measures it again.

## Limits

It knows only this world and describes every photograph with circles and squares; use the `photos` bundle or one of your
own for photographs. Counts go to {max_count}. It was not trained on colours between two names, on other shapes, or on
objects smaller than about a tenth of the picture.
"""


def model_card(version: str, record: Mapping[str, Any], report: FactReport) -> str:
    """Return the card as Markdown, with the numbers of this training."""
    by_groups = "\n".join(
        f"| {groups} group{'s' if groups > 1 else ''} per scene | {share:.1%} |"
        for groups, share in report.correct_by_groups.items()
    )
    wrong = ", ".join(f"{kind} {count}" for kind, count in sorted(report.wrong_kinds.items())) or "none"
    return TEXT.format(
        **{**record, **record["options"]}
        | {
            "version": version,
            "max_count": MAX_COUNT,
            "shapes": ", ".join(SHAPES),
            "colours": ", ".join(COLOURS),
            "grounds": ", ".join(GROUNDS),
            "patterns": ", ".join(NAMED_PATTERNS),
            "image_size": IMAGE_SIZE,
            "cells": CELLS,
            "unseen": report.scenes,
            "correct": report.correct,
            "complete": report.complete,
            "by_groups": by_groups,
            "wrong": wrong,
        }
    )
