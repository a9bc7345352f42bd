"""How the drain, admission, claims and outcomes fare while more and more waits."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tests.benchmarks.fill import fill_inbox, fill_pending
from tests.benchmarks.growth.inside import Inside, plan_of
from tests.benchmarks.growth.meter import Meter
from workers import sweeper

if TYPE_CHECKING:
    from tests.benchmarks.ground import Ground

ROUNDS = 3
SWEEPS = 300
_SEQUENTIAL = ("Seq Scan on deliveries", "Sort Key: deliveries")


def measure_inbox(ground: Ground, results: dict[str, Any], *, full: bool) -> None:
    """The drain of entries behind which more and more wait; the same number is stored at each point."""
    meter = Meter(ground)
    sizes = (1_000, 10_000, 100_000, *((1_000_000,) if full else ()))
    for waiting in sizes:
        for _ in range(ROUNDS):
            with ground.fresh() as place:
                inside = Inside(place)
                fill_inbox(place, 1000)
                inside.drain()  # plans, connections and caches
                fill_inbox(place, waiting)
                read = 0
                cost = meter.measure(lambda inside=inside: meter.note("read", inside.drain(4.0)))  # type: ignore[misc]
                read = int(meter.costs.pop("read")[0])
                for _ in range(0 if waiting > 1000 else 9):  # as many entries as at the other points
                    fill_inbox(place, waiting)
                    more = meter.measure(lambda inside=inside: meter.note("read", inside.drain(4.0)))  # type: ignore[misc]
                    cost.cpu += more.cpu
                    read += int(meter.costs.pop("read")[0])
                meter.note(waiting, cost.cpu / read * 1e6)
            if waiting >= 100_000:
                break
    results["curves"]["drain by entries waiting"] = {
        "x": "entries in the inbox",
        "y": "µs of CPU per event",
        "lines": {"worker, Postgres, Redis": meter.points()},
        "flat": True,
    }


def measure_pending(ground: Ground, results: dict[str, Any], *, full: bool) -> None:
    """Admission, a message's way, and a sweep while more and more is pending."""
    meter = Meter(ground)
    for pending in (1_000, 10_000, 100_000, *((1_000_000,) if full else ())):
        with ground.fresh() as place:
            inside = Inside(place)
            with place.connect() as connection:
                fill_pending(connection, pending, handler="bench.nothing")
                connection.execute("VACUUM ANALYZE deliveries")
            for _ in range(8):  # plans are made once, after five runs
                _top_up(place, pending)
                inside.run(inside.admit())
            for _ in range(12):
                _top_up(place, pending)
                messages: list[Any] = []
                admitted = meter.measure(lambda inside=inside, m=messages: m.extend(inside.admit()))  # type: ignore[misc]
                count = sum(len(message.deliveries) for message in messages)
                ran = meter.measure(lambda inside=inside, m=messages: inside.run(m))  # type: ignore[misc]
                meter.note(("admit", pending), admitted.cpu / count * 1e6)
                meter.note(("run and record", pending), ran.cpu / count * 1e6)
            connection = inside.link.connection

            def sweep(connection: Any = connection, inside: Any = inside) -> None:
                for _ in range(SWEEPS):
                    sweeper.expire_leases(connection, inside.handlers)
                    sweeper.return_queued(connection, queue_is_empty=False)

            sweep()
            meter.note(("sweep", pending), meter.measure(sweep).cpu / SWEEPS * 1e6)
            plans = explain(connection)
    results["plans"] = results.get("plans", {}) | {f"{pending} pending": plans}
    guilty = [name for name, plan in plans.items() if any(word in plan for word in _SEQUENTIAL)]
    if guilty:
        raise RuntimeError(f"admission reads the backlog: {guilty}")
    for unit, names in (("delivery", ("admit", "run and record")), ("sweep", ("sweep",))):
        results["curves"][f"{unit} by deliveries pending"] = {
            "x": "deliveries pending",
            "y": f"µs of CPU per {unit}",
            "lines": {name: meter.points(name) for name in names},
            "flat": True,
        }


def _top_up(place: Any, pending: int) -> None:
    """Keep a small backlog as long as it should be."""
    if pending <= 10_000:
        with place.connect() as connection:
            there = connection.execute("SELECT count(*) AS n FROM deliveries WHERE ready").fetchone()["n"]
            if there < pending:
                fill_pending(connection, pending - there, handler="bench.nothing")


def explain(connection: Any) -> dict[str, str]:
    """Return the plans of admission and of the sweep, with their times."""
    lane = {"tenants": ["acme"], "handlers": ["bench.nothing"], "depth": 256}
    return {
        "list_lanes": plan_of(connection, "list_lanes", {"tenant": "", "handler": "", "most": 256}),
        "list_candidates": plan_of(connection, "list_candidates", lane),
        "promote_due": plan_of(connection, "promote_due", {}),
    }
