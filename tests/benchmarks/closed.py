"""Closed-loop load: so many connections, each asks again when it is answered. `python -m tests.benchmarks.closed`.

A process of its own on plain sockets: about 15 us a request, a fifth of what the servers need. Prints one JSON object.
"""

from __future__ import annotations

import argparse
import gc
import json
import selectors
import socket
import sys
import time
from itertools import islice
from typing import Any

from tests.benchmarks.answers import Answers
from tests.benchmarks.bodies import PATH, SIZE, make_requests

PREPARED = 20_000


def run(
    *, port: int, connections: int, seconds: float, count: int, size: int, path: str, warm_up: float, tenants: int
) -> Any:
    """Load one server; return what it answered.

    Args:
        port: on the loopback.
        connections: open at the same time.
        seconds: measured time; 0: until `count` requests are answered.
        count: bound of requests; 0: none.
        size: bytes of a body.
        path: where to post; a `*` stands for a number below `tenants`.
        warm_up: seconds before anything is counted.
        tenants: see `path`.
    """
    endless = make_requests(size, path, tenants)
    prepared = list(islice(endless, min(count or PREPARED, PREPARED * SIZE // max(size, SIZE))))
    prepared.reverse()
    selector = selectors.DefaultSelector()
    sockets = [socket.create_connection(("127.0.0.1", port)) for _ in range(connections)]
    answers = Answers()
    sent = answered = refused = 0
    gc.disable()
    began = time.perf_counter()
    for one in sockets:
        one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        selector.register(one, selectors.EVENT_READ, one)
        one.sendall(prepared.pop() if prepared else next(endless))
        sent += 1
    counting_from = began + warm_up
    ends = counting_from + seconds if seconds else float("inf")
    counted = 0
    now = began
    while now < ends and answered < (count or float("inf")):
        ready = selector.select(1.0)
        now = time.perf_counter()
        for key, _ in ready:
            one = key.data
            status = answers.read(one)
            if status is None:
                continue
            answered += 1
            refused += status != b"200"
            if now >= counting_from:
                counted += 1
            if not count or sent < count:
                one.sendall(prepared.pop() if prepared else next(endless))
                sent += 1
    elapsed = now - counting_from
    for one in sockets:
        one.close()
    return {"answered": answered, "refused": refused, "seconds": elapsed, "rate": counted / elapsed}


def main() -> None:
    """Parse the command line, run, print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--connections", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=0)
    parser.add_argument("--count", type=int, default=0)
    parser.add_argument("--size", type=int, default=SIZE)
    parser.add_argument("--path", default=PATH)
    parser.add_argument("--tenants", type=int, default=1)
    parser.add_argument("--warm-up", type=float, default=0)
    sys.stdout.write(json.dumps(run(**vars(parser.parse_args()))) + "\n")


if __name__ == "__main__":
    main()
