"""What the tasks of handlers take for granted about billiard: a process says whether its pool has told it to end."""

from __future__ import annotations

import subprocess
import sys
from typing import Final

SCRIPT: Final = """
import os, signal, sys, time
from billiard.common import terminate_handler_fired
from billiard.pool import Pool

def wait(path):
    try:
        os.mkfifo(path)
        open(path).close()
        time.sleep(60)
    finally:
        print(sys.exc_info()[0].__name__, terminate_handler_fired(), flush=True)

def leave():
    try:
        sys.exit(3)
    except SystemExit:
        return terminate_handler_fired()

if __name__ == "__main__":
    with Pool(1) as pool:
        print(pool.apply(leave), flush=True)
        pool.apply_async(wait, [sys.argv[1]])
        (process,) = pool._pool
        while not os.path.exists(sys.argv[1]):
            time.sleep(0.01)
        open(sys.argv[1], "w").close()
        process.terminate()
        process.join(10)
        pool.terminate()
"""


def test_a_process_that_the_pool_ends_says_so(tmp_path: object) -> None:
    command = [sys.executable, "-c", SCRIPT, f"{tmp_path}/began"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.stdout.split() == ["False", "SystemExit", "True"], done.stderr
