"""Word changes that annotators make repeatedly, such as "circle" to "ball".

They are found by comparing the captions of annotators with the bundle's. Such a systematic edit holds for images that
nobody corrected, too. So the worker also applies it to captions of the bundle (worker/learning/dataset.py): otherwise
training on these would unteach the project's words. The version's record lists the edits for people.

    our and their captions -> the edits of each pair -> the edit that brings most captions nearer to theirs
                           -> apply it to all captions, and search again until no edit helps reliably
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from functools import reduce

from model.metrics.scores import word_edits
from model.tokenizer import cut, joined

MIN_SUPPORT = 3
"""Captions that an edit must bring nearer to what people wrote; two may be chance."""
MIN_SUPPORT_WITH_GAP = 5
MIN_SHARE = 0.8
"""Share of the changed captions that an edit must improve; the others may be mistakes."""
MAX_EDITS = 20
MAX_WORDS = 8
"""A difference of more words at once is another caption, not another wording."""

Words = tuple[str, ...]

GAP = "..."
"""Stands for one or more words of any kind in the words to be edited. An annotator who leaves out backgrounds leaves
out all of them, also those with a colour that is in no correction."""

BEGIN, END = "<begin>", "<end>"
"""Stand around the words of a caption, so that an edit can concern its first or last word."""


@dataclass(frozen=True, kw_only=True)
class SystematicEdit:
    """Words to be replaced by others."""

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
    """Return the edits that turn the first captions of most pairs into the second, in the order of their application.

    Args:
        pairs: our caption of an image, and the one that people wrote.
    """
    captions = [(_words(ours), _words(theirs)) for ours, theirs in pairs]
    edits: list[SystematicEdit] = []
    while len(edits) < MAX_EDITS and (best := _best_edit(captions)):
        edits.append(best)
        captions = [(_edited(ours, best.before, best.after), theirs) for ours, theirs in captions]
    return edits


def rewrite(caption: str, edits: Sequence[SystematicEdit]) -> str:
    """Return the caption after all edits; a caption that none of them concerns is returned unchanged."""
    words = _words(caption)
    edited = reduce(lambda words, edit: _edited(words, edit.before, edit.after), edits, words)
    return caption if edited == words else joined(word for word in edited if word not in {BEGIN, END})


def _best_edit(captions: Sequence[tuple[Words, Words]]) -> SystematicEdit | None:
    """Return the edit that saves most word edits, among those that help in nearly every caption that they change."""
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
    """Yield the possible meanings of each difference: an added word belongs to the word before it or after it."""
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
            yield from (((our,), (their,)) for our, their in zip(ours[i:j], theirs[k:m], strict=True))


def _edited(words: Words, before: Words, after: Words) -> Words:
    """Return the words with the edit made wherever it applies; words that an edit wrote are not edited again."""
    edited: list[str] = []
    at = 0
    while at < len(words):
        covered = _covered(words, at, before)
        edited += after if covered else words[at : at + 1]
        at += covered or 1
    return tuple(edited)


def _with_gap(words: Words) -> Iterator[Words]:
    """Yield the first and last words of these with a gap between, in every way."""
    for head in range(1, len(words) - 1):
        for tail in range(1, len(words) - head):
            yield (*words[:head], GAP, *words[-tail:])


def _covered(words: Words, at: int, before: Words) -> int:
    """Return the number of words from here on that match the words to be edited; 0 if they do not match."""
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
