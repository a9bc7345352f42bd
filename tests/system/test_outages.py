"""Postgres or Redis away for a while, under load."""

from __future__ import annotations

import signal
import time
from typing import TYPE_CHECKING

from tests.system.ledger import effects, effects_of_more_than_one_run, wait_until_settled
from tests.system.provider import Load
from tests.system.waiting import until

if TYPE_CHECKING:
    from tests.system.provider import Answered
    from tests.system.stack import Stack

OUTAGE_SECONDS = 20
ANSWER_SECONDS = 1.25
"""What the ingress promises, one second, and what this process itself may add on a busy machine."""


def _wait_for_acknowledged(load: Load, count: int, *, seconds: float = 30) -> None:
    enough = len(load.acknowledged) + count
    until(lambda: len(load.acknowledged) >= enough, seconds=seconds, what=f"{count} more acknowledged events")


def test_with_postgres_stopped_for_twenty_seconds_every_event_is_acknowledged_and_handled_later(stack: Stack) -> None:
    with Load(stack.endpoint("postgres-away"), rate=50, event="effect.anyone") as load:
        _wait_for_acknowledged(load, 50)
        with stack.held_down("postgres", by=signal.SIGINT):
            time.sleep(OUTAGE_SECONDS)
            _wait_for_acknowledged(load, 50)
        _wait_for_acknowledged(load, 50)
    assert {answer.status for answer in load.answers} == {200}
    ids = load.acknowledged
    account = wait_until_settled(stack, ids, seconds=60)
    assert (account.succeeded, account.failed) == (len(ids), 0)
    assert len(effects(stack, ids)) == len(ids)
    assert effects_of_more_than_one_run(stack) == []


def _check_refusals(refused: list[Answered]) -> None:
    assert refused
    assert {answer.status for answer in refused} == {503}
    assert all(answer.retry_after and int(answer.retry_after) > 0 for answer in refused)
    assert max(answer.seconds for answer in refused) < ANSWER_SECONDS


def test_with_redis_stopped_every_request_is_refused_within_a_second_and_all_flows_after_its_return(
    stack: Stack,
) -> None:
    with Load(stack.endpoint("redis-away"), rate=20, event="effect.anyone") as load:
        _wait_for_acknowledged(load, 20)
        with stack.held_down("valkey", by=signal.SIGTERM):
            first = len(load.answers) + 1  # one may be on its way
            until(lambda: len(load.answers) >= first + 5, seconds=15, what="five answers")
            last = len(load.answers)
        _wait_for_acknowledged(load, 20)
    _check_refusals(load.answers[first:last])
    account = wait_until_settled(stack, load.acknowledged, seconds=60)
    assert account.failed == 0


def test_a_redis_that_hangs_is_answered_for_within_a_second_too(stack: Stack) -> None:
    valkey = stack.main("valkey")
    with Load(stack.endpoint("redis-slow"), rate=20, event="effect.anyone") as load:
        _wait_for_acknowledged(load, 20)
        valkey.suspend()
        try:
            first = len(load.answers) + 1
            until(lambda: len(load.answers) >= first + 3, seconds=15, what="three answers")
            last = len(load.answers)
        finally:
            valkey.resume()
        _wait_for_acknowledged(load, 20)
    _check_refusals(load.answers[first:last])
    account = wait_until_settled(stack, load.acknowledged, seconds=60)
    assert account.failed == 0
