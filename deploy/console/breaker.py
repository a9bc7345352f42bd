"""A circuit breaker for a Redis that does not answer: one page waits for it, those of the next seconds do not.

A page holds one of two connections to Postgres meanwhile: those that need no Redis would wait for it.
"""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

import redis

OPEN_SECONDS: Final = 5.0
"""For which it is not asked after it has not answered."""
_AWAY: Final = (redis.ConnectionError, redis.TimeoutError)


class Breaker:
    """Of one Redis; any number of threads may ask."""

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._closed_at = 0.0

    @contextmanager
    def asking(self) -> Iterator[None]:
        """Ask in this block.

        Raises:
            redis.ConnectionError: at once, if it has not answered a moment ago.
        """
        with self._lock:
            if self._clock() < self._closed_at:
                raise redis.ConnectionError("it did not answer a moment ago")
        try:
            yield
        except _AWAY:
            with self._lock:
                self._closed_at = self._clock() + OPEN_SECONDS
            raise
