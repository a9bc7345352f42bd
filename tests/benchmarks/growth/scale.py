"""Processes, body sizes, handlers per event: each costs what it brings, and no more."""

from __future__ import annotations

import os
import time
from contextlib import ExitStack
from functools import partial
from typing import TYPE_CHECKING, Any

from tests.benchmarks.fill import fill_inbox
from tests.benchmarks.growth.inside import Inside
from tests.benchmarks.growth.meter import Meter, cpu_of
from tests.benchmarks.processes import load, run_ours
from tests.benchmarks.storing import watch_drain
from tests.launching import free_port

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.benchmarks.ground import Ground

BACKLOG = 40_000
REQUESTS = 20_000
EASY_RATE, EASY_SECONDS = 1_500, 4
"""Requests a second, and how long."""


def measure_processes(ground: Ground, results: dict[str, Any], *, full: bool) -> None:
    """Ingress processes on one stream, and drain processes: CPU per request and per event, and rates.

    A request is measured at a rate that one process carries easily, beyond what the processes cost at rest. At the
    highest rate one process and the load generator take turns, 64 requests at a time, while several contend for the
    cores with it: the same request then costs twice the CPU time, whatever the processes share.
    """
    meter = Meter(ground)
    for _ in range(3 if full else 1):
        for count in (1, 2, 4):
            with ground.fresh() as place:
                port = free_port()
                place.add_endpoint()
                with run_ours(place, "ingress", ingress_port=port, INGRESS_WORKERS=count) as pids:
                    load("closed", port=port, count=4000)
                    meter.note(("acks/s", count), load("closed", port=port, count=REQUESTS)["rate"])
                    at_rest = _cpu_while(pids["ingress"], lambda: time.sleep(EASY_SECONDS))
                    calm = partial(load, "opened", port=port, rate=EASY_RATE, seconds=EASY_SECONDS, warm_up=0)
                    cost = _cpu_while(pids["ingress"], calm) - at_rest
                    meter.note(("ingress", count), cost / (EASY_RATE * EASY_SECONDS) * 1e6)
            with ground.fresh() as place:
                fill_inbox(place, BACKLOG)
                with run_ours(place, "ingest", drains=count, HANDLERS="tests.benchmarks.handlers.nothing") as pids:
                    measured = Meter(ground, others=(pids["ingest"],))
                    rates: list[float] = []
                    drained = measured.measure(lambda place=place, r=rates: r.append(watch_drain(place, BACKLOG)))  # type: ignore[misc]
                    meter.note(("drain", count), drained.cpu / BACKLOG * 1e6)
                    meter.note(("stored/s", count), rates[0])
    rates_by = {name: dict(meter.points(name)) for name in ("acks/s", "stored/s")}
    results["tables"][f"rates by processes, on {os.cpu_count()} cores"] = {
        "headings": ["processes", *rates_by],
        "rows": [[f"{count}", *(f"{points[count]:,.0f}" for points in rates_by.values())] for count in (1, 2, 4)],
    }
    results["curves"]["event by processes"] = {
        "x": "processes",
        "y": "µs of CPU per event",
        "lines": {"ingress": meter.points("ingress"), "drain with Postgres": meter.points("drain")},
        "flat": True,
    }


def _cpu_while(pid: int, work: Callable[[], object]) -> float:
    """Return the seconds of CPU that a process and its children used while something ran."""
    before = cpu_of(pid)
    work()
    return cpu_of(pid) - before


def measure_bodies(ground: Ground, results: dict[str, Any], *, full: bool) -> None:
    """Bodies of 0.2 to 256 kB: the cost of a byte, after the cost of the smallest event."""
    meter = Meter(ground)
    for _ in range(3 if full else 1):
        fixed: dict[str, float] = {}
        for size, count in ((200, 10_000), (16_384, 3_000), (65_536, 1_000), (262_144, 400)):
            with ground.fresh() as place:
                port = free_port()
                place.add_endpoint()
                inside = Inside(place)
                with run_ours(place, "ingress", ingress_port=port) as pids:
                    load("closed", port=port, count=500, size=size)
                    inside.drain()
                    before = cpu_of(pids["ingress"])
                    load("closed", port=port, count=count, size=size)
                    costs = {"ingress": (cpu_of(pids["ingress"]) - before) / count * 1e6}
                costs["drain"] = meter.measure(lambda inside=inside: inside.drain(60)).cpu / count * 1e6  # type: ignore[misc]
            fixed = fixed or costs
            if size > 200:
                for name, cost in costs.items():
                    meter.note((name, size / 1024), (cost - fixed[name]) / (size - 200) * 1024)
    results["curves"]["kilobyte by body size"] = {
        "x": "kB of a body",
        "y": "µs of CPU per kB beyond the first 0.2",
        "lines": {name: meter.points(name) for name in ("ingress", "drain")},
        "flat": True,
    }


def measure_handlers(ground: Ground, results: dict[str, Any], *, full: bool) -> None:
    """1 to 20 handlers of each event: what each delivery costs, made, admitted, run and recorded."""
    meter, events = Meter(ground), 1_000
    with ExitStack() as stack:
        places = {count: stack.enter_context(ground.fresh()) for count in (1, 5, 20)}
        insides = {}
        for count, place in places.items():
            os.environ["HANDLER_COUNT"] = str(count)
            insides[count] = Inside(place, "many")
        for number in range(6 if full else 4):
            kept = meter if number else Meter(ground)
            for count, inside in insides.items():
                fill_inbox(places[count], events)
                stored = meter.measure(lambda inside=inside: inside.drain(60))  # type: ignore[misc]
                kept.note(("stored", count), stored.cpu / events * 1e6)

                def handle(inside: Inside = inside) -> None:
                    while messages := inside.admit(slots=10):  # room for a message of each handler
                        inside.run(messages)

                kept.note(("admitted, run, recorded", count), meter.measure(handle).cpu / events / count * 1e6)
    stored_by = dict(meter.points("stored"))
    results["tables"]["storing an event by handlers"] = {
        "headings": ["handlers", "µs of CPU per event", "µs per delivery beyond the first"],
        "rows": [
            [f"{count:g}", f"{cost:.0f}", f"{(cost - stored_by[1]) / (count - 1):.1f}" if count > 1 else ""]
            for count, cost in stored_by.items()
        ],
    }
    results["curves"]["delivery by handlers per event"] = {
        "x": "handlers per event",
        "y": "µs of CPU per delivery",
        "lines": {"admitted, run, recorded": meter.points("admitted, run, recorded")},
        "flat": True,
    }
