import pytest

from worker.queue.job_origin import job_origin, kept_origin
from worker.request_id import begin_request, current_request_id, end_request, request_of


@pytest.mark.parametrize("given", ["0a1b2c3d", "req-7.of_today", "x" * 64])
def test_a_short_plain_id_is_taken_as_it_is(given: str) -> None:
    assert begin_request(given) == current_request_id() == given


@pytest.mark.parametrize("given", [None, "", "two words", "line\nbreak", "x" * 65, "ä", 'quote"'])
def test_any_other_id_is_replaced_by_a_new_one(given: str | None) -> None:
    request_id = begin_request(given)

    assert request_id != given
    assert request_id != begin_request(given)
    assert len(request_id) == 16


def test_a_job_goes_back_to_the_request_that_led_to_it() -> None:
    begin_request("0a1b")
    meta = {"phase": "training", **job_origin()}
    end_request()

    with request_of(meta):
        inside = current_request_id()

    assert (inside, current_request_id()) == ("0a1b", None)
    assert kept_origin(meta) == {"request_id": "0a1b"}


def test_a_job_that_no_request_led_to_has_none() -> None:
    end_request()

    assert job_origin() == {}
    with request_of({}):
        assert current_request_id() is None
