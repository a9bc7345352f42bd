"""What `pipeline doctor` finds, looked at every half minute by a thread, so that no page waits for it."""

import logging
import threading
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from typing import Final

from deploy.console.database import BusyError
from deploy.doctor.finding import Finding

log: Final = logging.getLogger(__name__)
EVERY_SECONDS: Final = 30.0


class Doctor(threading.Thread):
    """Looks again and again; `findings` is what it found last, at `looked_at` (aware; None before the first time)."""

    def __init__(self, examine: Callable[[], Iterable[Finding]], *, every_seconds: float = EVERY_SECONDS) -> None:
        super().__init__(name="doctor", daemon=True)
        self._examine = examine
        self._every_seconds = every_seconds
        self._is_over = threading.Event()
        self.findings: Sequence[Finding] = ()
        self.looked_at: datetime | None = None

    def run(self) -> None:
        """Look until `stop`."""
        while not self._is_over.is_set():
            try:
                self.findings, self.looked_at = tuple(self._examine()), datetime.now(UTC)
            except BusyError:
                log.info("the doctor looks later: both connections are in use")
            except Exception:
                log.exception("what the doctor looks at cannot be read", extra={"code": "internal_error"})
            self._is_over.wait(self._every_seconds)

    def stop(self) -> None:
        """Look no more."""
        self._is_over.set()
