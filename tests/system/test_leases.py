"""A worker that is stopped beyond its lease and comes back: it overlaps with its successor, never in effect."""

from __future__ import annotations

import tempfile
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import psutil

from tests.moveris import other
from tests.system.ledger import attempts, delivery, effects
from tests.system.waiting import until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.system.stack import Stack

HANDLER = "failures.frozen"
OPEN_TRANSACTIONS = (
    "SELECT pid FROM pg_stat_activity WHERE application_name = 'pipeline handler' AND xact_start IS NOT NULL"
)


def test_writes_of_a_worker_stopped_beyond_its_lease_are_undone_when_it_comes_back(stack: Stack) -> None:
    """Stop a worker with two deliveries in hand, one before and one after its write.

    It comes back while another worker runs the one that had written: only the fence tells the two runs apart.
    """
    with tempfile.TemporaryDirectory(prefix="pipeline-frozen-", dir="/tmp") as folder:
        folders = {writes: Path(folder) / writes for writes in ("before", "after")}
        ids = {}
        for writes, own in folders.items():
            own.mkdir()
            ids[writes] = stack.endpoint("frozen").deliver(other("failure.frozen", folder=str(own), writes=writes))
        until(lambda: all(_read(own / "began") for own in folders.values()), seconds=20, what="both handlers' begin")
        main = stack.main("handlers")
        children = [psutil.Process(int(_read(own / "began"))) for own in folders.values()]
        with stack.second_worker("handlers"), frozen(main), frozen(*children):
            successor = folders["before"] / "successor"
            until(successor.exists, seconds=60, what="the run that takes over")
            for own in folders.values():
                (own / "gate").touch()
            for child in children:
                child.resume()
            until(lambda: all((own / "ended").exists() for own in folders.values()), seconds=20, what="the late ends")
            until(lambda: not stack.query(OPEN_TRANSACTIONS), seconds=20, what="the end of the late transactions")
            (folders["before"] / "go").touch()
            for event_id in ids.values():
                delivery(stack, event_id, HANDLER, "succeeded", seconds=30)
    for event_id in ids.values():
        assert "WorkerLost" in attempts(stack, event_id, HANDLER)[0]["error"]
        assert [effect["note"] for effect in effects(stack, [event_id])] == ["in time"]


@contextmanager
def frozen(*processes: psutil.Process) -> Iterator[None]:
    """Stop processes for the block, if nobody resumes them before its end."""
    for process in processes:
        process.suspend()
    try:
        yield
    finally:
        for process in processes:
            with suppress(psutil.NoSuchProcess):
                process.resume()


def _read(path: Path) -> str:
    return path.read_text() if path.exists() else ""
