"""The data folder of a stack: its lock, and `stack.json`, which tells the other commands where the stack listens.

A stack counts as running while its supervisor holds the lock, whatever the file says. The file is replaced as a whole,
and only its owner reads it, because it holds passwords.
"""

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

RUNNING: Final = "~/.local/state/webhook-pipeline/running"
"""A folder of this user with a link to the data folder of each running stack, so that commands elsewhere find it."""


class StackError(Exception):
    """The stack cannot start or run; the text is one line that says why and what to do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """One process of the stack, which leads its process group; `started_at` (seconds, of the kernel) identifies it."""

    name: str
    pid: int
    started_at: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Stack:
    """What a running stack tells the other commands."""

    database_url: str
    inbox_url: str
    broker_url: str
    secrets_key: str
    ingress_url: str
    flower_url: str
    exporter_url: str = ""
    console_url: str = ""
    database_schema: str = ""
    redis_prefix: str = ""
    environment: str = ""
    members: tuple[Member, ...] = ()

    @property
    def redis_servers(self) -> tuple[str, str]:
        """The URLs of inbox and broker."""
        return self.inbox_url, self.broker_url


def make_data_dir(home: Path) -> Path:
    """Make the data folder and return that of the logs."""
    logs = home / "logs"
    try:
        logs.mkdir(parents=True, exist_ok=True)
        logs.chmod(0o700)
        (home / "lock").touch()
    except OSError as error:
        raise StackError(
            f"{home} cannot be written ({error.strerror}): set PIPELINE_HOME to a folder of yours"
        ) from None
    return logs


def write_stack(home: Path, stack: Stack) -> None:
    """Write the state file."""
    write_private(home / "stack.json", stack)


def read_stack(home: Path) -> Stack | None:
    """Read the state file, whether or not its stack still runs."""
    try:
        data = json.loads((home / "stack.json").read_text())
        return Stack(**{**data, "members": tuple(Member(**member) for member in data["members"])})
    except (OSError, ValueError, KeyError, TypeError):
        return None


def running_stack(home: Path) -> Stack | None:
    """Return the stack whose supervisor is alive, or None."""
    return read_stack(home) if _is_locked(home) else None


def running_homes() -> list[Path]:
    """Return the data folders of all stacks that this user runs, wherever they are."""
    found = set()
    with suppress(OSError, RuntimeError):
        for link in Path(RUNNING).expanduser().iterdir():
            home = link.readlink()
            if _is_locked(home):
                found.add(home)
            else:
                link.unlink()  # its supervisor was killed
    return sorted(found)


@contextmanager
def locked(home: Path) -> Iterator[None]:
    """Hold the lock of the folder; the kernel releases it when this process ends, for whatever reason."""
    with (home / "lock").open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            holder = file.read().strip() or "unknown"
            raise StackError(
                f"a stack already runs in {home} (pid {holder}): stop it with Ctrl-C or `kill {holder}`, "
                "or set PIPELINE_HOME, INGRESS_PORT, FLOWER_PORT and EXPORTER_PORT to start another"
            ) from None
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        link = _link_to(home)
        try:
            yield
        finally:
            if link:
                link.unlink(missing_ok=True)


def _link_to(home: Path) -> Path | None:
    """Make the link in `RUNNING`; None where this user has no home folder that can be written."""
    try:
        link = Path(RUNNING).expanduser() / str(os.getpid())
        link.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        link.unlink(missing_ok=True)
        link.symlink_to(home)
    except (OSError, RuntimeError):
        return None
    return link


def _is_locked(home: Path) -> bool:
    """Return whether a supervisor holds the folder."""
    try:
        with (home / "lock").open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError as error:
        return isinstance(error, BlockingIOError)
    return False


def write_private(path: Path, data: Any) -> None:
    """Replace a file as a whole with a dataclass in JSON, readable by its owner only."""
    unfinished = path.with_name(f"{path.name}.{os.getpid()}")
    with os.fdopen(os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        file.write(json.dumps(asdict(data), indent=2))
        file.flush()
        os.fsync(file.fileno())
    unfinished.replace(path)
