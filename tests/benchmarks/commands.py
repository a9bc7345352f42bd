"""How long the operator's commands take in a big installation: `python -m tests.benchmarks commands`.

With 10,000,000 events of 10,000 tenants in a month and 1,000,000 open deliveries, each command runs several times as a
process of its own. Its own time, of which the statements are a part, may be 300 ms: the whole process less what one
takes that opens no connection (`pipeline keygen`). It takes some minutes to make the installation; `--keep` has a
folder for the next time. Prints the table and writes `results/commands.json`, which deploy/PERFORMANCE.md is made of.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any, Final

from tests.benchmarks import report
from tests.benchmarks.big import stand_on_big
from tests.benchmarks.measuring import wait_until
from tests.benchmarks.processes import ROOT

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tests.benchmarks.ground import Place

MUST_SECONDS: Final = 0.3
RUNS: Final = 3
_OTHERS: Final = """
SELECT FROM pg_stat_activity
WHERE datname = current_database() AND pid <> pg_backend_pid() AND backend_type = 'client backend'
"""
_ACTIVE: Final = "SELECT active_time FROM pg_stat_database WHERE datname = current_database()"
COMMANDS: Final = (
    "events list",
    "events list --limit 1000",
    "events list --tenant tenant-0",
    "events list --tenant tenant-9999",
    "events list --state rejected",
    "events list --type verification.completed",
    "events list --type session.opened --tenant tenant-7",
    "events list --type nobody.sends",
    "events list --since 7d",
    "events show {event}",
    "deliveries list",
    "deliveries list --state pending",
    "deliveries list --state running",
    "deliveries list --state dead",
    "deliveries list --state cancelled",
    "deliveries list --state dead --tenant tenant-0",
    "deliveries list --state succeeded --tenant tenant-0",
    "deliveries list --state succeeded --tenant tenant-9999",
    "deliveries list --tenant tenant-0",
    "deliveries list --tenant tenant-9999",
    "deliveries list --handler big.paused",
    "deliveries list --handler big.handler_3",
    "deliveries list --state dead --handler big.handler_3",
    "deliveries list --handler nobody.has",
    "deliveries retry --dry-run --tenant tenant-5",
    "deliveries retry --dry-run --handler big.handler_3",
    "deliveries cancel --dry-run --tenant tenant-5",
    "tenants list",
    "tenants show tenant-0",
    "tenants show tenant-9999",
    "endpoints list",
    "endpoints list --tenant tenant-0",
    "secrets list tenant-0",
    "handlers list",
    "handlers limits",
    "stats",
    "incidents list",
    "incidents list --state all",
    "incidents list --state all --tenant tenant-9",
    "incidents list --state all --tenant tenant-9999",
    "incidents list --state all --handler nobody.has",
    "incidents show 1",
    "incidents replay 1 --dry-run",
    "jobs list",
    "jobs list --state running",
    "jobs show 1",
    "audit list",
    "audit list tenant-5",
    "audit list nobody",
    "audit list --who person-7",
    "audit list --who nobody",
    "audit list --what secrets",
    "audit list --since 1h",
    "doctor",
)
HEADINGS: Final = ("command", "statements, ms", "own time, ms", "worst, ms", "≤ 300 ms")


def main(arguments: Sequence[str]) -> None:
    """Parse the command line, measure, print, write."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks commands", description=__doc__)
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="keep the installation there, or use it again")
    parser.add_argument("--scale", type=float, default=1.0, help="of 10,000,000 events, for a quick look")
    parser.add_argument("--runs", type=int, default=RUNS, help="of each command")
    parser.add_argument("--serve", action="store_true", help="only run the servers, until Ctrl-C, and print where")
    chosen = parser.parse_args(arguments)
    with stand_on_big(chosen.keep, scale=chosen.scale) as place:
        if chosen.serve:
            print(
                f"DATABASE_URL={place.database_url}\nREDIS_URL={place.redis_url}\nSECRETS_KEY={place.secrets_key}",
                flush=True,
            )
            while True:
                time.sleep(3600)
        found: dict[str, Any] = {"at": datetime.now(UTC).isoformat(timespec="seconds"), "cores": os.cpu_count()}
        found |= {"commands": measure_commands(place, runs=chosen.runs), "load": os.getloadavg()[0]}
    report.print_table(rows_of(found), HEADINGS, about(found))
    if chosen.scale == 1:
        report.write_json(found, "commands")


def measure_commands(place: Place, *, runs: int) -> dict[str, Any]:
    """Run each command; return what it takes, and what any takes."""
    event = place.query("SELECT id FROM events WHERE tenant = 'tenant-0' ORDER BY id LIMIT 1")["id"]
    found: dict[str, Any] = {"start": median(_run(place, "keygen") for _ in range(runs)), "commands": {}}
    _run(place, "stats")  # the servers' caches
    for command in COMMANDS:
        before = _statement_seconds(place)
        whole = [_run(place, command.format(event=event)) for _ in range(runs)]
        statements = (_statement_seconds(place) - before) / runs
        found["commands"][command.format(event="ID")] = {"whole": whole, "statements": statements}
        print(f"{command}: {median(whole) * 1000:.0f} ms, statements {statements * 1000:.0f} ms", flush=True)
    return found


def _run(place: Place, command: str) -> float:
    """Run a command; return its seconds."""
    environ = place.environ(HANDLERS="tests.benchmarks.handlers.nothing", LOG_LEVEL="error")
    began = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-m", "deploy.cli", *command.split()],
        cwd=ROOT, env=environ, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False,
    )  # fmt: skip
    taken = time.perf_counter() - began
    if done.returncode and command != "doctor":
        raise RuntimeError(f"pipeline {command}: {done.stdout}{done.stderr}")
    return taken


def _statement_seconds(place: Place) -> float:
    """Return what all ended sessions have executed statements for; a session counts when it has ended."""
    with place.connect() as connection:
        wait_until(lambda: connection.execute(_OTHERS).fetchone() is None)
        row = connection.execute(_ACTIVE).fetchone()
    assert row
    return float(row["active_time"]) / 1000


def about(found: dict[str, Any]) -> str:
    """Return what the table of commands is about."""
    measured = found["commands"]
    count = len(next(iter(measured["commands"].values()))["whole"])
    runs = f"medians of {count} runs" if count > 1 else "one run each"
    start = f"{measured['start'] * 1000:.0f} ms"
    return (
        f"`make bench ARGS=commands`, {found['at'][:10]}, {found['cores']} cores, load {found['load']:.1f} at the "
        f"end, {runs}; the interpreter's start and imports, {start}, come on top."
    )


def rows_of(found: dict[str, Any]) -> list[list[str]]:
    """Return a row for each command."""
    measured, rows = found["commands"], []
    for name, figures in measured["commands"].items():
        own, worst = (max(0.0, pick(figures["whole"]) - measured["start"]) for pick in (median, max))
        is_reached = "yes" if own <= MUST_SECONDS else "no"
        milliseconds = (f"{it * 1000:.0f}" for it in (figures["statements"], own, worst))
        rows.append([f"`{name}`", *milliseconds, is_reached])
    return rows
