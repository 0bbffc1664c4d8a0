"""The small decisions of learning, as pure functions: when to retrain, what to hold out, what to withhold.

The big one, whether to publish, is worker/learning/gate.py.
"""

import math

HELD_OUT_SHARE = 5
"""One image in this many is held out."""
SURE = 1.645
"""Standard errors that chance exceeds in one case of twenty."""
FEWEST_JUDGED = 10
"""Suggestions of a version, before its acceptance says anything: the first ones may all be of one kind."""


def should_retrain(waiting: int, retrain_after: int) -> bool:
    """Tell whether enough changes wait that no training has taken yet."""
    return waiting >= retrain_after


def is_quiet(quiet_s: float, retrain_idle_s: int) -> bool:
    """Tell whether the newest change is old enough to train on fewer; RETRAIN_IDLE_S of 0 says it never is."""
    return retrain_idle_s > 0 and quiet_s >= retrain_idle_s


def is_accepted_less(accepted: int, judged: int, accepted_before: int, judged_before: int, margin: float) -> bool:
    """Tell whether suggestions are accepted less often than those of the version before, by more than a margin.

    One-sided test of two shares, each with two more suggestions of which one was accepted, as small numbers need
    (Agresti and Caffo 2000, https://doi.org/10.1080/00031305.2000.10474560).

    Args:
        accepted: suggestions of the serving version that were accepted as they are.
        judged: all of its suggestions that became a caption.
        accepted_before: of the version before.
        judged_before: of the version before.
        margin: difference of the shares that is borne, 0 to 1.
    """
    if min(judged, judged_before) < FEWEST_JUDGED:
        return False
    now, before = (accepted + 1) / (judged + 2), (accepted_before + 1) / (judged_before + 2)
    error = math.sqrt(now * (1 - now) / (judged + 2) + before * (1 - before) / (judged_before + 2))
    return before - now - margin > SURE * error


def is_held_out(image_key: str) -> bool:
    """Tell whether an image is for evaluation only; its content decides, so it is so for ever and everywhere."""
    return int(image_key[:8], 16) % HELD_OUT_SHARE == 0


def is_withheld(image_key: str, hidden_percent: int) -> bool:
    """Tell whether an image gets no suggestion, so that captions with and without one can be compared.

    Its content decides, by other digits than `is_held_out` reads: who is held out and who is withheld are independent.
    """
    return int(image_key[8:16], 16) % 100 < hidden_percent
