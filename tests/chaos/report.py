"""The report of a run: a table for people, JSON for programs.

The last line of a run with any violation says so.
"""

from __future__ import annotations

import json
import platform
from collections import Counter
from dataclasses import asdict, fields
from typing import TYPE_CHECKING, Any, Final

from rich.table import Table

from tests.chaos.client import CUT, HUNG, REFUSED
from tests.chaos.faults import FAULTS
from tests.chaos.run import BESIDE_FLOOD

if TYPE_CHECKING:
    from pathlib import Path

    from rich.console import Console

    from tests.chaos.reconcile import Account
    from tests.chaos.run import Result

RATE_LIMITED: Final = "rate_limited"
SHARE_FULL: Final = "inbox_share_full"
"""What the limits of tenants answer; every run must meet both."""
COLUMNS: Final = (
    *(
        "fault",
        "times",
        "acknowledged",
        "lost",
        "stored twice",
        "effects missing",
        "effects doubled",
        "slowest recovery",
    ),
    *("429", "share full", "other 503", "other 5xx", "hung", "cut", "refused"),
)


def cells(account: Account) -> list[str]:
    """Return what the table shows of an account, but for name, times and recovery."""
    lost = str(account.lost) + (f" (+{account.flushed} flushed)" if account.flushed else "")
    return [
        f"{account.acknowledged:,}",
        lost,
        str(account.twice),
        str(account.missing),
        str(account.doubled),
        str(account.codes[RATE_LIMITED]),
        str(account.codes[SHARE_FULL]),
        str(account.outcomes["503"] - account.codes[SHARE_FULL]),
        str(account.server_errors),
        str(account.outcomes[HUNG]),
        str(account.outcomes[CUT]),
        str(account.outcomes[REFUSED]),
    ]


def show(result: Result, console: Console) -> None:
    """Print the table."""
    table = Table(box=None, pad_edge=False, header_style="bold", title_justify="left")
    for column in COLUMNS:
        table.add_column(column, justify="left" if column == "fault" else "right")
    times = Counter(one.name for one in result.injections)
    for name in sorted(times):
        own = [one for one in result.injections if one.name == name]
        recoveries = [one.recovery for one in own if one.recovery is not None]
        slowest = f"{max(recoveries):.1f} s" if len(recoveries) == len(own) else "not seen"
        row = cells(result.by_fault[name])
        table.add_row(name, str(times[name]), *row[:5], slowest, *row[5:])
    row = cells(result.total)
    table.add_row("all", str(len(result.injections)), *row[:5], f"{result.quiet:.1f} s", *row[5:], style="bold")
    console.print(table)
    total = result.total
    console.print(
        f"{total.requests:,} requests in {result.ended - result.began:.0f} s, {total.acknowledged:,} acknowledged;"
        f" every response compared with Postgres {result.quiet:.1f} s after the last. The handler that writes outside"
        f" ran more than once for {total.repeated} events, overlapping itself for {total.overlapped} of them."
    )
    console.print(
        f"beside the flood 99 of 100 of {len(result.waits):,} other tenants' events that no fault met were handled"
        f" within {result.beside_flood:.2f} s"
    )
    if result.missed:
        console.print(f"found no victim at first: {'; '.join(sorted(set(result.missed)))}")
    for line in verdict(result):
        console.print(line, style="red bold")
    if not verdict(result):
        console.print("0 lost, 0 stored twice, 0 effects missing or doubled", style="green bold")


def verdict(result: Result) -> list[str]:
    """Return what is wrong, a line each."""
    total = result.total
    wrong = [
        (total.lost, "acknowledged events lost"),
        (total.altered, "stored with other bytes"),
        (total.twice, "stored twice"),
        (total.forged, "forged events stored"),
        (total.turned_away, "rightly signed requests turned away"),
        (total.rejected, "events with nothing wrong stored as rejected"),
        (total.misjudged, "malformed events stored as accepted"),
        (total.undelivered, "events without their deliveries"),
        (total.unfinished, "events whose deliveries did not succeed"),
        (total.missing, "effects missing"),
        (total.doubled, "effects doubled"),
        (total.server_errors, "answers 5xx but 503"),
        (total.outcomes[HUNG], "requests hung"),
    ]
    lines = [f"{count} {what}" for count, what in wrong if count]
    lines += [f"no request was answered {code}" for code in (RATE_LIMITED, SHARE_FULL) if not total.codes[code]]
    if result.late:
        lines.append(f"no recovery seen after: {', '.join(result.late)}")
    if result.never:
        lines.append(f"never injected: {', '.join(result.never)}")
    if result.beside_flood > BESIDE_FLOOD:
        lines.append(f"beside the flood 1 in 100 events waited {result.beside_flood:.1f} s, more than {BESIDE_FLOOD:g}")
    lines += result.broken
    if total.flushed and not any(FAULTS[name].loses for name in result.plan.faults):
        lines.append(f"{total.flushed} flushed without a flush")
    return lines


def as_json(result: Result) -> dict[str, Any]:
    """Return the report as what JSON knows."""
    return {
        "plan": asdict(result.plan),
        "machine": {"system": platform.platform(), "python": platform.python_version()},
        "seconds": result.ended - result.began,
        "quiet_after": result.quiet,
        "beside_flood_p99": result.beside_flood,
        "verdict": verdict(result),
        "missed": result.missed,
        "total": _plain(result.total),
        "faults": {
            name: {"about": FAULTS[name].about, "account": _plain(account)} for name, account in result.by_fault.items()
        },
        "injections": [
            {
                "name": one.name,
                "began": one.began - result.began,
                "ended": one.ended - result.began,
                "recovery": one.recovery,
            }
            for one in result.injections
        ],
    }


def _plain(account: Account) -> dict[str, Any]:
    figures = {each.name: getattr(account, each.name) for each in fields(account)}
    counts = {"outcomes": dict(account.outcomes), "codes": dict(account.codes)}
    return figures | counts | {"violations": account.violations}


def write(result: Result, folder: Path) -> None:
    """Write `report.json`."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "report.json").write_text(json.dumps(as_json(result), indent=2))
