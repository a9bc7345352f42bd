"""What a retry of many dead deliveries costs those who are not concerned: `python -m tests.benchmarks retry`.

A job puts back the dead deliveries of one tenant while another tenant's events arrive at a steady rate. Two rows: the
tenant is paused, so that only the job itself is seen; and it is not, so that its handler (10 ms) runs again as well.
Prints how many deliveries a second the job put back, and the other tenant's p99 from POST to handled, alone and beside.
"""

from __future__ import annotations

import argparse
import os
import time
from contextlib import ExitStack
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

from tests.benchmarks import report
from tests.benchmarks.fairness import SLOTS, WARM_UP, Told, percentile, post_quiet
from tests.benchmarks.fill import fill_pending
from tests.benchmarks.ground import stand_on
from tests.benchmarks.measuring import wait_until
from tests.benchmarks.processes import run_ours
from tests.launching import free_port
from workers.store import jobs, pauses
from workers.store.jobs import Filter

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tests.benchmarks.ground import Ground, Place

FLOOD: Final = "flood-0"
QUIET: Final = "quiet-0"
HANDLER: Final = "flood_0.run_0"
STATES: Final = ("paused", "not paused")
MUST: Final = 2.0
HEADINGS: Final = ("the tenant is", "put back", "a second", "p99 alone, ms", "p99 beside, ms", "beside ÷ alone", "≤ 2")
_KILL: Final = """
WITH taken AS (DELETE FROM deliveries WHERE tenant = %s RETURNING *)
INSERT INTO deliveries_done (event_id, handler, tenant, state, attempt, fence, last_error, created_at)
SELECT event_id, handler, tenant, 'dead', 10, 10, 'ConnectionError: refused', created_at FROM taken
"""


def main(arguments: Sequence[str]) -> None:
    """Parse the command line, measure, print."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks retry", description=__doc__)
    parser.add_argument("--dead", type=int, default=400_000, help="deliveries that are put back")
    parser.add_argument("--rate", type=float, default=25.0, help="events of the other tenant per second")
    parser.add_argument("--events", type=int, default=1_000, help="of the other tenant, alone")
    chosen = parser.parse_args(arguments)
    found: dict[str, Any] = {"dead": chosen.dead, "rate": chosen.rate, "rows": {}, "load": os.getloadavg()[0]}
    with stand_on() as ground:
        for state in STATES:
            found["rows"][state] = measure(
                ground, dead=chosen.dead, events=chosen.events, rate=chosen.rate, is_paused=state == "paused"
            )
            print(*rows_of(found)[-1], sep="  ", flush=True)
    report.print_table(rows_of(found), HEADINGS, f"a retry beside another tenant's {chosen.rate:g} events/s")
    report.write_json(found | {"at": datetime.now(UTC).isoformat(timespec="seconds"), "cores": os.cpu_count()}, "retry")


def rows_of(found: dict[str, Any]) -> list[list[str]]:
    """Return the rows of the table."""
    rows = []
    for state, it in found["rows"].items():
        ratio = it["beside"] / it["alone"]
        times = (f"{it[name] * 1000:.3g}" for name in ("alone", "beside"))
        reached = "yes" if ratio <= MUST else "no"
        rows.append([state, f"{found['dead']:,}", f"{it['per_second']:,.0f}", *times, f"{ratio:.3g}", reached])
    return rows


def block(found: dict[str, Any]) -> str:
    """Return the table with where it comes from."""
    about = (
        f"`python -m tests.benchmarks retry`, {found['at'][:10]}, {found['cores']} cores, load "
        f"{found['load']:.1f} when it began, beside another tenant's {found['rate']:g} events a second."
    )
    return f"{about}\n\n{report.markdown(rows_of(found), HEADINGS)}"


def measure(ground: Ground, *, dead: int, events: int, rate: float, is_paused: bool) -> dict[str, Any]:
    """Run the stack and the job; return its rate, and the other tenant's p99 alone and while the job ran."""
    with ExitStack() as stack:
        place = stack.enter_context(ground.fresh())
        place.add_endpoint(QUIET, FLOOD)
        port, told = free_port(), stack.enter_context(Told())
        environ = {
            "HANDLERS": "tests.benchmarks.handlers.fair",
            "NOTICE_PORT": told.port,
            "FLOOD_SECONDS": 0.01,
            "FLOOD_HANDLERS": 1,
            "FLOOD_TENANTS": 1,
            "QUIET_TENANTS": 1,
        }
        names = ("ingress", "ingest", "handlers", "express")
        stack.enter_context(run_ours(place, *names, ingress_port=port, slots=SLOTS, **environ))  # type: ignore[arg-type]
        post_quiet(port, told, [QUIET], events=WARM_UP, rate=rate)
        _make_dead(place, dead, is_paused=is_paused)
        alone = [seconds for _, seconds in post_quiet(port, told, [QUIET], events=events, rate=rate)]
        with place.connect() as connection:
            chosen = Filter(tenant=FLOOD, handler=HANDLER, state="dead")
            job = jobs.submit(connection, "retry", chosen, who="benchmark", expected=dead)
        beside: list[float] = []
        ends = time.monotonic() + 600
        while _state(place, job) == "running" and time.monotonic() < ends:
            taken = post_quiet(port, told, [QUIET], events=max(1, int(rate * 2)), rate=rate)
            beside += [seconds for _, seconds in taken]
        wait_until(lambda: _state(place, job) == "done")
        row = place.query(
            "SELECT changed, extract(epoch FROM finished_at - created_at)::float8 AS seconds"
            f" FROM jobs WHERE id = {job}"
        )
    return {
        "per_second": row["changed"] / row["seconds"],
        "alone": percentile(alone, 99),
        "beside": percentile(beside, 99),
    }


def _make_dead(place: Place, count: int, *, is_paused: bool) -> None:
    with place.connect() as connection:
        pauses.pause(connection, tenant=FLOOD)  # nothing of it runs meanwhile
        fill_pending(connection, count, handler=HANDLER, tenant=FLOOD)
        connection.execute(_KILL, [FLOOD])
        connection.execute("VACUUM ANALYZE deliveries")
        connection.execute("VACUUM ANALYZE deliveries_done")
        if not is_paused:
            pauses.resume(connection, tenant=FLOOD)


def _state(place: Place, job: int) -> str:
    return str(place.query(f"SELECT state FROM jobs WHERE id = {job}")["state"])
