"""A Redis that does not answer is waited for by one page, and not by those of the next seconds."""

from __future__ import annotations

import pytest
import redis

from deploy.console.breaker import OPEN_SECONDS, Breaker


def test_after_it_has_not_answered_it_is_not_asked_for_some_seconds() -> None:
    now = 1000.0
    breaker = Breaker(clock=lambda: now)
    with pytest.raises(redis.TimeoutError), breaker.asking():
        raise redis.TimeoutError
    with pytest.raises(redis.ConnectionError, match="a moment ago"), breaker.asking():
        pytest.fail("it was asked")
    now += OPEN_SECONDS
    with breaker.asking():
        pass


def test_what_it_refuses_is_an_answer() -> None:
    breaker = Breaker()
    with pytest.raises(redis.ResponseError), breaker.asking():
        raise redis.ResponseError
    with breaker.asking():
        pass
