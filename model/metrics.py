"""How near captions come to what people wrote: BLEU, ROUGE-L and CIDEr-D.

All take one caption and several references per image, and compare words in lower case without punctuation
(a Chinese, Japanese or Korean character is a word). The formulas are those of the reference implementation
(https://github.com/salaniz/pycocoevalcap); its tokenizer differs slightly from ours.
"""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from model.tokenizer import pieces

Words = tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Metrics:
    """Scores of a set of captions; higher is better."""

    images: int
    bleu_1: float
    """0 to 1, like all but CIDEr-D."""
    bleu_2: float
    bleu_3: float
    bleu_4: float
    rouge_l: float
    cider_d: float
    """0 to 10."""


def measure(captions: Sequence[str], references: Sequence[Sequence[str]]) -> Metrics:
    """Score one caption per image against its references.

    Raises:
        ValueError: there is no caption, or an image without references.
    """
    if not captions or len(captions) != len(references) or not all(references):
        raise ValueError("metrics need at least one caption, and at least one reference for each")
    candidates = [metric_words(caption) for caption in captions]
    people = [[metric_words(reference) for reference in several] for several in references]
    bleu_1, bleu_2, bleu_3, bleu_4 = bleu(candidates, people)
    return Metrics(
        images=len(captions),
        bleu_1=bleu_1,
        bleu_2=bleu_2,
        bleu_3=bleu_3,
        bleu_4=bleu_4,
        rouge_l=rouge_l(candidates, people),
        cider_d=cider_d(candidates, people),
    )


def metric_words(text: str) -> Words:
    """Return the words that are compared."""
    return tuple(piece for piece in pieces(text.lower()) if any(char.isalnum() for char in piece))


def bleu(candidates: Sequence[Words], references: Sequence[Sequence[Words]]) -> tuple[float, ...]:
    """Return corpus BLEU-1 to BLEU-4 (Papineni et al. 2002, https://aclanthology.org/P02-1040).

    Precision of n-grams, clipped by the reference that has most of each, over the whole corpus; geometric mean;
    brevity penalty against the reference nearest in length (the shorter of two). No smoothing.
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


def rouge_l(candidates: Sequence[Words], references: Sequence[Sequence[Words]]) -> float:
    """Return the mean ROUGE-L (Lin 2004, https://aclanthology.org/W04-1013): F of the longest common subsequence.

    Precision and recall are each the best over the references; recall weighs 1.2 times precision.
    """
    scores = [_rouge_l(*pair) for pair in zip(candidates, references, strict=True)]
    return sum(scores) / len(scores)


def cider_d(candidates: Sequence[Words], references: Sequence[Sequence[Words]]) -> float:
    """Return the mean CIDEr-D (Vedantam et al. 2015, https://arxiv.org/abs/1411.5726, section 5).

    10 x the mean over n = 1..4 and over references r of
    exp(-(len c - len r)^2 / (2 * 6^2)) * min(g(c), g(r)) . g(r) / (|g(c)| |g(r)|),
    where g counts n-grams, each weighted by log(images / images that have it in a reference).
    """
    seen_in = Counter(
        gram
        for several in references
        for gram in {gram for reference in several for n in range(1, 5) for gram in _grams(reference, n)}
    )
    rarity = {gram: math.log(len(references) / count) for gram, count in seen_in.items()}
    unseen = math.log(len(references))
    total = 0.0
    for candidate, several in zip(candidates, references, strict=True):
        for reference in several:
            total += _cider_similarity(candidate, reference, rarity, unseen) / len(several)
    return 10 * total / len(candidates)


def _precision(candidates: Sequence[Words], references: Sequence[Sequence[Words]], n: int) -> float:
    matches = total = 0
    for candidate, several in zip(candidates, references, strict=True):
        allowed: Counter[Words] = Counter()
        for reference in several:
            allowed |= _grams(reference, n)
        found = _grams(candidate, n)
        matches += (found & allowed).total()
        total += found.total()
    return matches / total if total else 0.0


def _rouge_l(candidate: Words, references: Sequence[Words]) -> float:
    common = [_common_subsequence(candidate, reference) for reference in references]
    precision = max(common) / max(len(candidate), 1)
    recall = max(length / max(len(reference), 1) for length, reference in zip(common, references, strict=True))
    if precision == 0 or recall == 0:
        return 0.0
    return (1 + 1.2**2) * precision * recall / (recall + 1.2**2 * precision)


def _common_subsequence(left: Words, right: Words) -> int:
    """Return the length of the longest common subsequence."""
    row = [0] * (len(right) + 1)
    for word in left:
        above_left = 0
        for at, other in enumerate(right, start=1):
            above = row[at]
            row[at] = above_left + 1 if word == other else max(above, row[at - 1])
            above_left = above
    return row[-1]


def _cider_similarity(candidate: Words, reference: Words, rarity: dict[Words, float], unseen: float) -> float:
    total = 0.0
    for n in range(1, 5):
        ours, theirs = (
            {gram: count * rarity.get(gram, unseen) for gram, count in _grams(words, n).items()}
            for words in (candidate, reference)
        )
        norms = math.hypot(*ours.values()) * math.hypot(*theirs.values())
        shared = sum(min(ours[gram], theirs[gram]) * theirs[gram] for gram in ours.keys() & theirs.keys())
        total += shared / norms if norms else 0.0
    return total / 4 * math.exp(-((len(candidate) - len(reference)) ** 2) / (2 * 6.0**2))


def _grams(words: Words, n: int) -> Counter[Words]:
    return Counter(words[at : at + n] for at in range(len(words) - n + 1))
