"""Selection of the corrections that one retraining uses.

    corrections -> those not excluded, with an image that was read -> the newest of each image and control
                -> the newest of all, and a lasting draw of the older ones by the hash of their image

A retraining costs the same for a hundred corrections and for a hundred thousand. The same older corrections are drawn
each time, so only their features need to be stored.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from worker.feedback.record import Correction

MAX_CHARACTERS = 600
"""Longest caption that is used. A few longer ones would take all the time of a training."""
EXCLUDED = "excluded"
"""The beginning of a reason in `Selection.left_out`."""


@dataclass(frozen=True, kw_only=True)
class SelectionLimits:
    """The number of corrections that a training uses at most."""

    recent: int = 768
    """The newest corrections, to train or measure on."""
    remembered: int = 512
    """Older corrections."""


LIMITS = SelectionLimits()


@dataclass(frozen=True, kw_only=True)
class Selection:
    """The corrections that a training uses, if their features are stored."""

    used: tuple[Correction, ...]
    """Oldest first."""
    unread: tuple[Correction, ...]
    """Those whose image nobody has read yet. They may be used later."""
    left_out: Counter[str]
    """How many cannot be used, by reason. Those that are only not drawn are not counted."""


def select_corrections(
    corrections: Sequence[Correction], excluded: Mapping[str, str], limits: SelectionLimits = LIMITS
) -> Selection:
    """Select from all corrections of a project, oldest first.

    Args:
        corrections: all of the project, oldest first.
        excluded: names of excluded corrections, and why they are excluded.
        limits: the size of the selection.
    """
    reasons = (excluded[correction.name] for correction in corrections if correction.name in excluded)
    left_out = Counter(f"{EXCLUDED}: {reason}" for reason in reasons)
    wanted = [correction for correction in corrections if correction.name not in excluded]
    read = [correction for correction in wanted if correction.image_key is not None]
    left_out["its image was never read"] = len(wanted) - len(read)
    newest = _newest_per_image(read)
    left_out["a newer caption of its image exists"] = len(read) - len(newest)
    short = [correction for correction in newest if len(correction.caption) <= MAX_CHARACTERS]
    left_out[f"its caption has more than {MAX_CHARACTERS} characters"] = len(newest) - len(short)
    unread = tuple(correction for correction in wanted if correction.image_key is None)
    return Selection(used=tuple(_remembered(short, limits)), unread=unread, left_out=left_out)


def _newest_per_image(corrections: Sequence[Correction]) -> list[Correction]:
    """Keep the newest caption of each image and control, in the order they were written."""
    newest: dict[tuple[str | None, str], Correction] = {}
    for correction in corrections:
        newest.pop((correction.image_key, correction.control), None)
        newest[correction.image_key, correction.control] = correction
    return list(newest.values())


def _remembered(newest: Sequence[Correction], limits: SelectionLimits) -> list[Correction]:
    """Return the newest corrections and a lasting draw of the older ones, in the order they were written."""
    older, recent = newest[: -limits.recent], newest[-limits.recent :]
    # By the last digits of the hash, because the first digits decide which images are held out.
    by_hash = sorted(older, key=lambda correction: str(correction.image_key)[::-1])
    drawn = {id(correction) for correction in by_hash[: limits.remembered]}
    return [*(correction for correction in older if id(correction) in drawn), *recent]
