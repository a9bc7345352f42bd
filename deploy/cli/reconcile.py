"""The command `pipeline reconcile`: what a provider says that it has sent, against what came."""

import csv
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Annotated, Any, Final, TextIO

import redis
import typer

from deploy.cli.arguments import ProviderFilter, Since, TypeFilter, Until
from deploy.cli.connections import database, inbox_client, names
from deploy.cli.errors import CommandError
from deploy.cli.output import emit, wants_json
from shared.settings import SettingError
from workers.store import tenants
from workers.store.reconciling import Came, list_came

WORST_FIRST: Final = ("missing", "rejected", "failed", "waiting", "unwanted", "handled")
"""An id has the worst outcome of its events."""
MOST_CHARACTERS: Final = 1000
MOST_UNLISTED: Final = 10_000
"""Subjects that are not in the list and are shown; all are counted."""


@dataclass(slots=True)
class Found:
    """What came of one id: `events` of it, of which some came again `arrivals` times."""

    outcome: str = "missing"
    events: int = 0
    arrivals: int = 0
    handlers: set[str] = field(default_factory=set)
    reasons: set[str] = field(default_factory=set)

    def add(self, came: Came) -> None:
        """Count one event of it."""
        self.events += 1
        self.arrivals += came.arrivals
        self.handlers.update(came.waiting, came.failed)
        if came.reject_reason:
            self.reasons.add(came.reject_reason)
        is_first = self.events == 1
        self.outcome = came.outcome if is_first else min(self.outcome, came.outcome, key=WORST_FIRST.index)


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
    unlisted: Counter[str] = Counter()
    nameless = 0
    waiting = _count_inbox()  # before the look: what it holds now is stored when we look, or told of
    with database(read_only=True) as connection:
        tenants.find_tenant(connection, tenant)
        for came in list_came(connection, tenant=tenant, since=since, until=until):
            if (provider and came.provider != provider) or (type_ and came.type != type_):
                continue
            if came.subject is None:
                nameless += 1
            elif (found := listed.get(came.subject)) is not None:
                found.add(came)
            else:
                unlisted[came.subject] += 1
    counts = Counter(it.outcome for it in listed.values())
    rows = [_row(subject, it) for subject, it in listed.items() if everything or it.outcome != "handled" or it.arrivals]
    rows += [{"id": it, "outcome": "not_listed", "events": n} for it, n in unlisted.most_common(MOST_UNLISTED)]
    if rows or wants_json():
        emit(rows, "id", "outcome", "events", "arrivals", "handlers", "reasons")
    again = sum(1 for it in listed.values() if it.arrivals)
    told = _sum_up(counts, len(listed), again=again, unlisted=len(unlisted), nameless=nameless, repeated=repeated)
    print(*told, sep="\n", file=sys.stderr if wants_json() else sys.stdout)
    if counts["missing"]:
        if waiting is None or waiting:
            how = "Redis does not say how many events" if waiting is None else f"{waiting} events"
            print(f"pipeline: {how} still wait in the inbox and may be among the missing: look again", file=sys.stderr)
        raise typer.Exit(1)


def _row(subject: str, it: Found) -> dict[str, Any]:
    return {
        "id": subject,
        "outcome": it.outcome,
        "events": it.events,
        "arrivals": it.arrivals,
        "handlers": sorted(it.handlers),
        "reasons": sorted(it.reasons),
    }


def _sum_up(
    counts: Counter[str], listed: int, *, again: int, unlisted: int, nameless: int, repeated: int
) -> Iterator[str]:
    parts = ", ".join(f"{counts[it]} {it}" for it in reversed(WORST_FIRST) if counts[it])
    yield f"{listed} ids: {parts}{f'; {again} of them came more than once' if again else ''}"
    if repeated:
        yield f"{repeated} lines repeat an id of the list"
    if unlisted:
        yield f"{unlisted} ids came that are not in the list"
    if nameless:
        yield f"{nameless} events have no id to compare by (`pipeline events list --state rejected`)"


def _read(file: Path, column: str | None) -> tuple[dict[str, Found], int]:
    """Read the ids; return them with how many lines repeat one."""
    if str(file) == "-":
        return _collect(_values(sys.stdin, column))
    try:
        with file.open(encoding="utf-8-sig", newline="") as lines:
            return _collect(_values(lines, column))
    except OSError as error:
        raise CommandError(f"{file} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise CommandError(f"{file} is not UTF-8 (byte {error.start}): save it as UTF-8") from None


def _collect(values: Iterable[tuple[int, str]]) -> tuple[dict[str, Found], int]:
    listed: dict[str, Found] = {}
    repeated = 0
    for line, value in values:
        if len(value) > MOST_CHARACTERS:
            raise CommandError(f"line {line} has {len(value)} characters, too many for an id: is it a list of ids?")
        if "\x00" in value:
            raise CommandError(f"line {line} has a NUL character: is it a text file?")
        repeated += value in listed
        listed.setdefault(value, Found())
    if not listed:
        raise CommandError("the list has no id")
    return listed, repeated


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
