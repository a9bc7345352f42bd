"""Least privilege: the statements that give each role what it needs, and no more.

- The owner of the tables migrates them, and makes and drops their days.
- The application's role owns nothing. It reads and writes the tables: workers and commands.
- The role of handlers may call `record_success`, and nothing else of the pipeline's: `delivery.connection`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from psycopg import sql

from workers.store.sql import Queries

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import LiteralString

    from workers.store.connect import Connection

_QUERIES: Final = Queries("grants.sql")
TABLES: Final = (
    *("events", "receipts", "arrivals", "late_days", "deliveries", "deliveries_done", "attempts"),
    *("admission", "admission_turns", "lane_marks", "handler_limits", "handler_pauses", "serial_handlers"),
    *("registered_handlers", "handler_catalogue"),
    *("tenants", "endpoints", "endpoint_secrets", "registry_version"),
    *("jobs", "job_counts"),
    *("tallies_new", "tallies", "tallies_hourly", "activity", "totals", "endpoint_activity"),
    *("incidents", "incident_tenants", "incident_progress", "incident_notices", "alert_channels", "alert_messages"),
    *("console_users", "console_sessions", "console_attempts"),
)
"""What the application reads and writes; partitions are reached through these."""
APPEND_ONLY: Final = ("audit",)
READ_ONLY: Final = ("migrations", "all_deliveries", "pauses")
HANDLERS_FUNCTION: Final = "record_success"
FUNCTIONS: Final = (
    *("uuid_at", "uuid_time", "note_late", "parked", "next_ready", "next_tenant", "next_lane"),
    *("raise_registry_version", "wake_next_of_subject", "lower_lane_mark", "refuse_change", "note_change"),
    HANDLERS_FUNCTION,
)
# A new function may be called by everybody.
_FOR_BOTH: Final = ("GRANT USAGE ON SCHEMA {schema} TO {role}", "REVOKE ALL ON FUNCTION {functions} FROM PUBLIC")
_FOR_APPLICATION: Final = (
    *_FOR_BOTH,
    "GRANT SELECT, INSERT, UPDATE, DELETE ON {tables} TO {role}",
    "GRANT SELECT, INSERT ON {append_only} TO {role}",
    "GRANT SELECT ON {read_only} TO {role}",
    "GRANT EXECUTE ON FUNCTION {functions} TO {role}",
)
_FOR_HANDLERS: Final = (*_FOR_BOTH, "GRANT EXECUTE ON FUNCTION {function} TO {role}")


def grants_for_application(connection: Connection, role: str) -> list[str]:
    """Return the statements for the application's role."""
    return _fill(connection, _FOR_APPLICATION, role)


def grants_for_handlers(connection: Connection, role: str) -> list[str]:
    """Return the statements for the role of handlers."""
    return _fill(connection, _FOR_HANDLERS, role)


def renew_grants(connection: Connection) -> None:
    """Give the roles that have rights those on what a migration has just made."""
    for row in connection.execute(_QUERIES["list_roles"]).fetchall():
        for statement in _fill(connection, _FOR_APPLICATION if row["writes"] else _FOR_HANDLERS, row["role"]):
            connection.execute(statement.encode())


def _fill(connection: Connection, templates: Sequence[LiteralString], role: str) -> list[str]:
    (row,) = connection.execute(_QUERIES["schema"]).fetchall()
    schema = sql.SQL(row["name"])  # it comes quoted

    def named(names: Sequence[str]) -> sql.Composed:
        return sql.SQL(", ").join(sql.SQL("{}.{}").format(schema, sql.Identifier(name)) for name in names)

    parts = {
        "schema": schema,
        "role": sql.Identifier(role),
        "tables": named(TABLES),
        "append_only": named(APPEND_ONLY),
        "read_only": named(READ_ONLY),
        "functions": named(FUNCTIONS),
        "function": named([HANDLERS_FUNCTION]),
    }
    return [sql.SQL(template).format(**parts).as_string(connection) for template in templates]
