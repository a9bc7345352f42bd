"""Handlers that fail in every way a handler can."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import TYPE_CHECKING

from tests.system.handlers.effects import write
from workers import GenericEvent, Permanent, RetryAfter, handler

if TYPE_CHECKING:
    from workers import Delivery, Event


@handler("failures.fatal", event="failure.fatal", timeout=2, schedule=(0.1,), max_attempts=2)
def fatal(event: GenericEvent, delivery: Delivery) -> None:
    """End the process without a word if the event asks for that; else take effect."""
    if event.json().get("fatal"):
        os._exit(1)
    write(delivery)


@handler("failures.endless", event="failure.endless", timeout=1, schedule=(0.1,), max_attempts=1)
def endless(event: Event, delivery: Delivery) -> None:
    """Write, then never return."""
    write(delivery)
    while True:
        time.sleep(60)


@handler("failures.permanent", event="failure.permanent")
def permanent(event: Event, delivery: Delivery) -> None:
    """Write, then say that trying again is pointless."""
    write(delivery)
    raise Permanent("the account is closed")


@handler("failures.later", event="failure.later")
def later(event: Event, delivery: Delivery) -> None:
    """Ask to be tried again after a second, once."""
    write(delivery)
    if delivery.attempt == 1:
        raise RetryAfter(1, "the other side asks for a second")


@handler("failures.broken", event="failure.pair", schedule=(0.2,), max_attempts=3)
def broken(event: Event, delivery: Delivery) -> None:
    """Fail each time, with a text that must not reach Flower if it were the payload."""
    write(delivery)
    raise LookupError("no such user")


@handler("failures.neighbour", event="failure.pair")
def neighbour(event: Event, delivery: Delivery) -> None:
    """Take effect, whatever happens to the other handler of the same event."""
    write(delivery)


@handler("failures.frozen", event="failure.frozen", timeout=2, schedule=(0.1,), max_attempts=20)
def frozen(event: GenericEvent, delivery: Delivery) -> None:
    """Wait for a gate that opens while this process is stopped, swallow whatever comes then, go on all the same.

    The run that takes over waits for the end of the late one, where that has written before.
    """
    folder = Path(event.json()["folder"])
    began, successor, gate, ended, go = (folder / name for name in ("began", "successor", "gate", "ended", "go"))
    writes_before = event.json()["writes"] == "before"
    if began.exists():
        successor.touch()
        while writes_before and not go.exists():
            time.sleep(0.01)
        write(delivery, "in time")
        return
    if writes_before:  # and lifts every bound that would end the transaction: only the fence is left
        delivery.connection.execute("SET LOCAL idle_in_transaction_session_timeout = 0")
        delivery.connection.execute("SET LOCAL statement_timeout = 0")
        row = [delivery.event_id, delivery.handler]
        delivery.connection.execute("INSERT INTO effects (event_id, handler, note) VALUES (%s, %s, 'late')", row)
    began.write_text(str(os.getpid()))
    _wait_whatever_comes(gate)
    try:
        if not writes_before:
            write(delivery, "late")
    finally:
        ended.touch()


def _wait_whatever_comes(gate: Path) -> None:
    """Wait, and listen to nothing: not to the timeout either."""
    while True:
        try:
            while not gate.exists():
                time.sleep(0.01)
        except BaseException:  # noqa: BLE001, S112 - that is the handler this is about
            continue
        return
