"""The services' logs: one file each, cut when it grows large.

Guarantees: a log and its predecessor `<name>.log.1` stay below about twice `LARGE` bytes each. Refuses nothing.
"""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from pathlib import Path

LARGE: Final = 20_000_000


def shorten(log: Path) -> None:
    """Move what a large log holds aside; the service goes on writing to the same file, which it opened to append."""
    try:
        if log.stat().st_size < LARGE:
            return
    except FileNotFoundError:
        return
    shutil.copyfile(log, log.with_name(f"{log.name}.1"))
    with log.open("r+b") as file:
        file.truncate(0)


def last_line(log: Path) -> str:
    """Return the last line that is not empty, up to 300 characters of it."""
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - 4096))
        lines = [line.strip() for line in file.read().decode(errors="replace").splitlines()]
    return next((line for line in reversed(lines) if line), "nothing")[:300]
