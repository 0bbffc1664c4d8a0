"""The small decisions of learning, as pure functions: when to retrain, what to hold out, what to withhold.

The big one, whether to publish, is worker/gate.py.
"""

HELD_OUT_SHARE = 5
"""One image in this many is held out."""


def should_retrain(waiting: int, retrain_after: int) -> bool:
    """Tell whether enough changes wait that no training has taken yet."""
    return waiting >= retrain_after


def is_quiet(quiet_s: float, retrain_idle_s: int) -> bool:
    """Tell whether the newest change is old enough to train on fewer; RETRAIN_IDLE_S of 0 says it never is."""
    return retrain_idle_s > 0 and quiet_s >= retrain_idle_s


def is_held_out(image_key: str) -> bool:
    """Tell whether an image is for evaluation only; its content decides, so it is so for ever and everywhere."""
    return int(image_key[:8], 16) % HELD_OUT_SHARE == 0


def is_withheld(image_key: str, hidden_percent: int) -> bool:
    """Tell whether an image gets no suggestion, so that captions with and without one can be compared.

    Its content decides, by other digits than `is_held_out` reads: who is held out and who is withheld are independent.
    """
    return int(image_key[8:16], 16) % 100 < hidden_percent
