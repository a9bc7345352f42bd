"""Settings: read from the environment once, checked, and described in one place.

Guarantees: a wrong or missing value is a `SettingError` whose text is one line that names the variable and says what
to do. Refuses: reading the environment anywhere but in the `settings` modules.
"""

from __future__ import annotations

import dataclasses
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from cryptography.fernet import Fernet

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

T = TypeVar("T")


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
        text = environ.get(variable) or default
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


def integer(*, at_least: int = 0) -> Callable[[str], int]:
    """Return a parser of whole numbers that refuses anything below `at_least`."""

    def parse(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            raise ValueError(f"a whole number is expected, not {text!r}") from None
        if value < at_least:
            raise ValueError(f"it must be at least {at_least}, not {value}")
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


def flag(text: str) -> bool:
    """Parse yes/no, true/false, 1/0."""
    if text.lower() in {"1", "true", "yes", "on"}:
        return True
    if text.lower() in {"0", "false", "no", "off", ""}:
        return False
    raise ValueError(f"yes or no is expected, not {text!r}")


def level(text: str) -> str:
    """Parse the name of a log level."""
    if text.lower() not in {"debug", "info", "warning", "error"}:
        raise ValueError(f"debug, info, warning or error is expected, not {text!r}")
    return text.lower()


def log_level(text: str) -> str:
    """Check the name of a log level, in any case."""
    if text.lower() not in {"debug", "info", "warning", "error"}:
        raise ValueError(f"debug, info, warning or error is expected, not {text!r}")
    return text.lower()


def redis_url(text: str) -> str:
    """Check the form of a Redis URL."""
    if not text.startswith(("redis://", "rediss://", "unix://")):
        raise ValueError("a URL such as redis://host:6379/0 is expected")
    return text


def database_url(text: str) -> str:
    """Check the form of a Postgres URL; never repeat it in an error, it may hold a password."""
    if not text.startswith(("postgresql://", "postgres://")):
        raise ValueError("a URL such as postgresql://user:password@host:5432/database is expected")
    return text


def fernet_keys(text: str) -> tuple[str, ...]:
    """Parse a comma-separated list of Fernet keys: the first encrypts, all decrypt."""
    keys = tuple(key.strip() for key in text.split(",") if key.strip())
    for key in keys:
        try:
            Fernet(key)
        except ValueError:
            raise ValueError(
                "each key is 32 bytes in URL-safe base64; make one with `pipeline keygen` and keep it secret"
            ) from None
    if not keys:
        raise ValueError("at least one key is expected")
    return keys


@dataclass(frozen=True, slots=True, kw_only=True)
class SharedSettings:
    """What ingress and workers must agree on."""

    redis_url: str = setting(
        "REDIS_URL", None, redis_url, "Redis >= 7 or Valkey >= 8: redis://host:6379/0, rediss:// or unix:///path?db=0"
    )
    secrets_key: tuple[str, ...] = setting(
        "SECRETS_KEY",
        None,
        fernet_keys,
        "Fernet key(s) that encrypt the endpoints' secrets; comma-separated, the first encrypts, all decrypt",
    )
    ingest_slots: int = setting(
        "INGEST_SLOTS", "2", integer(at_least=1), "drains that may run at once, all ingest workers together"
    )
    log_level: str = setting("LOG_LEVEL", "info", level, "debug, info, warning or error")
