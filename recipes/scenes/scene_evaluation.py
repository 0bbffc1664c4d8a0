"""Counts the captions of unseen scenes that state no wrong fact."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from PIL import Image

from backend.demo.scenes.checking import parse_claims, wrong_facts
from backend.demo.scenes.drawing import draw_scenes
from backend.demo.scenes.scene import Scene
from model.decoders.search import DecodingOptions
from model.torch_captioner import TorchCaptioner

UNSEEN_SEED = 2_026
"""First seed of the evaluation's scenes; training uses other seeds."""


@dataclass(frozen=True, kw_only=True)
class FactReport:
    """Facts in the captions of some scenes, one caption each."""

    scenes: int
    correct: float
    """Share of captions without a wrong fact."""
    complete: float
    """Share of captions without a wrong fact that also name every group of their scene."""
    wrong_kinds: dict[str, int] = field(default_factory=dict)
    """Number of wrong facts by kind."""
    correct_by_groups: dict[int, float] = field(default_factory=dict)
    """Share of captions without a wrong fact, by the number of groups in the scene."""
    examples: tuple[tuple[str, tuple[str, ...]], ...] = ()
    """Some wrong captions, each with its wrong facts."""


def caption_facts(
    captioner: TorchCaptioner,
    count: int = 1000,
    seed: int = UNSEEN_SEED,
    size: int = 256,
    options: DecodingOptions | None = None,
) -> FactReport:
    """Caption `count` unseen scenes and check every claim against their scene graphs."""
    options = options or DecodingOptions(beam_size=3)
    pictured = draw_scenes(count, seed, size)
    captions: list[str] = []
    for start in range(0, count, 50):
        captions += best_captions(captioner, [picture for picture, _ in pictured[start : start + 50]], options)
    return report_facts(captions, [scene for _, scene in pictured])


def best_captions(captioner: TorchCaptioner, pictures: Sequence[Image.Image], options: DecodingOptions) -> list[str]:
    return [best.text for best, *_ in captioner.caption(captioner.encode(pictures), options)]


def report_facts(captions: Sequence[str], scenes: Sequence[Scene]) -> FactReport:
    wrong = [wrong_facts(caption, scene) for caption, scene in zip(captions, scenes, strict=True)]
    complete = [
        not errors and len(parse_claims(caption).mentions) == len(scene.groups)
        for caption, scene, errors in zip(captions, scenes, wrong, strict=True)
    ]
    by_groups: dict[int, list[bool]] = {}
    for scene, errors in zip(scenes, wrong, strict=True):
        by_groups.setdefault(len(scene.groups), []).append(not errors)
    examples = [(caption, tuple(errors)) for caption, errors in zip(captions, wrong, strict=True) if errors]
    return FactReport(
        scenes=len(scenes),
        correct=sum(not errors for errors in wrong) / len(scenes),
        complete=sum(complete) / len(scenes),
        wrong_kinds=dict(Counter(error.partition(":")[0] for errors in wrong for error in errors)),
        correct_by_groups={groups: sum(right) / len(right) for groups, right in sorted(by_groups.items())},
        examples=tuple(examples[:20]),
    )
