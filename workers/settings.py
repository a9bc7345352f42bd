"""What the workers read from the environment; see `shared.settings`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from shared.settings import (
    ALERTS_ABOUT,
    DatabaseSettings,
    SharedSettings,
    database_url,
    file_path,
    integer,
    seconds,
    setting,
)

if TYPE_CHECKING:
    from pathlib import Path


def module_names(text: str) -> tuple[str, ...]:
    """Parse a comma-separated list of module names."""
    return tuple(name.strip() for name in text.split(",") if name.strip())


def optional_database_url(text: str) -> str:
    """Check a Postgres URL that need not be set."""
    return database_url(text) if text else ""


@dataclass(frozen=True, kw_only=True)
class WorkerSettings(DatabaseSettings, SharedSettings):
    """Settings of every worker and of the command `pipeline`."""

    handler_database_url: str = setting(
        "HANDLER_DATABASE_URL",
        "",
        optional_database_url,
        "the same database, for `delivery.connection`: of a role with no rights but those of handlers",
    )
    handlers: tuple[str, ...] = setting(
        "HANDLERS",
        "",
        module_names,
        "comma-separated modules that register handlers; required where handlers run, `make run` has an example",
    )
    events: tuple[str, ...] = setting(
        "EVENTS", "", module_names, "comma-separated modules with a team's own event models, each of one provider"
    )
    message_seconds: float = setting(
        "MESSAGE_SECONDS", "1", seconds, "time budget of one message of several deliveries, seconds"
    )
    stuck_seconds: float = setting(
        "STUCK_SECONDS",
        "30",
        seconds,
        "time after which a worker is stuck, and started again, if it has a free slot and takes nothing while its "
        "queue waits, seconds",
    )
    drain_batch: int = setting(
        "DRAIN_BATCH",
        "500",
        integer(at_least=1),
        "inbox entries stored in one transaction; of those beyond a tenant's burst a quarter, or 32 while others come",
    )
    drain_seconds: float = setting("DRAIN_SECONDS", "5", seconds, "time budget of one drain, seconds")
    reclaim_seconds: float = setting(
        "RECLAIM_SECONDS", "10", seconds, "idle time after which a drain takes over another's inbox entries, seconds"
    )
    dedup_days: int = setting("DEDUP_DAYS", "30", integer(at_least=1), "days in which the same event counts once")
    retention_days: int = setting("RETENTION_DAYS", "30", integer(at_least=1), "days that events are kept")
    incident_quiet_seconds: float = setting(
        "INCIDENT_QUIET_SECONDS",
        "600",
        seconds,
        "time without another failure of its cause after which an incident is resolved, seconds",
    )
    alerts: Path | None = setting("ALERTS", "", file_path, ALERTS_ABOUT)
