"""What the exporter reads from the environment; see `shared.settings`."""

from dataclasses import dataclass
from typing import Final

from shared.durability import DURABILITY_ABOUT, Durability, durability
from shared.settings import (
    DatabaseSettings,
    HeartbeatSettings,
    LogSettings,
    RedisSettings,
    address,
    port,
    seconds,
    setting,
)

EXPORTER_PORT_ABOUT: Final = "port on which the exporter serves /metrics and /wanted"


@dataclass(frozen=True, kw_only=True)
class ExporterSettings(DatabaseSettings, RedisSettings, HeartbeatSettings, LogSettings):
    """Settings of the exporter."""

    inbox_durability: Durability = setting("INBOX_DURABILITY", "always", durability, DURABILITY_ABOUT)
    host: str = setting("EXPORTER_HOST", "127.0.0.1", address, "address on which the exporter listens")
    port: int = setting("EXPORTER_PORT", "9808", port, EXPORTER_PORT_ABOUT)
    seconds: float = setting(
        "EXPORTER_SECONDS", "10", seconds, "time between two looks of the exporter, however many scrape it, seconds"
    )
