"""How long the pages of the console take in a big installation: `python -m tests.benchmarks pages`.

The installation is that of `commands`: 10,000,000 events of 10,000 tenants in a month, 1,000,000 open deliveries. The
console runs as `make run` runs it; each page is asked for over HTTP again and again, one after the other, and 95 of 100
answers may take 200 ms at most. Prints the table and writes `results/pages.json`, which deploy/PERFORMANCE.md is made
of; `--keep` has a folder for the next time.
"""

from __future__ import annotations

import argparse
import os
import re
import time
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any, Final

import httpx

from tests.benchmarks import report
from tests.benchmarks.big import stand_on_big
from tests.benchmarks.processes import run_ours
from tests.launching import free_port

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tests.benchmarks.ground import Place

MUST_SECONDS: Final = 0.2
RUNS: Final = 40
HEADINGS: Final = ("page", "median, ms", "95 of 100 below, ms", "≤ 200 ms")
PAGES: Final = (
    *("/", "/?span=day", "/doctor"),
    *("/events", "/events?tenant=tenant-0", "/events?tenant=tenant-9999", "/events?before={event}", "/events/{event}"),
    *("/events?type=session.opened", "/events?type=nobody.sends", "/events?subject=nobody"),
    *("/events?provider=moveris&since=2d", "/events?until=20d", "/events?state=rejected&reason=too_old"),
    *(f"/events?outcome={it}" for it in ("open", "retrying", "handled", "dead", "cancelled", "unwanted")),
    *("/events?handler=big.handler_3", "/events?handler=nobody.has", "/events?tenant=tenant-0&outcome=dead"),
    *("/events?field=data.verdict&text=live", "/events?field=data.verdict&text=nothing"),
    *("/failures", "/failures?state=all", "/failures?tenant=tenant-0", "/failures/1"),
    *("/rejected", "/refused", "/tenants", "/tenants?name=tenant-9", "/tenants/tenant-0", "/tenants/tenant-9999"),
    *("/endpoints", "/endpoints?tenant=tenant-5", "/endpoints/tenant-0/moveris"),
    *("/handlers", "/handlers/big.handler_3", "/deliveries", "/deliveries?state=succeeded"),
    *("/deliveries?state=dead&tenant=tenant-0", "/deliveries?tenant=tenant-9999", "/deliveries?handler=nobody.has"),
    *("/jobs", "/jobs/1", "/alerts", "/audit", "/audit?target=tenant-7", "/users"),
    *("/do/retry?tenant=tenant-9999&step=confirm", "/do/handler-pause?handler=big.handler_3"),
)


def main(arguments: Sequence[str]) -> None:
    """Parse the command line, measure, print, write."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks pages", description=__doc__)
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="keep the installation there, or use it again")
    parser.add_argument("--scale", type=float, default=1.0, help="of 10,000,000 events, for a quick look")
    parser.add_argument("--runs", type=int, default=RUNS, help="of each page, after the first")
    chosen = parser.parse_args(arguments)
    with stand_on_big(chosen.keep, scale=chosen.scale) as place:
        found = {"cores": os.cpu_count(), "runs": chosen.runs, "pages": measure(place, runs=chosen.runs)}
        found |= {"at": datetime.now(UTC).isoformat(timespec="seconds"), "load": os.getloadavg()[0]}
    report.print_table(rows_of(found), HEADINGS, f"{datetime.now(UTC):%Y-%m-%d}")
    report.write_json(found, "pages" if chosen.scale == 1 else "unfinished")


def measure(place: Place, *, runs: int) -> dict[str, Any]:
    """Ask for each page; return its times, in seconds."""
    port, found = free_port(), {}
    environ = {"CONSOLE_PORT": port, "CONSOLE_SEARCH_FIELDS": "data.verdict", "CONSOLE_SECRETS": "yes"}
    with (
        run_ours(place, "console", **environ),  # type: ignore[arg-type]
        httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=30, trust_env=False) as client,
    ):
        listed = re.findall(r'href="/events/([0-9a-f-]{36})"', client.get("/events").text)
        for page in PAGES:
            address = page.format(event=listed[-1])
            taken = sorted([_time(client, address) for _ in range(runs + 1)][1:])
            found[page] = {"median": median(taken), "p95": taken[min(len(taken) - 1, int(len(taken) * 0.95))]}
            print(f"{page}: {found[page]['p95'] * 1000:.0f} ms", flush=True)
    return found


def _time(client: httpx.Client, address: str) -> float:
    began = time.perf_counter()
    answer = client.get(address)
    if answer.status_code != httpx.codes.OK:
        raise RuntimeError(f"{address} was answered {answer.status_code}")
    return time.perf_counter() - began


def rows_of(found: dict[str, Any]) -> list[list[str]]:
    """Return the rows of the table."""
    return [
        [
            f"`{page}`",
            f"{times['median'] * 1000:.0f}",
            f"{times['p95'] * 1000:.0f}",
            "yes" if times["p95"] <= MUST_SECONDS else "no",
        ]
        for page, times in found["pages"].items()
    ]


def block(found: dict[str, Any]) -> str:
    """Return the table with where it comes from."""
    about = (
        f"`python -m tests.benchmarks pages`, {found['at'][:10]}, {found['cores']} cores, load "
        f"{found['load']:.1f} when it ended: each page {found['runs']} times."
    )
    return f"{about}\n\n{report.markdown(rows_of(found), HEADINGS)}"
