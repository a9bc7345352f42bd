"""What `pipeline up` and the commands read from the environment; see `shared.settings`."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeVar

from deploy.exporter.settings import EXPORTER_PORT_ABOUT
from deploy.flower.settings import FLOWER_PREFIX_ABOUT, url_prefix
from ingress.settings import HIGH_WATER_ABOUT
from shared.durability import DURABILITY_ABOUT, Durability, durability
from shared.settings import (
    ALERTS_ABOUT,
    ENVIRONMENT_ABOUT,
    HEALTH_SECONDS_ABOUT,
    SCHEMA_ABOUT,
    GivenRedisSettings,
    database_url,
    environment_name,
    fernet_keys,
    file_path,
    folder,
    integer,
    port,
    redis_servers,
    schema_name,
    seconds,
    setting,
    share,
)

T = TypeVar("T")

CONSOLE_PORT_ABOUT: Final = "port on which the console listens"
INGRESS_URL_ABOUT: Final = (
    "where `pipeline send` posts, and what the console shows before the path of an endpoint, such as http://host:8000"
)
OLDEST_POSTGRES: Final = 150000
OLDEST_REDIS: Final = 7


def optional(parse: Callable[[str], T]) -> Callable[[str], T | None]:
    """Return the parser of a setting that is None where it is not set."""
    return lambda text: parse(text) if text else None


@dataclass(frozen=True, slots=True, kw_only=True)
class StackSettings:
    """Settings of the stack that `pipeline up` runs; what is unset here it makes or starts itself."""

    home: Path = setting("PIPELINE_HOME", ".local", folder, "data folder of the stack that `make run` starts")
    ingress_port: int = setting("INGRESS_PORT", "8000", port, "port on which the ingress of `make run` listens")
    flower_port: int = setting("FLOWER_PORT", "5555", port, "port on which the Flower of `make run` listens")
    console_port: int = setting("CONSOLE_PORT", "5556", port, CONSOLE_PORT_ABOUT)
    exporter_port: int = setting("EXPORTER_PORT", "9808", port, EXPORTER_PORT_ABOUT)
    ingest_workers: int = setting("INGEST_WORKERS", "2", integer(at_least=1), "processes that store events")
    handler_workers: int = setting(
        "HANDLER_WORKERS",
        "4",
        integer(at_least=1),
        "processes that run handlers; the express worker has a quarter more",
    )
    health_seconds: float = setting("HEALTH_SECONDS", "60", seconds, HEALTH_SECONDS_ABOUT)
    flower_prefix: str = setting("FLOWER_URL_PREFIX", "", url_prefix, FLOWER_PREFIX_ABOUT)

    @property
    def ingress_url(self) -> str:
        """Return where the ingress of the stack listens."""
        return f"http://127.0.0.1:{self.ingress_port}"

    @property
    def console_url(self) -> str:
        """Return where its console listens."""
        return f"http://127.0.0.1:{self.console_port}"

    @property
    def exporter_url(self) -> str:
        """Return where its exporter serves the figures."""
        return f"http://127.0.0.1:{self.exporter_port}/metrics"

    @property
    def flower_url(self) -> str:
        """Return where its Flower listens, with no slash at the end."""
        return f"http://127.0.0.1:{self.flower_port}" + (f"/{self.flower_prefix}" if self.flower_prefix else "")


@dataclass(frozen=True, kw_only=True)
class GivenSettings(GivenRedisSettings):
    """Settings that name what already runs elsewhere; each is None when unset."""

    has_home: bool = setting("PIPELINE_HOME", "", bool, "whether a data folder was named")
    database_url: str | None = setting("DATABASE_URL", "", optional(database_url), "Postgres")
    database_schema: str = setting("DATABASE_SCHEMA", "", schema_name, SCHEMA_ABOUT)
    handler_database_url: str = setting(
        "HANDLER_DATABASE_URL", "", lambda text: text and database_url(text), "Postgres, as the role of handlers"
    )
    environment: str = setting("PIPELINE_ENVIRONMENT", "", environment_name, ENVIRONMENT_ABOUT)
    inbox_durability: Durability = setting("INBOX_DURABILITY", "always", durability, DURABILITY_ABOUT)
    inbox_high_water: float = setting("INBOX_HIGH_WATER", "0.75", share, HIGH_WATER_ABOUT)
    secrets_key: tuple[str, ...] | None = setting("SECRETS_KEY", "", optional(fernet_keys), "Fernet key(s)")
    alerts: Path | None = setting("ALERTS", "", file_path, ALERTS_ABOUT)
    ingress_url: str | None = setting(
        "INGRESS_URL",
        "",
        optional(lambda text: text.rstrip("/")),
        INGRESS_URL_ABOUT,
    )

    @property
    def redis_servers(self) -> tuple[str, str]:
        """The URLs of inbox and broker; SettingError if one has none."""
        return redis_servers(self.redis_url, self.inbox_url, self.broker_url, prefix=self.redis_prefix)


@dataclass(frozen=True, slots=True, kw_only=True)
class RetentionSettings:
    """What `pipeline stats` compares the oldest day with."""

    retention_days: int = setting("RETENTION_DAYS", "30", integer(at_least=1), "days that events are kept")


def inherited() -> dict[str, str]:
    """Return the environment that the stack's services inherit."""
    return dict(os.environ)
