"""How the drain, admission, claims and outcomes fare while more and more waits.

Backlogs stand beside each other, each in a database of its own, and are measured in turn.
"""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

from tests.benchmarks.fill import fill_inbox, fill_pending
from tests.benchmarks.growth.inside import Inside
from tests.benchmarks.growth.meter import Meter
from tests.benchmarks.growth.plans import explain
from workers.housekeeping import sweeper

if TYPE_CHECKING:
    from tests.benchmarks.ground import Ground, Place

ROUNDS = 5
SWEEPS = 100
SMALL_DRAINS = 10
HANDLER = "bench.nothing"
_TENANTS = """
INSERT INTO tenants (name) SELECT replace(%(tenant)s, '*', n::text) FROM generate_series(0, %(tenants)s - 1) AS n
"""


def measure_inbox(ground: Ground, results: dict[str, Any], *, full: bool) -> None:
    """The drain of entries behind which more and more wait; where few do, it is filled again and again."""
    meter = Meter(ground)
    with ExitStack() as stack:
        sizes = (1_000, 10_000, 100_000, *((1_000_000,) if full else ()))
        places = {size: stack.enter_context(ground.fresh(number)) for number, size in enumerate(sizes)}
        insides = {size: Inside(place) for size, place in places.items()}
        for size, place in places.items():
            fill_inbox(place, max(size, 3_000) + 3_000)
            insides[size].drain(0.5)  # plans, connections and caches
        for _ in range(ROUNDS):
            for waiting, place in places.items():
                cpu, read = 0.0, 0
                for _ in range(max(1, SMALL_DRAINS * 1_000 // waiting)):
                    fill_inbox(place, max(0, waiting - place.redis.xlen("inbox")))
                    entries: list[int] = []
                    work = insides[waiting]
                    cpu += meter.measure(lambda w=work, e=entries: e.append(w.drain(1.5))).cpu  # type: ignore[misc]
                    read += entries[0]
                meter.note(waiting, cpu / read * 1e6)
    results["curves"]["drain by entries waiting"] = {
        "x": "entries in the inbox",
        "y": "µs of CPU per event",
        "lines": {"worker, Postgres, Redis": meter.points()},
        "flat": True,
    }


def measure_pending(ground: Ground, results: dict[str, Any], *, full: bool) -> None:
    """Admission, a message's way, and a sweep while more and more is pending."""
    meter = Meter(ground)
    with ExitStack() as stack:
        backlogs = [
            Backlog(stack.enter_context(ground.fresh()), pending)
            for pending in (1_000, 10_000, 100_000, *((1_000_000,) if full else ()))
        ]
        for number in range(ROUNDS + 2):
            kept = meter if number > 1 else Meter(ground)  # plans are made once, after five runs
            for backlog in backlogs:
                backlog.measure(kept)
        for unit, names in (("delivery", ("admit", "run and record")), ("sweep", ("sweep",))):
            results["curves"][f"{unit} by deliveries pending"] = {
                "x": "deliveries pending",
                "y": f"µs of CPU per {unit}",
                "lines": {name: meter.points(name) for name in names},
                "flat": True,
            }
        results["plans"] = {f"{it.pending:,} pending": explain(it.inside.postgres.connection) for it in backlogs}


class Backlog:
    """One place with so much pending, in one lane or in more."""

    def __init__(self, place: Place, pending: int, *, tenant: str = "acme", tenants: int = 1) -> None:
        self.pending = pending
        self.inside = Inside(place)
        self._connection = place.connect()
        self._lanes = {"tenant": tenant, "tenants": tenants}
        self._connection.execute(_TENANTS, {"tenant": tenant, "tenants": tenants})
        self._connection.execute("VACUUM ANALYZE tenants")
        self._fill(pending)

    def measure(self, meter: Meter, at: int | None = None) -> None:
        """Admit as many as the smallest backlog has, run them; sweep. Noted at `at`, by default what is pending."""
        at = self.pending if at is None else at
        for _ in range(3):
            messages: list[Any] = []
            admitted = meter.measure(lambda: messages.extend(self.inside.admit(slots=1)))  # noqa: B023 - called at once
            count = sum(len(message.deliveries) for message in messages)
            ran = meter.measure(lambda: self.inside.run(messages))  # noqa: B023 - the same
            meter.note(("admit", at), admitted.cpu / count * 1e6)
            meter.note(("run and record", at), ran.cpu / count * 1e6)
            if self.pending <= 10_000:  # what is larger is not made noticeably smaller
                self._fill(count)
        meter.note(("sweep", at), meter.measure(self._sweep).cpu / SWEEPS * 1e6)

    def _fill(self, count: int) -> None:
        fill_pending(self._connection, count, handler=HANDLER, **self._lanes)  # type: ignore[arg-type]
        self._connection.execute("VACUUM ANALYZE deliveries")

    def _sweep(self) -> None:
        for _ in range(SWEEPS):
            sweeper.expire_leases(self.inside.postgres.connection)
            sweeper.return_queued(self.inside.postgres.connection, list_named=list)
