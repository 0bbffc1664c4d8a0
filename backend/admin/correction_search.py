"""Corrections as an admin searches them: the newest first, with what was proposed, what changed, and who learned it."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher

from backend.admin.version_records import known_versions
from model.registry import ModelRegistry, ModelVersion
from model.tokenizer import cut, joined
from worker.feedback.corrections import Correction, CorrectionInbox

PAGE = 50
SEARCH_S = 1.0
"""A search that has not filled a page by then shows what it found, and where to go on."""
VERSIONS_LOOKED_AT = 50


@dataclass(frozen=True, kw_only=True)
class Search:
    """What a correction must have; None and "" ask for nothing."""

    text: str = ""
    """Anywhere in its captions."""
    annotator: int | None = None
    version: str = ""
    """That proposed it."""
    edited_only: bool = False

    def holds(self, correction: Correction) -> bool:
        captions = f"{correction.proposed or ''}\n{correction.caption}".casefold()
        return (
            self.text.casefold() in captions
            and self.annotator in {None, correction.annotator}
            and self.version in {"", correction.model_version}
            and (correction.is_edit or not self.edited_only)
        )


@dataclass(frozen=True, kw_only=True)
class Piece:
    """Words of a comparison."""

    text: str
    change: str
    """`same`, `gone` (only proposed) or `new` (only written)."""


@dataclass(frozen=True, kw_only=True)
class CorrectionRecord:
    """One correction, and what became of it."""

    correction: Correction
    name: str
    pieces: tuple[Piece, ...]
    trained_in: str | None
    """The first version that was trained on it as it is now and published, of the newest VERSIONS_LOOKED_AT."""
    set_aside: str | None
    """Why it is not trained on."""


@dataclass(frozen=True, kw_only=True)
class CorrectionPage:
    """Some of what a search finds."""

    found: tuple[CorrectionRecord, ...]
    looked_at: int
    next: int | None
    """Where to go on; None at the end."""


def search_corrections(
    inbox: CorrectionInbox,
    registry: ModelRegistry,
    project_id: int,
    search: Search,
    start: int = 0,
    clock: Callable[[], float] = time.monotonic,
) -> CorrectionPage:
    """Return a page of corrections, the newest first.

    Args:
        start: where to go on: how many of the newest were looked at before.
    """
    found: list[Correction] = []
    deadline, looked_at, is_over = clock() + SEARCH_S, 0, True
    for correction in inbox.newest_first(project_id, start):
        if len(found) == PAGE or clock() > deadline:
            is_over = False
            break
        looked_at += 1
        if search.holds(correction):
            found.append(correction)
    versions = [one for one in known_versions(registry, project_id) if one.published] if found else []
    aside = inbox.set_aside_names(project_id)
    return CorrectionPage(
        found=tuple(
            CorrectionRecord(
                correction=one,
                name=one.name,
                pieces=compare(one.proposed or "", one.caption),
                trained_in=_trained_in(one, versions[-VERSIONS_LOOKED_AT:]),
                set_aside=aside.get(one.name),
            )
            for one in found
        ),
        looked_at=looked_at,
        next=None if is_over else start + looked_at,
    )


def compare(before: str, after: str) -> tuple[Piece, ...]:
    """Return the words of both, those that went before those that came."""
    old, new = list(cut(before)), list(cut(after))
    pieces: list[Piece] = []
    for kind, i, j, k, m in SequenceMatcher(None, old, new, autojunk=False).get_opcodes():
        if kind == "equal":
            pieces.append(_piece(old[i:j], "same"))
        else:
            pieces += [piece for piece in (_piece(old[i:j], "gone"), _piece(new[k:m], "new")) if piece.text]
    return tuple(pieces)


def _piece(words: Sequence[str], change: str) -> Piece:
    return Piece(text=joined(words).strip(), change=change)


def _trained_in(correction: Correction, versions: Sequence[ModelVersion]) -> str | None:
    for version in versions:
        # One that was changed since the training began was learned in its old words.
        if correction.name in version.corrections and correction.state in version.metrics.get("known_states", ()):
            return version.name
    return None
