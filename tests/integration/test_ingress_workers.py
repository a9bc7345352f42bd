"""Several ingress processes behind one port: replaced when they die, never left alone."""

from __future__ import annotations

import os
import signal
import time
from contextlib import suppress
from typing import TYPE_CHECKING

import httpx
import psutil

from tests.ingress_process import Valkey, read_answer, request, serving, wait_for

if TYPE_CHECKING:
    from tests.ingress_process import Process


def workers(ingress: Process) -> set[int]:
    """Return the process ids of those that serve."""
    found = set()
    for child in psutil.Process(ingress.popen.pid).children():
        with suppress(psutil.NoSuchProcess):  # it may go between the list and the look
            if child.status() != psutil.STATUS_ZOMBIE and "spawn_main" in " ".join(child.cmdline()):
                found.add(child.pid)
    return found


def test_one_that_dies_is_replaced(valkey: Valkey) -> None:
    with serving(valkey.url, INGRESS_WORKERS="2") as ingress:
        wait_for(lambda: len(workers(ingress)) == 2, seconds=10)
        first = workers(ingress)
        for victim in first:
            os.kill(victim, signal.SIGKILL)
        wait_for(lambda: len(workers(ingress) - first) == 2, seconds=20)
        wait_for(lambda: ingress.post().status_code == httpx.codes.OK, seconds=20)


def test_when_the_parent_is_killed_its_processes_answer_what_they_have_and_leave(valkey: Valkey) -> None:
    with serving(valkey.url, INGRESS_WORKERS="2") as ingress, ingress.connect() as connection:
        whole = request(b"the rest comes after the death")
        connection.sendall(request(b"the first") + whole[:-5])
        assert read_answer(connection).startswith(b"HTTP/1.1 200")
        orphans = [psutil.Process(pid) for pid in workers(ingress)]
        ingress.popen.kill()
        ingress.popen.wait()
        wait_for(lambda: "Shutting down" in ingress.log.read_text(), seconds=5)
        connection.sendall(whole[-5:])
        assert read_answer(connection).startswith(b"HTTP/1.1 200")
        gone, left = psutil.wait_procs(orphans, timeout=10)
        assert (len(gone), left) == (2, [])


def test_sigterm_ends_all_with_success(valkey: Valkey) -> None:
    with serving(valkey.url, INGRESS_WORKERS="2") as ingress:
        assert ingress.post().status_code == httpx.codes.OK
        started = time.monotonic()
        assert ingress.stop() == 0
        assert time.monotonic() - started < 5
