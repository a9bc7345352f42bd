"""What the exporter reads from the environment; see `shared.settings`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from shared.durability import DURABILITY_ABOUT, Durability, durability
from shared.settings import (
    ENVIRONMENT_ABOUT,
    HEARTBEAT_DIR_ABOUT,
    LOG_FORMAT_ABOUT,
    SCHEMA_ABOUT,
    RedisSettings,
    address,
    database_url,
    environment_name,
    folder,
    log_format,
    log_level,
    port,
    schema_name,
    seconds,
    setting,
)

if TYPE_CHECKING:
    from pathlib import Path

EXPORTER_PORT_ABOUT: Final = "port on which the exporter serves /metrics and /wanted"


@dataclass(frozen=True, slots=True, kw_only=True)
class ExporterSettings(RedisSettings):
    """Settings of the exporter."""

    database_url: str = setting("DATABASE_URL", None, database_url, "Postgres")
    database_schema: str = setting("DATABASE_SCHEMA", "", schema_name, SCHEMA_ABOUT)
    environment: str = setting("PIPELINE_ENVIRONMENT", "", environment_name, ENVIRONMENT_ABOUT)
    inbox_durability: Durability = setting("INBOX_DURABILITY", "always", durability, DURABILITY_ABOUT)
    log_level: str = setting("LOG_LEVEL", "info", log_level, "debug, info, warning or error")
    log_format: str = setting("LOG_FORMAT", "", log_format, LOG_FORMAT_ABOUT)
    heartbeat_dir: Path | None = setting("HEARTBEAT_DIR", "", folder, HEARTBEAT_DIR_ABOUT)
    host: str = setting("EXPORTER_HOST", "127.0.0.1", address, "address on which the exporter listens")
    port: int = setting("EXPORTER_PORT", "9808", port, EXPORTER_PORT_ABOUT)
    seconds: float = setting(
        "EXPORTER_SECONDS", "10", seconds, "time between two looks of the exporter, however many scrape it, seconds"
    )
