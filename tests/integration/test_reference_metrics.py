"""Our metrics beside the reference implementation itself, and METEOR by its own Java program."""

import importlib.util
import shutil
from collections.abc import Sequence
from dataclasses import asdict

import pytest

from model.metrics.java import java_metrics
from model.metrics.scores import measure
from model.metrics.words import metric_words
from tests.missing import missing
from tests.reference_sample import CAPTIONS, REFERENCES, SCORES, SHORT_CAPTIONS, SHORT_SCORES


@pytest.fixture(scope="module", autouse=True)
def _reference_package() -> None:
    """The package and its Java are there; in CI they must be."""
    absent = [] if shutil.which("java") else ["Java (Debian: default-jre-headless)"]
    absent += [] if importlib.util.find_spec("pycocoevalcap") else ["pycocoevalcap (requirements-dev.txt)"]
    if absent:
        missing(f"the reference metrics need {' and '.join(absent)}")


@pytest.mark.parametrize(("captions", "constants"), [(CAPTIONS, SCORES), (SHORT_CAPTIONS, SHORT_SCORES)])
def test_our_scores_are_those_that_the_reference_package_gives_now(
    captions: Sequence[str], constants: dict[str, float]
) -> None:
    from pycocoevalcap.bleu.bleu import Bleu
    from pycocoevalcap.cider.cider import Cider
    from pycocoevalcap.rouge.rouge import Rouge
    from pycocoevalcap.tokenizer.ptbtokenizer import PTBTokenizer

    cut = PTBTokenizer().tokenize
    candidates = cut({number: [{"caption": caption}] for number, caption in enumerate(captions)})
    people = cut({number: [{"caption": caption} for caption in several] for number, several in enumerate(REFERENCES)})
    bleu, _ = Bleu(4).compute_score(people, candidates)
    theirs = {f"bleu_{n}": score for n, score in enumerate(bleu, start=1)}
    theirs |= {"rouge_l": Rouge().compute_score(people, candidates)[0]}
    theirs |= {"cider_d": float(Cider().compute_score(people, candidates)[0])}

    ours = asdict(measure(captions, REFERENCES))

    assert [metric_words(caption) for caption in captions] == [tuple(words[0].split()) for words in candidates.values()]
    assert {name: ours[name] for name in theirs} == pytest.approx(theirs, abs=5e-5)
    assert {name: constants[name] for name in theirs} == pytest.approx(theirs, abs=5e-5)


def test_meteor_is_the_number_of_its_program_in_any_language_of_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    # Java takes a decimal comma from these variables. The classes of the reference package would then wait for ever.
    monkeypatch.setenv("JAVA_TOOL_OPTIONS", "-Duser.language=de")
    monkeypatch.setenv("LC_ALL", "C")
    steps_done: list[int] = []

    meteor = java_metrics(CAPTIONS, REFERENCES, lambda progress: steps_done.append(progress.done))[0]

    assert (meteor.name, meteor.missing) == ("METEOR", "")
    assert meteor.score == pytest.approx(SCORES["meteor"], abs=5e-5)
    assert len(CAPTIONS) in steps_done
