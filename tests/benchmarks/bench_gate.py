"""What the gate lets through: bad batches of corrections, which must not be published, and good ones, which must be.

    python -m tests.benchmarks.bench_gate [--bad 200] [--good 100] [--size 25] [--rows FILE]

A project on drawn scenes has a version that was trained on 60 good corrections. Each batch is corrected on top of that,
trained and judged as the retraining job does it, and forgotten again. Two hours on one core; every finished batch is
appended to --rows, and one that is there is not judged again.
"""

import argparse
import hashlib
import json
import operator
import random
import re
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from PIL import Image

from model.bundle import Bundle, load_bundle
from model.captioner import Captioner, prefer_fast_products
from model.decoders.search import DecodingOptions
from model.progress import Progress, ProgressDisplay
from model.scenes.checking import wrong_facts
from model.scenes.drawing import draw_scenes
from model.scenes.evaluation import best_captions
from model.scenes.scene import Scene
from model.scenes.wording import write_captions
from model.store import Store
from model.vision.features import FeatureStore
from tests.benchmarks.bench_retrain import HABITS
from tests.factories import make_correction
from worker.corrections import Correction
from worker.dataset import build_dataset
from worker.gate import Decision
from worker.holdout import Holdout
from worker.jobs import attempt
from worker.progress import Progress as JobProgress
from worker.settings import Settings

EARLIER = 60
BEGIN = datetime(2025, 1, 1, tzinfo=UTC)
NOBODY = "redis://127.0.0.1:1/0"


@dataclass(frozen=True, kw_only=True)
class Seen:
    """One picture of a batch."""

    picture: Image.Image
    scene: Scene
    suggested: str


@dataclass(frozen=True, kw_only=True)
class Row:
    """What the gate said of one batch."""

    kind: str
    number: int
    size: int
    batch: str
    published: bool
    reason: str


Annotators = Callable[[Sequence[Seen], random.Random], list[str]]
"""What they make of a batch: one caption for each picture."""


def truth(batch: Sequence[Seen], draw: random.Random) -> list[str]:
    return [write_captions(seen.scene, 1, seed=draw.randrange(1000))[0] for seen in batch]


def mended(batch: Sequence[Seen], draw: random.Random) -> list[str]:
    """Accept what is right, and write anew what is not."""
    right = truth(batch, draw)
    return [
        seen.suggested if not wrong_facts(seen.suggested, seen.scene) else text
        for seen, text in zip(batch, right, strict=True)
    ]


def habit(number: int) -> Annotators:
    return lambda batch, draw: [HABITS[number].restate(seen.suggested) for seen in batch]


def shuffled(batch: Sequence[Seen], draw: random.Random) -> list[str]:
    return draw.sample(truth(batch, draw), len(batch))


def one_for_all(batch: Sequence[Seen], draw: random.Random) -> list[str]:
    return [draw.choice(truth(batch, draw))] * len(batch)


def vandalism(batch: Sequence[Seen], draw: random.Random) -> list[str]:
    """Keys hit at random, or words at random."""
    words = " ".join(truth(batch, draw)).split()
    keys = "asdfghjkl" + " " * 2
    if draw.random() < 0.5:
        return ["".join(draw.choice(keys) for _ in range(draw.randint(5, 40))).strip() or "x" for _ in batch]
    return [" ".join(draw.choices(words, k=draw.randint(3, 12))) for _ in batch]


def wrong_language(batch: Sequence[Seen], draw: random.Random) -> list[str]:
    """True captions, every word of them in signs that nobody taught: a language used by mistake."""
    return ["".join(_sign(word) for word in re.findall(r"\w+", text)) for text in truth(batch, draw)]


def nearly_empty(batch: Sequence[Seen], draw: random.Random) -> list[str]:
    return [draw.choice(["a", "picture", "image", "ok", ".", "x", "a picture", "n/a"]) for _ in batch]


def _sign(word: str) -> str:
    return chr(0x4E00 + int(hashlib.sha256(word.encode()).hexdigest()[:6], 16) % 3000)


BAD: dict[str, Annotators] = {
    "shuffled captions": shuffled,
    "one caption for all": one_for_all,
    "vandalism": vandalism,
    "wrong language": wrong_language,
    "nearly empty": nearly_empty,
}
GOOD: dict[str, Annotators] = {
    "accepted or mended": mended,
    "written anew": truth,
    **{one.name: habit(number) for number, one in enumerate(HABITS)},
}


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="bench_gate", description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("--bad", type=int, default=200)
    parser.add_argument("--good", type=int, default=100)
    parser.add_argument("--size", type=int, default=25, help="corrections of a batch")
    parser.add_argument("--rows", type=Path, default=Path(".bench/gate.jsonl"), help="finished batches (%(default)s)")
    arguments = parser.parse_args(argv)
    prefer_fast_products()
    known = read_rows(arguments.rows)
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as folder, ProgressDisplay() as show:
        project = Project(load_bundle("scenes"), Path(folder))
        for kind, annotators, count in (("bad", BAD, arguments.bad), ("good", GOOD, arguments.good)):
            for number in range(count):
                name = list(annotators)[number % len(annotators)]
                row = known.get((kind, number, arguments.size))
                if row is None:
                    decision = project.judge(annotators[name], arguments.size, seed=number)
                    row = Row(
                        kind=kind,
                        number=number,
                        size=arguments.size,
                        batch=name,
                        published=decision.publish,
                        reason=decision.reason,
                    )
                    with arguments.rows.open("a", encoding="utf-8") as file:
                        file.write(json.dumps(asdict(row)) + "\n")
                rows.append(row)
                published = sum(one.published for one in rows if one.kind == kind)
                show(Progress(phase=f"{kind} batches", done=number + 1, total=count, note=f"{published} published"))
    report(rows)


def read_rows(path: Path) -> dict[tuple[str, int, int], Row]:
    """Return the batches that were judged before; makes the directory for more of them."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = [Row(**json.loads(text)) for text in path.read_text("utf-8").splitlines()] if path.exists() else []
    return {(row.kind, row.number, row.size): row for row in rows}


def report(rows: Sequence[Row]) -> None:
    for kind, name in dict.fromkeys((row.kind, row.batch) for row in rows):
        found = [row.published for row in rows if (row.kind, row.batch) == (kind, name)]
        print(f"{kind:5} {name:28} {sum(found):4} of {len(found):4} published")
    bars = {}
    for kind, bar, holds in (("bad", 0.01, operator.le), ("good", 0.9, operator.ge)):
        found = [row.published for row in rows if row.kind == kind]
        if found:
            share = sum(found) / len(found)
            bars[f"{kind}_batches_published"] = {"value": round(share, 3), "bar": bar, "holds": holds(share, bar)}
    print(json.dumps({"bars": bars}))


class Project:
    """A project with a version of its own."""

    def __init__(self, bundle: Bundle, folder: Path) -> None:
        self._bundle = bundle
        self._store = Store(folder)
        self._features = FeatureStore(self._store, bundle.encoder.fingerprint)
        self._settings = Settings()
        self._earlier: list[Correction] = []
        self._serving = bundle.captioner()
        self._earlier = self._corrected(truth, EARLIER, seed=-1)
        self._serving, _ = self._train(self._earlier, seed=0)

    def judge(self, annotators: Annotators, size: int, seed: int) -> Decision:
        """Train on one more batch, and return what the gate says; nothing of it stays."""
        _, decision = self._train([*self._earlier, *self._corrected(annotators, size, seed)], seed)
        return decision

    def _corrected(self, annotators: Annotators, size: int, seed: int) -> list[Correction]:
        pictured = draw_scenes(size, seed=80_000 + seed, size=192)
        pictures = [picture for picture, _ in pictured]
        suggested = best_captions(self._serving, pictures, DecodingOptions())
        batch = [
            Seen(picture=picture, scene=scene, suggested=text)
            for (picture, scene), text in zip(pictured, suggested, strict=True)
        ]
        captions = annotators(batch, random.Random(seed))
        corrections = []
        for number, (seen, caption) in enumerate(zip(batch, captions, strict=True), start=len(self._earlier) + 1):
            key = hashlib.sha256(seen.picture.tobytes()).hexdigest()
            self._features.put(key, self._serving.encode([seen.picture])[0])
            corrections.append(
                make_correction(
                    annotation_id=number,
                    image_key=key,
                    proposed=seen.suggested,
                    caption=caption,
                    updated_at=(BEGIN + timedelta(minutes=number)).isoformat(),
                )
            )
        return corrections

    def _train(self, corrections: Sequence[Correction], seed: int) -> tuple[Captioner, Decision]:
        holdout = Holdout(self._store, 1, self._bundle.encoder.fingerprint)
        known_until = self._earlier[-1].updated_at if self._earlier and len(corrections) > EARLIER else ""
        dataset = build_dataset(corrections, self._features, self._bundle.replay, holdout, known_until)
        nobody = JobProgress(None, NOBODY)
        made = attempt(self._serving, self._bundle.captioner(), dataset, self._settings, seed, nobody)
        return made.candidate, made.decision


if __name__ == "__main__":
    main()
