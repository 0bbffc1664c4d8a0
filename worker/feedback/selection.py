"""Which of a project's corrections one retraining uses, however many there are.

    corrections -> those not set aside, with an image that was read -> the newest of each image and control
                -> the newest of all, and a draw of the older ones by the hash of their image, which lasts

So a retraining costs the same for a project of a hundred corrections and of a hundred thousand, and the same old ones
stay in memory while they last. Their features are all that anybody needs to have stored.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from worker.feedback.record import Correction

MAX_CHARACTERS = 600
"""Of a caption: what is longer is none, and a few of them would take all the time of a training."""
SET_ASIDE = "set aside"


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
    """What a training uses of a project's corrections, if their features are stored."""

    used: tuple[Correction, ...]
    """Oldest first."""
    unread: tuple[Correction, ...]
    """Those whose image nobody has read yet: they may come to be used."""
    left_out: Counter[str]
    """How many cannot be used, by reason; those that are only not drawn are not counted."""


def select_corrections(
    corrections: Sequence[Correction], set_aside: Mapping[str, str], limits: SelectionLimits = LIMITS
) -> Selection:
    """Select from all corrections of a project, oldest first.

    Args:
        corrections: all of the project, oldest first.
        set_aside: names of corrections that are not used, and why.
        limits: the size of the selection.
    """
    left_out = Counter(f"{SET_ASIDE}: {set_aside[one.name]}" for one in corrections if one.name in set_aside)
    wanted = [correction for correction in corrections if correction.name not in set_aside]
    seen = [correction for correction in wanted if correction.image_key is not None]
    left_out["its image was never read"] = len(wanted) - len(seen)
    newest = _newest_per_image(seen)
    left_out["a newer caption of its image exists"] = len(seen) - len(newest)
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
    # Its last digits, as the first ones hold images out.
    kept = {id(one) for one in sorted(older, key=lambda one: str(one.image_key)[::-1])[: limits.remembered]}
    return [*(one for one in older if id(one) in kept), *recent]
