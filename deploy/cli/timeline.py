"""The story of one event as a timeline for people.

Guarantees: lines stand in the order of time, each with what it is about; bodies and secrets are not in it. Refuses
nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator

    from workers.store.event_history import Attempt, DeliveryHistory, EventHistory

_PLAIN: Final = ""
_GOOD: Final = "green"
_BAD: Final = "red"
_NEXT: Final = "yellow"


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One thing that happened, or that is to come; `style` is rich's."""

    at: datetime
    text: str
    style: str = _PLAIN
    more: str = ""


def lines_of(story: EventHistory, *, tracebacks: bool = False, now: datetime | None = None) -> list[Line]:
    """Return what happened to an event, oldest first, and what comes next.

    Args:
        story: from `workers.store.event_history.read_history`.
        tracebacks: add that of each failed attempt.
        now: aware; the clock's by default.
    """
    now = now or datetime.now(UTC)
    lines = [*_of_event(story)]
    for delivery in story.deliveries:
        lines += _of_delivery(delivery, now, tracebacks=tracebacks)
    return sorted(lines, key=lambda line: line.at)


def _of_event(story: EventHistory) -> Iterator[Line]:
    yield Line(at=story.received_at, text=f"received, {story.body_bytes} bytes, signed by {story.secret_label}")
    if story.state == "rejected":
        notes = "".join(f"; {note}" for note in story.notes)
        yield Line(at=story.stored_at, text=f"stored, rejected: {story.reject_reason}{notes}", style=_BAD)
    else:
        notes = "".join(f"; noted: {note}" for note in story.notes)
        nobody = "" if story.deliveries else "; no handler asked for it"
        yield Line(at=story.stored_at, text=f"stored, accepted as {story.type}{nobody}{notes}")
    for arrival in story.arrivals:
        yield Line(at=arrival.received_at, text=f"arrived again as {arrival.id}, signed by {arrival.secret_label}")


def _of_delivery(delivery: DeliveryHistory, now: datetime, *, tracebacks: bool) -> Iterator[Line]:
    who = delivery.handler
    yield Line(at=delivery.created_at, text=f"{who}: delivery made")
    for failed in delivery.failures:
        more = (failed.traceback or "").rstrip() if tracebacks else ""
        yield Line(at=failed.failed_at, text=f"{who}: {_failure(failed)}", style=_BAD, more=more)
    match delivery.state:
        case "pending" if delivery.due_at is not None and delivery.due_at > now:
            when = _stamp(delivery.due_at)
            text = f"{who}: next attempt in {_span(delivery.due_at - now)}, at {when}"
            yield Line(at=delivery.due_at, text=text, style=_NEXT)
        case "pending":
            yield Line(at=now, text=f"{who}: due, waits to be admitted", style=_NEXT)
        case "queued":
            yield Line(at=now, text=f"{who}: sent to a worker through Celery", style=_NEXT)
        case "running":
            lease = _stamp(delivery.lease_until or now)
            yield Line(at=now, text=f"{who}: runs on {delivery.worker}, waited for until {lease}", style=_NEXT)
        case "succeeded":
            text = f"{who}: succeeded in attempt {delivery.attempt} on {delivery.worker}"
            yield Line(at=delivery.finished_at or now, text=text, style=_GOOD)
        case state:
            attempts = "1 attempt" if delivery.attempt == 1 else f"{delivery.attempt} attempts"
            text = f"{who}: {state} after {attempts}" + _why(delivery)
            yield Line(at=delivery.finished_at or now, text=text, style=_BAD)


def _failure(failed: Attempt) -> str:
    after = "" if failed.duration is None else f" after {_span(failed.duration)}"
    where = f" on {failed.worker}" if failed.worker else ""
    return f"attempt {failed.attempt} failed{after}{where}: {failed.error}"


def _why(delivery: DeliveryHistory) -> str:
    """Return the last error, where no attempt tells it."""
    told = delivery.failures and delivery.failures[-1].error == delivery.last_error
    return "" if told or not delivery.last_error else f": {delivery.last_error}"


def _stamp(at: datetime) -> str:
    return at.astimezone(UTC).strftime("%H:%M:%S UTC")


def _span(span: timedelta) -> str:
    """Return a duration as people say it."""
    seconds = span.total_seconds()
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 120:  # noqa: PLR2004 - two minutes
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"  # noqa: PLR2004 - two hours
