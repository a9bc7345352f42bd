"""What an event costs in a fleet, against one of each process: `python -m tests.benchmarks fleet`.

The fleet is four ingress, four ingest and eight handler workers; its opposite has one of each. Both have an express
worker, housekeeping, beat, and nginx with the shipped configuration in front, without TLS and limits; and a Redis and a
Postgres of their own. Every worker has one child. Both run at the same time and take turns, as in `cost`: signed events
at a fixed rate, until a handler that does nothing has handled them all. There are three loads: the same for each
ingress, so four times as much for the fleet; the same for both; and more than either handles, so that messages carry
many events. What processes cost at rest is measured before the turns and is not part of an event.

It prints microseconds of CPU an event for each part, and the events per second at which its processes would be full if
each had a core to itself: the least of those saturates first.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import time
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from statistics import median
from typing import TYPE_CHECKING, Any, Final

from tests.benchmarks import report
from tests.benchmarks.cost import measure_turn
from tests.benchmarks.ground import stand_on
from tests.benchmarks.growth.meter import cpu_of
from tests.benchmarks.measuring import wait_until
from tests.benchmarks.processes import ROOT, started
from tests.launching import free_port
from tests.names import NAMES
from workers.live_workers import read_live

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from tests.benchmarks.ground import Place

MUST: Final = 1.25
"""CPU of an event in the fleet against one of each, at the most."""
FLEET: Final = {"ingress": 4, "ingest": 4, "handlers": 8}
ONE: Final = {"ingress": 1, "ingest": 1, "handlers": 1}
REST: Final = {"express": 1, "housekeeping": 1, "beat": 1}
QUEUES: Final = {
    "ingest": "ingest",
    "handlers": "express,handlers",
    "express": "express",
    "housekeeping": "housekeeping",
}
GROWING: Final = ("ingress", "ingest", "handlers", "redis", "postgres", "nginx")
"""What more events need more of; Postgres is counted as one core."""
HEADINGS: Final = (
    "part",
    "one of each, us/event",
    "fleet, us/event",
    "fleet ÷ one",
    "processes of the fleet",
    "full at",
)
NGINX: Final = shutil.which("nginx") or "/usr/sbin/nginx"
CONFIGURATION: Final = ROOT / "deploy" / "nginx" / "webhook-pipeline.conf"
SECONDS_AT_REST: Final = 10.0
LOADS: Final = {
    "the same for each ingress": (300, 1_200),
    "the same for both": (600, 600),
    "more than either handles": (3_000, 3_000),
}
"""Events a second for one of each, and for the fleet."""
SECONDS: Final = {"the same for each ingress": 6.0, "the same for both": 6.0, "more than either handles": 3.0}


@dataclass(frozen=True, slots=True, kw_only=True)
class Fleet:
    """One of the two, as `cost.measure_turn` measures it.

    Attributes:
        port: of its nginx.
        pids: a process or several by part, named `part number`.
    """

    name: str
    place: Place
    port: int
    pids: Mapping[str, int]


def main(arguments: Sequence[str]) -> None:
    """Parse the command line, measure, print, write the JSON that deploy/SCALING.md is made of."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.benchmarks fleet",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--pairs", type=int, default=3, help="turns of each, for each load; default 3")
    chosen = parser.parse_args(arguments)
    results: dict[str, Any] = {
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "cores": os.cpu_count(),
        "load": os.getloadavg()[0],
        "turns": {load: {"one": [], "fleet": []} for load in LOADS},
    }
    with ExitStack() as stack:
        sides = [start(name, counts, stack) for name, counts in (("one", ONE), ("fleet", FLEET))]
        for side in sides:
            measure_turn(side, events=2_000, rate=500)  # type: ignore[arg-type]
        rest = {side.name: measure_rest(side) for side in sides}
        for load, rates in LOADS.items():
            for number in range(chosen.pairs):
                for side, rate in zip(sides, rates, strict=True):
                    spent = measure_net(side, rest[side.name], rate=rate, seconds=SECONDS[load])
                    results["turns"][load][side.name].append(spent)
                    print(f"{load}, pair {number + 1} {side.name} {spent['all']:.0f} us/event", flush=True)
    results["rest"] = {name: sum(found.values()) for name, found in rest.items()}
    report.write_json(results, "fleet")
    for load in LOADS:
        report.print_table(rows_of(results, load), HEADINGS, f"CPU time of an event, load: {load}")
    print(summary(results))


def measure_net(side: Fleet, rest: Mapping[str, float], *, rate: float, seconds: float) -> dict[str, float]:
    """Measure one turn; return microseconds an event by part, beyond what the processes cost at rest."""
    events, began = int(rate * seconds), time.monotonic()
    spent = measure_turn(side, events=events, rate=rate)  # type: ignore[arg-type]
    return by_part(spent, rest, seconds=time.monotonic() - began, events=events)


def start(name: str, counts: Mapping[str, int], stack: ExitStack) -> Fleet:
    """Start servers, processes and nginx; return when every worker has said that it lives."""
    ground = stack.enter_context(stand_on())
    place = stack.enter_context(ground.fresh())
    place.add_endpoint()
    ports = [free_port() for _ in range(counts["ingress"])]
    pids = dict(zip(("postgres", "redis"), ground.server_pids, strict=True))
    environ = {"HANDLERS": "tests.benchmarks.handlers.nothing", "HEARTBEAT_DIR": place.home / "heartbeats"}
    for part, count in {**counts, **REST}.items():
        for number in range(1, count + 1):
            own = environ | ({"INGRESS_PORT": ports[number - 1]} if part == "ingress" else {})
            process = started(command_of(part, number), place.home / f"{part}-{number}.log", place.environ(**own))
            pids[f"{part} {number}"] = stack.enter_context(process).pid
    port = free_port()
    argv = [NGINX, "-c", str(configure(place.home, port=port, upstreams=ports))]
    pids["nginx"] = stack.enter_context(started(argv, place.home / "nginx.log", place.environ())).pid
    workers = sum(count for part, count in {**counts, **REST}.items() if part in QUEUES)
    wait_until(lambda: len(read_live(place.redis, NAMES).workers) == workers)
    return Fleet(name=name, place=place, port=port, pids=pids)


def command_of(part: str, number: int) -> list[str]:
    """Return the command of a process; a worker has one child and a name of its own."""
    if part == "ingress":
        return [sys.executable, "-m", "ingress"]
    celery = [sys.executable, "-m", "celery", "-A", "workers.app"]
    if part == "beat":
        return [*celery, "beat"]
    more = ["-c", "1", "-E", "--without-gossip", "--without-mingle"]
    return [*celery, "worker", "-Q", QUEUES[part], "-n", f"{part}-{number}@%h", *more]


def configure(folder: Path, *, port: int, upstreams: Sequence[int]) -> Path:
    """Write the shipped configuration with these upstreams, without TLS and limits per client."""
    lines = []
    for line in CONFIGURATION.read_text().splitlines():
        words = line.split()
        if words[:1] == ["listen"]:
            lines.append(f"listen 127.0.0.1:{port};")
        elif words[:2] == ["server", "127.0.0.1:8000"]:
            lines += [f"server 127.0.0.1:{it} max_fails=0;" for it in upstreams]
        elif words[:2] != ["server", "127.0.0.1:8001"] and not line.strip().startswith(("ssl_", "limit_")):
            lines.append(line)
    temporary = "".join(
        f"{it}_temp_path {folder}/{it}; " for it in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    (folder / "pipeline.conf").write_text("\n".join(lines))
    (folder / "nginx.conf").write_text(
        f"daemon off; pid {folder}/nginx.pid; error_log {folder}/error.log; events {{ worker_connections 4096; }}\n"
        f"http {{ access_log off; {temporary} include {folder}/pipeline.conf; }}\n"
    )
    return folder / "nginx.conf"


def measure_rest(side: Fleet) -> dict[str, float]:
    """Return CPU seconds a second of each process while nothing comes."""
    before = {name: cpu_of(pid) for name, pid in side.pids.items()}
    began = time.monotonic()
    time.sleep(SECONDS_AT_REST)
    return {name: (cpu_of(pid) - before[name]) / (time.monotonic() - began) for name, pid in side.pids.items()}


def by_part(spent: Mapping[str, float], rest: Mapping[str, float], *, seconds: float, events: int) -> dict[str, float]:
    """Return microseconds an event by part, beyond what the processes cost at rest."""
    found: dict[str, float] = {}
    for name, value in spent.items():
        if name != "all":
            part = name.partition(" ")[0]
            found[part] = found.get(part, 0.0) + (value - rest[name] * seconds) / events * 1e6
    return {**found, "all": sum(found.values())}


def rows_of(results: Mapping[str, Any], load: str) -> list[list[str]]:
    """Return a row for each part."""
    rows = []
    one, fleet = results["turns"][load]["one"], results["turns"][load]["fleet"]
    for part in fleet[0]:
        before, after = (median(turn[part] for turn in side) for side in (one, fleet))
        ratios = [mine[part] / other[part] for mine, other in zip(fleet, one, strict=True) if other[part] > 1]
        ratio = f"{median(ratios):.2f}" if ratios else ""
        processes = "" if part == "all" else f"{({**FLEET, **REST}).get(part, 1)}"
        full = f"{capacity(fleet, part):,.0f} /s" if part in GROWING else ""
        rows.append([part, f"{before:.0f}", f"{after:.0f}", ratio, processes, full])
    return rows


def capacity(fleet: Sequence[Mapping[str, float]], part: str) -> float:
    """Return the events a second at which all processes of a part have a core's worth of work each."""
    return float(FLEET.get(part, 1) * 1e6 / median(turn[part] for turn in fleet))


def summary(results: Mapping[str, Any]) -> str:
    """Say how the fleet compares, and what saturates first."""
    said = []
    for load, turns in results["turns"].items():
        ratio = median(mine["all"] / other["all"] for mine, other in zip(turns["fleet"], turns["one"], strict=True))
        first = sorted(GROWING, key=lambda part, fleet=turns["fleet"]: capacity(fleet, part))  # type: ignore[misc]
        said.append(f"Load {load}: {ratio:.2f} (at most {MUST}); full first: {first[0]}, then {first[1]}.")
    rest = results["rest"]
    said.append(
        f"At rest one of each takes {rest['one'] * 100:.0f} % of a core, the fleet {rest['fleet'] * 100:.0f} %."
    )
    return " ".join(said)
