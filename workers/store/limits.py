"""Limits of handlers: how many deliveries may be in flight, and how many a second may be admitted.

Guarantees: a limit holds over all workers and restarts, and counts each delivery once. Queries are in `limits.sql`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from psycopg.rows import class_row

from workers.store.sql import Queries

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence
    from datetime import datetime

    from workers.store.connect import Connection

_QUERIES: Final = Queries("limits.sql")
ANY: Final = "*"
"""Stands for all tenants together."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limit:
    """A limit as people set it: `max_in_flight` deliveries at once, `rate` a second; None for any number."""

    handler: str
    tenant: str
    max_in_flight: int | None
    rate: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Allowance:
    """What a handler's limit or pause still admits, for one tenant or all of them ("*"); None for any number."""

    handler: str
    tenant: str
    in_flight_left: int | None
    tokens: float | None
    at: datetime


def limit_handler(connection: Connection, limit: Limit) -> None:
    """Set the limit of a handler, for one tenant or for all of them together; without a figure, lift it."""
    parameters = {
        "handler": limit.handler,
        "tenant": limit.tenant,
        "max_in_flight": limit.max_in_flight,
        "rate": limit.rate,
    }
    is_limited = limit.max_in_flight is not None or limit.rate is not None
    connection.execute(_QUERIES["limit_handler" if is_limited else "lift_handler_limit"], parameters)


def list_limits(connection: Connection) -> list[Limit]:
    """Return all limits of handlers, by handler and tenant."""
    with connection.cursor(row_factory=class_row(Limit)) as cursor:
        return cursor.execute(_QUERIES["list_limits"]).fetchall()


def list_allowances(connection: Connection, *, handlers: Collection[str], tenants: Collection[str]) -> list[Allowance]:
    """Return what the limits and pauses of these handlers, for these tenants or all, still admit."""
    parameters = {"handlers": list(handlers), "tenants": list(tenants)}
    rows = connection.execute(_QUERIES["list_allowances"], parameters).fetchall()
    return [
        Allowance(
            handler=row["handler"],
            tenant=row["tenant"],
            in_flight_left=row["in_flight_left"],
            tokens=row["tokens"],
            at=row["at"],
        )
        for row in rows
    ]


def take_tokens(connection: Connection, limits: Sequence[tuple[Allowance, int]]) -> None:
    """Count deliveries that are admitted against the rates of their handlers."""
    counted = [(limit, limit.tokens - taken) for limit, taken in limits if limit.tokens is not None and taken]
    if counted:
        parameters = {
            "handlers": [limit.handler for limit, _ in counted],
            "tenants": [limit.tenant for limit, _ in counted],
            "tokens": [left_over for _, left_over in counted],
            "at": counted[0][0].at,
        }
        connection.execute(_QUERIES["take_tokens"], parameters)
