"""A log line for each failed attempt, whether or not it is tried again.

The traceback is in Postgres, not in the line; the record has the exception, for handlers of logging that report errors.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Sequence

    from workers.store.catalogue import Registration
    from workers.store.deliveries import Outcome

log: Final = logging.getLogger(__name__)


def log_failure(
    outcome: Outcome, handler: Registration, *, provider: str | None = None, error: BaseException | None = None
) -> None:
    """Log one failed attempt: an error if the delivery is dead, else a warning.

    Args:
        outcome: of the attempt.
        handler: that ran, or should have.
        provider: who sent the event, if it is known here.
        error: what the handler raised; None if it did not end.
    """
    claimed, duration = outcome.claimed, outcome.duration
    is_dead = outcome.state == "dead"
    log.log(
        logging.ERROR if is_dead else logging.WARNING,
        "attempt %d of %d failed: %s; %s",
        claimed.attempt + 1,
        handler.max_attempts,
        outcome.error,
        "the delivery is dead" if is_dead else f"tried again in {outcome.retry_in:.0f} s",
        exc_info=error,
        extra={
            "event_id": claimed.event_id,
            "tenant": claimed.tenant,
            "provider": provider,
            "handler": handler.name,
            "attempt": claimed.attempt + 1,
            "outcome": "dead" if is_dead else "retry",
            "code": "delivery_dead" if is_dead else "attempt_failed",
            "duration": None if duration is None else round(duration, 3),
            "traceback": None,  # in Postgres
        },
    )


def log_uncounted(lost: Sequence[dict[str, object]]) -> None:
    """Log attempts that were lost together and are not counted: rows of event, handler, tenant, attempt, worker."""
    for row in lost:
        log.warning(
            "the worker %s was lost while it held several deliveries; this one runs alone next",
            row["worker"],
            extra={name: row[name] for name in ("event_id", "tenant", "handler")}
            | {"attempt": int(str(row["attempt"])) + 1, "outcome": "uncounted", "code": "attempt_lost"},
        )
