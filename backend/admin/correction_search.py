"""Search in a project's corrections: newest first, with the words that changed and the version that learned them."""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from itertools import islice

from backend.admin.version_records import known_versions
from model.registry import ModelRegistry, ModelVersion
from model.tokenizer import cut, joined
from worker.feedback.feedback_store import FeedbackStore
from worker.feedback.record import Correction
from worker.feedback.suggestions import label_of

PAGE = 50
SEARCH_S = 1.0
"""Time limit of a search. A search that has not filled its page by then returns a shorter page."""
VERSIONS_LOOKED_AT = 50
EDITS_SHOWN = 4
EDITS_AMONG = 200
"""Newest corrections in which edits are looked for."""


@dataclass(frozen=True, kw_only=True)
class Search:
    """Conditions on a correction; None and "" are no condition."""

    name: str = ""
    """Of the correction."""
    text: str = ""
    """Anywhere in the suggested or the written caption, in upper or lower case."""
    annotator: int | None = None
    version: str = ""
    """The version that made the suggestion, with or without the generation of the memory."""
    edited_only: bool = False

    def matches(self, correction: Correction) -> bool:
        captions = f"{correction.proposed or ''}\n{correction.caption}".casefold()
        return (
            self.text.casefold() in captions
            and self.annotator in {None, correction.annotator}
            and self.version in {"", correction.proposed_by, suggested_by(correction)}
            and (correction.is_edit or not self.edited_only)
        )


@dataclass(frozen=True, kw_only=True)
class Piece:
    """Words of a comparison."""

    text: str
    change: str
    """`same`, `gone` (only suggested) or `new` (only written)."""


@dataclass(frozen=True, kw_only=True)
class LookAlike:
    """The correction of a look-alike image, whose words spoke for a suggestion."""

    name: str
    caption: str | None
    """As it is now; None if the correction was removed meanwhile."""


@dataclass(frozen=True, kw_only=True)
class CorrectionRecord:
    """A correction, the origin of its suggestion, and its use in training."""

    correction: Correction
    name: str
    pieces: tuple[Piece, ...]
    suggested_by: str | None
    """The version that suggested, as in `v3-1a2b3c4d+m41` where its memory chose; None if nothing was shown."""
    like: tuple[LookAlike, ...]
    """The corrections that spoke for the suggestion most; none where the decoder suggested alone."""
    trained_in: str | None
    """First published version that was trained on the correction as it is now, of the newest VERSIONS_LOOKED_AT."""
    set_aside: str | None
    """Reason why it is excluded from training."""


@dataclass(frozen=True, kw_only=True)
class CorrectionPage:
    """A part of the result of a search."""

    records: tuple[CorrectionRecord, ...]
    looked_at: int
    next: int | None
    """`start` of the next page; None at the end."""


def search_corrections(
    feedback: FeedbackStore,
    registry: ModelRegistry,
    project_id: int,
    search: Search,
    start: int = 0,
    clock: Callable[[], float] = time.monotonic,
) -> CorrectionPage:
    """Return a page of matching corrections, newest first.

    Args:
        start: number of newest corrections that earlier pages have already read.
    """
    matches: list[Correction] = []
    deadline, looked_at, is_over = clock() + SEARCH_S, 0, True
    for correction in _candidates(feedback, project_id, search, start):
        if len(matches) == PAGE or clock() > deadline:
            is_over = False
            break
        looked_at += 1
        if search.matches(correction):
            matches.append(correction)
    records = tuple(_records(feedback, registry, project_id, matches))
    return CorrectionPage(records=records, looked_at=looked_at, next=None if is_over else start + looked_at)


def latest_edits(feedback: FeedbackStore, project_id: int) -> tuple[tuple[Correction, tuple[Piece, ...]], ...]:
    """Return the newest suggestions that annotators changed, each with the words that changed."""
    newest = islice(feedback.newest_first(project_id), EDITS_AMONG)
    edits = islice((correction for correction in newest if correction.proposed and correction.is_edit), EDITS_SHOWN)
    return tuple((correction, compare(correction.proposed or "", correction.caption)) for correction in edits)


def compare(before: str, after: str) -> tuple[Piece, ...]:
    """Return the words of both captions; removed words stand before the words that replaced them."""
    old, new = list(cut(before)), list(cut(after))
    pieces: list[Piece] = []
    for kind, i, j, k, m in SequenceMatcher(None, old, new, autojunk=False).get_opcodes():
        if kind == "equal":
            pieces.append(_piece(old[i:j], "same"))
        else:
            pieces += [piece for piece in (_piece(old[i:j], "gone"), _piece(new[k:m], "new")) if piece.text]
    return tuple(pieces)


def suggested_by(correction: Correction) -> str | None:
    """Return the version that suggested, with the memory's generation where the memory chose."""
    version = correction.proposed_by
    return None if version is None else label_of(version, correction.generation)


def _candidates(feedback: FeedbackStore, project_id: int, search: Search, start: int) -> Iterator[Correction]:
    if not search.name:
        yield from feedback.newest_first(project_id, start)
    elif start == 0 and (correction := feedback.find(project_id, search.name)) is not None:
        yield correction


def _piece(words: Sequence[str], change: str) -> Piece:
    return Piece(text=joined(words).strip(), change=change)


def _records(
    feedback: FeedbackStore, registry: ModelRegistry, project_id: int, corrections: Sequence[Correction]
) -> Iterator[CorrectionRecord]:
    versions = known_versions(registry, project_id) if corrections else []
    newest = [version for version in versions if version.published][-VERSIONS_LOOKED_AT:]
    excluded = feedback.excluded(project_id)
    names = {name for correction in corrections for name in _like(correction)}
    look_alikes = feedback.find_all(project_id, sorted(names))
    for correction in corrections:
        yield CorrectionRecord(
            correction=correction,
            name=correction.name,
            pieces=compare(correction.proposed or "", correction.caption),
            suggested_by=suggested_by(correction),
            like=tuple(
                LookAlike(name=name, caption=look_alikes[name].caption if name in look_alikes else None)
                for name in _like(correction)
            ),
            trained_in=_trained_in(correction, newest),
            set_aside=excluded.get(correction.name),
        )


def _like(correction: Correction) -> tuple[str, ...]:
    """Return the names of the corrections that spoke for the suggestion, if the annotator was shown it."""
    return correction.like if correction.proposed_by else ()


def _trained_in(correction: Correction, versions: Sequence[ModelVersion]) -> str | None:
    for version in versions:
        # If the correction was changed after the training began, the version learned its old words.
        if correction.name in version.corrections and correction.state in version.metrics.get("known_states", ()):
            return version.name
    return None
