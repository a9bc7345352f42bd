"""How long one event takes at rest, from the POST to the end of its handler: ours and the peer."""

from __future__ import annotations

import socket
import time
from typing import TYPE_CHECKING

from tests.benchmarks.answers import Answers
from tests.benchmarks.bodies import PATH, make_body, make_request
from tests.benchmarks.histogram import Histogram
from tests.benchmarks.notices import Notices
from tests.benchmarks.processes import run_celery, run_ours, run_web
from tests.launching import free_port

if TYPE_CHECKING:
    from tests.benchmarks.ground import Ground
    from tests.benchmarks.measuring import Figures, Sizes


def measure_our_idle(ground: Ground, sizes: Sizes) -> Figures:
    """One event at a time, from the POST to the end of its handler."""
    with ground.fresh() as place, Notices() as notices:
        port = free_port()
        place.add_endpoint()
        names, module = ("ingress", "ingest", "handlers", "express"), "tests.benchmarks.handlers.tell"
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
