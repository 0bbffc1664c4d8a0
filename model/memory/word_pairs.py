"""Words of annotators that may stand for words of the decoder, by how often each is written and how often expected.

Such a pair is a word that annotators write and the decoder does not expect ("guy"), and a word that the decoder expects
at its places and annotators do not write ("man").
"""

from collections import Counter, defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import log
from statistics import mean

from model.memory.expected_words import Expected

MIN_SUPPORT = 3
"""Corrections that must show something; two may be chance."""
HARDLY = 0.1
"""Share below which we say that people or the decoder hardly ever write something."""
FEWEST_EXPECTED = 1.5
"""How often the decoder must have expected the word that annotators do not write."""
MIN_AT_PLACE = 0.1
"""Mean probability that the decoder must give to the word that it expects instead of theirs."""
MOST_TIMES = 2.0
"""A word in most captions of annotators must not be more frequent than so many times the word that it stands for. It
may be there for another reason, such as "picture" in "a picture of a man"."""
MIN_EVIDENCE = 14.0
"""Log-likelihood ratio, in nats, against captions with the word counts that the decoder expects."""
CERTAIN_EVIDENCE = 28.0
"""So much evidence outweighs a frequent word such as "and" that is expected at the same places. In 660 sets of 3 to 128
plain captions it led to no rule."""
SMALLEST_EXPECTED = 0.001
"""Of a word that the decoder never expects."""
MOST_LOSS = 4.4
"""Mean loss of their words in nats, above which the decoder does not know such images. In sets of 20 it was 3.2 to 3.9
on photos of the bundle's kind, with and without a house style, 3.8 to 4.2 on photos of a wider world, and 4.6 to 5.4 on
aerial photos, flowers and product photos."""


@dataclass(frozen=True, kw_only=True)
class WordPair:
    """A word that we expect and annotators do not write, and the word that they may write for it."""

    before: str
    after: str
    at_places: Mapping[str, float]
    """How often each word is expected at the places of `after`."""
    fits: Mapping[str, float]
    """How exclusively each word that annotators do not write is expected there, 0 to 1."""
    is_reliable: bool
    """The counts of both words are far from the expected ones, and `before` is probable enough."""
    is_certain: bool
    """The counts are very far from them."""

    @property
    def there(self) -> float:
        """How often `before` is expected at the places of `after`."""
        return self.at_places[self.before]

    def is_likeliest(self, replaced: Collection[str]) -> bool:
        """Say whether no other word suits the places better, except words that have another replacement."""
        fits_best = all(fit <= self.fits[self.before] for word, fit in self.fits.items() if word not in replaced)
        is_expected_most = all(count <= self.there for word, count in self.at_places.items() if word not in replaced)
        return fits_best and (is_expected_most or self.is_certain)


def is_known(expected: Sequence[Expected]) -> bool:
    """Say whether the decoder knows such images, by how well it expects the words of their captions."""
    losses = [-log(max(word.probability, SMALLEST_EXPECTED)) for caption in expected for word in caption]
    return bool(losses) and mean(losses) <= MOST_LOSS


def find_pairs(expected: Sequence[Expected], ours: Mapping[str, int]) -> Iterator[WordPair]:
    """Yield each word of theirs that is hardly expected with each word that is expected there and hardly written.

    Args:
        expected: what the decoder expects at the words of their captions.
        ours: in how many of our captions for the same images each word is.
    """
    written = Counter(word.word for caption in expected for word in caption)
    captions = Counter(word for caption in expected for word in {word.word for word in caption})
    likely: dict[str, float] = defaultdict(float)
    at_places: dict[str, dict[str, float]] = defaultdict(lambda: defaultdict(float))
    for place in (word for caption in expected for word in caption):
        likely[place.word] += place.probability
        for other, probability in place.instead.items():
            likely[other] += probability
            at_places[place.word][other] += probability
    for after, others in at_places.items():
        if likely[after] > HARDLY * written[after]:
            continue
        fits = {
            word: there**2 / (written[after] * likely[word])
            for word, there in others.items()
            if likely[word] >= FEWEST_EXPECTED and written[word] <= HARDLY * likely[word]
        }
        for before in fits:
            evidence = _surprise(written[after], likely[after]) + _surprise(written[before], likely[before])
            as_often = max(MOST_TIMES * max(likely[before], ours.get(before, 0)), len(expected) / 2)
            is_reliable = (
                MIN_SUPPORT <= captions[after] <= as_often
                and evidence >= MIN_EVIDENCE
                and others[before] >= MIN_AT_PLACE * written[after]
            )
            yield WordPair(
                before=before,
                after=after,
                at_places=others,
                fits=fits,
                is_reliable=is_reliable,
                is_certain=evidence >= CERTAIN_EVIDENCE,
            )


def _surprise(count: int, expected: float) -> float:
    """Return the log-likelihood ratio of a count against the expected one (Poisson), in nats."""
    expected = max(expected, SMALLEST_EXPECTED)
    return (count * log(count / expected) if count else 0.0) - (count - expected)
