"""How fast a backlog is stored: ours, and COPY of the same rows."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from tests.benchmarks.fill import fill_inbox
from tests.benchmarks.measuring import POLL_SECONDS, wait_until
from tests.benchmarks.processes import run_ours

if TYPE_CHECKING:
    from tests.benchmarks.ground import Ground, Place
    from tests.benchmarks.measuring import Figures, Sizes


def measure_copy(ground: Ground, sizes: Sizes) -> Figures:
    """COPY of the same rows into the same table, a transaction for each thousand."""
    with ground.fresh() as place:
        fill_inbox(place, 1000)
        with run_ours(place, "ingest", HANDLERS="tests.benchmarks.handlers.nothing"):
            wait_until(lambda: place.query("SELECT count(*) AS n FROM events")["n"] == 1000)
        with place.connect() as connection:
            with connection.cursor().copy("COPY (SELECT * FROM events) TO STDOUT") as copy:
                lines = [bytes(line) for line in copy]
            total, began = 0, time.perf_counter()
            for batch in range(max(10, sizes.backlog // 4000)):
                with connection.transaction(), connection.cursor().copy("COPY events FROM STDIN") as copy:
                    copy.write(b"".join(renumber(line, batch) for line in lines))
                total += len(lines)
            elapsed = time.perf_counter() - began
    return {"copy_rate": total / elapsed}


def renumber(line: bytes, batch: int) -> bytes:
    """Return a row of COPY under another id of the same day."""
    return line[:24] + b"%012x" % (int(line[24:36], 16) ^ (batch + 1) << 24) + line[36:]


def measure_stored(ground: Ground, sizes: Sizes) -> Figures:
    """A backlog in the inbox, stored with its deliveries; no handler runs."""
    with ground.fresh() as place:
        fill_inbox(place, sizes.backlog)
        with run_ours(place, "ingest", HANDLERS="tests.benchmarks.handlers.nothing"):
            rate = watch_drain(place, sizes.backlog)
        stored = place.query("SELECT count(*) AS n FROM events")["n"]
        if stored != sizes.backlog:
            raise RuntimeError(f"{stored} of {sizes.backlog} events are stored")
    return {"stored_rate": rate}


def watch_drain(place: Place, backlog: int) -> float:
    """Return the rate from the first entry that leaves the inbox to the last."""
    began = first = None
    while (waiting := place.waiting()) > 0:
        if waiting < backlog and began is None:
            began, first = time.perf_counter(), waiting
        time.sleep(POLL_SECONDS)
    if began is None or first is None:
        raise RuntimeError("the backlog was stored between two looks: make it larger")
    return float(first) / (time.perf_counter() - began)
