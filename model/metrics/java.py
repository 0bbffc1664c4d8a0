"""METEOR and SPICE, which exist only as Java programs. Without their runtime the score is None, with a way out.

METEOR 1.5 (Denkowski and Lavie 2014, https://aclanthology.org/W14-3348) and SPICE (Anderson et al. 2016,
https://arxiv.org/abs/1607.08822) are in the package pycocoevalcap. We start its programs without its classes, because
those fail and then wait for ever on machines whose language writes numbers with a decimal comma.
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

# The programs must not depend on the language of the machine.
JAVA = ("java", "-Dfile.encoding=UTF-8", "-Duser.language=en", "-Duser.country=US")
CORENLP = ("stanford-corenlp-3.6.0.jar", "stanford-corenlp-3.6.0-models.jar")

Scorer = Callable[[Sequence[str], Sequence[Sequence[str]], OnProgress], float]


@dataclass(frozen=True, kw_only=True)
class JavaMetric:
    """A score, or the reason why it is missing."""

    name: str
    score: float | None
    """0 to 1, higher is better; None if it cannot be computed here."""
    missing: str = ""
    """The reason why there is no score, and the way out."""


class _MissingError(Exception):
    """The runtime is missing or failed; the message is for the user."""


def java_metrics(
    captions: Sequence[str], references: Sequence[Sequence[str]], on_progress: OnProgress = ignore_progress
) -> tuple[JavaMetric, ...]:
    """Return METEOR and SPICE of one caption per image against its references. A failure is in the result."""
    candidates = [_joined(caption) for caption in captions]
    people = [[_joined(reference) for reference in several] for several in references]
    scorers: dict[str, Scorer] = {"METEOR": _meteor, "SPICE": _spice}
    metrics = []
    for name, scorer in scorers.items():
        try:
            metrics.append(JavaMetric(name=name, score=scorer(candidates, people, on_progress)))
        except _MissingError as problem:
            metrics.append(JavaMetric(name=name, score=None, missing=str(problem)))
    return tuple(metrics)


def _meteor(candidates: Sequence[str], references: Sequence[Sequence[str]], on_progress: OnProgress) -> float:
    """Get the statistics of each image from the program, then the score of all images."""
    _require_java()
    program = [*JAVA, "-Xmx2G", "-jar", "meteor-1.5.jar", "-", "-", "-stdio", "-l", "en", "-norm"]
    with _conversation(program, _package() / "meteor") as ask:
        statistics = []
        for candidate, several in zip(candidates, references, strict=True):
            statistics.append(ask(" ||| ".join(["SCORE", *several, candidate])))
            on_progress(Progress(phase="METEOR", done=len(statistics), total=len(candidates)))
        ask(" ||| ".join(["EVAL", *statistics]))  # The answers are the scores of each image,
        scores = [ask() for _ in candidates]  # then the score of all images.
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
        task, result = Path(folder) / "captions.json", Path(folder) / "scores.json"
        task.write_text(json.dumps(images), "utf-8")
        program = [*JAVA, "-Xmx8G", "-jar", "spice-1.0.jar", str(task), "-out", str(result), "-subset", "-silent"]
        ended = subprocess.run(program, cwd=home, capture_output=True, encoding="utf-8", errors="replace", check=False)
        if ended.returncode or not result.is_file():
            raise _MissingError(f"its program ended with {ended.returncode}: {_last_line(ended.stderr)}")
        scores = [_number(image["scores"]["All"]["f"]) for image in json.loads(result.read_text("utf-8"))]
    return sum(scores) / len(scores)


@contextmanager
def _conversation(program: Sequence[str], folder: Path) -> Iterator[Callable[..., str]]:
    """Start a program that answers each line with a line, and end it in any case."""
    with tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as errors:
        process = subprocess.Popen(
            program, cwd=folder, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, encoding="utf-8"
        )
        try:
            yield lambda line=None: _ask(process, errors, line)
        finally:
            process.kill()
            process.communicate()  # closes the pipes without an error for unread lines


def _ask(process: subprocess.Popen[str], errors: IO[str], line: str | None) -> str:
    """Send a line, unless it is None, and return the next line of the answer."""
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        if line is not None:
            process.stdin.write(line + "\n")
            process.stdin.flush()
        answer = process.stdout.readline()
    except OSError:  # the program has ended and does not read the line
        answer = ""
    if not answer:
        errors.seek(0)
        raise _MissingError(f"its program ended too early: {_last_line(errors.read())}")
    return answer.strip()


def _require_java() -> None:
    if shutil.which("java") is None:
        raise _MissingError("needs Java (Debian: apt install default-jre-headless)")


def _package() -> Path:
    package = importlib.util.find_spec("pycocoevalcap")
    if package is None or not package.submodule_search_locations:
        raise _MissingError("needs the package pycocoevalcap (pip install --no-deps pycocoevalcap==1.2)")
    return Path(next(iter(package.submodule_search_locations)))


def _number(text: str | float) -> float:
    try:
        return float(text)
    except ValueError as cause:
        raise _MissingError(f"its program answered {text!r}, which is no score") from cause


def _joined(text: str) -> str:
    return " ".join(metric_words(text))


def _last_line(text: str) -> str:
    lines = text.strip().splitlines()
    return lines[-1] if lines else "it printed nothing"
