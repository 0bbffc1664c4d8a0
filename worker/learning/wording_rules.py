"""What a project's annotators want otherwise, again and again: found by comparing their captions with the bundle's.

A systematic edit says more than its corrections do: that "circle" is to be "ball" holds for every image with a circle.
It tells people what their project has taught, and it restates captions that nobody corrected, so that replay teaches
the project's words instead of unteaching them (worker/learning/dataset.py).

    ours, theirs -> the edits of each pair -> the one that brings most captions nearer to what people wrote
                 -> made in all of them, and looked for again, until none does so reliably
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from functools import reduce

from model.metrics.scores import word_edits
from model.tokenizer import cut, joined

MIN_SUPPORT = 3
"""Captions that an edit must bring nearer; two may be chance."""
MIN_SUPPORT_WITH_GAP = 5
MIN_SHARE = 0.8
"""Of the captions that it changes; the others may be mistakes."""
MAX_EDITS = 20
MAX_WORDS = 8
"""More of them at once are another caption, not another wording."""

Words = tuple[str, ...]

GAP = "..."
"""In what is to be edited: one word or more, whatever they are. Who leaves out backgrounds leaves out all of them,
also those whose colour no correction has shown."""

BEGIN, END = "<begin>", "<end>"
"""Around the words of a caption, so that an edit can be one of its first or last word; no piece of a text is alike."""


@dataclass(frozen=True, kw_only=True)
class SystematicEdit:
    """Words to write in the place of others."""

    before: Words
    """At most one of them is the GAP."""
    after: Words
    support: int
    """Captions that it brings nearer to what people wrote."""
    applicable: int
    """Captions that it changes."""

    def __str__(self) -> str:
        before, after = (joined(words).strip() for words in (self.before, self.after))
        return f'"{before}" -> "{after}" in {self.support} of {self.applicable}'


def find_systematic_edits(pairs: Iterable[tuple[str, str]]) -> list[SystematicEdit]:
    """Return what turns the first captions of most pairs into the second, in the order it is to be done.

    Args:
        pairs: our caption of an image, and what people wrote.
    """
    captions = [(_words(ours), _words(theirs)) for ours, theirs in pairs]
    found: list[SystematicEdit] = []
    while len(found) < MAX_EDITS and (best := _best_edit(captions)):
        found.append(best)
        captions = [(_edited(ours, best.before, best.after), theirs) for ours, theirs in captions]
    return found


def restate(caption: str, edits: Sequence[SystematicEdit]) -> str:
    """Return the caption as the project would have it; where nothing is to be edited, it stays to the letter."""
    words = _words(caption)
    restated = reduce(lambda known, edit: _edited(known, edit.before, edit.after), edits, words)
    return caption if restated == words else joined(word for word in restated if word not in {BEGIN, END})


def _best_edit(captions: Sequence[tuple[Words, Words]]) -> SystematicEdit | None:
    """Return the edit that saves most words, among those that do good nearly wherever they change something."""
    counts = Counter(edit for ours, theirs in captions for edit in set(_edits_between(ours, theirs)))
    best, most = None, 0
    for (before, after), count in counts.items():
        least = MIN_SUPPORT_WITH_GAP if GAP in before else MIN_SUPPORT
        if count < least:
            continue
        saved = []
        for ours, theirs in captions:
            edited = _edited(ours, before, after)
            if edited != ours:
                saved.append(word_edits(ours, theirs) - word_edits(edited, theirs))
        support = sum(words > 0 for words in saved)
        if support >= max(least, MIN_SHARE * len(saved)) and sum(saved) > most:
            best = SystematicEdit(before=before, after=after, support=support, applicable=len(saved))
            most = sum(saved)
    return best


def _edits_between(ours: Words, theirs: Words) -> Iterator[tuple[Words, Words]]:
    """Yield what could have been meant by each difference: a word added belongs to the one before or the one after."""
    for kind, i, j, k, m in SequenceMatcher(None, ours, theirs, autojunk=False).get_opcodes():
        if kind == "equal" or max(j - i, m - k) > MAX_WORDS:
            continue
        if kind == "insert":
            yield ours[i - 1 : i], ours[i - 1 : i] + theirs[k:m]
            yield ours[i : i + 1], theirs[k:m] + ours[i : i + 1]
            continue
        yield ours[i:j], theirs[k:m]
        yield from ((before, theirs[k:m]) for before in _with_gap(ours[i:j]))
        if j - i == m - k > 1:
            yield from (((one,), (other,)) for one, other in zip(ours[i:j], theirs[k:m], strict=True))


def _edited(words: Words, before: Words, after: Words) -> Words:
    """Return the words with each place edited once; what came in is not edited again."""
    edited: list[str] = []
    at = 0
    while at < len(words):
        covered = _covered(words, at, before)
        edited += after if covered else words[at : at + 1]
        at += covered or 1
    return tuple(edited)


def _with_gap(words: Words) -> Iterator[Words]:
    """Yield how these words begin and end, with a gap between."""
    for head in range(1, len(words) - 1):
        for tail in range(1, len(words) - head):
            yield (*words[:head], GAP, *words[-tail:])


def _covered(words: Words, at: int, before: Words) -> int:
    """Return how many words from here on are what is to be edited; 0 if they are not."""
    gap = before.index(GAP) if GAP in before else len(before)
    head, tail = before[:gap], before[gap + 1 :]
    if words[at : at + gap] != head:
        return 0
    if not tail:
        return gap
    ends = range(at + gap + 1 + len(tail), min(len(words), at + MAX_WORDS) + 1)
    return next((end - at for end in ends if words[end - len(tail) : end] == tail), 0)


def _words(caption: str) -> Words:
    return (BEGIN, *cut(caption), END)
