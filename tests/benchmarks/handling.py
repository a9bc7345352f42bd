"""How fast events go all the way: ours, the peer, and Celery with tasks that do nothing."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from celery import Celery

from tests.benchmarks.fill import fill_inbox
from tests.benchmarks.measuring import POLL_SECONDS, wait_until
from tests.benchmarks.processes import load, run_celery, run_ours, run_web
from tests.launching import free_port

if TYPE_CHECKING:
    from tests.benchmarks.ground import Ground, Place
    from tests.benchmarks.measuring import Figures, Sizes


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
        with run_ours(place, "ingest", "handlers", "express", HANDLERS=f"tests.benchmarks.handlers.{handler}"):
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
    if place.waiting() or place.query("SELECT EXISTS (SELECT FROM deliveries) AS open")["open"]:
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
