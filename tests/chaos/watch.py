"""What a run sees of the processes from outside: memory, file descriptors, exceptions in their logs."""

from __future__ import annotations

import json
from contextlib import suppress
from typing import TYPE_CHECKING

import psutil

if TYPE_CHECKING:
    from pathlib import Path

    from tests.chaos.stack import Stack


def memory_of(stack: Stack, name: str) -> list[float]:
    """Return the unique resident memory of a service's children, MB."""
    found = []
    for process in stack.children(name):
        with suppress(psutil.Error):
            found.append(round(process.memory_full_info().uss / 1e6, 1))
    return found


def errors_in(log: Path) -> list[str]:
    """Return the errors and exceptions of a log, shortened."""
    found = []
    for line in log.read_text(errors="replace").splitlines():
        try:
            record = json.loads(line)
        except ValueError:
            if "Traceback" in line:
                found.append(line[:200])
            continue
        if isinstance(record, dict) and (record.get("level") in {"error", "critical"} or "traceback" in record):
            found.append(f"{record.get('message')} {str(record.get('traceback', ''))[-300:]}"[:400])
    return found
