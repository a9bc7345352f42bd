"""The supervisor with small programs in place of the pipeline's."""

from __future__ import annotations

import asyncio
import io
import os
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import psutil
import pytest
import rich.console

from deploy.local.service import Service
from deploy.local.stale_processes import end_stale_processes
from deploy.local.state import Member, StackError
from deploy.local.supervisor import Supervisor
from deploy.local.terminal import Terminal
from shared.heartbeat import Heartbeat, read_beats

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

STUBBORN = "import signal, time; [signal.signal(s, signal.SIG_IGN) for s in (2, 3, 15)]; {ready}; time.sleep(600)"
POLITE = "import time; {ready}; time.sleep(600)"
PARENT = (
    "import subprocess, sys, time; "
    "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)']); "
    "{ready}; time.sleep(600)"
)


class Stage:
    """A supervisor, what it said, and the processes it told of."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.said = io.StringIO()
        self.supervisor = Supervisor(logs=folder, terminal=Terminal(rich.console.Console(file=self.said, width=300)))
        self.members: dict[str, Member] = {}
        self.supervisor.on_change = self._note

    def _note(self, members: Sequence[Member]) -> None:
        self.members = {member.name: member for member in members}

    def service(self, name: str, code: str, *, patience: float = 5.0, kill_signal: int = signal.SIGKILL) -> Service:
        """Run `code`, which is ready once it has written its process id."""
        mark = self.folder / f"{name}.ready"
        text = code.format(ready=f"import os, pathlib; pathlib.Path({str(mark)!r}).write_text(str(os.getpid()))")
        return Service(
            name=name,
            argv=[sys.executable, "-c", text],
            environ=dict(os.environ),
            is_ready=lambda: mark.exists() and mark.read_text() == str(self.members[name].pid),
            patience=patience,
            kill_signal=signal.Signals(kill_signal),
        )


@pytest.fixture
def stage(tmp_path: Path) -> Stage:
    return Stage(tmp_path)


async def until(condition: Callable[[], bool], seconds: float = 10.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.01)


def is_alive(pid: int) -> bool:
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def test_what_is_killed_is_started_again_at_once_and_said(stage: Stage) -> None:
    async def scenario() -> None:
        await stage.supervisor.start(stage.service("it", POLITE))
        await stage.supervisor.wait_until_ready("it", seconds=10)
        first = stage.members["it"].pid
        os.kill(first, signal.SIGKILL)
        await until(lambda: "it is back" in stage.said.getvalue())
        assert stage.members["it"].pid != first
        await stage.supervisor.stop(["it"])

    asyncio.run(scenario())
    assert "it was killed by SIGKILL; starting it again\n" in stage.said.getvalue()


def test_a_service_is_started_again_as_often_as_it_ends_though_its_list_of_processes_cannot_be_written(
    stage: Stage,
) -> None:
    kept, refused = stage.supervisor.on_change, 0

    def refuse(members: Sequence[Member]) -> None:
        nonlocal refused
        refused += 1
        raise OSError(28, "No space left on device")

    def successor(former: str) -> str:
        pid = (stage.folder / "it.ready").read_text()
        return pid if pid != former else ""

    async def scenario() -> None:
        await stage.supervisor.start(stage.service("it", POLITE))
        await stage.supervisor.wait_until_ready("it", seconds=10)
        stage.supervisor.on_change = refuse
        pid = str(stage.members["it"].pid)
        for number in (1, 2):
            os.kill(int(pid), signal.SIGKILL)
            await until(lambda former=pid, n=number: bool(successor(former)) and refused == n)  # type: ignore[misc]
            pid = successor(pid)
        stage.supervisor.on_change = kept
        maintenance = asyncio.create_task(stage.supervisor.maintain())
        await until(lambda: stage.members["it"].pid == int(pid), seconds=30)
        maintenance.cancel()
        await stage.supervisor.stop(["it"])

    asyncio.run(scenario())
    assert "the list of processes cannot be written: [Errno 28] No space left on device" in stage.said.getvalue()


@pytest.mark.parametrize("who_beats", ["the service", "its child"])
def test_what_stands_still_is_killed_and_started_again(stage: Stage, who_beats: str) -> None:
    beats = stage.folder / "heartbeats"
    beating = (
        "import time; from pathlib import Path; from shared.heartbeat import Heartbeat\n"
        f"it = Heartbeat(folder=Path({str(beats)!r}), name='it', duties=['ingress'])\n"
        "while True: it.beat(); time.sleep(0.1)"
    )
    parent = f"import subprocess, sys\nwhile True: subprocess.run([sys.executable, '-c', {beating!r}])"
    code = beating if who_beats == "the service" else parent

    async def scenario() -> None:
        supervisor = Supervisor(
            logs=stage.folder, terminal=stage.supervisor._terminal, heartbeats=beats, health_seconds=1.0
        )
        argv = [sys.executable, "-c", code]
        service = Service(name="it", argv=argv, environ=dict(os.environ), is_ready=lambda: bool(read_beats(beats)))
        await supervisor.start(service)
        await supervisor.wait_until_ready("it", seconds=10)
        (beat,) = read_beats(beats)
        supervisor.kill_standing_still()
        assert is_alive(beat.pid)
        os.kill(beat.pid, signal.SIGSTOP)
        await until(lambda: read_beats(beats)[0].stands_still(now=time.monotonic(), patience=1.0))
        supervisor.kill_standing_still()
        await until(lambda: [it.pid for it in read_beats(beats)] not in ([], [beat.pid]))
        assert not is_alive(beat.pid)
        await supervisor.stop(["it"])

    asyncio.run(scenario())
    assert "it stands still (process " in stage.said.getvalue()


def test_a_process_of_somebody_else_that_stands_still_is_left_alone(stage: Stage) -> None:
    beats = stage.folder / "heartbeats"
    Heartbeat(folder=beats, name="ours", duties=["beat"])
    supervisor = Supervisor(
        logs=stage.folder, terminal=stage.supervisor._terminal, heartbeats=beats, health_seconds=-1.0
    )
    assert read_beats(beats)[0].stands_still(now=time.monotonic(), patience=-1.0)
    supervisor.kill_standing_still()


def test_children_of_a_killed_service_do_not_work_beside_its_successor(stage: Stage) -> None:
    async def scenario() -> None:
        await stage.supervisor.start(stage.service("it", PARENT))
        await stage.supervisor.wait_until_ready("it", seconds=10)
        (child,) = psutil.Process(stage.members["it"].pid).children()
        os.kill(stage.members["it"].pid, signal.SIGKILL)
        await until(lambda: not is_alive(child.pid))
        await stage.supervisor.stop(["it"])

    asyncio.run(scenario())


def test_stopping_goes_stage_by_stage_and_leaves_no_process(stage: Stage) -> None:
    async def scenario() -> list[str]:
        first, last = stage.service("first", PARENT), stage.service("last", POLITE)
        await stage.supervisor.start(first, last)
        await stage.supervisor.wait_until_ready("first", "last", seconds=10)
        stopping = asyncio.create_task(stage.supervisor.stop(["first"], ["last"]))
        await until(lambda: not is_alive(stage.members["first"].pid))
        return await stopping

    assert asyncio.run(scenario()) == []
    assert not any(is_alive(member.pid) for member in stage.members.values())


def test_what_does_not_end_is_hurried_and_then_killed(stage: Stage) -> None:
    async def scenario() -> list[str]:
        await stage.supervisor.start(stage.service("it", STUBBORN, patience=0.2, kill_signal=signal.SIGQUIT))
        await stage.supervisor.wait_until_ready("it", seconds=10)
        return await stage.supervisor.stop(["it"])

    started = time.monotonic()
    assert asyncio.run(scenario()) == ["it"]
    assert time.monotonic() - started < 5
    assert not is_alive(stage.members["it"].pid)


def test_a_second_request_hurries_everything(stage: Stage) -> None:
    async def scenario() -> None:
        await stage.supervisor.start(stage.service("it", STUBBORN, patience=60))
        await stage.supervisor.wait_until_ready("it", seconds=10)
        stopping = asyncio.create_task(stage.supervisor.stop(["it"]))
        await asyncio.sleep(0)
        stage.supervisor.kill_now()
        await asyncio.wait_for(stopping, 5)

    asyncio.run(scenario())


def test_a_service_that_never_starts_is_given_up_with_the_last_line_of_its_log(stage: Stage) -> None:
    async def scenario() -> None:
        await stage.supervisor.start(stage.service("it", "import sys; sys.exit('HANDLERS is wrong')"))
        try:
            await stage.supervisor.wait_until_ready("it", seconds=30)
        finally:
            await stage.supervisor.stop(["it"])

    with pytest.raises(StackError, match=r"it does not start; .*it\.log ends with: HANDLERS is wrong"):
        asyncio.run(scenario())
    assert "it ended with status 1, 3 times in a row; next try in 2 s; see " in stage.said.getvalue()


def test_a_service_that_is_not_ready_in_time_is_named(stage: Stage) -> None:
    async def scenario() -> None:
        await stage.supervisor.start(stage.service("it", POLITE.replace("{ready}", "0")))
        try:
            await stage.supervisor.wait_until_ready("it", seconds=0.3)
        finally:
            await stage.supervisor.stop(["it"])

    with pytest.raises(StackError, match="not ready after 0 s: it"):
        asyncio.run(scenario())


def test_what_a_killed_stack_left_is_found_again_with_its_orphans() -> None:
    leader = subprocess.Popen(
        [sys.executable, "-c", PARENT.format(ready="print(child.pid, flush=True)")],
        stdout=subprocess.PIPE,
        start_new_session=True,
    )
    assert leader.stdout
    child = int(leader.stdout.readline())
    born = psutil.Process(leader.pid).create_time()
    leader.kill()
    leader.wait()
    leader.stdout.close()
    assert end_stale_processes([Member(name="handlers", pid=leader.pid, started_at=born)]) == ["handlers"]
    assert not is_alive(child)


def test_a_process_that_took_over_an_old_process_id_is_left_alone() -> None:
    stranger = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True)
    try:
        born = psutil.Process(stranger.pid).create_time()
        assert end_stale_processes([Member(name="ingress", pid=stranger.pid, started_at=born + 100)]) == []
        assert end_stale_processes([Member(name="ingress", pid=stranger.pid, started_at=born - 100)]) == []
        assert stranger.poll() is None
    finally:
        stranger.kill()
        stranger.wait()


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a process that its parent ended")
def test_services_do_not_outlive_a_killed_supervisor(tmp_path: Path) -> None:
    script = (
        "import asyncio, os, sys; from pathlib import Path; from deploy.local.terminal import Terminal\n"
        "from deploy.local.service import Service; from deploy.local.supervisor import Supervisor\n"
        "async def run():\n"
        "    it = Supervisor(logs=Path(sys.argv[1]), terminal=Terminal())\n"
        "    it.on_change = lambda members: print(members[0].pid, flush=True)\n"
        "    argv = [sys.executable, '-c', 'import time; time.sleep(600)']\n"
        "    await it.start(Service(name='it', argv=argv, environ=dict(os.environ), is_ready=lambda: True))\n"
        "    await asyncio.sleep(600)\n"
        "asyncio.run(run())\n"
    )
    supervisor = subprocess.Popen([sys.executable, "-c", script, str(tmp_path)], stdout=subprocess.PIPE)
    assert supervisor.stdout
    pid = int(supervisor.stdout.readline())
    assert is_alive(pid)
    supervisor.kill()
    supervisor.wait()
    supervisor.stdout.close()
    asyncio.run(until(lambda: not is_alive(pid)))
