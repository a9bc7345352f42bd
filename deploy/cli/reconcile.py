"""The command `pipeline reconcile`: what a provider says that it has sent, against what came."""

import csv
import sys
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Annotated, TextIO

import redis
import typer

from deploy.cli.arguments import ProviderFilter, Since, TypeFilter, Until
from deploy.cli.connections import database, inbox_client, names
from deploy.cli.errors import CommandError
from deploy.cli.output import emit, wants_json
from deploy.reconciliation import Found, ListError, collect, compare
from shared.settings import SettingError
from workers.store import tenants


def reconcile(
    file: Annotated[
        Path,
        typer.Argument(metavar="FILE", help="Ids, one a line, or CSV with --column; - for standard input."),
    ],
    *,
    tenant: Annotated[str, typer.Option(help="Whose events they are.")],
    column: Annotated[str | None, typer.Option(help="Name of the column that has the ids, of a CSV file.")] = None,
    provider: ProviderFilter = None,
    type_: TypeFilter = None,
    since: Since = None,
    until: Until = None,
    everything: Annotated[bool, typer.Option("--all", help="Show the ids that were handled, too.")] = False,
) -> None:
    """Compare ids that a provider says it has sent (sessions, or what else its events are about) with what came.

    Per id: missing, rejected, failed, waiting, unwanted (no handler asked for it) or handled, how many events it has,
    and how often they came again. Then what came and is not in the list. Status 1 if any is missing.
    Choose the time so that it covers the list: what was received before --since is not looked at.

    Examples:
        pipeline reconcile sessions.txt --tenant acme --since 2026-03-27
        pipeline reconcile export.csv --column session_id --tenant acme --provider moveris --since 7d
    """
    listed, repeated = _read(file, column)
    waiting = _count_inbox()  # before the look: what it holds now is stored when we look, or told of
    with database(read_only=True) as connection:
        tenants.find_tenant(connection, tenant)
        compared = compare(connection, listed, tenant=tenant, provider=provider, type=type_, since=since, until=until)
    counts = compared.counts
    rows = compared.rows(everything=everything)
    if rows or wants_json():
        emit(rows, "id", "outcome", "events", "arrivals", "handlers", "reasons")
    told = compared.sum_up(repeated=repeated)
    print(*told, sep="\n", file=sys.stderr if wants_json() else sys.stdout)
    if counts["missing"]:
        if waiting is None or waiting:
            how = "Redis does not say how many events" if waiting is None else f"{waiting} events"
            print(f"pipeline: {how} still wait in the inbox and may be among the missing: look again", file=sys.stderr)
        raise typer.Exit(1)


def _read(file: Path, column: str | None) -> tuple[dict[str, Found], int]:
    """Read the ids; return them with how many lines repeat one."""
    try:
        if str(file) == "-":
            return collect(_values(sys.stdin, column))
        with file.open(encoding="utf-8-sig", newline="") as lines:
            return collect(_values(lines, column))
    except ListError as error:
        raise CommandError(str(error)) from None
    except OSError as error:
        raise CommandError(f"{file} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise CommandError(f"{file} is not UTF-8 (byte {error.start}): save it as UTF-8") from None


def _values(lines: TextIO, column: str | None) -> Iterator[tuple[int, str]]:
    """Yield the number of each line and its id; empty ones are left out."""
    if column is None:
        for number, line in enumerate(lines, 1):
            value = line.strip().lstrip("\ufeff").strip('"')
            if "," in value or ";" in value or "\t" in value:
                raise CommandError(f"line {number} has several columns: name the one that has the ids with --column")
            if value:
                yield number, value
        return
    first = lines.readline().lstrip("\ufeff")
    reader = csv.DictReader(chain([first], lines), delimiter=max(",;\t", key=first.count))
    if column not in (reader.fieldnames or ()):
        raise CommandError(f"there is no column {column!r}; there are: {', '.join(reader.fieldnames or ()) or 'none'}")
    try:
        for row in reader:
            if value := (row[column] or "").strip():
                yield reader.line_num, value
    except csv.Error as error:
        raise CommandError(f"line {reader.line_num} is no CSV: {error}") from None


def _count_inbox() -> int | None:
    """Return how many events wait to be stored; None if Redis does not say."""
    try:
        with inbox_client() as client:
            lengths: list[int] = [client.xlen(stream) for stream in names().streams]
            return sum(lengths)
    except (redis.RedisError, SettingError):
        return None
