"""Steps the clock of the one process that is started with this folder on its path and CHAOS_CLOCK set to a file.

The file holds seconds to add to the time of day; it is read twice a second. The monotonic clock is left alone, as a
step of the system's clock would leave it.
"""

from __future__ import annotations

import os
import time
from pathlib import Path


def _step(file: Path) -> None:
    real, monotonic = time.time, time.monotonic
    offset, read_at = 0.0, 0.0

    def stepped() -> float:
        nonlocal offset, read_at
        if monotonic() >= read_at:
            read_at = monotonic() + 0.5
            try:
                offset = float(file.read_text())
            except (OSError, ValueError):
                offset = 0.0
        return real() + offset

    time.time = stepped


if _file := os.environ.get("CHAOS_CLOCK"):
    _step(Path(_file))
