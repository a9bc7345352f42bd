"""Reads one server at an interval and keeps what it said last, for as many scrapes as come.

A scrape waits for nobody and costs no server anything. A server that is away, or silent, holds no other one up; its
figures are then missing, and `pipeline_*_answers` says so.
"""

import logging
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Final

from prometheus_client.core import Metric

from deploy.exporter.figures import Families, merge
from shared.identity import ForeignRedisError

log: Final = logging.getLogger(__name__)


class Source(threading.Thread):
    """One server."""

    def __init__(
        self, name: str, read: Callable[[Families], None], *, away: Sequence[type[Exception]], every_seconds: float
    ) -> None:
        """Make a source; `start` begins to read.

        Args:
            name: "redis" or "postgres".
            read: adds what the server says.
            away: the errors that mean that it does not answer.
            every_seconds: from the start of one look to that of the next.
        """
        super().__init__(name=name, daemon=True)
        self._read = read
        self._away = tuple(away)
        self._every_seconds = every_seconds
        self._is_over = threading.Event()
        self._told = ""
        self.families = Families()
        self.read_at = time.monotonic()
        """When the last look ended."""

    def run(self) -> None:
        """Read until `stop`."""
        while not self._is_over.is_set():
            began = time.monotonic()
            self._look(began)
            self._is_over.wait(max(0.0, began + self._every_seconds - time.monotonic()))

    def stop(self) -> None:
        """Read no more."""
        self._is_over.set()

    def _look(self, began: float) -> None:
        families, answers = Families(), 1
        try:
            self._read(families)
        except self._away as error:
            families, answers = Families(), 0
            reason = str(error).strip().partition("\n")[0] or type(error).__name__
            if reason != self._told:
                log.warning("%s does not answer: %s", self.name, reason, extra={"code": f"{self.name}_away"})
            self._told = reason
        except ForeignRedisError as refusal:
            families, answers = Families(), 0
            if str(refusal) != self._told:
                log.error("%s", refusal, extra={"code": "foreign_redis"})  # noqa: TRY400 - the text says it all
            self._told = str(refusal)
        except Exception:
            families = Families()
            log.exception("the figures of %s cannot be read", self.name, extra={"code": "internal_error"})
        else:
            self._told = ""
        self.read_at = time.monotonic()
        families.add(f"pipeline_{self.name}_answers", answers)
        families.add("pipeline_refresh_seconds", self.read_at - began, self.name)
        self.families = families


class Sources:
    """All of them, as a collector of prometheus_client."""

    def __init__(self, sources: Iterable[Source]) -> None:
        self._sources = list(sources)

    def collect(self) -> list[Metric]:
        """Return what they said last."""
        return merge([source.families for source in self._sources])

    def describe(self) -> list[Metric]:
        """Return nothing: whoever registers it must not wait for a server."""
        return []
