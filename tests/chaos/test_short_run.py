"""The fault run, the fuzz run and slow clients, shortened and with a fixed seed, on one stack."""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest
import uvloop

from tests.chaos import constant_time, picture, report, slow_clients
from tests.chaos.client import HUNG
from tests.chaos.faults import FAULTS, load
from tests.chaos.fuzz import MEMORY_MB, count_forged, fuzz
from tests.chaos.reconcile import wait_until_quiet
from tests.chaos.run import Plan, measure_capacity, run
from tests.chaos.stack import Stack
from tests.chaos.watch import errors_in, memory_of

if TYPE_CHECKING:
    from tests.chaos.fuzz import Tally
    from tests.chaos.run import Result
    from tests.chaos.slow_clients import Comparison

pytestmark = [pytest.mark.system, pytest.mark.long, pytest.mark.timeout(240)]

SEED = 20_260
SHORT = (
    "kill-ingress",
    "kill-drain-before-ack",
    "kill-handler-after-write",
    "kill-redis",
    "kill-postgres",
    "flush-queues",
)


@dataclass(frozen=True, kw_only=True)
class Short:
    """What came of the short run."""

    tally: Tally
    memory: float
    forged: int
    errors: list[str]
    slow: Comparison
    result: Result


@pytest.fixture(scope="module")
def short() -> Short:
    return uvloop.run(run_everything())


async def run_everything() -> Short:
    """Do everything on one stack: starting it takes longer than most of it."""
    load()
    started = time.monotonic()

    def say(what: str) -> None:
        sys.stderr.write(f"{time.monotonic() - started:6.1f} s {what}\n")

    async with Stack(settings={"INGRESS_BODY_TIMEOUT": "2"}, with_clock=False) as stack:
        say("up")

        def memory() -> float:
            return sum(memory_of(stack, "ingress").values())

        before = memory()
        tally = await fuzz(stack.endpoints(), count=1000, seed=SEED, patience=30, memory=memory, on_step=lambda _: None)
        await wait_until_quiet(stack, seconds=60, on_step=lambda _: None)
        forged = await count_forged(stack, tally.signed)
        errors = errors_in(stack.logs / "ingress.log")
        say("fuzzed")
        slow = await slow_clients.compare(stack.endpoints(), clients=60, seconds=2, turns=1, rate=30, spread=1)
        say("slow clients")
        capacity = await measure_capacity(stack, events=100, seconds=60)
        say(f"capacity {capacity:.0f}/s")
        plan = Plan(faults=SHORT, seconds=60, rounds=1, rate=max(5.0, min(60.0, 0.3 * capacity)), seed=SEED)
        result = await run(stack, plan, on_step=lambda _, what: say(what))
    return Short(tally=tally, memory=tally.most_memory - before, forged=forged, errors=errors, slow=slow, result=result)


def test_requests_that_no_provider_sends_are_answered_as_documented(short: Short) -> None:
    assert short.tally.requests >= 1000
    assert not short.tally.unexpected
    assert not short.tally.hung
    assert set(short.tally.statuses) >= {200, 400, 401, 404, 405}


def test_of_requests_that_no_provider_sends_only_signed_ones_are_stored(short: Short) -> None:
    assert short.tally.signed
    assert short.forged == 0


def test_requests_that_no_provider_sends_leave_no_exception_in_the_log(short: Short) -> None:
    assert not short.errors


def test_requests_that_no_provider_sends_cost_bounded_memory_and_no_signed_event_fails_beside_them(
    short: Short,
) -> None:
    assert short.memory < MEMORY_MB
    assert short.tally.beside
    assert all(is_stored for _, is_stored in short.tally.beside)


def test_slow_clients_are_held_while_normal_requests_are_answered(short: Short) -> None:
    assert short.slow.held > 40
    assert not short.slow.beside.failed


def test_nothing_acknowledged_is_lost_stored_twice_or_done_twice(short: Short) -> None:
    total = short.result.total
    assert total.acknowledged > 100
    assert (total.lost, total.altered, total.twice, total.forged) == (0, 0, 0, 0)
    assert (total.undelivered, total.unfinished, total.missing, total.doubled) == (0, 0, 0, 0)


def test_beside_faults_tenants_meet_their_limits_and_nothing_that_they_were_acknowledged_is_lost(short: Short) -> None:
    assert short.result.total.codes["rate_limited"]
    assert short.result.total.codes["inbox_share_full"]
    assert short.result.total.lost == 0


def test_no_request_hangs_and_no_answer_is_an_error_of_ours(short: Short) -> None:
    assert short.result.total.outcomes[HUNG] == 0
    assert short.result.total.server_errors == 0


def test_the_pipeline_recovers_from_every_fault(short: Short) -> None:
    assert not short.result.late
    assert not short.result.never
    assert not short.result.broken
    assert {one.name for one in short.result.injections} == set(SHORT)


def test_the_report_and_the_picture_tell_all_of_it(short: Short) -> None:
    told = report.as_json(short.result)
    assert told["verdict"] == []
    assert set(told["faults"]) == set(SHORT)
    assert all(name in picture.draw(short.result) for name in SHORT)


def test_every_fault_says_what_it_does() -> None:
    load()
    assert all(fault.about for fault in FAULTS.values())


def test_a_comparison_that_ends_early_is_told_apart_and_ours_is_not() -> None:
    found = constant_time.inside(pairs=20_000, seed=SEED)
    assert found["early"].can_be_told
    assert not found["verify"].can_be_told
