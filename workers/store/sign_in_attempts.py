"""Attempts to sign in to the console: how many have failed of late, by whatever they are counted by.

Guarantees: an attempt is counted before its password is checked, one after the other, so that many at once are no more
than the limit; what is counted is stored as a digest, for people type passwords where their name belongs; rows older
than the window are removed with each attempt.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from workers.store.sql import Queries

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from workers.store.connect import Connection

_SQL: Final = Queries("sign_in_attempts.sql")


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """An attempt that was counted as failed until it is known to be none, or that may not be made yet.

    Attributes:
        ids: of its rows.
        wait_seconds: after which the next one may be made; 0 where this one may.
    """

    ids: Sequence[int] = ()
    wait_seconds: float = 0.0


def begin_attempt(connection: Connection, limits: Mapping[str, int], *, window_seconds: float) -> Attempt:
    """Count an attempt as a failed one, unless too many have failed within the window.

    Args:
        connection: in autocommit: what a transaction of the caller's took back would not be counted.
        limits: by what it is counted by, such as "name alice", the failures that are allowed within the window.
        window_seconds: how long a failure counts.

    Raises:
        RuntimeError: the connection is in a transaction.
    """
    if connection.info.transaction_status:
        raise RuntimeError("an attempt to sign in must be counted whatever comes of a transaction: it is in one")
    values = {
        "counted_by": [_digest(it) for it in limits],
        "most": list(limits.values()),
        "window_seconds": window_seconds,
    }
    with connection.transaction():
        connection.execute(_SQL["lock"])
        connection.execute(_SQL["remove_old"], values)
        (row,) = connection.execute(_SQL["read_wait"], values).fetchall()
        if row["seconds"] > 0:
            return Attempt(wait_seconds=row["seconds"])
        return Attempt(ids=[row["id"] for row in connection.execute(_SQL["add"], values)])


def forget(connection: Connection, attempt: Attempt, counted_by: Collection[str] = ()) -> None:
    """Take back an attempt that has succeeded, and all failures that are counted by these."""
    connection.execute(_SQL["forget"], {"ids": list(attempt.ids), "counted_by": [_digest(it) for it in counted_by]})


def _digest(counted_by: str) -> bytes:
    return hashlib.sha256(counted_by.encode(errors="replace")).digest()
