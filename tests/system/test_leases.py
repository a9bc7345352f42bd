"""A worker that is stopped beyond its lease and comes back: it overlaps with its successor, never in effect."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import pytest

from tests.system.ledger import attempts, deliveries, delivery, effects
from tests.system.provider import other
from tests.system.waiting import until

if TYPE_CHECKING:
    from tests.system.stack import Stack

HANDLER = "failures.frozen"


@pytest.mark.timeout(150)
def test_writes_of_a_worker_stopped_beyond_its_lease_are_undone_when_it_comes_back(stack: Stack) -> None:
    """Stop a worker with two deliveries in hand, one before and one after its write; let another worker finish them."""
    with tempfile.TemporaryDirectory(prefix="pipeline-frozen-", dir="/tmp") as folder:
        folders = {writes: Path(folder) / writes for writes in ("before", "after")}
        ids = {}
        for writes, own in folders.items():
            own.mkdir()
            ids[writes] = stack.endpoint("frozen").deliver(other("failure.frozen", folder=str(own), writes=writes))
        until(lambda: all(_read(own / "began") for own in folders.values()), seconds=20, what="both handlers' begin")
        main = stack.main("handlers")
        children = [psutil.Process(int(_read(own / "began"))) for own in folders.values()]
        for process in (main, *children):
            process.suspend()
        with stack.second_worker("handlers"):
            try:
                for event_id in ids.values():
                    delivery(stack, event_id, HANDLER, "succeeded", seconds=60)
                for own in folders.values():
                    (own / "gate").touch()
            finally:
                for child in children:
                    child.resume()
            until(lambda: all((own / "ended").exists() for own in folders.values()), seconds=20, what="the late ends")
            time.sleep(0.5)  # for the commit that must not come; nothing announces it
            main.resume()
    for event_id in ids.values():
        (lost,) = attempts(stack, event_id, HANDLER)
        assert "WorkerLost" in lost["error"]
        row = deliveries(stack, event_id)[HANDLER]
        assert (row["state"], row["attempt"]) == ("succeeded", 2)
        assert [effect["note"] for effect in effects(stack, [event_id])] == ["in time"]


def _read(path: Path) -> str:
    return path.read_text() if path.exists() else ""
