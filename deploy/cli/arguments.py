"""Parameters that several commands take, and how their texts are read; times are aware."""

import re
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, Final

import typer

_DURATION: Final = re.compile(r"(\d+(?:\.\d+)?)\s*(s|m|h|d|w)")
LONGEST: Final = timedelta(days=365_000)
"""Bound on a duration, so that what it is added to stays within the years that Python knows."""
LEAST_RATE: Final = 1e-6
MOST_RATE: Final = 1e9
"""Bounds on a rate by the second: one in eleven days, and more than anybody has; Postgres multiplies it by a time."""
_UNITS: Final = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}


def duration(text: str) -> timedelta:
    """Read a duration such as "90s", "30m", "2h", "7d" or "1w"."""
    fits = _DURATION.fullmatch(text.strip())
    if not fits:
        raise typer.BadParameter(f"{text!r} is no duration; write 90s, 30m, 2h, 7d or 1w")
    try:
        found = timedelta(**{_UNITS[fits[2]]: float(fits[1])})
    except OverflowError:
        found = timedelta.max
    if found > LONGEST:
        raise typer.BadParameter(f"{text!r} is too long; nothing takes more than 1,000 years")
    return found


def rate(text: str) -> float:
    """Read a rate such as "10/s", "300/m" or "5000/h"; return it by the second."""
    number, _, unit = text.strip().partition("/")
    try:
        value = float(number) / duration(f"1{unit or 's'}").total_seconds()
    except (ValueError, typer.BadParameter):
        value = 0.0
    if not LEAST_RATE <= value <= MOST_RATE:
        raise typer.BadParameter(f"{text!r} is no rate; write 10/s, 300/m or 5000/h")
    return value


_SIZE: Final = re.compile(r"(\d+(?:\.\d+)?)\s*([kMG]?)B?")
_SIZE_UNITS: Final = {"": 1, "k": 1000, "M": 1000**2, "G": 1000**3}


def size(text: str) -> int:
    """Read a number of bytes such as "800kB", "100MB" or "2GB"."""
    fits = _SIZE.fullmatch(text.strip())
    value = float(fits[1]) * _SIZE_UNITS[fits[2]] if fits else 0.0
    if not 1 <= value < 2**63:
        raise typer.BadParameter(f"{text!r} is no size; write 800kB, 100MB or 2GB")
    return int(value)


def moment(text: str) -> datetime:
    """Read a date or time in ISO 8601, without a zone in UTC; return it in UTC, where its year has four digits."""
    try:
        read = datetime.fromisoformat(text.strip())
        return read.astimezone(UTC) if read.tzinfo else read.replace(tzinfo=UTC)
    except ValueError:
        raise typer.BadParameter(
            f"{text!r} is no time; write 2026-03-27, 2026-03-27T15:26 (UTC) or 2026-03-27T15:26+02:00"
        ) from None
    except OverflowError:  # Postgres would keep it, and nobody could read it again
        raise typer.BadParameter(f"{text!r} is no time between the years 1 and 9999 (UTC)") from None


def past(text: str) -> datetime:
    """Read a time, or a duration that has passed since then."""
    if text.strip()[-1:] not in _UNITS:
        return moment(text)
    return datetime.now(UTC) - duration(text)


def future(text: str) -> datetime:
    """Read a time that is still to come, or a duration from now on."""
    now = datetime.now(UTC)
    found = now + duration(text) if text.strip()[-1:] in _UNITS else moment(text)
    if found <= now:
        raise typer.BadParameter(f"{text!r} is over already; write 30m, 2h, 7d, or a date or time to come")
    return found


def existing_file(about: str) -> Any:
    """Return the option of a file that must be there to be read."""
    return typer.Option(exists=True, dir_okay=False, readable=True, help=about)


Since = Annotated[
    datetime | None,
    typer.Option(parser=past, metavar="TIME", help="Received since then: 30m, 2h, 7d, or a date or time (UTC)."),
]
TenantName = Annotated[str, typer.Argument(metavar="TENANT", help="Name of the tenant, as in the URL.")]
TenantFilter = Annotated[str | None, typer.Option("--tenant", help="Only of this tenant.")]
HandlerFilter = Annotated[str | None, typer.Option("--handler", help="Only of this handler, such as acme.grant.")]
HandlerName = Annotated[str, typer.Argument(metavar="HANDLER", help="Name of the handler, such as acme.grant.")]
InFlight = Annotated[
    int | None,
    typer.Option(
        "--in-flight", "--max-in-flight", min=1, help="At most so many deliveries queued and running at once."
    ),
]
Provider = Annotated[str, typer.Option(help="Name of the provider, as in the URL.")]
Until = Annotated[
    datetime | None, typer.Option(parser=past, metavar="TIME", help="Received before then: 30m, 2h, or a date or time.")
]
ProviderFilter = Annotated[str | None, typer.Option("--provider", help="Only of events of this provider.")]
TypeFilter = Annotated[str | None, typer.Option("--type", help="Only of events of this type.")]
ErrorFilter = Annotated[str | None, typer.Option("--error", help="Only those whose last error has this text in it.")]
Rate = Annotated[
    float | None, typer.Option("--rate", parser=rate, metavar="RATE", help="At most 100/s, 300/m or 5000/h.")
]
PauseEnd = Annotated[
    datetime | None,
    typer.Option(
        "--until", parser=future, metavar="TIME", help="It ends by itself: after 30m, 2h, 7d, or at a date or time."
    ),
]
Limit = Annotated[int, typer.Option(min=1, max=100_000, help="How many to show.")]
Prefix = Annotated[str | None, typer.Option("--prefix", help="Only of tenants whose names begin so.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Change nothing, only say what would be changed.")]
Label = Annotated[
    str, typer.Option(help="Your name for the secret, such as the model it belongs to; kept on every event it signed.")
]
SecretStdin = Annotated[
    bool, typer.Option("--secret-stdin", help="Read the secret from standard input instead of asking for it.")
]
