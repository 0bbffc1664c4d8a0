import hashlib

import pytest

from worker.policy import Metrics, is_better, is_held_out, is_quiet, should_retrain


def make_metrics(
    held_out_loss: float | None = 10.0, anchor_loss: float | None = 8.0, held_out: int = 4, anchors: int = 60
) -> Metrics:
    return Metrics(held_out_loss=held_out_loss, held_out=held_out, anchor_loss=anchor_loss, anchors=anchors)


def test_a_retraining_is_due_from_the_set_number_of_corrections_on() -> None:
    assert not should_retrain(19, 20)
    assert should_retrain(20, 20)
    assert should_retrain(21, 20)


def test_quiet_counts_from_the_newest_change_and_can_be_switched_off() -> None:
    assert not is_quiet(299.9, 300)
    assert is_quiet(300, 300)
    assert not is_quiet(1e9, 0)


def test_one_image_in_five_is_held_out_by_its_content_alone() -> None:
    keys = [hashlib.sha256(str(number).encode()).hexdigest() for number in range(5000)]

    share = sum(map(is_held_out, keys)) / len(keys)

    assert 0.18 < share < 0.22
    assert is_held_out("00000005" + "f" * 56)
    assert not is_held_out("00000006" + "0" * 56)


def test_a_candidate_that_is_better_on_new_and_not_worse_on_old_is_published() -> None:
    decision = is_better(make_metrics(9.0, 8.1), make_metrics(10.0, 8.0))

    assert decision.publish
    assert decision.reason == (
        "better: held-out loss 9.000 against 10.000 nats per caption (4 held out); "
        "anchor loss 8.100 against 8.000 nats per caption (60 anchors)"
    )


@pytest.mark.parametrize("held_out_loss", [10.0, 10.1])
def test_a_candidate_that_is_not_better_on_new_is_refused(held_out_loss: float) -> None:
    decision = is_better(make_metrics(held_out_loss, 7.0), make_metrics(10.0, 8.0))

    assert not decision.publish
    assert decision.reason.startswith("not better: held-out loss")


def test_a_candidate_that_forgets_is_refused_however_good_on_new() -> None:
    decision = is_better(make_metrics(1.0, 11.1), make_metrics(10.0, 8.0))

    assert not decision.publish
    assert decision.reason.startswith("it forgets: anchor loss 11.100 against 8.000")


def test_without_held_out_captions_the_anchors_decide() -> None:
    assert is_better(make_metrics(None, 8.1, held_out=0), make_metrics(None, 8.0, held_out=0)).publish
    assert not is_better(make_metrics(None, 11.1, held_out=0), make_metrics(None, 8.0, held_out=0)).publish


def test_a_bundle_without_anchors_is_judged_by_held_out_captions() -> None:
    assert is_better(make_metrics(9.0, None, anchors=0), make_metrics(10.0, None, anchors=0)).publish
    assert not is_better(make_metrics(11.0, None, anchors=0), make_metrics(10.0, None, anchors=0)).publish


@pytest.mark.parametrize("broken", [float("nan"), float("inf")])
def test_a_loss_that_is_no_number_is_never_published(broken: float) -> None:
    assert not is_better(make_metrics(broken, 8.0), make_metrics(10.0, 8.0)).publish
    assert not is_better(make_metrics(9.0, broken), make_metrics(10.0, 8.0)).publish
