"""A quiet tenant does not notice a noisy one, from the outside: one tenant's backlog fills every slot of the stack."""

from __future__ import annotations

import signal
import time
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING

import pytest

from tests.moveris import other
from tests.system.ledger import account, effects, wait_until_settled
from tests.system.stack import kill
from tests.system.test_kills import MAINS
from tests.system.test_leases import frozen
from tests.system.waiting import until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.system.stack import Stack

BACKLOG = 600
"""Events of 30 ms: four slots take more than four seconds."""


@contextmanager
def flood(stack: Stack, tenant: str, ids_file: Path) -> Iterator[list[str]]:
    """Let a backlog of a tenant fill every slot for the block; afterwards all of it has been handled."""
    stack.query("UPDATE tenants SET paused_at = now() WHERE name = %s", [tenant])
    stack.pipeline("send", tenant, f"--count={BACKLOG}", "--event=effect.slowly", f"--ids-file={ids_file}")
    ids = ids_file.read_text().split()
    until(lambda: account(stack, ids).is_stored, seconds=20, what="the stored backlog")
    stack.query("UPDATE tenants SET paused_at = NULL WHERE name = %s", [tenant])
    until(lambda: account(stack, ids).succeeded > 0, seconds=30, what="progress")
    yield ids
    assert account(stack, ids).open > 0, "the backlog was over too soon to show anything"
    done = wait_until_settled(stack, ids, seconds=60)
    assert (done.succeeded, done.failed) == (BACKLOG, 0)


def seconds_until_handled(stack: Stack, tenant: str) -> float:
    """Send an event of a tenant; return how long it took to take effect."""
    endpoint = stack.endpoint(tenant)
    began = time.monotonic()
    event_id = endpoint.deliver(other("effect.anyone"))
    until(lambda: effects(stack, [event_id]), seconds=20, what="the effect", every=0.01)
    return time.monotonic() - began


def test_a_quiet_tenants_event_does_not_wait_for_the_slots_that_another_fills(stack: Stack, tmp_path: Path) -> None:
    seconds_until_handled(stack, "still")  # from then on it is known to be quick
    with flood(stack, "noisy", tmp_path / "ids"):
        taken = sorted(seconds_until_handled(stack, "still") for _ in range(5))
    assert taken[2] < 0.5, taken


@pytest.mark.long
def test_without_an_express_worker_a_quiet_tenants_event_waits_two_seconds_longer_at_most(
    stack: Stack, tmp_path: Path
) -> None:
    seconds_until_handled(stack, "alone")
    express = stack.main("express")
    with flood(stack, "noisy-too", tmp_path / "ids"), frozen(express, *stack.children("express")):
        # Two seconds, and up to one until the next sweep; the rest is for a machine that runs other tests beside it.
        assert seconds_until_handled(stack, "alone") < 6.0


@pytest.mark.long
def test_kill_nine_of_the_express_worker_delays_a_quiet_tenants_event_by_two_seconds_at_most(
    stack: Stack, tmp_path: Path
) -> None:
    seconds_until_handled(stack, "alone")
    with flood(stack, "noisy-too", tmp_path / "ids"):
        former = stack.main("express")
        for process in (former, *stack.children("express")):
            kill(process)
        assert seconds_until_handled(stack, "alone") < 4.0
    stack.successor("express", former)


@pytest.mark.long
def test_restarting_everything_while_a_backlog_is_worked_off_loses_nothing(stack: Stack, tmp_path: Path) -> None:
    quiet = stack.endpoint("still")
    with flood(stack, "noisy", tmp_path / "ids"):
        event_ids = [quiet.deliver(other("effect.anyone")) for _ in range(5)]
        former = [stack.main(name) for name in MAINS]
        for name, process in zip(MAINS, former, strict=True):
            process.send_signal(signal.SIGINT if name == "postgres" else signal.SIGTERM)
    for name, process in zip(MAINS, former, strict=True):
        stack.successor(name, process, seconds=60)
        until(partial(stack.is_alive, name), seconds=30, what=f"a new {name}")
    assert wait_until_settled(stack, event_ids, seconds=60).succeeded == len(event_ids)
    until(lambda: len(effects(stack, event_ids)) == len(event_ids), seconds=20, what="each effect")
