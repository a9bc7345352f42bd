"""Storing events: a batch of inbox entries in one transaction, each event once.

Guarantees: the receipt decides which entry is the event, between any number of batches and processes; duplicates become
arrivals; an entry that is stored again after a crash changes nothing. Batches cannot deadlock: every key is taken in
order. A row that the database refuses is stored `rejected` beside its neighbours, which go through; what it refuses in
any other form is stored with all its fields in base64. An error that is not the data's reaches the caller, and nothing
of the batch is stored.
"""

from __future__ import annotations

import json
from base64 import b64encode
from datetime import UTC, datetime
from operator import attrgetter
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Protocol

import psycopg
from psycopg import rows

from workers.events.model import body_fingerprint
from workers.store.entry import NO_HEADERS, Entry, notes_array
from workers.store.sql import Queries

if TYPE_CHECKING:
    from collections.abc import Sequence
    from uuid import UUID

    from workers.store.connect import Connection

StoreError = psycopg.Error
DATA_ERRORS: Final = (
    psycopg.DataError,
    psycopg.IntegrityError,
    psycopg.errors.ProgramLimitExceeded,
    UnicodeEncodeError,
)
"""What is wrong with a row, not with the environment: an index row that is too large and a lone surrogate are, too."""
Cursor = psycopg.Cursor[tuple[Any, ...]]
_QUERIES: Final = Queries("events.sql")
_ATTEMPTS: Final = 5
REFUSED: Final = "refused_by_database"
UNKNOWN: Final = "unknown"


class Counts(NamedTuple):
    """What became of a batch; an entry that had been stored before a crash is in none of them.

    Attributes:
        accepted: new events that handlers may get.
        rejected: new events that were rejected.
        duplicates: new arrivals of known events.
        deliveries: made.
    """

    accepted: int = 0
    rejected: int = 0
    duplicates: int = 0
    deliveries: int = 0

    def plus(self, other: Counts) -> Counts:
        """Return the sum of both."""
        return Counts(*map(sum, zip(self, other, strict=True)))


class Catalogue(Protocol):
    """Which handlers want an event; see `workers.store.catalogue`."""

    def follow(self, cursor: Cursor, version: int, accepted: Sequence[UUID]) -> None:
        """See that this is the catalogue as it is in the transaction that stores these events."""

    def wanting(self, provider: str, event: str | None, tenant: str) -> Sequence[str]:
        """Return the names of the handlers that ask for such an event."""


class _ReceiptGoneError(Exception):
    """A receipt was found and then dropped by retention before it could be read: try again."""


def ping(connection: Connection) -> None:
    """Make sure that Postgres answers.

    Raises:
        psycopg.OperationalError: it does not.
    """
    connection.execute(_QUERIES["ping"])


def store_batch(connection: Connection, batch: Sequence[Entry], catalogue: Catalogue) -> Counts:
    """Store a batch in one transaction.

    1. Of entries with the same key, the first stands for all; keys are sorted.
    2. Insert the receipts. Those that came back are new events; the insert waits for other batches with the same key.
    3. Insert the events and their deliveries; what has a receipt under another id is an arrival.
    4. If the data are refused, halve the batch until the culprit stands alone and store that as rejected.

    Args:
        connection: outside a transaction.
        batch: any number of entries, in any order.
        catalogue: decides which deliveries are made.

    Raises:
        psycopg.Error: not the data's fault; nothing is stored of the part of the batch that it met.
    """
    if not batch:
        return Counts()
    try:
        return _store_patiently(connection, batch, catalogue)
    except DATA_ERRORS as error:
        if len(batch) > 1:
            middle = len(batch) // 2
            first = store_batch(connection, batch[:middle], catalogue)
            return first.plus(store_batch(connection, batch[middle:], catalogue))
        return _store_refused(connection, batch[0], catalogue, error)


def _store_refused(connection: Connection, entry: Entry, catalogue: Catalogue, refusal: Exception) -> Counts:
    """Store an entry that was refused, with less and less in it that could be refused."""
    try:
        # A partition that was attached this moment refuses a row once, without any fault of the row.
        return _store_patiently(connection, [entry], catalogue)
    except DATA_ERRORS as error:
        refusal = error
    code = f"{getattr(refusal, 'sqlstate', None) or ''} {type(refusal).__name__}".strip()
    rejected = entry._replace(
        type=None,
        subject=None,
        occurred_at=None,
        fingerprint=body_fingerprint(entry.body),
        reject_reason=REFUSED,
        notes=notes_array([code]),
    )
    bare = rejected._replace(headers=NO_HEADERS, notes=notes_array([code, "headers left out"]))
    for attempt in (rejected, bare, _in_base64(entry, code)):
        try:
            return _store_patiently(connection, [attempt], catalogue)
        except psycopg.errors.UniqueViolation:
            return Counts()  # its id is stored already: an inbox restored from a backup older than its receipt
        except DATA_ERRORS as error:
            refusal = error
    raise refusal


def _in_base64(entry: Entry, code: str) -> Entry:
    """Return an entry that any database takes: every field in the body, nothing elsewhere that came from outside."""
    outside = ("provider", "tenant", "secret_label", "received_at", "headers", "body")
    values = {name: getattr(entry, name) for name in outside}
    raw = {
        name: value if isinstance(value, bytes) else str(value).encode(errors="surrogatepass")
        for name, value in values.items()
    }
    body = json.dumps({name: b64encode(value).decode() for name, value in raw.items()}).encode()
    return entry._replace(
        provider=UNKNOWN,
        tenant=UNKNOWN,
        type=None,
        subject=None,
        occurred_at=None,
        received_at=datetime.now(UTC),
        headers=NO_HEADERS,
        body=body,
        secret_label=UNKNOWN,
        fingerprint=body_fingerprint(body),
        reject_reason=REFUSED,
        notes=notes_array([code, "all fields in base64"]),
    )


def _store_patiently(connection: Connection, batch: Sequence[Entry], catalogue: Catalogue) -> Counts:
    """Store a batch, again when Postgres asks for it."""
    for _ in range(_ATTEMPTS - 1):
        try:
            return _store(connection, batch, catalogue)
        except (psycopg.errors.SerializationFailure, psycopg.errors.DeadlockDetected, _ReceiptGoneError):
            continue
    return _store(connection, batch, catalogue)


def _store(connection: Connection, batch: Sequence[Entry], catalogue: Catalogue) -> Counts:
    """Do steps 1 to 3 in two round trips, three when there are duplicates."""
    by_key: dict[tuple[bytes, str, str], Entry] = {}
    for entry in batch:
        by_key.setdefault((entry.fingerprint, entry.tenant, entry.provider), entry)
    firsts = [by_key[key] for key in sorted(by_key)]
    duplicates = 0
    with connection.pipeline() as pipeline, connection.transaction():
        cursor = connection.cursor(binary=True, row_factory=rows.tuple_row)
        insert_receipts(cursor, firsts)
        pipeline.sync()
        first = cursor.fetchone()
        if cursor.rowcount == len(firsts):
            fresh = firsts
        else:
            new = {row[0] for row in (first, *cursor) if row}
            fresh = [entry for entry in firsts if entry.id in new]
        if first:
            catalogue.follow(cursor, first[1], [entry.id for entry in fresh if entry.reject_reason is None])
        # By id, and so by time: neighbours in the index are neighbours in the batch.
        fresh.sort(key=attrgetter("id.int"))
        _insert_events(cursor, fresh)
        deliveries = insert_deliveries(cursor, fresh, catalogue)
        if len(fresh) < len(batch):
            chosen = {id(entry) for entry in fresh}
            duplicates = _insert_arrivals(cursor, [entry for entry in batch if id(entry) not in chosen])
    rejected = sum(entry.reject_reason is not None for entry in fresh)
    return Counts(len(fresh) - rejected, rejected, duplicates, deliveries)


def insert_receipts(cursor: Cursor, entries: Sequence[Entry]) -> None:
    """Insert receipts in the order given, inside a transaction.

    The cursor returns the event id of each new one, and the version of the catalogue.
    """
    values = {
        "tenants": [entry.tenant for entry in entries],
        "providers": [entry.provider for entry in entries],
        "fingerprints": [entry.fingerprint for entry in entries],
        "ids": [entry.id for entry in entries],
    }
    cursor.execute(_QUERIES["insert_receipts"], values)


def _insert_events(cursor: Cursor, fresh: Sequence[Entry]) -> None:
    if fresh:
        columns = map(list, zip(*fresh, strict=True))
        cursor.execute(_QUERIES["insert_events"], dict(zip(Entry._fields, columns, strict=True)))


def insert_deliveries(cursor: Cursor, entries: Sequence[Entry], catalogue: Catalogue) -> int:
    """Insert a delivery for each handler of each accepted entry, inside a transaction; return how many."""
    wanted = [
        (entry.id, handler, entry.tenant)
        for entry in entries
        if entry.reject_reason is None
        for handler in catalogue.wanting(entry.provider, entry.type, entry.tenant)
    ]
    if wanted:
        ids, handlers, tenants = map(list, zip(*wanted, strict=True))
        values = {"ids": ids, "handlers": handlers, "tenants": tenants}
        cursor.execute(_QUERIES["insert_deliveries"], values)
    return len(wanted)


def _insert_arrivals(cursor: Cursor, others: Sequence[Entry]) -> int:
    values = {
        "ids": [entry.id for entry in others],
        "tenants": [entry.tenant for entry in others],
        "providers": [entry.provider for entry in others],
        "fingerprints": [entry.fingerprint for entry in others],
        "received_ats": [entry.received_at for entry in others],
        "secret_labels": [entry.secret_label for entry in others],
    }
    row = cursor.execute(_QUERIES["insert_arrivals"], values).fetchone()
    found, arrived, _ = row or (0, 0, None)
    if found != len(others):
        raise _ReceiptGoneError
    return int(arrived)
