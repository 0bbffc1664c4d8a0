"""`make faults ROUNDS=200 SEED=1`: break the running product again and again while people annotate, and check it.

    python -m tests.faults [--rounds 200] [--seed 1] [--label-studio 10] [--only "the backend is killed"]

Redis, `captioner serve` and `captioner worker` are real. Annotators work in a stub of Label Studio, and in the last
rounds (`--label-studio`) in a real one. In each round a fault begins while they work. When it is over, what they wrote
must be stored, versions whole, the processes at work, and no job may be stuck. Each violation is printed with the seed.
"""

import argparse
import random
import secrets
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path

from tqdm import tqdm

from backend.demo.child_processes import LabelStudioAccount, Services, start_label_studio
from model.errors import ServiceError
from tests.factories import write_bundle
from tests.faults.checks import Bystander, ViolationError, check
from tests.faults.installation import Installation, MovedClock
from tests.faults.kinds import FAULTS
from tests.faults.studios import BusyLabelStudio, RealStudio, StubStudio, Studio

ANNOTATORS = 3
ACT_EVERY_S = 0.1
PICTURES = 300
FAULT_LASTS_S = (0.3, 2.5)
ROUNDS_AT_ONCE = 40
"""Rounds on one installation. Each leaves a hundred captions, and checks of many captions take long."""
TRAINS_EVERY = 4
"""In every fourth round a person starts a training at the end."""


class Rounds:
    """Rounds on one installation; the faults come in a random order, each as often as the others."""

    def __init__(
        self,
        installation: Installation,
        studio: Studio,
        seed: int,
        only: Sequence[str],
        bystander: Bystander | None = None,
    ) -> None:
        self.violations: list[str] = []
        self.counts: Counter[str] = Counter()
        self._installation, self._studio, self._seed = installation, studio, seed
        self._bystander = bystander
        self._faults = {name: fault for name, fault in FAULTS.items() if not only or name in only}
        self._draw = random.Random(seed)
        self._names = self._shuffled()

    def run(self, rounds: int) -> None:
        """Do so many rounds."""
        for number in tqdm(range(1, rounds + 1), desc=f"faults, seed {self._seed}", mininterval=5, leave=False):
            self._round(number)

    def _round(self, number: int) -> None:
        """Do one round; a violation is printed and kept."""
        name = next(self._names)
        self.counts[name] += 1
        lasts_s = self._draw.uniform(*FAULT_LASTS_S)
        try:
            with self._crowd(number):
                time.sleep(self._draw.uniform(0, 0.5))
                fault = self._faults[name](self._installation, self._studio, self._draw)
                next(fault)
                time.sleep(lasts_s)
                next(fault, None)
                self._installation.heal()
            check(self._installation, self._studio, self._draw, trains=number % TRAINS_EVERY == 0)
            if self._bystander is not None:
                self._bystander.check()
        except (ViolationError, ServiceError) as problem:
            self.violations.append(f"seed {self._seed}, round {number}, {name} for {lasts_s:.1f} s: {problem}")
            tqdm.write(self.violations[-1])

    def _shuffled(self) -> Iterator[str]:
        while True:
            names = sorted(self._faults)
            self._draw.shuffle(names)
            yield from names

    @contextmanager
    def _crowd(self, number: int) -> Iterator[None]:
        """Let annotators work meanwhile."""
        is_over = threading.Event()

        def work(annotator: int) -> None:
            draw = random.Random(f"{self._seed} {number} {annotator}")
            while not is_over.wait(ACT_EVERY_S * draw.random() * 2):
                self._studio.act(draw)

        with ThreadPoolExecutor(ANNOTATORS) as threads:
            working = [threads.submit(work, annotator) for annotator in range(ANNOTATORS)]
            try:
                yield
            finally:
                is_over.set()
        for annotator in working:
            annotator.result()


def on_stub(rounds: int, seed: int, folder: Path, only: Sequence[str] = ()) -> Rounds:
    """Do so many rounds with the stub of Label Studio, beside a second project that must not change."""
    bundle, clock = write_bundle(folder / "bundle", seed=6), MovedClock(folder)
    with BusyLabelStudio() as label_studio, Services(folder / "logs") as services, ExitStack() as stack:
        studio, other = StubStudio(label_studio), StubStudio(label_studio)
        installation = Installation(services, folder, str(bundle), label_studio.url, studio.api_key, clock)
        stack.callback(installation.close)
        studio.connect(installation.backend.url)
        other.connect(installation.backend.url)
        draw = random.Random(seed)
        for _ in range(20):
            other.act(draw)
        check(installation, other, draw, trains=True)
        done = Rounds(installation, studio, seed, only, Bystander(installation, other))
        done.run(rounds)
    return done


def on_label_studio(rounds: int, seed: int, folder: Path, only: Sequence[str] = ()) -> Rounds:
    """Do so many rounds with a real Label Studio."""
    bundle, clock = write_bundle(folder / "bundle", seed=6), MovedClock(folder)
    account = LabelStudioAccount(
        username="annotator@example.com", password=secrets.token_urlsafe(9), token=secrets.token_hex(20)
    )
    with Services(folder / "logs") as services, ExitStack() as stack:
        server = start_label_studio(services, folder / "label-studio", account)
        studio = RealStudio(server.url, account, folder, pictures=PICTURES)
        installation = Installation(services, folder, str(bundle), server.url, account.token, clock)
        stack.callback(installation.close)
        studio.connect(installation.backend.url)
        done = Rounds(installation, studio, seed, only)
        done.run(rounds)
    return done


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="faults", description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--label-studio", type=int, default=10, help="rounds with a real Label Studio (%(default)s)")
    parser.add_argument("--only", nargs="+", choices=FAULTS, default=(), help="only these faults")
    arguments = parser.parse_args(argv)
    violations = []
    for do_rounds, wanted in ((on_stub, arguments.rounds), (on_label_studio, arguments.label_studio)):
        counts: Counter[str] = Counter()
        for first in range(0, wanted, ROUNDS_AT_ONCE):
            rounds, seed = min(ROUNDS_AT_ONCE, wanted - first), 1000 * arguments.seed + first
            with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
                done = do_rounds(rounds, seed, Path(folder), arguments.only)
            counts += done.counts
            violations += done.violations
        print(f"{do_rounds.__name__}: {wanted} rounds, {dict(sorted(counts.items()))}", flush=True)
    for violation in violations:
        print(violation)
    print(f"{len(violations)} violations")
    return 1 if violations else 0


if __name__ == "__main__":
    sys.exit(main())
