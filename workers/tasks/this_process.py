"""The process that a task runs in: its connections and handlers, and what it does when its servers do not suit it."""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING, Final

from workers import heartbeat
from workers.app import settings
from workers.process import LostRightError, Process, SchemaMissingError
from workers.registration import Handlers

if TYPE_CHECKING:
    from shared.identity import ForeignRedisError

log = logging.getLogger(__name__)

REFUSAL_SECONDS: Final = 60.0
"""Between two lines about servers that this process can do nothing with."""

_handlers = Handlers()


def set_handlers(handlers: Handlers) -> None:
    """Keep the handlers of this worker, before its pool is forked."""
    global _handlers  # noqa: PLW0603 - of this process
    _handlers = handlers


def list_handlers() -> Handlers:
    """Return the handlers of this worker; none in one of another duty."""
    return _handlers


def this_process() -> Process:
    """Return the connections of this process, which are made at first use."""
    return Process.of(settings, _handlers.on_process_start)


def require_schema() -> None:
    """See that this version can work with the database; `pipeline health` says so when it cannot."""
    if this_process().require_schema():
        heartbeat.set_waiting("")


_refusal_told_at = float("-inf")


def tell_refusal(error: SchemaMissingError | ForeignRedisError | LostRightError) -> None:
    """Log what a person must mend, at most once a minute: the sweeper runs every second."""
    global _refusal_told_at  # noqa: PLW0603 - of this process
    heartbeat.set_waiting(str(error))
    if time.monotonic() - _refusal_told_at >= REFUSAL_SECONDS:
        _refusal_told_at = time.monotonic()
        codes = {SchemaMissingError: "schema_missing", LostRightError: "missing_rights"}
        log.error("%s", error, extra={"code": codes.get(type(error), "foreign_redis")})
