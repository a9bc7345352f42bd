"""How what a person typed is read: as the commands read their options, with the same sentences where it cannot be."""

from collections.abc import Callable
from datetime import datetime
from typing import Final, TypeVar
from uuid import UUID

import typer

from deploy.cli import arguments
from deploy.console.visit import InputError, NotFoundError, Visit

T = TypeVar("T")

MOST_IDS: Final = 1000
LARGEST_ID: Final = 2**63 - 1
MOST_DIGITS: Final = 19
"""Of a whole number: what Postgres holds at most has as many."""


def read(visit: Visit, name: str, parse: Callable[[str], T]) -> T | None:
    """Return a value as `parse` reads it, None where nothing is given. Raises InputError."""
    text = visit.given(name)
    if text is None:
        return None
    try:
        return parse(text)
    except typer.BadParameter as error:
        raise InputError(error.message) from None


def past(visit: Visit, name: str) -> datetime | None:
    """Return a time that has passed, such as 2h or a date. Raises InputError."""
    return read(visit, name, arguments.past)


def future(visit: Visit, name: str) -> datetime | None:
    """Return a time to come. Raises InputError."""
    return read(visit, name, arguments.future)


def rate(visit: Visit, name: str = "rate") -> float | None:
    """Return a rate by the second. Raises InputError."""
    return read(visit, name, arguments.rate)


def integer(visit: Visit, name: str, *, at_least: int = 1, at_most: int = 2**31 - 1) -> int | None:
    """Return a whole number within bounds. Raises InputError."""

    def parse(text: str) -> int:
        value = _digits(text)
        if value is None or not at_least <= value <= at_most:
            raise typer.BadParameter(f"{text[:40]!r} is no whole number from {at_least:,} to {at_most:,}")
        return value

    return read(visit, name, parse)


def event_ids(visit: Visit, name: str = "events") -> list[UUID] | None:
    """Return ids of events, apart by blanks or lines. Raises InputError."""

    def parse(text: str) -> list[UUID] | None:
        words = text.replace(",", " ").split()
        if len(words) > MOST_IDS:
            raise typer.BadParameter(
                f"{len(words):,} ids are more than {MOST_IDS:,}: narrow by a tenant or a time instead"
            )
        try:
            return [UUID(it) for it in words] or None
        except ValueError:
            raise typer.BadParameter("there is something that is no id of an event") from None

    return read(visit, name, parse)


def event_id(visit: Visit) -> UUID:
    """Return the id in the path. Raises NotFoundError."""
    text = visit.request.path_params["event_id"]
    try:
        return UUID(text)
    except ValueError:
        raise NotFoundError(f"{text[:60]!r} is no id of an event") from None


def identity(visit: Visit, name: str = "id") -> int:
    """Return the number of an incident or a job, in the path or given. Raises NotFoundError."""
    text = visit.request.path_params.get(name) or visit.given(name) or ""
    number = _digits(text)
    if number is None or number > LARGEST_ID:
        raise NotFoundError(f"{text[:40]!r} is no number of that kind")
    return number


def _digits(text: str) -> int | None:
    """Return the number that a text of digits is; None for any other text."""
    return int(text) if text.isascii() and text.isdigit() and len(text) <= MOST_DIGITS else None
