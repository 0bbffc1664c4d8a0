"""Small decisions of learning as pure functions: when to retrain, what to hold out, what to withhold.

The decision to publish is in worker/learning/gate.py.
"""

import math

HELD_OUT_SHARE = 5
"""One image in this many is held out."""
FIRST_IMAGES = 20
"""The first annotations of a project; none of them is held out from the memory."""
SURE = 1.645
"""Standard errors that chance exceeds in 5 per cent of cases."""
FIRST_BESIDE_MEMORY = 5
"""The first training of a project that its memory teaches waits for so many times RETRAIN_AFTER."""
GROWTH_BESIDE_MEMORY = 0.5
"""Share by which its corrections must grow before each later training."""
FEWEST_JUDGED = 10
"""Judged suggestions that a version needs before it is compared: the first ones may all be alike."""


def should_retrain(waiting: int, retrain_after: int) -> bool:
    """Return True if enough unclaimed changes wait."""
    return waiting >= retrain_after


def corrections_needed(retrain_after: int, trained_on: int, is_taught_by_memory: bool) -> int:
    """Return the number of waiting corrections that start a retraining.

    The memory teaches a project if the memory is open and the images are of a kind of their own. The captions of the
    memory suit such images better than those of a retrained decoder. We measured retrained decoders on such images
    after 60, 100 and 200 corrections. They changed the CIDEr-D of the suggestions by -1.1 to +1.9 points, and each
    training took 20 to 50 seconds of processor time. So these projects train rarely: with five times RETRAIN_AFTER, and
    again whenever the corrections have grown by half. With RETRAIN_AFTER=20 that is 100, 150, 225 and so on.

    Args:
        retrain_after: the setting RETRAIN_AFTER.
        trained_on: corrections that a training has seen.
        is_taught_by_memory: the memory teaches the project.
    """
    if not is_taught_by_memory:
        return retrain_after
    growth = math.ceil(GROWTH_BESIDE_MEMORY * trained_on)
    return max(retrain_after, FIRST_BESIDE_MEMORY * retrain_after - trained_on, growth)


def is_quiet(quiet_s: float, retrain_idle_s: int) -> bool:
    """Return True if the newest change is so old that fewer changes are enough; never if RETRAIN_IDLE_S is 0."""
    return retrain_idle_s > 0 and quiet_s >= retrain_idle_s


def is_accepted_less(accepted: int, judged: int, accepted_before: int, judged_before: int, margin: float) -> bool:
    """Return True if suggestions are accepted less often than those of the earlier version, by more than a margin.

    This is a one-sided test of two shares. Small numbers need two more suggestions in each, one of them accepted
    (Agresti and Caffo 2000, https://doi.org/10.1080/00031305.2000.10474560).

    Args:
        accepted: suggestions of the serving version that were accepted as they are.
        judged: all of its suggestions that became a caption.
        accepted_before: the same number for the earlier version.
        judged_before: the same number for the earlier version.
        margin: tolerated difference of the shares, 0 to 1.
    """
    if min(judged, judged_before) < FEWEST_JUDGED:
        return False
    now, before = (accepted + 1) / (judged + 2), (accepted_before + 1) / (judged_before + 2)
    error = math.sqrt(now * (1 - now) / (judged + 2) + before * (1 - before) / (judged_before + 2))
    return before - now - margin > SURE * error


def is_held_out(image_key: str) -> bool:
    """Return True if an image is for evaluation only; its content decides, so the answer never changes."""
    return int(image_key[:8], 16) % HELD_OUT_SHARE == 0


def is_held_out_of_memory(image_key: str) -> bool:
    """Return True if an image is held out from the memory too: half of the images that are held out from training.

    They prove what memory and weights are worth together. The memory judges its captions by each other, so it needs no
    more. The first images of a project are never held out from the memory.
    """
    return int(image_key[:8], 16) % (2 * HELD_OUT_SHARE) == 0


def is_decoder_alone(image_key: str, percent: int) -> bool:
    """Return True if the decoder captions an image without the memory, so that the two can be compared.

    Again other digits of the key decide.
    """
    return int(image_key[16:24], 16) % 100 < percent


def is_withheld(image_key: str, hidden_percent: int) -> bool:
    """Return True if an image gets no suggestion, so that captions with and without one can be compared.

    The image's content decides. `is_held_out` uses other digits of the key, so the two decisions are independent.
    """
    return int(image_key[8:16], 16) % 100 < hidden_percent
