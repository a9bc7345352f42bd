"""What has come of the deliveries of a test."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from workers.store.connect import Connection


def rows(connection: Connection) -> list[tuple[str, int, str | None]]:
    """Return state, attempts and last error of every delivery, in the order of their events."""
    query = "SELECT state, attempt, last_error FROM all_deliveries ORDER BY event_id"
    return [(row["state"], row["attempt"], row["last_error"]) for row in connection.execute(query)]


def error_of(connection: Connection) -> str:
    """Return the last error of the only delivery."""
    ((_, _, error),) = rows(connection)
    assert error is not None
    return error
