"""`kill -9` of every process in turn, under load."""

from __future__ import annotations

import re
import subprocess
from functools import partial
from typing import TYPE_CHECKING

from tests.system.ledger import effects_of_more_than_one_run, wait_until_settled
from tests.system.stack import PIPELINE, kill
from tests.system.waiting import until

if TYPE_CHECKING:
    from pathlib import Path

    import psutil

    from tests.system.stack import Stack

RATE = 300
EVENTS_BETWEEN = 50
"""Events that are acknowledged between two kills."""

CHILDREN = ("handlers", "express", "ingest", "housekeeping")
MAINS = ("postgres", "valkey", "ingest", "handlers", "express", "housekeeping", "beat", "flower", "ingress")


def test_kill_nine_of_every_process_in_turn_under_load_loses_nothing_and_repeats_nothing(
    stack: Stack, tmp_path: Path
) -> None:
    ids_file = tmp_path / "ids"
    sending = subprocess.Popen(
        [PIPELINE, "send", "kills", "--count=1000000", f"--rate={RATE}", f"--ids-file={ids_file}"],
        env=stack.environ,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        until(lambda: _ids(ids_file), seconds=20, what="the first acknowledged event")
        killed = _kill_everything_in_turn(stack, ids_file)
        for name in MAINS:
            until(partial(stack.is_alive, name), seconds=30, what=f"a new {name}")
    finally:
        sending.terminate()
        said, _ = sending.communicate(timeout=20)
    ids = _ids(ids_file)
    acknowledged = int(re.findall(r"acknowledged (\d+) of", said)[0])
    assert acknowledged - len(ids) in {0, 1}  # the end may come between an answer and its line
    reasons = set(re.findall(r"refused +\d+: (.+)", said))  # no request hung, and nothing but 503 for a real reason
    assert all(reason.startswith(("503 ", "no answer connection_failed")) for reason in reasons), (said, killed)
    account = wait_until_settled(stack, ids, seconds=60)
    assert (account.succeeded, account.failed) == (len(ids), 0)
    (taken,) = stack.query("SELECT count(DISTINCT event_id) FROM effects WHERE event_id = ANY (%s::uuid[])", [ids])
    assert taken["count"] == len(ids)
    assert effects_of_more_than_one_run(stack) == []


def _kill_everything_in_turn(stack: Stack, ids_file: Path) -> list[str]:
    """Kill a child of each worker, each ingress process, then each main process; return who was killed.

    Between two kills some events are acknowledged, so that each is killed in the middle of the work.
    """
    killed = []
    for name in CHILDREN:
        kill(until(partial(stack.children, name), seconds=20, what=f"a child of {name}")[0])
        killed.append(f"a child of {name}")
        _wait_for_more(ids_file)
    for process in _serving(stack):
        kill(process)
        killed.append(f"ingress process {process.pid}")
        _wait_for_more(ids_file)
    for name in MAINS:
        until(partial(stack.is_alive, name), seconds=30, what=name)
        kill(stack.main(name))
        killed.append(name)
        _wait_for_more(ids_file)
    return killed


def _serving(stack: Stack) -> list[psutil.Process]:
    """Return the ingress processes behind the main one."""
    serving = stack.children("ingress")
    assert len(serving) == 2
    return serving


def _wait_for_more(ids_file: Path) -> None:
    enough = len(_ids(ids_file)) + EVENTS_BETWEEN
    until(lambda: len(_ids(ids_file)) >= enough, seconds=30, what=f"{EVENTS_BETWEEN} more acknowledged events")


def _ids(ids_file: Path) -> list[str]:
    """Return the ids whose line is complete."""
    return ids_file.read_text().rpartition("\n")[0].split() if ids_file.exists() else []
