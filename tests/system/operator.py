"""The commands of deploy/RUNBOOK.md, run as an operator of a stack would: in a shell, with the stack's settings."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from tests import runbook

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.system.stack import Stack


@contextmanager
def started(stack: Stack, line: str) -> Iterator[None]:
    """Run a command of the runbook that starts a process, until the block ends."""
    log_file = stack.home / "by-hand.log"
    with log_file.open("ab") as log:
        process = subprocess.Popen(["sh", "-c", f"exec {line}"], env=_environ(stack), stdout=log, stderr=log)
    try:
        yield
        assert process.poll() is None, log_file.read_text()
    finally:
        process.terminate()
        process.wait(60)


def run(stack: Stack, *lines: str, text: str = "") -> str:
    """Run other commands of the runbook in one shell, with `text` as their input; return what they printed."""
    script = "\n".join([runbook.commands("")[-1], *lines])
    done = subprocess.run(
        ["sh", "-ec", script], env=_environ(stack), input=text, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, f"{lines}: {done.stdout}{done.stderr}"
    return done.stdout


def _environ(stack: Stack) -> dict[str, str]:
    """Return what the stack gives its own processes, and the folder of `pipeline` in front of the path."""
    settings = json.loads((stack.home / "stack.json").read_text())
    names = ("database_url", "redis_prefix", "secrets_key")
    given = {name.upper(): settings[name] for name in names} | {"REDIS_URL": settings["inbox_url"]}
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    return {**stack.environ, **given, "HEARTBEAT_DIR": str(stack.home / "heartbeats"), "PATH": path}
