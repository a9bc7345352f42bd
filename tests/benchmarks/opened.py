"""Open-loop load, `python -m tests.benchmarks.opened`: requests leave at their time, answered or not.

A latency begins at the moment a request should have left, so that a server which stalls cannot hide what it kept
waiting (no coordinated omission). Waiting is by `select`, which is exact to some microseconds; epoll rounds up to a
millisecond. Prints one JSON object.
"""

from __future__ import annotations

import argparse
import gc
import json
import select
import socket
import sys
import time
from collections import deque
from itertools import islice
from typing import Any

from tests.benchmarks.answers import Answers
from tests.benchmarks.bodies import PATH, SIZE, make_requests
from tests.benchmarks.histogram import Histogram


def run(
    *, port: int, connections: int, rate: float, seconds: float, warm_up: float, size: int, path: str, tenants: int
) -> Any:
    """Send `rate` requests a second; return the percentiles of their latencies.

    Args:
        port: on the loopback.
        connections: open at the same time; a request that finds none free waits, and its waiting counts.
        rate: requests per second.
        seconds: measured time.
        warm_up: seconds before anything is counted.
        size: bytes of a body.
        path: where to post; a `*` stands for a number below `tenants`.
        tenants: see `path`.
    """
    total = int(rate * (warm_up + seconds))
    requests = list(islice(make_requests(size, path, tenants), total))
    free = deque(socket.create_connection(("127.0.0.1", port)) for _ in range(connections))
    for one in free:
        one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    intended: dict[socket.socket, float] = {}
    histogram, answers = Histogram(), Answers()
    refused = sent = answered = 0
    gc.disable()
    began = time.perf_counter()
    first_counted = began + warm_up
    while answered < total:
        now = time.perf_counter()
        while sent < total and free and began + sent / rate <= now:
            one = free.popleft()
            one.sendall(requests[sent])
            intended[one] = began + sent / rate
            sent += 1
        wait = max(0.0, began + sent / rate - time.perf_counter()) if sent < total and free else 1.0
        ready, _, _ = select.select(list(intended), (), (), wait)
        now = time.perf_counter()
        for one in ready:
            status = answers.read(one)
            if status is None:
                continue
            answered += 1
            refused += status != b"200"
            due = intended.pop(one)
            if due >= first_counted:
                histogram.add(now - due)
            free.append(one)
    elapsed = time.perf_counter() - began
    return {"rate": total / elapsed, "asked": rate, "refused": refused, **histogram.summary()}


def main() -> None:
    """Parse the command line, run, print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--connections", type=int, default=256)
    parser.add_argument("--rate", type=float, required=True)
    parser.add_argument("--seconds", type=float, default=4)
    parser.add_argument("--warm-up", type=float, default=1)
    parser.add_argument("--size", type=int, default=SIZE)
    parser.add_argument("--path", default=PATH)
    parser.add_argument("--tenants", type=int, default=1)
    sys.stdout.write(json.dumps(run(**vars(parser.parse_args()))) + "\n")


if __name__ == "__main__":
    main()
