"""What one process of each duty needs: `python -m tests.benchmarks sizes`.

All run as `pipeline up` and the shipped manifests run them, with as many children, on servers of their own. Signed
events come at a fixed rate, to a handler that does nothing, until each process has seen thousands. It prints the memory
of each (proportional set size: what several share counts once), its CPU meanwhile, and its connections; and from these
what a pod should request: its CPU at that rate, and a quarter more than its memory, rounded up.
"""

from __future__ import annotations

import argparse
import math
import os
import threading
import time
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

import psutil

from tests.benchmarks import report
from tests.benchmarks.cost import Side, measure_turn
from tests.benchmarks.ground import stand_on
from tests.benchmarks.growth.meter import cpu_of
from tests.benchmarks.processes import run_ours
from tests.launching import free_port, open_url

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

RATE: Final = 200
"""Events a second."""
SECONDS: Final = 20
REFRESH_SECONDS: Final = 5.0
"""Between two looks at the console."""
WARM_UP: Final = 2_000
CHILDREN: Final = {"ingest": 2, "handlers": 4, "express": 1, "housekeeping": 1}
SERVICES: Final = ("ingress", "ingest", "handlers", "express", "housekeeping", "beat", "exporter", "flower", "console")
HEADINGS: Final = ("process", "memory", "CPU at that rate", "connections to Redis", "to Postgres", "a pod requests")


def main(arguments: Sequence[str]) -> None:
    """Parse the command line, measure, print, write the JSON that deploy/SCALING.md is made of."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.benchmarks sizes",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.parse_args(arguments)
    results = {
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "cores": os.cpu_count(),
        "load": os.getloadavg()[0],
        "sizes": measure(),
    }
    report.write_json(results, "sizes")
    report.print_table(rows_of(results), HEADINGS, f"one of each process at {RATE} events/s")


def measure() -> dict[str, dict[str, float]]:
    """Run one of each; return its needs by name."""
    with stand_on() as ground, ground.fresh() as place:
        place.add_endpoint()
        ports = {name: free_port() for name in ("INGRESS_PORT", "EXPORTER_PORT", "FLOWER_PORT", "CONSOLE_PORT")}
        more: dict[str, Any] = {"HANDLERS": "tests.benchmarks.handlers.nothing", **ports}
        slots, drains = CHILDREN["handlers"], CHILDREN["ingest"]
        with run_ours(place, *SERVICES, ingress_port=ports["INGRESS_PORT"], slots=slots, drains=drains, **more) as pids:
            side = Side(name="sizes", place=place, port=ports["INGRESS_PORT"], pids=pids)
            measure_turn(side, events=WARM_UP, rate=RATE)
            before, began = {name: cpu_of(pid) for name, pid in pids.items()}, time.monotonic()
            with browsing(f"http://127.0.0.1:{ports['CONSOLE_PORT']}/"):
                measure_turn(side, events=RATE * SECONDS, rate=RATE)
            seconds = time.monotonic() - began
            cpu = {name: (cpu_of(pid) - before[name]) / seconds for name, pid in pids.items()}
            servers = {"redis": urlsplit(ground.redis_url).port, "postgres": urlsplit(ground.postgres_url).port}
            return {name: {"cpu": cpu[name], **look_at(pids[name], servers)} for name in SERVICES}


@contextmanager
def browsing(url: str) -> Iterator[None]:
    """Load the console's first page every five seconds, as a browser does in which it is open."""
    is_over = threading.Event()

    def look() -> None:
        while not is_over.wait(REFRESH_SECONDS):
            open_url(url).close()

    browser = threading.Thread(target=look)
    browser.start()
    try:
        yield
    finally:
        is_over.set()
        browser.join()


def look_at(pid: int, servers: Mapping[str, int | None]) -> dict[str, float]:
    """Return the memory of a process and of all that it has started, MB, and its connections to each server."""
    found: dict[str, float] = {"memory": 0.0, **dict.fromkeys(servers, 0)}
    process = psutil.Process(pid)
    for one in (process, *process.children(recursive=True)):
        with suppress(psutil.NoSuchProcess):
            found["memory"] += one.memory_full_info().pss / 1e6
            for connection in one.net_connections("tcp"):
                for name, port in servers.items():
                    if connection.raddr and connection.raddr.port == port:
                        found[name] += 1
    return found


def request_of(size: Mapping[str, float]) -> tuple[int, int]:
    """Return what a pod should request: thousandths of a core, and MiB."""
    return max(25, math.ceil(size["cpu"] * 1000 / 25) * 25), math.ceil(size["memory"] * 1e6 / 2**20 * 1.25 / 16) * 16


def rows_of(results: Mapping[str, Any]) -> list[list[str]]:
    """Return a row for each process."""
    rows = []
    for name, size in results["sizes"].items():
        cpu, memory = request_of(size)
        said = f"{name}, `-c {CHILDREN[name]}`" if name in CHILDREN else name
        needs = [
            f"{size['memory']:.0f} MB",
            f"{size['cpu'] * 1000:.0f}m",
            f"{size['redis']:.0f}",
            f"{size['postgres']:.0f}",
        ]
        rows.append([said, *needs, f"{cpu}m, {memory}Mi"])
    return rows
