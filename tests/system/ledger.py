"""What became of acknowledged events, read from Postgres.

Every id counts; the id of a duplicate counts through the event that came first.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Protocol

from tests.system.waiting import until

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_ACCOUNT: Final = """
    WITH acknowledged AS (
        SELECT a.id, coalesce(e.id, r.first_id) AS event_id
        FROM unnest(%s::uuid[]) AS a(id) LEFT JOIN events AS e USING (id) LEFT JOIN arrivals AS r ON r.id = a.id
    )
    SELECT count(DISTINCT a.id) FILTER (WHERE a.event_id IS NULL) AS missing,
           count(DISTINCT a.event_id) FILTER (WHERE d.event_id IS NULL) AS undelivered,
           count(*) FILTER (WHERE d.state IN ('pending', 'queued', 'running')) AS open,
           count(*) FILTER (WHERE d.state = 'succeeded') AS succeeded,
           count(*) FILTER (WHERE d.state IN ('dead', 'cancelled')) AS failed
    FROM acknowledged AS a LEFT JOIN all_deliveries AS d ON d.event_id = a.event_id
"""


class Database(Protocol):
    """Whose events are looked at: a `Stack` or a `Site`."""

    def query(self, sql: str, parameters: Sequence[Any] | Mapping[str, Any] = (), /) -> list[dict[str, Any]]:
        """Run one statement in Postgres and return its rows."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """What became of some acknowledged ids.

    Attributes:
        missing: ids that Postgres does not know, neither as an event nor as an arrival.
        undelivered: stored events without any delivery.
        open: deliveries that are not finished.
        succeeded: deliveries.
        failed: deliveries that are dead or cancelled.
    """

    missing: int
    undelivered: int
    open: int
    succeeded: int
    failed: int

    @property
    def is_stored(self) -> bool:
        """Whether everything is stored, with its deliveries."""
        return self.missing == self.undelivered == 0

    @property
    def is_settled(self) -> bool:
        """Whether everything is stored and every delivery finished, well or badly."""
        return self.is_stored and self.open == 0


def account(stack: Database, event_ids: Sequence[str]) -> Account:
    """Look once."""
    (row,) = stack.query(_ACCOUNT, [list(event_ids)])
    return Account(**row)


def wait_until_settled(stack: Database, event_ids: Sequence[str], *, seconds: float) -> Account:
    """Wait until everything is stored and every delivery finished; fail if nothing has changed for so many seconds."""
    seen, changed = account(stack, event_ids), time.monotonic()
    while not seen.is_settled:
        if time.monotonic() > changed + seconds:
            raise AssertionError(f"no change for {seconds:g} s: {seen}; {open_deliveries(stack, event_ids)}")
        time.sleep(0.2)
        before, seen = seen, account(stack, event_ids)
        if seen != before:
            changed = time.monotonic()
    return seen


def deliveries(stack: Database, event_id: str) -> dict[str, dict[str, Any]]:
    """Return the deliveries of one event by handler."""
    found = stack.query("SELECT * FROM all_deliveries WHERE event_id = %s", [event_id])
    return {row["handler"]: row for row in found}


def delivery(stack: Database, event_id: str, handler: str, state: str, *, seconds: float) -> dict[str, Any]:
    """Wait until a delivery is in a state, and return it."""

    def look() -> dict[str, Any]:
        found = deliveries(stack, event_id).get(handler, {})
        return found if found.get("state") == state else {}

    try:
        return until(look, seconds=seconds, what=f"{handler} {state}")
    except AssertionError as late:
        raise AssertionError(f"{late}; {deliveries(stack, event_id)}") from None


def attempts(stack: Database, event_id: str, handler: str) -> list[dict[str, Any]]:
    """Return the failed attempts of one delivery, oldest first."""
    return stack.query(
        "SELECT * FROM attempts WHERE event_id = %s AND handler = %s ORDER BY fence", [event_id, handler]
    )


def open_deliveries(stack: Database, event_ids: Sequence[str]) -> list[dict[str, Any]]:
    """Return a few unfinished deliveries, for a message that explains a failure."""
    return stack.query(
        "SELECT event_id, handler, state, attempt, fence, alone, due_at - now() AS due_in,"
        " lease_until - now() AS lease, worker, last_error FROM deliveries WHERE event_id = ANY (%s::uuid[]) LIMIT 5",
        [list(event_ids)],
    )


EFFECTS: Final = """
    CREATE TABLE effects (event_id uuid, handler text, note text, at timestamptz DEFAULT now());
    CREATE TABLE effects_once (event_id uuid, handler text, PRIMARY KEY (event_id, handler));
"""
"""Where the tests' handlers write: `effects` counts, `effects_once` refuses a second run."""


def effects(stack: Database, event_ids: Sequence[str]) -> list[dict[str, Any]]:
    """Return what handlers wrote for some events."""
    return stack.query("SELECT * FROM effects WHERE event_id = ANY (%s::uuid[])", [list(event_ids)])


def effects_of_more_than_one_run(stack: Database) -> list[dict[str, Any]]:
    """Return every (event, handler) with more than one effect; there must never be any."""
    return stack.query("SELECT event_id, handler, count(*) FROM effects GROUP BY 1, 2 HAVING count(*) > 1")
