"""Settings: read from the environment once, checked, and described in one place.

A wrong or missing value is a `SettingError` whose text is one line that names the variable and says what to do. An
empty value counts as unset, and white space around a value is ignored, so that a file that was edited on Windows works.
Only the `settings` modules read the environment.
"""

import base64
import dataclasses
import ipaddress
import os
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeVar

from shared.redis_url import CLUSTER, optional_broker_url, optional_redis_url, without_blanks

T = TypeVar("T")

_AROUND: Final = " \t\r\n\f\v\u00a0\ufeff\u200b"
"""What may stand around a value and is not part of it: white space, and characters that nobody sees."""


_SCHEMA: Final = re.compile(r"[a-z_][a-z0-9_]{0,62}")
_ENVIRONMENT: Final = re.compile(r"[A-Za-z0-9_.-]{1,63}")
_PREFIX: Final = re.compile(r"[A-Za-z0-9_.:{}-]{1,63}:")
_HASH_TAG: Final = re.compile(r"^[^{]*\{[^}]+\}")


FERNET_KEY_BYTES: Final = 32


class SettingError(Exception):
    """A setting is missing or wrong; the text is one line for the person who set it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Described:
    """One row of the settings table in deploy/SETTINGS.md."""

    variable: str
    default: str
    about: str


def setting(variable: str, default: str | None, parse: Callable[[str], Any], about: str) -> Any:
    """Declare a dataclass field that comes from the environment.

    Args:
        variable: name of the environment variable.
        default: its text when unset; None makes it required.
        parse: turns the text into the value, raising ValueError with a sentence that says what is expected.
        about: one line for the table of settings, unit included.
    """
    return dataclasses.field(metadata={"variable": variable, "default": default, "parse": parse, "about": about})


def load(settings: type[T], environ: Mapping[str, str] | None = None) -> T:
    """Build `settings` from the environment.

    Raises:
        SettingError: a required variable is missing or a value does not parse.
    """
    environ = os.environ if environ is None else environ
    values: dict[str, Any] = {}
    for field in _declared(settings):
        variable, default = field.metadata["variable"], field.metadata["default"]
        text = environ.get(variable, "").strip(_AROUND) or default
        if text is None:
            raise SettingError(f"{variable} is not set: {field.metadata['about']}")
        try:
            values[field.name] = field.metadata["parse"](text)
        except ValueError as error:
            raise SettingError(f"{variable} is wrong: {error}") from None
    return settings(**values)


def describe(settings: type[Any]) -> list[Described]:
    """List what `settings` reads, for deploy/SETTINGS.md and the test that compares the two."""
    return [
        Described(
            variable=field.metadata["variable"],
            default="(required)" if field.metadata["default"] is None else field.metadata["default"],
            about=field.metadata["about"],
        )
        for field in _declared(settings)
    ]


def _declared(settings: type[Any]) -> Iterator[dataclasses.Field[Any]]:
    return (field for field in dataclasses.fields(settings) if "variable" in field.metadata)


def integer(*, at_least: int = 0, at_most: int | None = None) -> Callable[[str], int]:
    """Return a parser of whole numbers that refuses anything outside of these bounds."""

    def parse(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            raise ValueError(f"a whole number is expected, not {text!r}") from None
        if value < at_least:
            raise ValueError(f"it must be at least {at_least}, not {value}")
        if at_most is not None and value > at_most:
            raise ValueError(f"it must be at most {at_most}, not {value}")
        return value

    return parse


def seconds(text: str) -> float:
    """Parse a positive number of seconds."""
    try:
        value = float(text)
    except ValueError:
        raise ValueError(f"a number of seconds is expected, not {text!r}") from None
    if not 0 < value < float("inf"):
        raise ValueError(f"a positive number of seconds is expected, not {text!r}")
    return value


def share(text: str) -> float:
    """Parse a share, above 0 and up to 1."""
    try:
        value = float(text)
    except ValueError:
        raise ValueError(f"a share such as 0.75 is expected, not {text!r}") from None
    if not 0 < value <= 1:
        raise ValueError(f"a share is above 0 and at most 1, not {text!r}")
    return value


def log_level(text: str) -> str:
    """Check the name of a log level, in any case."""
    if text.lower() not in {"debug", "info", "warning", "error"}:
        raise ValueError(f"debug, info, warning or error is expected, not {text!r}")
    return text.lower()


def log_format(text: str) -> str:
    """Check the form of log lines, in any case; empty where standard error decides."""
    if text.lower() not in {"", "json", "text"}:
        raise ValueError(f"json or text is expected, not {text!r}")
    return text.lower()


def address(text: str) -> str:
    """Parse a host name or an IP address."""
    if not text.isascii() or not text.isprintable() or set(text) & set(" /@"):
        raise ValueError(f"a host name or an IP address is expected, not {text!r}")
    return text


def is_loopback(host: str) -> bool:
    """Return whether only this machine reaches a host name or an IP address."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def http_url(text: str) -> str:
    """Parse a URL that HTTP is spoken to; empty for none."""
    if text and not text.startswith(("http://", "https://")):
        raise ValueError(f"a URL such as http://host:4318 is expected, not {text!r}")
    return text.rstrip("/")


def folder(text: str) -> Path | None:
    """Parse a folder; it need not exist. None for an empty text."""
    return Path(text).expanduser().absolute() if text else None


def file_path(text: str) -> Path | None:
    """Parse the path of a file; it need not exist. None for an empty text."""
    return folder(text)


port: Final = integer(at_least=1, at_most=65_535)
"""Parses a TCP port."""
port_or_none: Final = integer(at_most=65_535)
"""Parses a TCP port, or 0 for none."""


def redis_prefix(text: str) -> str:
    """Parse the prefix of names in Redis; empty for none."""
    if text and not _PREFIX.fullmatch(text):
        raise ValueError(f"up to 63 of A-Z a-z 0-9 _ . - : {{ }} are expected, and a colon at the end, not {text!r}")
    return text


def environment_name(text: str) -> str:
    """Parse the name of an environment; empty for none."""
    if text and not _ENVIRONMENT.fullmatch(text):
        raise ValueError(f"up to 63 of A-Z a-z 0-9 _ . - are expected, not {text!r}")
    return text


def database_url(text: str) -> str:
    """Check the form of a Postgres URL; never repeat it in an error, it may hold a password."""
    if not text.startswith(("postgresql://", "postgres://")):
        raise ValueError("a URL such as postgresql://user:password@host:5432/database is expected")
    return without_blanks(text)


def schema_name(text: str) -> str:
    """Parse the name of a schema of Postgres, one that needs no quotes; empty for none."""
    if text and (not _SCHEMA.fullmatch(text) or text.startswith("pg_") or text == "information_schema"):
        raise ValueError(f"up to 63 of a-z, 0-9 and _ are expected, no digit and no pg_ at the start, not {text!r}")
    return text


def fernet_keys(text: str) -> tuple[str, ...]:
    """Parse a comma-separated list of Fernet keys: the first encrypts, all decrypt."""
    keys = tuple(key.strip() for key in text.split(",") if key.strip())
    for key in keys:
        try:
            size = len(base64.urlsafe_b64decode(key))
        except ValueError:
            size = 0
        if size != FERNET_KEY_BYTES:
            raise ValueError(
                "each key is 32 bytes in URL-safe base64; make one with `pipeline keygen` and keep it secret"
            )
    if not keys:
        raise ValueError("at least one key is expected")
    return keys


def redis_servers(redis: str, inbox: str, broker: str, *, prefix: str) -> tuple[str, str]:
    """Return the URLs of the inbox and of the broker.

    Args:
        redis: REDIS_URL, checked, or empty; the others likewise.
        inbox: INBOX_URL.
        broker: BROKER_URL.
        prefix: REDIS_PREFIX.

    Raises:
        SettingError: one has no server, or one that it cannot use.
    """
    if not broker and redis.startswith(CLUSTER):
        raise SettingError("BROKER_URL is not set: REDIS_URL is a Redis Cluster, which Celery cannot use")
    inbox, broker = inbox or redis, broker or redis
    if not (inbox and broker):
        raise SettingError("REDIS_URL is not set: name a Redis, or two in INBOX_URL and BROKER_URL")
    if inbox.startswith(CLUSTER) and not _HASH_TAG.search(prefix):
        raise SettingError(
            "REDIS_PREFIX is wrong: in a Redis Cluster all names must be in one slot, so it has a hash tag, such as "
            "{webhooks}:"
        )
    return inbox, broker


HEALTH_SECONDS_ABOUT: Final = "age of a heartbeat from which its process counts as standing still, seconds"
ALERTS_ABOUT: Final = "file of the channels that are told of incidents, TOML; empty: nobody is told"
SCHEMA_ABOUT: Final = (
    "schema of the pipeline's tables, which `pipeline migrate` creates; empty: where search_path points"
)
ENVIRONMENT_ABOUT: Final = (
    "name of this environment, such as production: a Redis that serves one of another name, or another database, is "
    "refused"
)


@dataclass(frozen=True, kw_only=True)
class LogSettings:
    """The log of a process."""

    log_level: str = setting("LOG_LEVEL", "info", log_level, "debug, info, warning or error")
    log_format: str = setting(
        "LOG_FORMAT",
        "",
        log_format,
        "form of log lines, json or text; by default text on a terminal and json elsewhere",
    )


@dataclass(frozen=True, kw_only=True)
class HeartbeatSettings:
    """Where the heartbeats of processes are."""

    heartbeat_dir: Path | None = setting(
        "HEARTBEAT_DIR",
        "",
        folder,
        "folder in which processes keep their heartbeats; by default webhook-pipeline-UID beside other temporary files",
    )


@dataclass(frozen=True, kw_only=True)
class GivenRedisSettings:
    """Which Redis, as far as the environment names one."""

    redis_url: str = setting(
        "REDIS_URL",
        "",
        optional_redis_url,
        "Redis >= 7 or Valkey >= 8, for inbox and broker: redis://host:6379/0, rediss://, unix:///path?db=0 or "
        "redis+sentinel://host:26379,host:26379/mymaster; rediss: TLS",
    )
    inbox_url: str = setting(
        "INBOX_URL",
        "",
        optional_redis_url,
        "Redis of acknowledged events and the registry, if not that of REDIS_URL; durable; may be "
        "redis+cluster://, too",
    )
    broker_url: str = setting(
        "BROKER_URL",
        "",
        optional_broker_url,
        "Redis of Celery's queues, if not that of REDIS_URL; what it loses costs time only; no cluster",
    )
    redis_prefix: str = setting(
        "REDIS_PREFIX",
        "",
        redis_prefix,
        "what every name in Redis begins with, Celery's included, such as webhooks: (a colon at the end); the same for "
        "all processes",
    )


@dataclass(frozen=True, kw_only=True)
class RedisSettings(GivenRedisSettings):
    """Which Redis; `inbox_url` and `broker_url` are never empty."""

    def __post_init__(self) -> None:
        """Let both be the Redis of REDIS_URL, unless they have one of their own."""
        inbox, broker = redis_servers(self.redis_url, self.inbox_url, self.broker_url, prefix=self.redis_prefix)
        object.__setattr__(self, "inbox_url", inbox)
        object.__setattr__(self, "broker_url", broker)


@dataclass(frozen=True, kw_only=True)
class DatabaseSettings:
    """Which Postgres."""

    database_url: str = setting(
        "DATABASE_URL", None, database_url, "Postgres >= 15, such as postgresql://user:password@host:5432/database"
    )
    database_schema: str = setting("DATABASE_SCHEMA", "", schema_name, SCHEMA_ABOUT)
    environment: str = setting("PIPELINE_ENVIRONMENT", "", environment_name, ENVIRONMENT_ABOUT)


@dataclass(frozen=True, kw_only=True)
class SharedSettings(HeartbeatSettings, LogSettings, RedisSettings):
    """What ingress and workers must agree on."""

    otlp_endpoint: str = setting(
        "OTEL_EXPORTER_OTLP_ENDPOINT",
        "",
        http_url,
        "collector of traces that takes OTLP over HTTP, such as http://host:4318; empty: no traces",
    )
