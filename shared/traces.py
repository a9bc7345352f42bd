"""Traces: a span for each step of an event, sent to a collector if one is named.

`Traces` makes none and costs nothing; `shared.otlp` makes them, and is imported only where a collector is named.

The trace of an event has the event's id, and its first span the second half of that id. So its context is in the inbox,
in Postgres and in every message already, for old and new processes alike. What a request says of a trace
(`traceparent`) is not signed: it becomes a link, never the trace.

    POST /webhooks/{provider}/{tenant}           ingress
      ├─ append to inbox                         ingress
      ├─ store event ─ ─ ─ ▷ store events        ingest worker; a batch has a trace of its own
      ├─ queue HANDLER ─ ─ ▷ admit deliveries    whichever process admits; the same
      ├─ HANDLER, attempt 1                      handler worker; spans of the handler's own are below
      └─ HANDLER, attempt 2

(─ ─ ▷ is a link.)
"""

import importlib
from collections.abc import Iterable
from types import TracebackType
from typing import Final, Protocol, Self
from uuid import UUID

from shared.envelope import Envelope
from shared.settings import SettingError


class Stored(Protocol):
    """An event of a batch that was stored."""

    @property
    def id(self) -> UUID:
        """The event's id."""

    @property
    def provider(self) -> str:
        """Who sent it."""

    @property
    def tenant(self) -> str:
        """Whose it is."""


class Queued(Protocol):
    """A delivery that a message carries."""

    @property
    def event_id(self) -> UUID:
        """The event."""

    @property
    def tenant(self) -> str:
        """Whose it is."""

    @property
    def handler(self) -> str:
        """The handler's name."""


class Attempt:
    """An attempt to handle an event; a `with` statement around it makes its span the current one."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        pass

    def fail(self, error: str, traceback: str, *, outcome: str) -> None:
        """Note why it failed, and what comes of the delivery."""


_ATTEMPT: Final = Attempt()


class Traces:
    """Makes no spans. Times are nanoseconds since 1970, as `time.time_ns` has them."""

    def accepted(self, envelope: Envelope, began: int) -> None:
        """Trace a request that has just been answered with 200."""

    def stored(self, events: Iterable[Stored], began: int) -> None:
        """Trace a transaction of a drain that has just been committed."""

    def queued(self, deliveries: Iterable[Queued], began: int) -> None:
        """Trace an admission that has just been sent."""

    def attempt(self, event_id: UUID, *, tenant: str, handler: str, number: int) -> Attempt:
        """Return the span of an attempt that begins now, to be used in a `with` statement."""
        del event_id, tenant, handler, number
        return _ATTEMPT

    def flush(self) -> None:
        """Send what waits, within a second."""


_current: Traces = Traces()


def current() -> Traces:
    """Return the traces of this process."""
    return _current


def require_packages(endpoint: str) -> None:
    """Import what `start` needs, so that processes share it that are forked afterwards.

    Raises:
        SettingError: a collector is named, and the packages that speak to it are not installed.
    """
    if endpoint:
        try:
            importlib.import_module("shared.otlp")
        except ModuleNotFoundError as error:
            raise SettingError(
                f"OTEL_EXPORTER_OTLP_ENDPOINT is set, and {error.name} is not installed: "
                "pip install '.[otel]', or unset the variable"
            ) from None


def start(endpoint: str, *, service: str) -> None:
    """Begin to trace if a collector is named; call it after the fork.

    Args:
        endpoint: of the collector, empty for none.
        service: name of the process among others, unless OTEL_SERVICE_NAME is set.

    Raises:
        SettingError: see `require_packages`.
    """
    global _current  # noqa: PLW0603 - one per process
    require_packages(endpoint)
    if endpoint:
        _current = importlib.import_module("shared.otlp").OtlpTraces(endpoint, service=service)
