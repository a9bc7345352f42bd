"""How a quiet tenant fares beside floods, `python -m tests.benchmarks fairness`: the whole stack, real requests.

Each row posts events of quiet tenants at a steady rate while others flood, and compares the p99 from the moment when a
request should have left to the end of its handler with that of the same tenant alone: first with the servers' files on
the disk, then in memory, where a flush takes no time. Prints a table. A run of all rows, an hour with 2,000 events
each, writes `results/fairness.json`, draws it, and replaces what README.md and deploy/PERFORMANCE.md say of it. With
`--keep` the rows of `--only` do so too, beside what was found last of the others.
"""

from __future__ import annotations

import argparse
import os
import socket
import subprocess
import sys
import threading
import time
import uuid
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Self

from tests.benchmarks import pictures, report
from tests.benchmarks.answers import Answers
from tests.benchmarks.bodies import make_body, make_request
from tests.benchmarks.fill import fill_pending
from tests.benchmarks.ground import DISK, MEMORY, stand_on
from tests.benchmarks.measuring import wait_until
from tests.benchmarks.processes import ROOT, run_ours
from tests.launching import free_port

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from tests.benchmarks.ground import Ground, Place

SLOTS: Final = 4
WARM_UP: Final = 20
"""Events of each quiet tenant before anything is counted: first connections and plans, and the handler's duration."""
PATIENCE_SECONDS: Final = 120.0
HEADINGS: Final = ("flood", "p99 alone, ms", "p50, ms", "p99, ms", "beside ÷ alone", "in memory", "must", "reached")


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One flood.

    Attributes:
        name: for `--only`.
        title: for the table.
        kind: for the short table, which shows the worst of its kind.
        must: bound of the ratio.
        seconds: that a handler of the flood takes.
        handlers: of each flooding tenant.
        floods: flooding tenants.
        quiets: quiet tenants.
        is_arriving: posts of the flood arrive as fast as the ingress takes them; else 100,000 deliveries wait.
    """

    name: str
    title: str
    kind: str
    must: float
    seconds: float = 0.0
    handlers: int = 1
    floods: int = 1
    quiets: int = 1
    is_arriving: bool = False


_SECONDS: Final = (0.01, 0.1, 1.0, 30.0)
_ARRIVING: Final = "a no-op handler, arriving as fast as the ingress takes it"
_FIFTY: Final = "50 tenants at once, 0.2 s each"
_TEN: Final = "ten quiet tenants beside a handler of 0.1 s"
ROWS: Final = (
    *(
        Row(name=f"{s:g}s", title=f"a handler of {s:g} s", kind="a handler of 10 ms to 30 s", must=2, seconds=s)
        for s in _SECONDS
    ),
    *(
        Row(
            name=f"{s:g}s-{n}",
            title=f"{n:,} handlers of {s:g} s",
            kind=f"{n:,} handlers of 10 ms to 30 s",
            must=2,
            seconds=s,
            handlers=n,
        )
        for n in (20, 1000)
        for s in _SECONDS
    ),
    Row(name="arriving", title=_ARRIVING, kind=_ARRIVING, must=5, is_arriving=True),
    Row(name="50-floods", title=_FIFTY, kind=_FIFTY, must=3, seconds=0.2, floods=50),
    Row(name="ten-quiet", title=_TEN, kind=_TEN, must=2, seconds=0.1, quiets=10),
)


def main(arguments: Sequence[str]) -> None:
    """Parse the command line, measure, print, write."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks fairness", description=__doc__)
    parser.add_argument("--events", type=int, default=2_000, help="quiet events of each row")
    parser.add_argument("--rate", type=float, default=25.0, help="quiet events per second")
    parser.add_argument("--backlog", type=int, default=100_000, help="deliveries of the flood")
    parser.add_argument("--quick", action="store_true", help="200 events a row, and a backlog of 20,000")
    parser.add_argument("--only", nargs="*", metavar="NAME", help=f"of {', '.join(row.name for row in ROWS)}")
    parser.add_argument("--keep", action="store_true", help="write the rows of --only into the results")
    chosen = parser.parse_args(arguments)
    if chosen.quick:
        chosen.events, chosen.backlog = 200, 20_000
    wanted = [row for row in ROWS if not chosen.only or row.name in chosen.only]
    found: dict[str, Any] = {"events": chosen.events, "load": os.getloadavg()[0], "rows": {}}
    for place, folder in (("disk", DISK), ("memory", MEMORY)):
        with stand_on(folder=folder) as ground:
            alone: dict[int, list[float]] = {}
            for row in wanted:
                if row.quiets not in alone:
                    nobody = Row(name="alone", title="", kind="", must=1, floods=0, quiets=row.quiets)
                    alone[row.quiets] = measure(ground, nobody, events=chosen.events, rate=chosen.rate, backlog=0)
                beside = measure(ground, row, events=chosen.events, rate=chosen.rate, backlog=chosen.backlog)
                figures = _figures(beside, alone[row.quiets])
                about = {"title": row.title, "kind": row.kind, "must": row.must, "events": chosen.events}
                found["rows"].setdefault(row.name, about)[place] = figures
                print(f"{place:8}{row.title}: {figures['p99'] * 1000:.3g} ms, {figures['ratio']:.3g} times", flush=True)
                report.write_json(found, "unfinished")
    report.print_table(
        rows_of(found), HEADINGS, f"a quiet tenant beside floods, {chosen.events:,} events a row, {SLOTS} handler slots"
    )
    if not chosen.quick and (chosen.keep or not chosen.only):
        found = join(report.read_json("fairness"), found)
        report.write_json(found, "fairness")
        (report.RESULTS / "fairness.svg").write_text(draw(found))


def join(earlier: dict[str, Any], found: dict[str, Any]) -> dict[str, Any]:
    """Return what was found, and of rows that were not measured now what was found earlier."""
    rows = {**earlier.get("rows", {}), **found["rows"]}
    kept = {row.name: {"events": earlier.get("events"), **rows[row.name]} for row in ROWS if row.name in rows}
    return {**found, "events": min(row["events"] for row in kept.values()), "rows": kept}


def _figures(beside: list[float], alone: list[float]) -> dict[str, float]:
    p99, p99_alone = percentile(beside, 99), percentile(alone, 99)
    return {"p50": percentile(beside, 50), "p99": p99, "alone": p99_alone, "ratio": p99 / p99_alone}


def rows_of(found: dict[str, Any]) -> list[list[str]]:
    """Return the rows of the table."""
    rows = []
    for row in found["rows"].values():
        disk, memory = row["disk"], row.get("memory")
        milliseconds = (f"{disk[name] * 1000:.3g}" for name in ("alone", "p50", "p99"))
        ratios = f"{disk['ratio']:.3g}", f"{memory['ratio']:.3g}" if memory else ""
        is_reached = "yes" if disk["ratio"] <= row["must"] else "no"
        rows.append([row["title"], *milliseconds, *ratios, f"≤ {row['must']:g}", is_reached])
    return rows


def draw(found: dict[str, Any]) -> str:
    """Return a picture: a quiet tenant's p99, alone and beside each flood."""
    rows = found["rows"].values()
    groups = {
        f"beside {row['title']}": {
            "alone, ms": row["disk"]["alone"] * 1000,
            f"beside it, ms ({row['disk']['ratio']:.1f} times)": row["disk"]["p99"] * 1000,
        }
        for row in rows
    }
    return pictures.draw_bars("a quiet tenant, 99th percentile from POST to handled", groups)


def percentile(values: Sequence[float], per_cent: float) -> float:
    """Return the value that so many per cent do not exceed."""
    return sorted(values)[min(len(values) - 1, int(len(values) * per_cent / 100))]


def measure(ground: Ground, row: Row, *, events: int, rate: float, backlog: int) -> list[float]:
    """Run the stack with a flood; return the seconds that each quiet event took, the slowest quiet tenant's first.

    With several quiet tenants, those of the one with the highest p99.
    """
    quiets = [f"quiet-{number}" for number in range(row.quiets)]
    floods = [f"flood-{number}" for number in range(row.floods)]
    with ExitStack() as stack:
        place = stack.enter_context(ground.fresh())
        place.add_endpoint(*quiets, *floods)
        port, told = free_port(), stack.enter_context(Told())
        environ = {
            "HANDLERS": "tests.benchmarks.handlers.fair",
            "NOTICE_PORT": told.port,
            "FLOOD_SECONDS": row.seconds,
            "FLOOD_HANDLERS": row.handlers,
            "FLOOD_TENANTS": row.floods,
            "QUIET_TENANTS": row.quiets,
        }
        names = ("ingress", "ingest", "handlers", "express")
        stack.enter_context(run_ours(place, *names, ingress_port=port, slots=SLOTS, **environ))  # type: ignore[arg-type]
        post_quiet(port, told, quiets, events=WARM_UP * row.quiets, rate=rate)
        if row.is_arriving:
            stack.enter_context(arriving(port, floods[0]))
        elif floods:
            fill(place, row, backlog)
            wait_until(
                lambda: place.query("SELECT count(*) AS n FROM deliveries WHERE state = 'running'")["n"] >= SLOTS
            )
        time.sleep(2.0)  # until the flood is what it is
        taken = post_quiet(port, told, quiets, events=events, rate=rate)
    by_tenant: dict[str, list[float]] = {}
    for tenant, seconds in taken:
        by_tenant.setdefault(tenant, []).append(seconds)
    return max(by_tenant.values(), key=lambda values: percentile(values, 99))


def fill(place: Place, row: Row, backlog: int) -> None:
    """Make the deliveries of the flood."""
    each = max(1, backlog // row.handlers // row.floods)
    with place.connect() as connection:
        for flood in range(row.floods):
            for number in range(row.handlers):
                fill_pending(connection, each, handler=f"flood_{flood}.run_{number}", tenant=f"flood-{flood}")
        connection.execute("VACUUM ANALYZE deliveries")


@contextmanager
def arriving(port: int, tenant: str) -> Iterator[None]:
    """Post events of a tenant without a pause."""
    argv = [sys.executable, "-m", "tests.benchmarks.closed", "--port", str(port), "--seconds", "3600"]
    argv += ["--path", f"/webhooks/moveris/{tenant}"]
    process = subprocess.Popen(argv, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    try:
        yield
    finally:
        process.kill()
        process.wait()


class Told:
    """Where handlers tell what they have handled; remembers when."""

    def __enter__(self) -> Self:
        """Listen."""
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8 << 20)
        self._socket.bind(("127.0.0.1", 0))
        self.port: int = self._socket.getsockname()[1]
        self.at: dict[str, float] = {}
        self._thread = threading.Thread(target=self._listen, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Stop."""
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as waker:
            waker.sendto(b"", ("127.0.0.1", self.port))
        self._thread.join()
        self._socket.close()

    def _listen(self) -> None:
        while session := self._socket.recv(500).decode():
            self.at.setdefault(session, time.perf_counter())


def post_quiet(port: int, told: Told, tenants: Sequence[str], *, events: int, rate: float) -> list[tuple[str, float]]:
    """Post events of the tenants in turn, each at its time; return tenant and seconds of each, once all are handled."""
    prefix, due = uuid.uuid4().hex[:20], {}
    sockets = [socket.create_connection(("127.0.0.1", port)) for _ in range(32)]
    free, busy = list(sockets), list[socket.socket]()
    answers, began = Answers(), time.perf_counter()
    for number in range(events):
        session, tenant = f"{prefix}{number:016d}", tenants[number % len(tenants)]
        request = make_request(make_body(session), f"/webhooks/moveris/{tenant}")
        due[session] = (tenant, began + number / rate)
        time.sleep(max(0.0, due[session][1] - time.perf_counter()))
        if not free:  # an answer must have come meanwhile
            free, busy = busy, free
            for one in free:
                while (status := answers.read(one)) is None:
                    pass
                if status != b"200":
                    raise RuntimeError(f"a request of a quiet tenant was refused: {status!r}")
        one = free.pop()
        one.sendall(request)
        busy.append(one)
    ends = time.perf_counter() + PATIENCE_SECONDS
    while time.perf_counter() < ends and not due.keys() <= told.at.keys():
        time.sleep(0.02)
    for one in sockets:
        one.close()
    never = time.perf_counter()  # what is not handled yet counts as if it were now
    return [(tenant, told.at.get(session, never) - at) for session, (tenant, at) in due.items()]
