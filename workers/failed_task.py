"""How the Celery task of a message ends when deliveries of it have failed: Flower tells what Postgres tells."""

from __future__ import annotations

from typing import TYPE_CHECKING

from celery.exceptions import Retry

from workers.errors import DeliveryFailed

if TYPE_CHECKING:
    from workers.dispatch.running import MessageRun


def end_as_failed(run: MessageRun) -> None:
    """End the task as Flower should show it: FAILURE if a delivery is dead, else RETRY."""
    failure = next((failure for failure in run.failures if failure.outcome.state == "dead"), run.failures[0])
    claimed, outcome = failure.outcome.claimed, failure.outcome
    others = f" (and {len(run.failures) - 1} more in this message)" if len(run.failures) > 1 else ""
    summary = DeliveryFailed(
        f"tenant {claimed.tenant}, event {claimed.event_id}, attempt {claimed.attempt + 1}: {outcome.error}{others}"
    )
    summary.__cause__ = failure.error if isinstance(failure.error, Exception) else None
    if outcome.state == "dead":
        raise summary
    raise Retry(str(summary), exc=summary, when=outcome.retry_in) from failure.error
