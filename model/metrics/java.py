"""METEOR and SPICE, which exist as Java programs only: computed where their runtime is, else missing with the way out.

METEOR 1.5 (Denkowski and Lavie 2014, https://aclanthology.org/W14-3348) and SPICE (Anderson et al. 2016,
https://arxiv.org/abs/1607.08822) come with the package pycocoevalcap. Its programs are started by us and not by its
classes: those die where numbers have a decimal comma, and then wait for themselves for ever.
"""

import importlib.util
import json
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from model.metrics.words import metric_words
from model.progress import OnProgress, Progress, ignore_progress

# What the programs read and write must not depend on the language of the machine.
JAVA = ("java", "-Dfile.encoding=UTF-8", "-Duser.language=en", "-Duser.country=US")
CORENLP = ("stanford-corenlp-3.6.0.jar", "stanford-corenlp-3.6.0-models.jar")

Scorer = Callable[[Sequence[str], Sequence[Sequence[str]], OnProgress], float]


@dataclass(frozen=True, kw_only=True)
class JavaMetric:
    """One score, or what to install for it."""

    name: str
    score: float | None
    """0 to 1, higher is better; None when it cannot be computed here."""
    missing: str = ""
    """Why there is no score, and the way out."""


class _MissingError(Exception):
    """The runtime is not there or did not work; the message is for the user."""


def java_metrics(
    captions: Sequence[str], references: Sequence[Sequence[str]], on_progress: OnProgress = ignore_progress
) -> tuple[JavaMetric, ...]:
    """Return METEOR and SPICE of one caption per image against its references; nothing here raises."""
    candidates = [_joined(caption) for caption in captions]
    people = [[_joined(reference) for reference in several] for several in references]
    scorers: dict[str, Scorer] = {"METEOR": _meteor, "SPICE": _spice}
    found = []
    for name, scorer in scorers.items():
        try:
            found.append(JavaMetric(name=name, score=scorer(candidates, people, on_progress)))
        except _MissingError as problem:
            found.append(JavaMetric(name=name, score=None, missing=str(problem)))
    return tuple(found)


def _meteor(candidates: Sequence[str], references: Sequence[Sequence[str]], on_progress: OnProgress) -> float:
    """Ask the program for the statistics of each image, then for the score of them all."""
    _require_java()
    program = [*JAVA, "-Xmx2G", "-jar", "meteor-1.5.jar", "-", "-", "-stdio", "-l", "en", "-norm"]
    with _conversation(program, _package() / "meteor") as ask:
        statistics = []
        for candidate, several in zip(candidates, references, strict=True):
            statistics.append(ask(" ||| ".join(["SCORE", *several, candidate])))
            on_progress(Progress(phase="METEOR", done=len(statistics), total=len(candidates)))
        ask(" ||| ".join(["EVAL", *statistics]))  # answers with the score of the first image,
        scores = [ask() for _ in candidates]  # then with the others' and with that of the whole
    return _number(scores[-1])


def _spice(candidates: Sequence[str], references: Sequence[Sequence[str]], on_progress: OnProgress) -> float:
    """Run the program on files and return the mean of the images' F-scores."""
    _require_java()
    home = _package() / "spice"
    if not all((home / "lib" / name).is_file() for name in CORENLP):
        raise _MissingError(
            "needs Stanford CoreNLP 3.6.0 with its models and 8 GB of memory "
            "(python -m pycocoevalcap.spice.get_stanford_models)"
        )
    on_progress(Progress(phase="SPICE", done=0, total=len(candidates)))
    images = [
        {"image_id": number, "test": candidate, "refs": several}
        for number, (candidate, several) in enumerate(zip(candidates, references, strict=True))
    ]
    with tempfile.TemporaryDirectory() as folder:
        asked, answered = Path(folder) / "captions.json", Path(folder) / "scores.json"
        asked.write_text(json.dumps(images), "utf-8")
        program = [*JAVA, "-Xmx8G", "-jar", "spice-1.0.jar", str(asked), "-out", str(answered), "-subset", "-silent"]
        ended = subprocess.run(program, cwd=home, capture_output=True, encoding="utf-8", errors="replace", check=False)
        if ended.returncode or not answered.is_file():
            raise _MissingError(f"its program ended with {ended.returncode}: {_last_line(ended.stderr)}")
        scores = [_number(image["scores"]["All"]["f"]) for image in json.loads(answered.read_text("utf-8"))]
    return sum(scores) / len(scores)


@contextmanager
def _conversation(program: Sequence[str], folder: Path) -> Iterator[Callable[..., str]]:
    """Start a program that answers each line with a line; it is ended whatever happens."""
    with tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as errors:
        process = subprocess.Popen(
            program, cwd=folder, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, encoding="utf-8"
        )
        try:
            yield lambda line=None: _ask(process, errors, line)
        finally:
            process.kill()
            process.communicate()  # closes the pipes, and does not mind what the dead program left unread


def _ask(process: subprocess.Popen[str], errors: IO[str], line: str | None) -> str:
    """Send a line, if there is one, and return the next line of the answer."""
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        if line is not None:
            process.stdin.write(line + "\n")
            process.stdin.flush()
        answer = process.stdout.readline()
    except OSError:  # it ended, and nobody reads the line
        answer = ""
    if not answer:
        errors.seek(0)
        raise _MissingError(f"its program ended too early: {_last_line(errors.read())}")
    return answer.strip()


def _require_java() -> None:
    if shutil.which("java") is None:
        raise _MissingError("needs Java (Debian: apt install default-jre-headless)")


def _package() -> Path:
    found = importlib.util.find_spec("pycocoevalcap")
    if found is None or not found.submodule_search_locations:
        raise _MissingError("needs the package pycocoevalcap (pip install --no-deps pycocoevalcap==1.2)")
    return Path(next(iter(found.submodule_search_locations)))


def _number(text: str | float) -> float:
    try:
        return float(text)
    except ValueError as cause:
        raise _MissingError(f"its program answered {text!r}, which is no score") from cause


def _joined(text: str) -> str:
    return " ".join(metric_words(text))


def _last_line(text: str) -> str:
    lines = text.strip().splitlines()
    return lines[-1] if lines else "it said nothing"
