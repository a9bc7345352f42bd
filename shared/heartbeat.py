"""A heartbeat: a small file in which a process says, every second, that its loop runs.

`pipeline health` and the supervisor of `pipeline up` read it, and judge by the rules of `Beat`. The same beat answers
systemd's watchdog, where there is one. Guarantees: a process whose file cannot be written goes on with its work and
logs why once; the time is the monotonic clock, so that a clock that is set does not matter; a full disk does not matter
either, because the file never grows.
"""

import contextlib
import logging
import os
import socket
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

log: Final = logging.getLogger(__name__)

EVERY_SECONDS: Final = 1.0
SUFFIX: Final = ".heartbeat"
WAITING: Final = ".waiting"
"""Of the file beside a heartbeat that says what its process waits for."""


def default_folder() -> Path:
    """Return the folder of this user's heartbeats where HEARTBEAT_DIR names none."""
    return Path(tempfile.gettempdir()) / f"webhook-pipeline-{os.geteuid()}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Beat:
    """What a heartbeat file says.

    Attributes:
        name: of the process, such as `handlers@host`.
        pid: of the process.
        at: when it last beat, by the monotonic clock, seconds.
        state: running; stopping, if it was asked to end and finishes what runs, so that its loop may stand still;
            stuck, if it is a worker that has a free slot and takes nothing although its queue waits.
        duties: what it does: ingress, ingest, handlers, express, housekeeping, beat.
        waits_for: what a person must mend before it can work; empty for nothing. A restart would not help.
    """

    name: str
    pid: int
    at: float
    state: str
    duties: tuple[str, ...]
    waits_for: str = ""

    @property
    def has_ended(self) -> bool:
        """Return whether no process has this id any more."""
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return True
        except PermissionError:
            return False
        return False

    def find_fault(self, *, now: float, patience: float) -> str:
        """Return what is wrong with the process, or an empty text; a heartbeat may be `patience` seconds old."""
        if self.has_ended:
            return f"is gone (process {self.pid})"
        if self.state == "stuck":
            return f"takes nothing although it has a free slot and its queue waits (process {self.pid})"
        if self.stands_still(now=now, patience=patience):
            age = now - self.at
            seen = f"last heartbeat {age:.0f} s ago" if age > 0 else "old file"
            return f"stands still (process {self.pid}): {seen}"
        return ""

    def stands_still(self, *, now: float, patience: float) -> bool:
        """Return whether the loop of the process stands still; it is then of no use to ask it to end."""
        # a time in the future is one of before the machine's last start
        return self.state != "stopping" and not 0 <= now - self.at <= patience


def read_beats(folder: Path) -> list[Beat]:
    """Return all heartbeats in a folder and the folders in it, in the order of their names."""
    found = []
    for path in sorted(folder.rglob(f"*{SUFFIX}")):
        with contextlib.suppress(OSError, ValueError):  # it ended meanwhile, or is no file of ours
            pid, at, state, duties = path.read_text().split()
            found.append(
                Beat(
                    name=path.name.removesuffix(SUFFIX).rpartition(".")[0],
                    pid=int(pid),
                    at=float(at),
                    state=state,
                    duties=tuple(duties.split(",")),
                    waits_for=_read_waiting(path),
                )
            )
    return found


def _read_waiting(path: Path) -> str:
    with contextlib.suppress(OSError, UnicodeDecodeError):
        return path.with_suffix(WAITING).read_text()
    return ""


class Heartbeat:
    """The heartbeat of this process.

    Args:
        folder: of the file; made if it is missing. None for `default_folder()`.
        name: of the process; several may have the same one.
        duties: what it does.
    """

    def __init__(self, *, folder: Path | None, name: str, duties: Sequence[str]) -> None:
        self._pid = os.getpid()
        self._duties = ",".join(duties)
        # taken out, so that nothing that this process starts speaks to systemd in its name
        self._notify_socket = os.environ.pop("NOTIFY_SOCKET", "")
        self._state = "running"
        self._is_ready = False
        folder_or_default = folder or default_folder()
        name = name.replace("/", "_")
        self._path = folder_or_default / f"{name}.{self._pid}{SUFFIX}"
        self._file = -1
        try:
            folder_or_default.mkdir(mode=0o700 if folder is None else 0o755, parents=True, exist_ok=True)
            if folder is None and folder_or_default.lstat().st_uid != os.geteuid():
                raise PermissionError(f"{folder_or_default} belongs to another user")
            _remove_ended(folder_or_default, name)
            flags = os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
            self._file = os.open(self._path, flags, 0o644)
        except OSError as error:
            log.warning(
                "no heartbeat for `pipeline health`: %s; set HEARTBEAT_DIR to a folder that this user may write to",
                error,
                extra={"code": "no_heartbeat"},
            )
        self.beat()

    def beat(self) -> None:
        """Say that the loop runs; in a process that was forked from this one, do nothing."""
        if os.getpid() != self._pid:
            return
        if self._file >= 0:
            # of one length, so that the file never grows
            line = f"{self._pid} {time.monotonic():020.3f} {self._state:8} {self._duties}\n"
            with contextlib.suppress(OSError):
                os.pwrite(self._file, line.encode(), 0)
        if self._notify_socket:
            self._notify("WATCHDOG=1" if self._is_ready else "READY=1\nWATCHDOG=1")
            self._is_ready = True

    def stop(self) -> None:
        """Say that this process finishes what runs and then ends."""
        self._state = "stopping"
        self.beat()

    def set_stuck(self, *, is_stuck: bool) -> None:
        """Say whether this process takes nothing although it could."""
        state = "stuck" if is_stuck else "running"
        if self._state not in {"stopping", state}:
            self._state = state
            self.beat()

    def set_waiting(self, reason: str) -> None:
        """Say what a person must mend before this process can work, empty for nothing; its children may say it, too."""
        path = self._path.with_suffix(WAITING)
        with contextlib.suppress(OSError):
            if reason:
                path.write_text(reason)
            else:
                path.unlink(missing_ok=True)

    def remove(self) -> None:
        """Leave nothing behind; called at the end of the process."""
        if os.getpid() == self._pid and self._file >= 0:
            self.set_waiting("")
            with contextlib.suppress(OSError):
                self._path.unlink()
            os.close(self._file)
            self._file = -1

    def _notify(self, message: str) -> None:
        """Send a message to systemd, as sd_notify(3) does."""
        address = self._notify_socket
        if address.startswith("@"):  # a name in Linux' abstract namespace
            address = "\0" + address[1:]
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as client:
            client.setblocking(False)
            client.sendto(message.encode(), address)


def _remove_ended(folder: Path, name: str) -> None:
    """Remove what processes of this name have left that ended without doing so: this one takes their place."""
    for beat in read_beats(folder):
        if beat.name == name and beat.has_ended:
            with contextlib.suppress(OSError):
                (folder / f"{name}.{beat.pid}{SUFFIX}").unlink()
                (folder / f"{name}.{beat.pid}{WAITING}").unlink(missing_ok=True)
