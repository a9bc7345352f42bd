"""One round: floors, the peer and ours in alternation, so that the ratios of a round share its moment of the machine.

Each function measures one thing and returns its figures; names ending in `_rate` are per second, `_ms` milliseconds.
"""

from __future__ import annotations

import shutil
import socket
import sys
import tempfile
import time
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import redis
from celery import Celery

from deploy.local.servers import free_port, prepare_valkey
from tests.benchmarks.answers import Answers
from tests.benchmarks.bodies import PATH, make_body, make_request
from tests.benchmarks.fill import fill_inbox
from tests.benchmarks.histogram import Histogram
from tests.benchmarks.processes import load, run_celery, run_ours, run_server, run_web, started

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.benchmarks.ground import Ground, Place

Figures = dict[str, float]
POLL_SECONDS = 0.02
PATIENCE_SECONDS = 180.0
MEMORY = Path("/dev/shm")


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """How much is measured.

    Attributes:
        load_seconds: of each load.
        backlog: inbox entries that are stored.
        events: through our whole pipeline.
        naive_events: through the peer's.
        noop_tasks: of Celery.
        idle_events: one after the other.
    """

    load_seconds: float = 4.0
    backlog: int = 200_000
    events: int = 30_000
    naive_events: int = 1_500
    noop_tasks: int = 4_000
    idle_events: int = 150


def run_round(ground: Ground, sizes: Sizes) -> Figures:
    """Measure everything once, and print each figure as it comes."""
    figures: Figures = {}
    for measure in (measure_verify_acks, measure_our_acks, measure_naive_acks):
        figures |= tell(measure(ground, sizes))
    # half of what the slower one can do: beyond its own limit the floor's latency says nothing
    figures |= tell(measure_latency(ground, sizes, min(figures["ack_rate"], figures["verify_rate"]) / 2))
    for measure in (measure_copy, measure_stored, measure_noop):
        figures |= tell(measure(ground, sizes))
    for name in ("nothing", "write"):
        figures |= tell(measure_our_pipeline(ground, sizes, name))
        figures |= tell(measure_naive_pipeline(ground, sizes, name))
    figures |= tell(measure_our_idle(ground, sizes))
    return figures | tell(measure_naive_idle(ground, sizes))


def tell(figures: Figures) -> Figures:
    """Print figures and return them."""
    print("   ", ", ".join(f"{name} {value:,.4g}" for name, value in figures.items()), flush=True)
    return figures


# Acknowledging ------------------------------------------------------------------------------------------------------


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
        waiting = place.redis.xlen("inbox")
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


# Storing ------------------------------------------------------------------------------------------------------------


def measure_copy(ground: Ground, sizes: Sizes) -> Figures:
    """COPY of the same rows into the same table, a transaction for each thousand."""
    with ground.fresh() as place:
        fill_inbox(place, 1000)
        with run_ours(place, "ingest", HANDLERS="tests.benchmarks.handlers.nothing"):
            wait_until(lambda: place.query("SELECT count(*) AS n FROM events")["n"] == 1000)
        with place.connect() as connection:
            with connection.cursor().copy("COPY (SELECT * FROM events) TO STDOUT") as copy:
                lines = [bytes(line) for line in copy]
            total, began = 0, time.perf_counter()
            for batch in range(max(10, sizes.backlog // 4000)):
                with connection.transaction(), connection.cursor().copy("COPY events FROM STDIN") as copy:
                    copy.write(b"".join(renumber(line, batch) for line in lines))
                total += len(lines)
            elapsed = time.perf_counter() - began
    return {"copy_rate": total / elapsed}


def renumber(line: bytes, batch: int) -> bytes:
    """Return a row of COPY under another id of the same day."""
    return line[:24] + b"%012x" % (int(line[24:36], 16) ^ (batch + 1) << 24) + line[36:]


def measure_stored(ground: Ground, sizes: Sizes) -> Figures:
    """A backlog in the inbox, stored with its deliveries; no handler runs."""
    with ground.fresh() as place:
        fill_inbox(place, sizes.backlog)
        with run_ours(place, "ingest", HANDLERS="tests.benchmarks.handlers.nothing"):
            rate = watch_drain(place, sizes.backlog)
        stored = place.query("SELECT count(*) AS n FROM events")["n"]
        if stored != sizes.backlog:
            raise RuntimeError(f"{stored} of {sizes.backlog} events are stored")
    return {"stored_rate": rate}


def watch_drain(place: Place, backlog: int) -> float:
    """Return the rate from the first entry that leaves the inbox to the last."""
    began = first = None
    while (waiting := place.redis.xlen("inbox")) > 0:
        if waiting < backlog and began is None:
            began, first = time.perf_counter(), waiting
        time.sleep(POLL_SECONDS)
    if began is None or first is None:
        raise RuntimeError("the backlog was stored between two looks: make it larger")
    return float(first) / (time.perf_counter() - began)


# All the way --------------------------------------------------------------------------------------------------------


def measure_noop(ground: Ground, sizes: Sizes) -> Figures:
    """Celery running tasks that do nothing."""
    with ground.fresh() as place:
        with Celery("noop", broker=place.redis_url, set_as_current=False) as app:
            for number in range(sizes.noop_tasks):
                app.send_task("tests.benchmarks.floors.noop.do_nothing", args=[str(number)], ignore_result=True)
        with run_celery(place, "tests.benchmarks.floors.noop"):
            began = None
            while (waiting := int(place.redis.llen("celery")) + int(place.redis.hlen("unacked"))) > 0:
                if began is None and waiting < sizes.noop_tasks:
                    began, first = time.perf_counter(), waiting
                time.sleep(POLL_SECONDS)
            elapsed = time.perf_counter() - (began or 0)
    return {"noop_rate": first / elapsed}


def measure_our_pipeline(ground: Ground, sizes: Sizes, handler: str) -> Figures:
    """From the first stored to the last handled, all of the pipeline's workers at work."""
    with ground.fresh() as place:
        fill_inbox(place, sizes.events)
        with run_ours(place, "ingest", "handlers", HANDLERS=f"tests.benchmarks.handlers.{handler}"):
            wait_until(lambda: finished(place) >= sizes.events)
        row = place.query(
            "SELECT count(*) / extract(epoch FROM max(finished_at) - (SELECT min(stored_at) FROM events)) AS rate,"
            " count(*) FILTER (WHERE state = 'succeeded') AS done FROM deliveries_done"
        )
        if row["done"] != sizes.events:
            raise RuntimeError(f"{row['done']} of {sizes.events} deliveries succeeded")
    return {f"{handler}_rate": float(row["rate"])}


def finished(place: Place) -> int:
    """Return how many deliveries are finished, without a scan while they run."""
    if place.redis.xlen("inbox") or place.query("SELECT EXISTS (SELECT FROM deliveries) AS open")["open"]:
        return 0
    return int(place.query("SELECT count(*) AS n FROM deliveries_done")["n"])


def measure_naive_pipeline(ground: Ground, sizes: Sizes, handler: str) -> Figures:
    """The same of the peer: its messages were sent by its own receiver."""
    with ground.fresh() as place:
        port = free_port()
        with run_web(place, "tests.benchmarks.naive.app:app", port):
            load("closed", port=port, count=sizes.naive_events)
        with run_celery(place, "tests.benchmarks.naive.tasks", NAIVE_HANDLER=handler):
            wait_until(
                lambda: place.query("SELECT count(handled_at) AS n FROM naive_events")["n"] == sizes.naive_events
            )
        row = place.query(
            "SELECT count(*) / extract(epoch FROM max(handled_at) - min(stored_at)) AS rate FROM naive_events"
        )
    return {f"naive_{handler}_rate": float(row["rate"])}


# At rest ------------------------------------------------------------------------------------------------------------


def measure_our_idle(ground: Ground, sizes: Sizes) -> Figures:
    """One event at a time, from the POST to the end of its handler."""
    with ground.fresh() as place, Notices() as notices:
        port = free_port()
        place.add_endpoint()
        names, module = ("ingress", "ingest", "handlers"), "tests.benchmarks.handlers.tell"
        with run_ours(place, *names, ingress_port=port, HANDLERS=module, NOTICE_PORT=notices.port):
            return {f"idle_{name}_ms": value for name, value in time_events(port, notices, sizes.idle_events).items()}


def measure_naive_idle(ground: Ground, sizes: Sizes) -> Figures:
    """The same of the peer."""
    with ground.fresh() as place, Notices() as notices:
        port = free_port()
        more = {"NAIVE_HANDLER": "tell", "NOTICE_PORT": notices.port}
        with (
            run_web(place, "tests.benchmarks.naive.app:app", port),
            run_celery(place, "tests.benchmarks.naive.tasks", **more),
        ):
            figures = time_events(port, notices, sizes.idle_events)
    return {f"naive_idle_{name}_ms": value for name, value in figures.items()}


def time_events(port: int, notices: Notices, count: int) -> dict[str, float]:
    """Post one event after the other; return p50 and p99 in milliseconds until its handler is done."""
    histogram, answers = Histogram(), Answers()
    with socket.create_connection(("127.0.0.1", port)) as client:
        for number in range(-20, count):  # the first ones open connections
            session = f"idle-{number}"
            request = make_request(make_body(session), PATH)
            began = time.perf_counter()
            client.sendall(request)
            while answers.read(client) is None:
                pass
            notices.wait_for(session)
            if number >= 0:
                histogram.add(time.perf_counter() - began)
            time.sleep(0.01)
    return {"p50": histogram.percentile(50) * 1000, "p99": histogram.percentile(99) * 1000}


class Notices:
    """Where handlers tell at once what they have handled: a datagram each."""

    def __enter__(self) -> Self:
        """Open the socket."""
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8 << 20)
        self._socket.bind(("127.0.0.1", 0))
        self._socket.settimeout(PATIENCE_SECONDS)
        self.port: int = self._socket.getsockname()[1]
        return self

    def __exit__(self, *_: object) -> None:
        """Close it."""
        self._socket.close()

    def wait_for_tenant(self, tenant: str) -> None:
        """Wait until a notice is of this tenant."""
        while self._socket.recv(500).decode().partition(" ")[0] != tenant:
            pass

    def wait_for(self, wanted: str) -> None:
        """Wait until a notice ends with this word."""
        while self._socket.recv(500).decode().rpartition(" ")[2] != wanted:
            pass


def wait_until(is_done: Any, seconds: float = PATIENCE_SECONDS) -> None:
    """Look until it is done."""
    ends = time.monotonic() + seconds
    while not is_done():
        if time.monotonic() > ends:
            raise RuntimeError("not done in time")
        time.sleep(POLL_SECONDS)


__all__ = ["Figures", "Sizes", "run_round", "started"]
