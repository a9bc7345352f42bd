"""What an event costs in CPU time, this tree against another revision: `python -m tests.benchmarks cost --against REV`.

Both run at the same time, each on servers of its own: the working tree ("new") and REV ("old"), which is unpacked into
a temporary folder and runs on the packages that are installed here. Signed events are posted at a fixed rate, to old
and new in turn, and each turn ends when a handler that does nothing has handled them all. Counted are user and system
time of every process of the pipeline, of Redis and of Postgres, those that ended included; the load is not.

It prints two lines a turn, then a line for each part and one for all: microseconds an event of old and new, medians of
the turns, and the ratio new/old, taken pair by pair, as median and range. Against a revision with the same code the
median of all is within 0.03 of 1 on a machine with little else to do; then a change of a tenth can be told. The default
rate leaves the machine time, and most messages carry one event; with `--rate 3000` work piles up, and they carry many.
"""

from __future__ import annotations

import argparse
import io
import subprocess
import sys
import tarfile
import time
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Final

from tests.benchmarks.bodies import SECRET, TENANT
from tests.benchmarks.ground import stand_on
from tests.benchmarks.growth.meter import cpu_of
from tests.benchmarks.measuring import PATIENCE_SECONDS
from tests.benchmarks.processes import ROOT, load, run_ours
from tests.benchmarks.report import print_table
from tests.launching import free_port

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from tests.benchmarks.ground import Place

SERVICES: Final = ("ingress", "ingest", "handlers", "express")
WARM_UP: Final = 1_000
"""Events before the first turn: connections, prepared statements, imports at first use."""
HEADINGS: Final = ("part", "old, us/event", "new, us/event", "new/old", "range")
Spent = dict[str, float]
"""Seconds of CPU time by part."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Side:
    """One of the two that are compared.

    Attributes:
        name: "old" or "new".
        place: its servers and its tree.
        port: of its ingress.
        pids: its processes and servers, by part.
    """

    name: str
    place: Place
    port: int
    pids: Mapping[str, int]


def main(arguments: Sequence[str]) -> None:
    """Parse the command line, measure, print."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.benchmarks cost",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--against", required=True, metavar="REV", help="a revision of this repository")
    parser.add_argument("--pairs", type=int, default=5, help="turns of each; default 5")
    parser.add_argument("--events", type=int, default=6_000, help="of each turn; default 6000")
    parser.add_argument("--rate", type=float, default=600, help="events posted per second; default 600")
    chosen = parser.parse_args(arguments)
    turns: dict[str, list[Spent]] = {"old": [], "new": []}
    with TemporaryDirectory(prefix="pipeline-bench-") as folder, ExitStack() as stack:
        unpack(chosen.against, Path(folder))
        sides = [stack.enter_context(_Running(*it)) for it in (("old", Path(folder)), ("new", ROOT))]
        for number in range(chosen.pairs):
            for side in sides:
                spent = measure_turn(side, events=chosen.events, rate=chosen.rate)
                turns[side.name].append(spent)
                print(f"pair {number + 1} {side.name} {spent['all'] / chosen.events * 1e6:.0f} us/event", flush=True)
    title = f"CPU time of an event, {chosen.pairs} pairs of {chosen.events} events; old: {chosen.against}"
    print_table(list(rows_of(turns, chosen.events)), HEADINGS, title)


def rows_of(turns: Mapping[str, Sequence[Spent]], events: int) -> Iterator[list[str]]:
    """Yield a row for each part; the ratio is that of the two turns of a pair."""
    for part in turns["new"][0]:
        old, new = ([spent[part] / events * 1e6 for spent in turns[name]] for name in ("old", "new"))
        ratios = [after / before for before, after in zip(old, new, strict=True)]
        spread = f"{min(ratios):.2f} to {max(ratios):.2f}"
        yield [part, f"{median(old):.0f}", f"{median(new):.0f}", f"{median(ratios):.3f}", spread]


def unpack(revision: str, folder: Path) -> None:
    """Unpack a revision of this repository; end with one line if there is none of that name."""
    archive = subprocess.run(["git", "archive", revision], cwd=ROOT, capture_output=True, check=False)
    if archive.returncode:
        sys.exit(f"--against {revision}: {archive.stderr.decode().strip()}")
    with tarfile.open(fileobj=io.BytesIO(archive.stdout)) as files:
        files.extractall(folder, filter="data")


class _Running:
    """Servers, tables, an endpoint and the whole pipeline of one tree."""

    def __init__(self, name: str, tree: Path) -> None:
        self._name = name
        self._tree = tree
        self._stack = ExitStack()

    def __enter__(self) -> Side:
        try:
            return self._start()
        except BaseException:
            self._stack.close()
            raise

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def _start(self) -> Side:
        ground = self._stack.enter_context(stand_on())
        place = replace(self._stack.enter_context(ground.fresh(migrated=False)), tree=self._tree)
        run_in(place, "-c", f"import workers, ingress; assert workers.__path__[0].startswith({str(self._tree)!r})")
        for command in ("migrate", f"tenants add {TENANT}"):
            run_in(place, "-m", "deploy.cli", *command.split())
        endpoint = f"endpoints add {TENANT} --provider moveris --label a --secret-stdin"
        run_in(place, "-m", "deploy.cli", *endpoint.split(), secret=SECRET)
        port = free_port()
        more = {"HANDLERS": "tests.benchmarks.handlers.nothing", "PYTHONHASHSEED": 0}
        pids = self._stack.enter_context(run_ours(place, *SERVICES, ingress_port=port, **more))  # type: ignore[arg-type]
        servers = dict(zip(("postgres", "redis"), ground.server_pids, strict=True))
        side = Side(name=self._name, place=place, port=port, pids={**pids, **servers})
        measure_turn(side, events=WARM_UP, rate=500)
        return side


def run_in(place: Place, *arguments: str, secret: bytes = b"") -> None:
    """Run Python in the tree of a place."""
    argv = [sys.executable, *arguments]
    done = subprocess.run(argv, cwd=place.tree, env=place.environ(), input=secret, capture_output=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{argv} in {place.tree}: {done.stderr.decode()}")


def measure_turn(side: Side, *, events: int, rate: float) -> Spent:
    """Post events at a rate and wait until all are handled; return what that cost."""
    with side.place.connect() as connection:  # one for all looks: a new one costs Postgres milliseconds
        connection.execute("CHECKPOINT")
        (row,) = connection.execute("SELECT count(*) AS n FROM deliveries_done").fetchall()
        wanted = row["n"] + events
        before = {part: cpu_of(pid) for part, pid in side.pids.items()}
        load("opened", port=side.port, rate=rate, seconds=events / rate, warm_up=0)
        ends = time.monotonic() + PATIENCE_SECONDS
        while row["n"] < wanted:
            if time.monotonic() > ends:
                raise RuntimeError(f"{side.name}: {wanted - row['n']} of {events} events are not handled")
            time.sleep(0.1)
            (row,) = connection.execute("SELECT count(*) AS n FROM deliveries_done").fetchall()
        spent = {part: cpu_of(pid) - before[part] for part, pid in side.pids.items()}
    return {**spent, "all": sum(spent.values())}
