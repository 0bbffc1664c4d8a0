"""Metrics that compare captions with people's references: BLEU, ROUGE-L, CIDEr-D, and the number of word edits.

All take one caption and several references per image and compare their `metric_words`. The results agree with the
reference implementation, pycocoevalcap 1.2 (https://github.com/salaniz/pycocoevalcap), to four decimals.
"""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from rapidfuzz.distance import LCSseq, Levenshtein

from model.metrics.cider import LONGEST, CiderD, grams
from model.metrics.words import Words, metric_words


@dataclass(frozen=True, kw_only=True)
class Metrics:
    """Scores of a set of captions. Higher is better, except for `word_error_rate` and `word_edits`."""

    images: int
    bleu_1: float
    """0 to 1, as are all metrics except CIDEr-D and those that count edits."""
    bleu_2: float
    bleu_3: float
    bleu_4: float
    rouge_l: float
    cider_d: float
    """0 to 10."""
    word_error_rate: float
    """Edits per word of the nearest reference, mean over the images; 0 or more."""
    word_edits: float
    """Words to insert, delete or replace to get the nearest reference, mean over the images."""
    unedited: float
    """Share of the images whose caption is equal to one of their references, word for word."""


@dataclass(frozen=True, kw_only=True)
class ImageMetrics:
    """Scores of one caption."""

    cider_d: float
    """0 to 10; the rarity of n-grams comes from the references of the whole set."""
    edits: int
    """Word edits to the nearest reference."""
    reference_words: int
    """Length of the nearest reference."""


def measure(captions: Sequence[str], references: Sequence[Sequence[str]]) -> Metrics:
    """Score one caption per image against its references.

    Raises:
        ValueError: there is no caption, or an image without references.
    """
    candidates, people = _words(captions, references)
    bleu_1, bleu_2, bleu_3, bleu_4 = bleu(candidates, people)
    nearest = [edits_to_nearest(*pair) for pair in zip(candidates, people, strict=True)]
    return Metrics(
        images=len(captions),
        bleu_1=bleu_1,
        bleu_2=bleu_2,
        bleu_3=bleu_3,
        bleu_4=bleu_4,
        rouge_l=rouge_l(candidates, people),
        cider_d=_mean(cider_d(candidates, people)),
        word_error_rate=_mean([edits / max(length, 1) for edits, length in nearest]),
        word_edits=_mean([edits for edits, _ in nearest]),
        unedited=_mean([edits == 0 for edits, _ in nearest]),
    )


def measure_each(captions: Sequence[str], references: Sequence[Sequence[str]]) -> list[ImageMetrics]:
    """Return the scores of each caption, in order; raises ValueError as `measure` does."""
    candidates, people = _words(captions, references)
    nearest = (edits_to_nearest(*pair) for pair in zip(candidates, people, strict=True))
    return [
        ImageMetrics(cider_d=score, edits=edits, reference_words=length)
        for score, (edits, length) in zip(cider_d(candidates, people), nearest, strict=True)
    ]


def bleu(candidates: Sequence[Words], references: Sequence[Sequence[Words]]) -> tuple[float, ...]:
    """Return corpus BLEU-1 to BLEU-4 (Papineni et al. 2002, https://aclanthology.org/P02-1040).

    It is the geometric mean of the n-grams' precisions over the whole corpus. The count of an n-gram is clipped to its
    largest count in a reference. The brevity penalty uses the reference nearest in length, or the shorter of two. As in
    the reference implementation, 1e-15 matches and 1e-9 n-grams are added.
    """
    length = sum(map(len, candidates))
    nearest = sum(
        min((abs(len(reference) - len(candidate)), len(reference)) for reference in several)[1]
        for candidate, several in zip(candidates, references, strict=True)
    )
    if length == 0:
        return (0.0,) * 4
    brevity = min(1.0, math.exp(1 - nearest / length))
    precisions = [_precision(candidates, references, n) for n in range(1, 5)]
    return tuple(brevity * math.prod(precisions[:n]) ** (1 / n) for n in range(1, 5))


class SmoothedBleu:
    """BLEU-4 of single captions (Lin and Och 2004, section 4, https://aclanthology.org/C04-1072).

    One is added to the counts of n-grams of two or more words, so that a caption without a matching run of four words
    does not score 0.
    """

    def __init__(self, references: Sequence[Sequence[Words]]) -> None:
        self._lengths = [[len(words) for words in several] for several in references]
        self._most = [_most_often(several) for several in references]

    def score(self, image: int, caption: Words) -> float:
        """Return the BLEU-4 of a caption, 0 to 1; `image` is the row of its references."""
        matched = [0] * LONGEST
        for gram, count in Counter(grams(caption)).items():
            matched[len(gram) - 1] += min(count, self._most[image][gram])
        if not matched[0]:
            return 0.0
        precisions = [matched[0] / len(caption)]
        precisions += [(matched[n] + 1) / (max(0, len(caption) - n) + 1) for n in range(1, LONGEST)]
        closest = min(self._lengths[image], key=lambda length: (abs(length - len(caption)), length))
        brevity = min(0.0, 1 - closest / len(caption))
        return math.exp(brevity + sum(math.log(precision) for precision in precisions) / LONGEST)


def _most_often(references: Sequence[Words]) -> Counter[Words]:
    """Return the largest count of each n-gram in any reference."""
    most: Counter[Words] = Counter()
    for words in references:
        most |= Counter(grams(words))
    return most


def rouge_l(candidates: Sequence[Words], references: Sequence[Sequence[Words]]) -> float:
    """Return the mean ROUGE-L, 0 to 1 (Lin 2004, https://aclanthology.org/W04-1013): the F-score of the longest common
    subsequence. Precision and recall are each the best over the references; beta is 1.2.
    """
    scores = [_rouge_l(*pair) for pair in zip(candidates, references, strict=True)]
    return _mean(scores)


def cider_d(candidates: Sequence[Words], references: Sequence[Sequence[Words]]) -> list[float]:
    """Return the CIDEr-D of each candidate, 0 to 10."""
    cider = CiderD(references)
    return [cider.score(image, candidate) for image, candidate in enumerate(candidates)]


def edits_to_nearest(candidate: Words, references: Sequence[Words]) -> tuple[int, int]:
    """Return the smallest number of word edits to a reference, and that reference's length.

    Of several nearest references the longest one counts, because its share of edits is the smallest.
    """
    edits, shorter = min((word_edits(candidate, reference), -len(reference)) for reference in references)
    return edits, -shorter


def word_edits(left: Words, right: Words) -> int:
    """Return the number of words to insert, delete or replace (Levenshtein distance)."""
    return Levenshtein.distance(left, right)


def _words(captions: Sequence[str], references: Sequence[Sequence[str]]) -> tuple[list[Words], list[list[Words]]]:
    if not captions or len(captions) != len(references) or not all(references):
        raise ValueError("metrics need at least one caption, and at least one reference for each")
    people = [[metric_words(reference) for reference in several] for several in references]
    return [metric_words(caption) for caption in captions], people


def _precision(candidates: Sequence[Words], references: Sequence[Sequence[Words]], n: int) -> float:
    matches = total = 0
    for candidate, several in zip(candidates, references, strict=True):
        allowed: Counter[Words] = Counter()
        for reference in several:
            allowed |= _grams(reference, n)
        counts = _grams(candidate, n)
        matches += (counts & allowed).total()
        total += counts.total()
    return (matches + 1e-15) / (total + 1e-9)


def _rouge_l(candidate: Words, references: Sequence[Words]) -> float:
    common = [LCSseq.similarity(candidate, reference) for reference in references]
    precision = max(common) / max(len(candidate), 1)
    recall = max(length / max(len(reference), 1) for length, reference in zip(common, references, strict=True))
    if precision == 0 or recall == 0:
        return 0.0
    return (1 + 1.2**2) * precision * recall / (recall + 1.2**2 * precision)


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _grams(words: Words, n: int) -> Counter[Words]:
    return Counter(words[at : at + n] for at in range(len(words) - n + 1))
