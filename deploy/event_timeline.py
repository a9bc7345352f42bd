"""The history of an event as lines in the order of time, for the command line and the console."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Literal

from workers.store.event_history import Attempt, DeliveryHistory, EventHistory

Mood = Literal["", "good", "bad", "waiting"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One thing that happened, or that is to come.

    Attributes:
        at: when, aware.
        text: one sentence.
        mood: whether it is how it should be.
        more: a traceback, empty if there is none.
    """

    at: datetime
    text: str
    mood: Mood = ""
    more: str = ""


def timeline(history: EventHistory, *, now: datetime | None = None) -> list[Line]:
    """Return what happened to an event, and what comes next, oldest first."""
    lines = [*_of_event(history)]
    for delivery in history.deliveries:
        lines += _of_delivery(delivery, now or datetime.now(UTC))
    return sorted(lines, key=lambda line: line.at)


def _of_event(history: EventHistory) -> Iterator[Line]:
    yield Line(at=history.received_at, text=f"received, {history.body_bytes} bytes, signed by {history.secret_label}")
    if history.state == "rejected":
        notes = "".join(f"; {note}" for note in history.notes)
        yield Line(at=history.stored_at, text=f"stored, rejected: {history.reject_reason}{notes}", mood="bad")
    else:
        notes = "".join(f"; noted: {note}" for note in history.notes)
        nobody = "" if history.deliveries else "; no handler asked for it"
        yield Line(at=history.stored_at, text=f"stored, accepted as {history.type}{nobody}{notes}")
    for arrival in history.arrivals:
        yield Line(at=arrival.received_at, text=f"arrived again as {arrival.id}, signed by {arrival.secret_label}")


def _of_delivery(it: DeliveryHistory, now: datetime) -> Iterator[Line]:
    who = it.handler
    yield Line(at=it.created_at, text=f"{who}: delivery made")
    for failed in it.failures:
        more = (failed.traceback or "").rstrip()
        yield Line(at=failed.failed_at, text=f"{who}: {_failure(failed)}", mood="bad", more=more)
    match it.state:
        case "pending" if it.due_at is not None and it.due_at > now:
            text = f"{who}: next attempt in {in_words(it.due_at - now)}, at {_stamp(it.due_at)}"
            yield Line(at=it.due_at, text=text, mood="waiting")
        case "pending":
            waits = "waits to be admitted" if it.paused is None else f"paused {it.paused}"
            yield Line(at=now, text=f"{who}: due, {waits}", mood="waiting")
        case "queued":
            yield Line(at=now, text=f"{who}: sent to a worker through Celery", mood="waiting")
        case "running":
            text = f"{who}: runs on {it.worker}, waited for until {_stamp(it.lease_until or now)}"
            yield Line(at=now, text=text, mood="waiting")
        case "succeeded":
            text = f"{who}: succeeded in attempt {it.attempt} on {it.worker}"
            yield Line(at=it.finished_at or now, text=text, mood="good")
        case state:
            attempts = "1 attempt" if it.attempt == 1 else f"{it.attempt} attempts"
            is_shown = it.failures and it.failures[-1].error == it.last_error
            why = "" if is_shown or not it.last_error else f": {it.last_error}"
            yield Line(at=it.finished_at or now, text=f"{who}: {state} after {attempts}{why}", mood="bad")


def _failure(failed: Attempt) -> str:
    after = "" if failed.duration is None else f" after {in_words(failed.duration)}"
    where = f" on {failed.worker}" if failed.worker else ""
    return f"attempt {failed.attempt} failed{after}{where}: {failed.error}"


def _stamp(at: datetime) -> str:
    return at.astimezone(UTC).strftime("%H:%M:%S UTC")


def in_words(span: timedelta) -> str:
    """Return a duration as people say it."""
    seconds = span.total_seconds()
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 120:  # noqa: PLR2004 - two minutes
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"  # noqa: PLR2004 - two hours
