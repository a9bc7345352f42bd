"""Free ports, and processes that end with the test run; imports nothing of the pipeline."""

from __future__ import annotations

import os
import secrets
import signal
import socket
import subprocess
import sys
from collections import deque
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final
from urllib.request import ProxyHandler, build_opener

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

open_url: Final = build_opener(ProxyHandler({})).open
"""`urlopen` that follows no `http_proxy`: all servers of the tests are on the loopback."""

ROOT: Final = Path(__file__).parents[1]
PARENT_WATCH: Final = ROOT / "deploy" / "local" / "parent_watch.py"
"""Run as a program, as the supervisor of `pipeline up` runs it."""
_WORKER: Final = os.environ.get("PYTEST_XDIST_WORKER", "")
_FIRST: Final = 10_000 + 2_000 * (int(_WORKER.removeprefix("gw")) % 4) if _WORKER else 18_000
_given: Final[deque[int]] = deque(maxlen=100)


def free_port() -> int:
    """Return a TCP port that is free now, in a range of this test process.

    It lies below the ports of outgoing connections: among those, a client that keeps trying a stopped server can end up
    connected to itself. None comes twice among a hundred, so that two servers of one test never get the same.
    """
    while True:
        port = _FIRST + secrets.randbelow(2_000)
        with socket.socket() as probe, suppress(OSError):
            if port not in _given:
                probe.bind(("127.0.0.1", port))
                _given.append(port)
                return port


def end(process: subprocess.Popen[bytes], number: signal.Signals) -> None:
    """Ask a process to end by a signal; kill it if it takes more than ten seconds."""
    process.send_signal(number)
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def spawn(
    argv: Sequence[str],
    *,
    log: Path,
    environ: Mapping[str, str] | None = None,
    user: int | None = None,
    folder: Path | None = None,
    at_our_end: signal.Signals = signal.SIGKILL,
) -> subprocess.Popen[bytes]:
    """Start a program in a session of its own, its output appended to `log`; on Linux it ends with this process.

    Args:
        argv: the command; the program is an absolute path.
        log: of its output.
        environ: its whole environment; None for ours.
        user: to run it as; None for ours. It then runs in the root folder.
        folder: to run in; None for ours.
        at_our_end: the signal that it gets when this process ends.
    """
    watch = [str(PARENT_WATCH), str(int(at_our_end)), str(os.getpid()), str(os.geteuid() if user is None else user)]
    with log.open("ab") as output:
        return subprocess.Popen(
            [sys.executable, "-I", "-S", *watch, *argv],
            env=None if environ is None else dict(environ),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
            cwd=folder if user is None else "/",
        )
