"""`python -m tests.benchmarks`: 10 to 20 minutes; `--quick`: three; what grows: `--growth`, or `--growth-full`.

It prints one table and writes JSON and pictures. `cost --against REV` compares what an event costs in two revisions,
`fairness` a quiet tenant beside floods with one alone, `fleet` many processes with one of each, `sizes` what one of
each needs, `commands` how long the operator's commands take in a big installation, `console` what its pages read and
`pages` the pages themselves, `retry` what a retry of many costs others; each has a `--help` of its own.
It starts what it needs, in a folder of its own, and leaves nothing behind but `tests/benchmarks/results/` and the
README's performance table.
"""

from __future__ import annotations

import argparse
import os
import platform
import signal
import sys
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from tests.benchmarks import commands, console, cost, documents, fairness, fleet, growth, pages, report, retry, sizes
from tests.benchmarks.draw import draw_all
from tests.benchmarks.ground import stand_on
from tests.benchmarks.measuring import Sizes
from tests.benchmarks.memory import measure_memory
from tests.benchmarks.rounds import run_round
from tests.benchmarks.sweep import measure_load_curve

if TYPE_CHECKING:
    from collections.abc import Iterable

    from tests.benchmarks.ground import Ground
    from tests.benchmarks.report import Results

QUICK = Sizes(load_seconds=2.0, backlog=60_000, events=10_000, naive_events=600, noop_tasks=1_500, idle_events=50)


def main() -> None:
    """Parse the command line, measure, report."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that servers and processes are ended
    others = {
        "commands": commands.main,
        "console": console.main,
        "cost": cost.main,
        "fairness": fairness.main,
        "fleet": fleet.main,
        "pages": pages.main,
        "retry": retry.main,
        "sizes": sizes.main,
    }
    if sys.argv[1:2] and sys.argv[1] in others:
        others[sys.argv[1]](sys.argv[2:])
        documents.update_all()
        return
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="one round, small sizes: about three minutes")
    parser.add_argument("--rounds", type=int, default=3, help="how often floors, peer and ours take turns")
    parser.add_argument(
        "--growth", nargs="*", metavar="NAME", help=f"what grows instead: all, or of {', '.join(growth.CURVES)}"
    )
    parser.add_argument("--growth-full", action="store_true", help="the curves up to their last points: an hour")
    parser.add_argument("--tables-only", action="store_true", help="measure nothing: print and draw the last results")
    arguments = parser.parse_args()
    only_growth = arguments.growth is not None or arguments.growth_full
    name = "quick" if arguments.quick else "growth" if only_growth else "full"
    results = report.read_json(name) if arguments.tables_only or only_growth else {}
    if not arguments.tables_only:
        with stand_on() as ground:
            if only_growth:
                began = time.monotonic()
                results = describe_run() | {"growth": results.get("growth", {})}
                grow(ground, results, arguments.growth or growth.CURVES, name, began, full=arguments.growth_full)
            else:
                results = measure(ground, arguments)
        report.write_json(results, name)
    show(results, name)


def describe_run() -> Results:
    """Return results that say where and when, and hold nothing yet."""
    return {
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": {
            "cores": os.cpu_count(),
            "system": f"{platform.system()} {platform.machine()}, Python {platform.python_version()}",
            "load": os.getloadavg()[0],
        },
        "rounds": [],
        "curves": {},
        "tables": {},
        "growth": {},
    }


def measure(ground: Ground, arguments: argparse.Namespace) -> Results:
    """Measure floors, peer and ours in turn; a run that is interrupted has written what it had."""
    began = time.monotonic()
    results = describe_run()
    for number in range(1 if arguments.quick else arguments.rounds):
        say(began, f"round {number + 1}")
        results["rounds"].append(run_round(ground, QUICK if arguments.quick else Sizes()))
        report.print_table(report.rows_of(results), report.HEADINGS, "so far")
        report.write_json(results, "unfinished")
    say(began, "ingress memory")
    requests = 100_000 if arguments.quick else 1_000_000
    results["rounds"][0] |= measure_memory(ground, results, requests)
    if not arguments.quick:
        say(began, "latency over load")
        measure_load_curve(ground, results)
    (report.RESULTS / "unfinished.json").unlink(missing_ok=True)
    results["seconds"] = round(time.monotonic() - began)
    return results


def grow(ground: Ground, results: Results, names: Iterable[str], file: str, began: float, *, full: bool) -> None:
    """Measure curves by name, each into a section of its own, and write the file after each."""
    for name in names:
        say(began, f"growth: {name}")
        started, load = time.monotonic(), os.getloadavg()[0]
        section: Results = {"curves": {}, "tables": {}, "full": full, "load": load}
        growth.CURVES[name](ground, section, full=full)
        section |= {
            "at": datetime.now(UTC).isoformat(timespec="seconds"),
            "seconds": round(time.monotonic() - started),
        }
        results["growth"][name] = section
        report.write_json(results, file)


def show(results: Results, name: str) -> None:
    """Print everything, draw the pictures, write the README's table."""
    if results["rounds"]:
        report.print_table(report.rows_of(results), report.HEADINGS, "medians of the rounds; ratios within a round")
    for title, table in report.everything(results, "tables").items():
        report.print_table(table["rows"], table["headings"], title)
    rows = report.curve_rows(results)
    if rows:
        report.print_table(rows, report.CURVE_HEADINGS, "growth: the variable cost at the last point against the first")
    paths = draw_all(results, name)
    print(f"\nwritten: {report.RESULTS / name}.json and {len(paths)} pictures beside it")
    if name != "quick":
        for path in documents.update_all():
            print(f"the figures in {path.name} are new")


def say(began: float, what: str) -> None:
    """Print what comes next."""
    print(f"[{time.monotonic() - began:5.0f} s, load {os.getloadavg()[0]:.1f}] {what}", flush=True)


if __name__ == "__main__":
    main()
