"""What comes of an attempt, and how long one may take: pure decisions.

Guarantees: a claim outlives the process that made it; every end of a handler is an outcome.
"""

from __future__ import annotations

import random
import traceback
from typing import TYPE_CHECKING, Final

from workers.dispatch.retry import delay
from workers.errors import EventGone, Permanent, RetryAfter
from workers.store.deliveries import Claimed, Outcome

if TYPE_CHECKING:
    from workers.registration import Handler

GRACE_SECONDS: Final = 5.0
"""Between the last moment a message may take and Celery's hard limit, and again until its leases end."""


def hard_limit(handler: Handler, *, message_seconds: float) -> float:
    """Return the seconds after which Celery kills the process that runs a message of this handler."""
    return message_seconds + handler.timeout + GRACE_SECONDS


def lease(handler: Handler, *, message_seconds: float) -> float:
    """Return the seconds that a claim holds: longer than the process can live."""
    return hard_limit(handler, message_seconds=message_seconds) + GRACE_SECONDS


def decide(claimed: Claimed, handler: Handler, error: BaseException | None, *, duration: float) -> Outcome:
    """Turn the end of an attempt into its outcome.

    1. Nothing raised: succeeded.
    2. `Permanent`, or the last attempt: dead.
    3. `RetryAfter`: again then. Anything else: again by the handler's schedule, with full jitter.
    """
    if error is None:
        return Outcome(claimed=claimed, state="succeeded", duration=duration)
    text, trace = describe(error)
    failures = claimed.attempt + 1
    if isinstance(error, Permanent | EventGone) or failures >= handler.max_attempts:
        return Outcome(claimed=claimed, state="dead", error=text, traceback=trace, duration=duration)
    wait = error.seconds if isinstance(error, RetryAfter) else delay(handler.schedule, failures, random.random)
    return Outcome(claimed=claimed, state=None, retry_in=wait, error=text, traceback=trace, duration=duration)


def describe(error: BaseException) -> tuple[str, str]:
    """Return an error in one line, and its traceback; also of one that cannot be printed."""
    try:
        message = str(error)
    except BaseException as failure:  # noqa: BLE001 - whatever its `__str__` raises
        message = f"its message cannot be printed, because __str__ raised {type(failure).__name__}"
    line = f"{type(error).__name__}: {message}".partition("\n")[0][:1000]
    try:
        trace = "".join(traceback.format_exception(error))[-20_000:]
    except BaseException as failure:  # noqa: BLE001 - notes, causes and frames are the handler's, too
        trace = f"{line}\n(the traceback cannot be printed: {type(failure).__name__})"
    return _encodable(line), _encodable(trace)


def _encodable(text: str) -> str:
    """Return the text without lone surrogates, which neither a log nor a database takes."""
    return text.encode(errors="backslashreplace").decode()
