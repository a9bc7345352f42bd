"""The state file `stack.json`: where the running stack listens and which processes belong to it.

It is replaced as a whole, and only its owner reads it, because it holds passwords. A stack counts as running while its
supervisor holds the lock of the data folder, whatever the file says.
"""

from __future__ import annotations

import fcntl
import json
import os
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


class StackError(Exception):
    """The stack cannot start or run; the text is one line that says why and what to do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """One process of the stack.

    Attributes:
        name: as in the logs, such as "ingress".
        pid: process id, also of its process group.
        started_at: seconds of the epoch, as the kernel says; tells it apart from a later process of the same id.
    """

    name: str
    pid: int
    started_at: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Stack:
    """What a running stack tells the other commands."""

    database_url: str
    redis_url: str
    secrets_key: str
    ingress_url: str
    flower_url: str
    members: tuple[Member, ...] = ()


def write_private(path: Path, text: str) -> None:
    """Replace a file as a whole, readable by its owner only."""
    unfinished = path.with_name(f"{path.name}.{os.getpid()}")
    with os.fdopen(os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    unfinished.replace(path)


def write_stack(home: Path, stack: Stack) -> None:
    """Write the state file below `home`."""
    write_private(home / "stack.json", json.dumps(asdict(stack), indent=2))


def read_stack(home: Path) -> Stack | None:
    """Read the state file, whether or not its stack still runs."""
    try:
        data = json.loads((home / "stack.json").read_text())
        return Stack(**{**data, "members": tuple(Member(**member) for member in data["members"])})
    except (OSError, ValueError, KeyError, TypeError):
        return None


def running_stack(home: Path) -> Stack | None:
    """Return the stack whose supervisor is alive, or None."""
    try:
        with (home / "lock").open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return read_stack(home)
    except OSError:
        return None
    return None


@contextmanager
def locked(home: Path) -> Iterator[None]:
    """Hold the lock of the folder; the kernel releases it when this process ends, for whatever reason.

    Raises:
        StackError: another supervisor holds it.
    """
    with (home / "lock").open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            holder = file.read().strip() or "unknown"
            raise StackError(
                f"a stack already runs in {home} (pid {holder}): stop it with Ctrl-C or `kill {holder}`, "
                "or set PIPELINE_HOME, INGRESS_PORT and FLOWER_PORT to start another"
            ) from None
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield
