"""Parameters that several commands take, and how their texts are read.

Times are aware. A text that cannot be read ends the command with one line that shows what is expected. Secrets are
never arguments, which other users of the machine would see and shells would remember.
"""

from __future__ import annotations

import re
import sys
import unicodedata
from datetime import UTC, datetime, timedelta
from typing import Annotated, Final

import typer

from deploy.cli.errors import CommandError

_DURATION: Final = re.compile(r"(\d+(?:\.\d+)?)\s*(s|m|h|d|w)")
_UNITS: Final = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}


def duration(text: str) -> timedelta:
    """Read a duration such as "90s", "30m", "2h", "7d" or "1w"."""
    fits = _DURATION.fullmatch(text.strip())
    if not fits:
        raise typer.BadParameter(f"{text!r} is no duration; write 90s, 30m, 2h, 7d or 1w")
    try:
        return timedelta(**{_UNITS[fits[2]]: float(fits[1])})
    except OverflowError:
        raise typer.BadParameter(f"{text!r} is longer than time is") from None


def rate(text: str) -> float:
    """Read a rate such as "10/s", "300/m" or "5000/h"; return it by the second."""
    number, _, unit = text.strip().partition("/")
    try:
        value = float(number) / duration(f"1{unit or 's'}").total_seconds()
    except (ValueError, typer.BadParameter):
        value = 0.0
    if not 0 < value < float("inf"):
        raise typer.BadParameter(f"{text!r} is no rate; write 10/s, 300/m or 5000/h")
    return value


def moment(text: str) -> datetime:
    """Read a date or time in ISO 8601; without a zone it is UTC."""
    try:
        read = datetime.fromisoformat(text.strip())
    except ValueError:
        raise typer.BadParameter(
            f"{text!r} is no time; write 2026-03-27, 2026-03-27T15:26 (UTC) or 2026-03-27T15:26+02:00"
        ) from None
    return read if read.tzinfo else read.replace(tzinfo=UTC)


def past(text: str) -> datetime:
    """Read a time, or a duration that has passed since then."""
    if text.strip()[-1:] in _UNITS:
        try:
            return datetime.now(UTC) - duration(text)
        except OverflowError:
            raise typer.BadParameter(f"{text!r} is longer than time is") from None
    return moment(text)


Since = Annotated[
    datetime | None,
    typer.Option(parser=past, metavar="TIME", help="Received since then: 30m, 2h, 7d, or a date or time (UTC)."),
]
TenantName = Annotated[str, typer.Argument(metavar="TENANT", help="Name of the tenant, as in the URL.")]
TenantFilter = Annotated[str | None, typer.Option("--tenant", help="Only of this tenant.")]
HandlerFilter = Annotated[str | None, typer.Option("--handler", help="Only of this handler, such as acme.grant.")]
Provider = Annotated[str, typer.Option(help="Name of the provider, as in the URL.")]
Limit = Annotated[int, typer.Option(min=1, max=100_000, help="How many to show.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Change nothing, only say what would be changed.")]
Label = Annotated[
    str, typer.Option(help="Your name for the secret, such as the model it belongs to; kept on every event it signed.")
]
SecretStdin = Annotated[
    bool, typer.Option("--secret-stdin", help="Read the secret from standard input instead of asking for it.")
]


def read_secret(*, from_stdin: bool) -> bytes:
    """Return the secret that the provider showed, from standard input or a hidden prompt; see `clean_secret`.

    Raises:
        CommandError: `clean_secret` refuses it, or there is no terminal to ask on.
    """
    if from_stdin:
        secret = sys.stdin.buffer.read()
    elif sys.stdin.isatty():
        secret = str(typer.prompt("Secret (not shown)", hide_input=True)).encode()
    else:
        raise CommandError("there is no terminal to ask for the secret on: pipe it in and add --secret-stdin")
    return clean_secret(secret)


def clean_secret(given: bytes) -> bytes:
    """Return a secret without what copying and pasting leaves around it: white space, and characters nobody sees.

    A byte-order mark, a no-break space and a zero-width space are such characters. Bytes that are no text are returned
    as they are.

    Raises:
        CommandError: it is empty, it is UTF-16, or such a character stands inside it.
    """
    if given.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise CommandError("the secret is text in UTF-16: save the file as UTF-8, or pipe the secret in without a file")
    try:
        text = given.decode()
    except UnicodeDecodeError:
        return given
    start, end = 0, len(text)
    while start < end and _is_invisible(text[start]):
        start += 1
    while start < end and _is_invisible(text[end - 1]):
        end -= 1
    secret = text[start:end]
    if not secret:
        raise CommandError("the secret is empty: give it as the provider showed it")
    for at, character in enumerate(secret, 1):
        if character != " " and _is_invisible(character):
            name = unicodedata.name(character, "a control character")
            raise CommandError(
                f"character {at} of the secret is U+{ord(character):04X} ({name}), which nobody sees: "
                "copy the secret again without it"
            )
    return secret.encode()


def _is_invisible(character: str) -> bool:
    """Return whether a character is white space, a control or a format character."""
    return character.isspace() or unicodedata.category(character) in {"Cc", "Cf"}
