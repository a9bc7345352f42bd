"""What a durable receiver does to the disk, and nothing else: bodies appended to a file and flushed, until it is ended.

`python -m tests.benchmarks.floors.flush`. On some machines, virtual ones above all, a flush holds up every process:
beside this one, a receiver that stores nothing shows what of a latency is the machine's.
"""

from __future__ import annotations

import argparse
import os
import time
from pathlib import Path
from typing import NoReturn

from tests.benchmarks.bodies import make_body


def run(*, file: Path, rate: float) -> NoReturn:
    """Append `rate` bodies a second to a file; those that are due together are flushed together."""
    flush = getattr(os, "fdatasync", os.fsync)
    body, done, began = make_body("flush") + b"\n", 0, time.perf_counter()
    with file.open("ab", buffering=0) as journal:
        while True:
            due = int((time.perf_counter() - began) * rate) + 1
            if due > done:
                journal.write(body * (due - done))
                flush(journal.fileno())
                done = due
            else:
                time.sleep(max(0.0, began + done / rate - time.perf_counter()))


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--file", type=Path, required=True, help="should be where Redis has its own")
    parser.add_argument("--rate", type=float, required=True, help="bodies per second")
    run(**vars(parser.parse_args()))
