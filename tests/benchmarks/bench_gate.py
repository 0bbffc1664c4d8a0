"""Counts how often the gate publishes good batches of corrections, and how often bad ones.

    python -m tests.benchmarks.bench_gate [--through weights|memory] [--bad 200] [--good 100] [--size 25] [--rows FILE]

A project on drawn scenes begins with a captioner that never saw five topics (tests/benchmarks/learning/worlds.py). The
project has a version that was trained on 60 good corrections. Each batch is added to these corrections, trained and
judged as in the retraining job, and removed again. Bad batches have pictures of all topics. Good batches are true and
teach a topic or a habit of wording. True batches about topics that the version knows are counted separately: they
cannot make the version better, so the gate need not publish them.

Through the weights the benchmark takes two hours on one core, through the memory a few minutes. There a batch counts as
published if the memory would speak or if a rule of wording is found. Finished batches are appended to --rows, and a
later run skips them.
"""

import argparse
import hashlib
import json
import operator
import random
import re
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from backend.captioning.image_vectors import DECODER_CAPTIONS
from backend.demo.scenes.checking import wrong_facts
from backend.demo.scenes.drawing import draw_scene
from backend.demo.scenes.scene import Scene, sample_scene
from backend.demo.scenes.wording import write_captions
from model.decoders.search import DecodingOptions
from model.memory.evidence import weigh_evidence
from model.memory.expected_words import expect_words
from model.memory.style import find_style, restyle, without_words
from model.memory.vectors import VectorSpace
from model.metrics.words import metric_words
from model.progress import Progress, ProgressDisplay
from model.store import Store
from model.torch_captioner import TorchCaptioner, prefer_fast_products
from model.vision.features import FeatureStore
from recipes.scenes.scene_evaluation import best_captions
from tests.benchmarks.bench_retrain import HABITS
from tests.benchmarks.learning.worlds import SCENE_TOPICS, World, scene_topic, scenes_world
from tests.factories import make_correction
from worker.feedback.record import Correction
from worker.learning.candidate import train_candidate
from worker.learning.dataset import build_dataset
from worker.learning.gate import Decision
from worker.learning.holdout import Holdout
from worker.queue.job_progress import Progress as JobProgress
from worker.settings import Settings

KNOWN = "known"
"""The topic of pictures that the captioner has learned."""
EARLIER = 60
BEGIN = datetime(2025, 1, 1, tzinfo=UTC)
NOBODY = "redis://127.0.0.1:1/0"


@dataclass(frozen=True, kw_only=True)
class Shown:
    """A picture of a batch, as an annotator sees it."""

    picture: Image.Image
    scene: Scene
    suggested: str


@dataclass(frozen=True, kw_only=True)
class Row:
    """The decision of the gate on a batch."""

    kind: str
    number: int
    size: int
    batch: str
    topic: str
    published: bool
    reason: str


Annotators = Callable[[Sequence[Shown], random.Random], list[str]]
"""Write a caption for each picture of a batch."""


def truth(batch: Sequence[Shown], draw: random.Random) -> list[str]:
    return [write_captions(shown.scene, 1, seed=draw.randrange(1000))[0] for shown in batch]


def mended(batch: Sequence[Shown], draw: random.Random) -> list[str]:
    """Accept a right suggestion, and replace a wrong one."""
    right = truth(batch, draw)
    return [
        shown.suggested if not wrong_facts(shown.suggested, shown.scene) else text
        for shown, text in zip(batch, right, strict=True)
    ]


def habit(number: int) -> Annotators:
    return lambda batch, draw: [HABITS[number].restate(shown.suggested) for shown in batch]


def shuffled(batch: Sequence[Shown], draw: random.Random) -> list[str]:
    return draw.sample(truth(batch, draw), len(batch))


def one_for_all(batch: Sequence[Shown], draw: random.Random) -> list[str]:
    return [draw.choice(truth(batch, draw))] * len(batch)


def vandalism(batch: Sequence[Shown], draw: random.Random) -> list[str]:
    """Write random keys or random words."""
    words = " ".join(truth(batch, draw)).split()
    keys = "asdfghjkl" + " " * 2
    if draw.random() < 0.5:
        return ["".join(draw.choice(keys) for _ in range(draw.randint(5, 40))).strip() or "x" for _ in batch]
    return [" ".join(draw.choices(words, k=draw.randint(3, 12))) for _ in batch]


def wrong_language(batch: Sequence[Shown], draw: random.Random) -> list[str]:
    """Write true captions in signs that the captioner does not know, as if in another language by mistake."""
    return ["".join(_sign(word) for word in re.findall(r"\w+", text)) for text in truth(batch, draw)]


def nearly_empty(batch: Sequence[Shown], draw: random.Random) -> list[str]:
    return [draw.choice(["a", "picture", "image", "ok", ".", "x", "a picture", "n/a"]) for _ in batch]


def _sign(word: str) -> str:
    return chr(0x4E00 + int(hashlib.sha256(word.encode()).hexdigest()[:6], 16) % 3000)


@dataclass(frozen=True, kw_only=True)
class Kind:
    """Batches that the gate should judge in the same way."""

    annotators: dict[str, Annotators]
    """Annotators by the name of their habit; they take turns."""
    topics: tuple[str, ...]
    """Topics of the pictures; they take turns too."""

    def batch(self, number: int) -> tuple[str, str]:
        """Return the annotators of this batch and the topic of its pictures."""
        names = list(self.annotators)
        return names[number % len(names)], self.topics[number // len(names) % len(self.topics)]


KINDS = {
    "bad": Kind(
        annotators={
            "shuffled captions": shuffled,
            "one caption for all": one_for_all,
            "vandalism": vandalism,
            "wrong language": wrong_language,
            "nearly empty": nearly_empty,
        },
        topics=(KNOWN, *SCENE_TOPICS),
    ),
    "good, a topic": Kind(annotators={"accepted or mended": mended, "written anew": truth}, topics=SCENE_TOPICS),
    "good, a habit": Kind(
        annotators={style.name: habit(number) for number, style in enumerate(HABITS)},
        topics=(KNOWN,),
    ),
    "true, but known": Kind(annotators={"accepted or mended": mended, "written anew": truth}, topics=(KNOWN,)),
}
BARS: dict[str, tuple[Callable[[float, float], bool], float]] = {"bad": (operator.le, 0.01), "good": (operator.ge, 0.9)}
"""Comparison and limit of the published share."""


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="bench_gate", description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("--through", choices=("weights", "memory"), default="weights", help="default: %(default)s")
    parser.add_argument("--bad", type=int, default=200)
    parser.add_argument("--good", type=int, default=100)
    parser.add_argument("--known", type=int, default=20, help="true batches of things that the version knows")
    parser.add_argument("--size", type=int, default=25, help="corrections of a batch")
    parser.add_argument("--scenes", type=int, default=1200, help="scenes that the captioner is trained on")
    parser.add_argument("--rows", type=Path, help="finished batches (.bench/gate-THROUGH.jsonl)")
    arguments = parser.parse_args(argv)
    arguments.rows = arguments.rows or Path(f".bench/gate-{arguments.through}.jsonl")
    torch.set_num_threads(1)
    prefer_fast_products()
    judged_before = read_rows(arguments.rows)
    counts = (arguments.bad, arguments.good // 2, arguments.good - arguments.good // 2, arguments.known)
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as folder, ProgressDisplay() as show:
        world = scenes_world(scenes=arguments.scenes, corrections=1, tested=1, on_progress=show)
        project = Project(world, Path(folder))
        for name, count in zip(KINDS, counts, strict=True):
            for number in range(count):
                row = judged_before.get((name, number, arguments.size)) or judged(project, name, number, arguments)
                rows.append(row)
                published = sum(earlier.published for earlier in rows if earlier.kind == name)
                show(Progress(phase=name, done=number + 1, total=count, note=f"{published} published"))
    report(rows)


def judged(project: "Project", name: str, number: int, arguments: argparse.Namespace) -> Row:
    """Let the gate judge a batch, and append the decision to the file of rows."""
    kind = KINDS[name]
    batch, topic = kind.batch(number)
    judge = project.judge if arguments.through == "weights" else project.recall
    decision = judge(kind.annotators[batch], topic, arguments.size, seed=number)
    row = Row(
        kind=name,
        number=number,
        size=arguments.size,
        batch=batch,
        topic=topic,
        published=decision.publish,
        reason=decision.reason,
    )
    with arguments.rows.open("a", encoding="utf-8") as file:
        file.write(json.dumps(asdict(row)) + "\n")
    return row


def read_rows(path: Path) -> dict[tuple[str, int, int], Row]:
    """Return the batches that were judged before; make the directory of the file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = [Row(**json.loads(text)) for text in path.read_text("utf-8").splitlines()] if path.exists() else []
    return {(row.kind, row.number, row.size): row for row in rows}


def report(rows: Sequence[Row]) -> None:
    for kind, name in dict.fromkeys((row.kind, row.batch) for row in rows):
        published = [row.published for row in rows if (row.kind, row.batch) == (kind, name)]
        print(f"{kind:16} {name:28} {sum(published):4} of {len(published):4} published")
    bars = {}
    for side in ("bad", "good"):
        published = [row.published for row in rows if row.kind.startswith(side)]
        holds, bar = BARS[side]
        if published:
            share = sum(published) / len(published)
            bars[f"{side}_batches_published"] = {"value": round(share, 3), "bar": bar, "holds": holds(share, bar)}
    print(json.dumps({"bars": bars}))


class Project:
    """A project with a version of its own."""

    def __init__(self, world: World, folder: Path) -> None:
        self._world = world
        self._store = Store(folder)
        self._features = FeatureStore(self._store, world.base.encoder.fingerprint)
        self._settings = Settings()
        decoder = world.base.decoder
        self._space = VectorSpace(decoder.feature_mean.numpy(), np.diag(decoder.feature_scale.numpy()), "bench")
        self._earlier: list[Correction] = []
        self._serving = world.base
        self._earlier = self._corrected(truth, KNOWN, EARLIER, seed=-1)
        self._serving, _ = self._train(self._earlier, seed=0)

    def judge(self, annotators: Annotators, topic: str, size: int, seed: int) -> Decision:
        """Train on another batch and return the gate's decision. Nothing of the batch is kept."""
        _, decision = self._train([*self._earlier, *self._corrected(annotators, topic, size, seed)], seed)
        return decision

    def recall(self, annotators: Annotators, topic: str, size: int, seed: int) -> Decision:
        """Return whether the memory of another batch would change suggestions."""
        batch = self._corrected(annotators, topic, size, seed)
        features = [self._features.get(str(correction.image_key)) for correction in batch]
        present = [values for values in features if values is not None]
        theirs, options = [correction.caption for correction in batch], DecodingOptions()
        decoded = self._serving.caption(np.stack(present), options, DECODER_CAPTIONS)
        ours = [captions[0].text for captions in decoded]
        rules = find_style(theirs, ours, lambda captions: expect_words(self._serving, present, list(captions)))
        evidence = weigh_evidence(
            self._space.vectors(present).astype(np.float32),
            list(map(metric_words, theirs)),
            [[metric_words(restyle(caption.text, rules)) for caption in captions] for captions in decoded],
            [False] * len(batch),
            frozenset(word for token in self._serving.tokenizer.words for word in metric_words(token)),
        )
        rules = rules if evidence.is_relevant else without_words(rules)
        reason = f"{evidence} {'; '.join(map(str, rules))}"
        return Decision(publish=evidence.speaks_for_memory or bool(rules), reason=reason)

    def _corrected(self, annotators: Annotators, topic: str, size: int, seed: int) -> list[Correction]:
        scenes = list(islice(scenes_of(topic, seed), size))
        pictures = [draw_scene(scene, 192) for scene in scenes]
        suggested = best_captions(self._serving, pictures, DecodingOptions())
        batch = [
            Shown(picture=picture, scene=scene, suggested=text)
            for picture, scene, text in zip(pictures, scenes, suggested, strict=True)
        ]
        captions = annotators(batch, random.Random(seed))
        corrections = []
        for number, (shown, caption) in enumerate(zip(batch, captions, strict=True), start=len(self._earlier) + 1):
            key = hashlib.sha256(shown.picture.tobytes()).hexdigest()
            self._features.put(key, self._serving.encode([shown.picture])[0])
            corrections.append(
                make_correction(
                    annotation_id=number,
                    image_key=key,
                    proposed=shown.suggested,
                    caption=caption,
                    updated_at=(BEGIN + timedelta(minutes=number)).isoformat(),
                )
            )
        return corrections

    def _train(self, corrections: Sequence[Correction], seed: int) -> tuple[TorchCaptioner, Decision]:
        holdout = Holdout(self._store, 1, self._world.base.encoder.fingerprint)
        states = {correction.state for correction in self._earlier} if len(corrections) > EARLIER else set()
        dataset = build_dataset(corrections, self._features, self._world.replay, holdout, states)
        progress = JobProgress(None, NOBODY)
        candidate = train_candidate(self._serving, self._world.base, dataset, self._settings, seed, progress)
        return candidate.captioner, candidate.decision


def scenes_of(topic: str, seed: int) -> Iterator[Scene]:
    """Yield new random scenes of a topic."""
    seeds = random.Random(f"gate {topic} {seed}")
    while True:
        scene = sample_scene(seeds.getrandbits(48))
        if scene_topic(scene) == topic:
            yield scene


if __name__ == "__main__":
    main()
