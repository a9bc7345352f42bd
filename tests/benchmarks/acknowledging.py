"""How fast requests are acknowledged: a receiver that only verifies, the peer, and ours."""

from __future__ import annotations

import shutil
import sys
import tempfile
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import redis

from deploy.local.servers import prepare_valkey
from tests.benchmarks.ground import MEMORY
from tests.benchmarks.measuring import wait_until
from tests.benchmarks.processes import load, run_ours, run_server, run_web, started
from tests.launching import free_port

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.benchmarks.ground import Ground, Place
    from tests.benchmarks.measuring import Figures, Sizes


def measure_verify_acks(ground: Ground, sizes: Sizes) -> Figures:
    """Starlette that verifies and does nothing else."""
    port = free_port()
    with ground.fresh() as place, run_web(place, "tests.benchmarks.floors.verify:app", port):
        result = load("closed", port=port, seconds=sizes.load_seconds, warm_up=1)
    return {"verify_rate": result["rate"]}


def measure_our_acks(ground: Ground, sizes: Sizes) -> Figures:
    """Our ingress, one process."""
    with ground.fresh() as place, our_ingress(place) as port:
        before = place.redis.info("memory")["used_memory"]
        result = load("closed", port=port, seconds=sizes.load_seconds, warm_up=1)
        used = place.redis.info("memory")["used_memory"] - before
        waiting = place.waiting()
    return {"ack_rate": result["rate"], "waiting_bytes": used / waiting}


def measure_naive_acks(ground: Ground, sizes: Sizes) -> Figures:
    """The peer's receiver, one process."""
    port = free_port()
    with ground.fresh() as place, run_web(place, "tests.benchmarks.naive.app:app", port):
        result = load("closed", port=port, seconds=sizes.load_seconds, warm_up=1)
    return {"naive_ack_rate": result["rate"]}


def measure_latency(ground: Ground, sizes: Sizes, rate: float) -> Figures:
    """Our latency and the floor's at the same rate; then what the disk adds to either.

    The floor beside a process that flushes as many bodies to a file, and ours with Redis' file in memory.
    """
    port, runs = free_port(), {}
    with ground.fresh() as place, run_web(place, "tests.benchmarks.floors.verify:app", port):
        runs["verify"] = load("opened", port=port, rate=rate, seconds=sizes.load_seconds)
        with flushing(place, rate):
            runs["flushing_verify"] = load("opened", port=port, rate=rate, seconds=sizes.load_seconds)
    with ground.fresh() as place, our_ingress(place) as port:
        runs["ack"] = load("opened", port=port, rate=rate, seconds=sizes.load_seconds)
    if MEMORY.is_dir():
        with ground.fresh() as place, redis_in_memory(place) as elsewhere, our_ingress(elsewhere) as port:
            runs["memory_ack"] = load("opened", port=port, rate=rate, seconds=sizes.load_seconds)
    return {"half_rate": rate} | {
        f"{name}_{percentile}_ms": run[percentile]
        for name, run in runs.items()
        for percentile in ("p50", "p99", "p99.9")
    }


@contextmanager
def flushing(place: Place, rate: float) -> Iterator[None]:
    """Run a process that flushes so many bodies a second to a file beside that of Redis."""
    file = place.home / "flushed"
    argv = [sys.executable, "-m", "tests.benchmarks.floors.flush", "--file", str(file), "--rate", str(rate)]
    with started(argv, place.home / "flush.log", place.environ()):
        wait_until(lambda: file.exists() and file.stat().st_size > 0)
        yield
    file.unlink()


@contextmanager
def redis_in_memory(place: Place) -> Iterator[Place]:
    """Run one more Redis whose append-only file is in memory; yield the place with that one."""
    home = Path(tempfile.mkdtemp(prefix="pipeline-bench-", dir=MEMORY))
    try:
        server = prepare_valkey(home, port=free_port(), password="bench", maxmemory="1gb")
        with run_server(server, home), redis.Redis.from_url(server.url) as client:
            yield replace(place, redis_url=server.url, redis=client)
    finally:
        shutil.rmtree(home, ignore_errors=True)


@contextmanager
def our_ingress(place: Place) -> Iterator[int]:
    """Run our ingress with one endpoint; yield its port."""
    port = free_port()
    place.add_endpoint()
    with run_ours(place, "ingress", ingress_port=port):
        yield port
