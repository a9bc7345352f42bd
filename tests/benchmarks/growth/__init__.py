"""Growth: what each event costs while something around it grows; the fixed part is taken off."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, Protocol

from tests.benchmarks.growth.backlog import measure_inbox, measure_pending
from tests.benchmarks.growth.costs import measure_costs
from tests.benchmarks.growth.fairness import measure_neighbours, measure_occupancy, measure_quiet_tenant
from tests.benchmarks.growth.history import measure_history
from tests.benchmarks.growth.scale import measure_bodies, measure_handlers, measure_processes
from tests.benchmarks.growth.tenants import measure_tenants

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tests.benchmarks.ground import Ground


class Curve(Protocol):
    """Measures into `results["curves"]` and `results["tables"]`; `full`: up to its last point."""

    def __call__(self, ground: Ground, results: dict[str, Any], *, full: bool) -> None:
        """Measure."""


CURVES: Final[Mapping[str, Curve]] = {
    "inbox": measure_inbox,
    "pending": measure_pending,
    "history": measure_history,
    "tenants": measure_tenants,
    "processes": measure_processes,
    "bodies": measure_bodies,
    "handlers": measure_handlers,
    "costs": measure_costs,
    "quiet": measure_quiet_tenant,
    "neighbours": measure_neighbours,
    "occupancy": measure_occupancy,
}
