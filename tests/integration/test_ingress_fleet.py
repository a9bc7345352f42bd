"""The ingress' processes: forked, replaced, never left alone."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from typing import TYPE_CHECKING

import httpx
import psutil
import pytest

from tests.ingress_process import Valkey, endpoint, own_valkey, publish, request, serving, wait_for

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.ingress_process import Process


@pytest.fixture(scope="module")
def valkey() -> Iterator[Valkey]:
    with own_valkey() as it:
        publish(it.url, 1, endpoint())
        yield it


def members(ingress: Process) -> set[int]:
    """Return the process ids of those that serve."""
    found = set()
    for child in psutil.Process(ingress.popen.pid).children():
        with suppress(psutil.NoSuchProcess):  # it may go between the list and the look
            if child.status() != psutil.STATUS_ZOMBIE:
                found.add(child.pid)
    return found


def test_one_that_dies_is_replaced_and_nobody_waits_for_it(valkey: Valkey) -> None:
    with serving(valkey.url, INGRESS_WORKERS="2") as ingress:
        wait_for(lambda: len(members(ingress)) == 2, seconds=5)
        first = members(ingress)
        for victim in first:
            os.kill(victim, signal.SIGKILL)
        wait_for(lambda: len(members(ingress) - first) == 2, seconds=5)
        started = time.monotonic()
        assert ingress.post().status_code == httpx.codes.OK
        assert time.monotonic() - started < 2


def test_a_client_is_never_left_waiting_for_a_start(valkey: Valkey) -> None:
    with serving(valkey.url, INGRESS_WORKERS="2", wait_until="") as ingress:
        deadline = time.monotonic() + 20
        while True:
            try:
                connection = ingress.connect()
                break
            except ConnectionRefusedError:
                assert time.monotonic() < deadline
        started = time.monotonic()
        with connection:
            connection.sendall(request(b"the first"))
            answer = connection.recv(65_536)
        assert time.monotonic() - started < 5
        assert answer.startswith((b"HTTP/1.1 200", b"HTTP/1.1 503"))  # the latter if Redis is slow to say who is known


def test_when_the_parent_is_killed_its_processes_answer_what_they_have_and_leave(valkey: Valkey) -> None:
    with serving(valkey.url, INGRESS_WORKERS="2") as ingress, ingress.connect() as connection:
        whole = request(b"the rest comes after the death")
        connection.sendall(request(b"the first") + whole[:-5])
        assert connection.recv(65_536).startswith(b"HTTP/1.1 200")
        orphans = [psutil.Process(pid) for pid in members(ingress)]
        ingress.popen.kill()
        ingress.popen.wait()
        wait_for(lambda: "Shutting down" in ingress.log.read_text(), seconds=5)
        connection.sendall(whole[-5:])
        assert connection.recv(65_536).startswith(b"HTTP/1.1 200")
        assert not psutil.wait_procs(orphans, timeout=10)[1]


FLEET = r"""
import os, sys, time
from ingress.fleet import Fleet

def serve(beat):
    os.write(1, b"serves\n")
    while beat():
        time.sleep(0.05)

raise SystemExit(not Fleet(serve, size=2, hang_seconds=1.5).run())
"""


def test_one_that_hangs_is_killed_and_replaced_and_the_others_stay() -> None:
    with subprocess.Popen([sys.executable, "-c", FLEET], stdout=subprocess.PIPE) as popen:
        try:
            assert popen.stdout is not None
            for _ in range(2):
                assert popen.stdout.readline() == b"serves\n"
            first = {child.pid for child in psutil.Process(popen.pid).children()}
            os.kill(min(first), signal.SIGSTOP)
            assert popen.stdout.readline() == b"serves\n"
            after = {child.pid for child in psutil.Process(popen.pid).children()}
            assert first - after == {min(first)}
            assert len(after) == 2
        finally:
            popen.terminate()
        assert popen.wait(10) == 0


NO_ROOM = """
import os
fork, forks = os.fork, []

def fork_if_there_is_room():
    forks.append(True)
    if len(forks) == 3:
        raise BlockingIOError("no room")
    return fork()

os.fork = fork_if_there_is_room
"""


def test_one_that_cannot_be_replaced_at_once_is_replaced_later() -> None:
    command = [sys.executable, "-c", NO_ROOM + FLEET]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as popen:
        try:
            assert popen.stdout is not None
            for _ in range(2):
                assert popen.stdout.readline() == b"serves\n"
            first = {child.pid for child in psutil.Process(popen.pid).children()}
            os.kill(min(first), signal.SIGKILL)
            assert popen.stdout.readline() == b"serves\n"
            assert max(first) in {child.pid for child in psutil.Process(popen.pid).children()}
            popen.terminate()
            assert popen.wait(10) == 0
            assert popen.stderr is not None
            assert b"no process can be started: no room" in popen.stderr.read()
        finally:
            popen.kill()


def test_one_that_dies_is_replaced_though_the_caller_ignored_the_death_of_children() -> None:
    program = f"import signal; signal.signal(signal.SIGCHLD, signal.SIG_IGN)\n{FLEET}"  # as if inherited
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE) as popen:
        try:
            assert popen.stdout is not None
            for _ in range(2):
                assert popen.stdout.readline() == b"serves\n"
            os.kill(psutil.Process(popen.pid).children()[0].pid, signal.SIGKILL)
            assert popen.stdout.readline() == b"serves\n"
        finally:
            popen.terminate()
        assert popen.wait(10) == 0


def test_all_stopped_together_and_woken_up_later_go_on() -> None:
    with subprocess.Popen([sys.executable, "-c", FLEET], stdout=subprocess.PIPE, start_new_session=True) as popen:
        try:
            assert popen.stdout is not None
            for _ in range(2):
                assert popen.stdout.readline() == b"serves\n"
            first = {child.pid for child in psutil.Process(popen.pid).children()}
            os.killpg(popen.pid, signal.SIGSTOP)
            time.sleep(3)  # longer than two looks and than a hang
            os.killpg(popen.pid, signal.SIGCONT)
            time.sleep(2)  # two looks
            assert {child.pid for child in psutil.Process(popen.pid).children()} == first
        finally:
            popen.terminate()


def test_one_that_cannot_be_set_up_ends_all() -> None:
    program = FLEET.replace('os.write(1, b"serves\\n")', "sys.exit(3)")
    done = subprocess.run([sys.executable, "-c", program], check=False, timeout=20, capture_output=True)
    assert (done.returncode, done.stderr) == (1, b"")
