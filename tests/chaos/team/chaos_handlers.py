"""Three handlers as a team would write them, and the orders by which the faults end or stop them in the middle.

`chaos.inside` writes through the delivery's connection: exactly one effect for each event, whatever happens.
`chaos.outside` writes through a connection of its own: at least one, and a row for each run that began.
`chaos.slow` is the flooding tenant's alone, and sleeps.
An order is a file; the first handler that comes along takes it, by renaming it, and obeys.
"""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any

import psycopg

from workers import Delivery, Event, handler

ORDERS = Path(os.environ["CHAOS_ORDERS"])
PATIENT: dict[str, Any] = {"timeout": 3.0, "schedule": (0.2, 0.5, 1.0, 2.0), "max_attempts": 40, "provider": "moveris"}
_own: list[psycopg.Connection[tuple[object, ...]]] = []


class Panic(BaseException):
    """What a native library raises, at its worst: no Exception, and without a text."""

    def __str__(self) -> str:
        raise RuntimeError("no text")


def obey(moment: str) -> None:
    """Take an order for this moment, if there is one: kill or stop this process, or raise what nobody expects."""
    for name, number in (("kill", signal.SIGKILL), ("stop", signal.SIGSTOP), ("panic", None)):
        order = ORDERS / f"{name}-{moment}"
        try:
            order.rename(ORDERS / f"{name}-{moment}.{os.getpid()}")
        except FileNotFoundError:
            continue
        if number is None:
            raise Panic
        os.kill(os.getpid(), number)


def own_connection() -> psycopg.Connection[tuple[object, ...]]:
    """Return this process's own connection, in autocommit."""
    if not _own or _own[0].closed or _own[0].broken:
        _own[:] = [
            psycopg.connect(os.environ["DATABASE_URL"], autocommit=True, connect_timeout=5, tcp_user_timeout=10000)
        ]
    return _own[0]


@handler("chaos.inside", **PATIENT)
def write_inside(event: Event, delivery: Delivery) -> None:
    """Write one effect with the outcome; fail the first time for one event in fifty."""
    obey("before-write")
    delivery.connection.execute(
        "INSERT INTO chaos_effects (event_id, attempt) VALUES (%s, %s)", [delivery.event_id, delivery.attempt]
    )
    obey("after-write")
    if delivery.event_id.int % 50 == 0 and delivery.attempt == 1:
        raise RuntimeError("the first attempt of one in fifty fails, after its writes")


@handler("chaos.slow", tenant="flooding", **PATIENT)
def sleep(event: Event, delivery: Delivery) -> None:
    """Hold a slot for half a second."""
    time.sleep(0.5)


@handler("chaos.outside", **PATIENT)
def write_outside(event: Event, delivery: Delivery) -> None:
    """Note when this run began and ended."""
    connection = own_connection()
    try:
        row = connection.execute(
            "INSERT INTO chaos_runs (event_id, attempt) VALUES (%s, %s) RETURNING number",
            [delivery.event_id, delivery.attempt],
        ).fetchone()
        obey("outside")
        connection.execute("UPDATE chaos_runs SET ended = clock_timestamp() WHERE number = %s", row)
    except BaseException:
        connection.close()  # its time may have ended in the middle of a command
        raise
