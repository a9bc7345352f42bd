"""What the exporter reads from Postgres: open work by state and tenant, what has been counted, days, snapshots.

Every read is bounded (`workers.store.figures`) and takes two seconds at the most; one that takes longer is left out.
However many tenants and handlers there are, only the `TENANTS` whose oldest work has waited longest and the `HANDLERS`
that were counted first have series of their own.
"""

from __future__ import annotations

import logging
from collections import Counter
from typing import TYPE_CHECKING, Final

from workers.dispatch.admission import QUEUED_SECONDS
from workers.store import figures, incidents, pauses, stats, tallies, tenants
from workers.store.connect import TIMED_OUT, PostgresConnection
from workers.store.identity import read_identity

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from deploy.exporter.figures import Families
    from shared.refusals import Refused
    from workers.store.connect import Connection
    from workers.store.figures import Lane
    from workers.store.tallies import Total

log: Final = logging.getLogger(__name__)

TENANTS: Final = 20
HANDLERS: Final = 100
STATEMENT_SECONDS: Final = 2.0
EVENT_OUTCOMES: Final = ("stored", "duplicate", "rejected")
ATTEMPT_OUTCOMES: Final = ("succeeded", "retried", "dead", "cancelled")
LOST: Final = "lost"


class PostgresFigures:
    """Reads Postgres on a connection of its own."""

    def __init__(
        self,
        database_url: str,
        *,
        schema: str,
        environment: str = "",
        list_refused: Callable[[], Sequence[Refused]] = tuple,
    ) -> None:
        """Connect at first use.

        Args:
            database_url: a postgresql:// URL.
            schema: of the tables; empty for where search_path points.
            environment: PIPELINE_ENVIRONMENT.
            list_refused: returns what Redis says of refused endpoints.
        """
        self._postgres = PostgresConnection(database_url, name="pipeline exporter", schema=schema)
        self._lanes = DueLanes()
        self._environment = environment
        self._list_refused = list_refused
        self.identity: str | None = None
        """Of the database, as it was at the last look; None before the first one."""

    def identify(self) -> None:
        """Read the identity of the database. Raises an error of `UNREACHABLE` if it is away."""
        self.identity = read_identity(self._postgres.connection, self._environment)

    def read(self, families: Families) -> None:
        """Add what Postgres says. Raises an error of `UNREACHABLE` if it is away."""
        late = 0
        try:
            self.identify()
            now = figures.begin_look(self._postgres.connection, seconds=STATEMENT_SECONDS)
            for add in (_add_open_work, self._add_tenants, _add_kept, _add_totals, self._add_endpoints, _add_server):
                try:
                    add(self._postgres.connection, families, now)
                except TIMED_OUT as error:
                    late += 1
                    log.warning("%s: %s", add.__name__.strip("_"), error, extra={"code": "figures_late"})
        except Exception:
            self.close()
            raise
        families.add("pipeline_late_reads", late, "postgres")

    def close(self) -> None:
        """Close the connection; the next read opens another."""
        self._postgres.close()

    def _add_tenants(self, connection: Connection, families: Families, now: float) -> None:
        """Add the tenants whose oldest due delivery has waited longest, and all others as one."""
        self._lanes.take(figures.list_due_lanes(connection, after=self._lanes.after))
        oldest = self._lanes.oldest()
        families.add("pipeline_deliveries_oldest_seconds", _age(min(oldest.values(), default=None), now), "due")
        ranked = sorted(oldest, key=lambda tenant: (oldest[tenant], tenant))
        shown, others = ranked[:TENANTS], ranked[TENANTS:]
        for tenant, count in figures.count_due(connection, shown).items():
            families.add("pipeline_tenant_due_deliveries", count, tenant)
            families.add("pipeline_tenant_oldest_seconds", _age(oldest[tenant], now), tenant)
        if others:
            families.add("pipeline_tenant_oldest_seconds", _age(oldest[others[0]], now), tallies.OTHERS)
        families.add("pipeline_tenants_waiting", len(ranked))

    def _add_endpoints(self, connection: Connection, families: Families, _: float) -> None:
        """Add endpoints that are refused, and those that are silent against what is usual."""
        refused = self._list_refused()[:TENANTS]
        last_events = figures.read_last_events(connection, {(it.tenant, it.provider) for it in refused})
        for it in refused:
            since = max(it.first_at, last_events.get((it.tenant, it.provider), 0.0))
            families.add("pipeline_refused_seconds", max(0.0, it.last_at - since), it.tenant, it.provider, it.code)
        for silent in figures.list_silent_endpoints(connection):
            families.add("pipeline_endpoint_overdue_seconds", silent.overdue_seconds, silent.tenant, silent.provider)


class DueLanes:
    """Lanes with due work, without paused ones, as they were seen last; too many for one look are seen in turn."""

    def __init__(self) -> None:
        self._due: dict[tuple[str, str], float] = {}
        self.after = ("", "")
        """Tenant and handler of the lane that was seen last."""

    def take(self, seen: Sequence[Lane]) -> None:
        """Replace what is known of the lanes from `after` on by what was seen of them."""
        is_complete = len(seen) < figures.BOUND
        last = ("", "") if is_complete else (seen[-1].tenant, seen[-1].handler)
        self._due = {
            lane: due_at
            for lane, due_at in self._due.items()
            if lane <= self.after or (not is_complete and lane > last)
        }
        self._due |= {(lane.tenant, lane.handler): lane.due_at for lane in seen if not lane.paused}
        self.after = last

    def oldest(self) -> dict[str, float]:
        """Return since when (Unix time) each tenant's oldest delivery has been due."""
        oldest: dict[str, float] = {}
        for (tenant, _), due_at in self._due.items():
            oldest[tenant] = min(due_at, oldest.get(tenant, due_at))
        return oldest


def _age(since: float | None, now: float) -> float:
    return 0.0 if since is None else max(0.0, now - since)


def _add_open_work(connection: Connection, families: Families, _: float) -> None:
    found = figures.read_open_work(connection)
    for state in ("due", "retrying", "parked", "queued", "running"):
        families.add("pipeline_deliveries", getattr(found, state), state)
    queued = 0.0 if found.queued_late_seconds is None else found.queued_late_seconds + QUEUED_SECONDS
    families.add("pipeline_deliveries_oldest_seconds", max(0.0, found.late_seconds or 0.0), "retrying")
    families.add("pipeline_deliveries_oldest_seconds", max(0.0, queued), "queued")
    families.add("pipeline_lease_overdue_seconds", max(0.0, found.lease_late_seconds or 0.0))


def _add_kept(connection: Connection, families: Families, _: float) -> None:
    kept = figures.count_kept(connection)
    families.add("pipeline_dead_deliveries", kept.dead)
    families.add("pipeline_rejected_events", kept.rejected)
    families.add("pipeline_open_incidents", incidents.count_open(connection))
    paused = pauses.count_pauses(connection)
    for kind, count in (("tenant", paused.tenants), ("handler", paused.handlers), ("tenant_handler", paused.lanes)):
        families.add("pipeline_paused", count, kind)
    families.add("pipeline_paused_seconds", paused.oldest_seconds or 0.0)


def _add_server(connection: Connection, families: Families, _: float) -> None:
    families.add("pipeline_registry_version", tenants.registry_version(connection), "postgres")
    days = stats.read_days(connection)
    families.add("pipeline_partitions_ahead", -1 if days.newest is None else (days.newest - days.today).days)
    snapshots = stats.list_old_snapshots(connection)
    families.add("pipeline_oldest_snapshot_seconds", max((it.seconds for it in snapshots), default=0.0))


def _add_totals(connection: Connection, families: Families, _: float) -> None:
    found = tallies.read_totals(connection, most_handlers=HANDLERS)
    events = [it for it in found if it.figure == "events"]
    counts = _count(events)
    for outcome in EVENT_OUTCOMES:
        families.add("pipeline_events_total", counts["", outcome], outcome)
    _add_histogram(families, "pipeline_stored_seconds", [it for it in events if it.outcome != "duplicate"])
    attempts = [it for it in found if it.figure == "attempts"]
    counts = _count(attempts)
    counted = {it.handler for it in attempts}
    # zeros too, also of handlers that have not run yet: the first dead delivery is no increase of what was not there
    announced = tallies.list_uncounted(connection, most=max(0, HANDLERS - len(counted)))
    for handler in sorted({*counted, *announced}):
        for outcome in ATTEMPT_OUTCOMES:
            families.add("pipeline_attempts_total", counts[handler, outcome], handler, outcome)
        families.add("pipeline_leases_expired_total", counts[handler, LOST], handler)
        _add_histogram(families, "pipeline_attempt_seconds", [it for it in attempts if it.handler == handler], handler)
        waits = [it for it in found if it.figure == "waits" and it.handler == handler]
        _add_histogram(families, "pipeline_handled_seconds", waits, handler)


def _count(totals: Iterable[Total]) -> Counter[tuple[str, str]]:
    counts: Counter[tuple[str, str]] = Counter()
    for it in totals:
        counts[it.handler, it.outcome] += it.count
    return counts


def _add_histogram(families: Families, name: str, totals: Iterable[Total], *labels: str) -> None:
    """Add those whose time is known; all outcomes together."""
    counts, seconds = [0] * (len(tallies.BOUNDS) + 1), 0.0
    for it in totals:
        if it.bucket >= 0:
            counts[it.bucket] += it.count
            seconds += it.seconds
    families.add_histogram(name, counts, seconds, *labels, bounds=tallies.BOUNDS)
