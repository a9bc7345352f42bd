"""What becomes of an attempt, and when it is tried again."""

from __future__ import annotations

import uuid

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workers.dispatch.outcomes import decide, hard_limit, lease
from workers.dispatch.retry import DEFAULT_SCHEDULE, delay
from workers.errors import Permanent, RetryAfter
from workers.registration import Handler
from workers.store.deliveries import Claimed

HANDLER = Handler(name="acme.run", function=lambda event, delivery: None, max_attempts=3)


def int_of_two_lines() -> None:
    raise ValueError("first\nsecond")


def claimed(attempt: int = 0) -> Claimed:
    return Claimed(event_id=uuid.uuid4(), tenant="acme", attempt=attempt, fence=1)


def test_no_error_has_succeeded() -> None:
    assert decide(claimed(), HANDLER, None, duration=0.1).state == "succeeded"


@pytest.mark.parametrize(
    ("attempt", "error", "state"),
    [(0, ValueError("x"), None), (2, ValueError("x"), "dead"), (0, Permanent("x"), "dead"), (2, RetryAfter(1), "dead")],
)
def test_an_error_is_tried_again_until_it_is_dead(attempt: int, error: Exception, state: str | None) -> None:
    assert decide(claimed(attempt), HANDLER, error, duration=0.1).state == state


def test_retry_after_says_when() -> None:
    assert decide(claimed(), HANDLER, RetryAfter(77), duration=0.1).retry_in == 77


def test_retry_after_refuses_what_is_no_time() -> None:
    with pytest.raises(ValueError, match="number of seconds"):
        RetryAfter(float("nan"))


@given(failures=st.integers(1, 1000), drawn=st.floats(0, 1, exclude_max=True))
def test_a_delay_is_drawn_from_the_whole_of_its_step_and_no_longer(failures: int, drawn: float) -> None:
    step = DEFAULT_SCHEDULE[min(failures, len(DEFAULT_SCHEDULE)) - 1]
    assert delay(DEFAULT_SCHEDULE, failures, lambda: drawn) == drawn * step < step


def test_an_empty_schedule_retries_at_once() -> None:
    assert delay((), 3, lambda: 0.5) == 0


def test_a_claim_outlives_the_process_that_made_it() -> None:
    assert lease(HANDLER, message_seconds=1.0) > hard_limit(HANDLER, message_seconds=1.0) > 1.0 + HANDLER.timeout


def test_an_error_keeps_one_line_and_its_traceback() -> None:
    with pytest.raises(ValueError, match="first") as caught:
        int_of_two_lines()
    outcome = decide(claimed(), HANDLER, caught.value, duration=0.1)
    assert outcome.error == "ValueError: first"
    assert "in int_of_two_lines" in (outcome.traceback or "")
