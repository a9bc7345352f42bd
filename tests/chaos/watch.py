"""What a run sees of the processes from outside: memory, file descriptors, exceptions in their logs."""

from __future__ import annotations

import json
from contextlib import suppress
from typing import TYPE_CHECKING

import psutil

if TYPE_CHECKING:
    from pathlib import Path

    from tests.chaos.stack import Stack


def memory_of(stack: Stack, name: str) -> dict[int, float]:
    """Return the unique resident memory of a service's children by process id, MB."""
    found = {}
    for process in stack.children(name):
        with suppress(psutil.Error):
            found[process.pid] = round(process.memory_full_info().uss / 1e6, 1)
    return found


def grown(before: dict[int, float], after: dict[int, float]) -> list[str]:
    """Say which processes are not the same any more, or hold more memory than before by a twentieth, or by 2 MB."""
    found = [f"{pid} is gone" for pid in before.keys() - after.keys()]
    found += [f"{pid} is new" for pid in after.keys() - before.keys()]
    for pid in before.keys() & after.keys():
        if after[pid] - before[pid] > max(2.0, before[pid] / 20):
            found.append(f"{pid} grew from {before[pid]} to {after[pid]} MB")
    return sorted(found)


def errors_in(log: Path) -> list[str]:
    """Return the errors and exceptions of a log, shortened, but for a Redis that was slow: its 503 are told apart."""
    found = []
    for line in log.read_text(errors="replace").splitlines():
        try:
            record = json.loads(line)
        except ValueError:
            if "Traceback" in line:
                found.append(line[:200])
            continue
        if not isinstance(record, dict):
            continue
        is_an_error = record.get("level") in {"error", "critical"} and record.get("code") != "inbox_unavailable"
        if is_an_error or "traceback" in record:
            found.append(f"{record.get('message')} {str(record.get('traceback', ''))[-300:]}"[:400])
    return found
