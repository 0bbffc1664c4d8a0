"""The model card of the `scenes` bundle."""

from collections.abc import Mapping
from typing import Any

from backend.demo.scenes.scene import COLOURS, GROUNDS, MAX_COUNT, NAMED_PATTERNS, SHAPES
from recipes.scenes.scene_evaluation import FactReport
from recipes.scenes.scene_examples import CELLS, IMAGE_SIZE


def model_card(version: str, record: Mapping[str, Any], report: FactReport) -> str:
    """Return the card as Markdown, with the numbers of this training."""
    options = record["options"]
    by_groups = "\n".join(
        f"| {groups} group{'s' if groups > 1 else ''} per scene | {share:.1%} |"
        for groups, share in report.correct_by_groups.items()
    )
    history = "".join(f"\n{line}\n" for line in record.get("history", ()))
    wrong = ", ".join(f"{kind} {count}" for kind, count in sorted(report.wrong_kinds.items())) or "none"
    return f"""# Model card: {version}

The embedded default captioner: it describes small drawn scenes in English. It exists so that the whole product
can be tried and tested without a download, on pictures of which every fact is known.

## Data

Drawn by `model/scenes` from seeds; no picture, text or weight of anybody else is in it. A scene has one to three
groups of one to {MAX_COUNT} equal objects: {", ".join(SHAPES)}; {", ".join(COLOURS)}; small or large.
Backgrounds are {", ".join(GROUNDS)}, plain, shaded, grainy, {", ".join(NAMED_PATTERNS)}. Objects may stand in front of
another, shadows and pixel noise come and go. Captions name every group, in several wordings, with positions
and relations only where they are plainly true.

## Model

`scene_cnn` (four strided stages with coordinate channels, {IMAGE_SIZE} pixels a side to a grid of {CELLS} x {CELLS}
regions) and an attention LSTM of {options["hidden"]} units, trained together from random weights. While training,
linear readers on each region also named the group it shows (`recipes/scenes/auxiliary_loss.py`); they are not part of
the bundle. Weights are stored in half precision.

## Training

    {record["command"]}

{options["scenes"]:,} scenes, {options["epochs"]} epochs of all parts together, then {options["decoder_epochs"]} of the
decoder alone, seed {options["seed"]}; {record["minutes"]} minutes with {record["threads"]} CPU threads (drawing and
evaluation included), torch {record["torch"]}.
{history}
## Numbers

{report.scenes:,} scenes of unseen seeds, one caption each (beam 3); every claim is checked against the scene graph.

| | |
|---|---|
| captions without a wrong fact | **{report.correct:.1%}** |
| ... that also name every group | {report.complete:.1%} |
{by_groups}

Wrong facts by kind: {wrong}.

`python -m tests.benchmarks.bench_scenes` measures it again.

## Limits

It knows this world only. On a photograph it still answers with circles and squares: use the `photos` bundle or
one of your own there. Counts go to {MAX_COUNT}; colours between two names, shapes of other kinds and objects smaller
than about a tenth of the picture are outside of what it has seen.
"""
