"""Packed columns mean to Postgres what psycopg's own arrays mean."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from workers.store.columns import byte_strings, instants, texts, uuids

if TYPE_CHECKING:
    import uuid

    from workers.store.connect import Connection

text = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=20)
zone = st.builds(lambda minutes: timezone(timedelta(minutes=minutes)), st.integers(-900, 900))
instant = st.datetimes(datetime(1, 1, 2), datetime(9999, 12, 30), timezones=zone)  # noqa: DTZ001 - they get a zone


@given(
    st.lists(st.uuids()), st.lists(st.none() | text), st.lists(st.binary(max_size=40)), st.lists(st.none() | instant)
)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_what_is_packed_is_what_postgres_reads(
    connection: Connection,
    ids: list[uuid.UUID],
    names: list[str | None],
    bodies: list[bytes],
    moments: list[datetime | None],
) -> None:
    row = connection.execute(
        "SELECT %(ids)b::uuid[] AS ids, %(names)b::text[] AS names, %(bodies)b::bytea[] AS bodies,"
        " %(moments)b::timestamptz[] AS moments",
        {"ids": uuids(ids), "names": texts(names), "bodies": byte_strings(bodies), "moments": instants(moments)},
    ).fetchone()
    assert row == {"ids": ids, "names": names, "bodies": bodies, "moments": moments}


def test_an_array_holds_its_elements_in_order(connection: Connection) -> None:
    values: dict[str, Any] = {"names": texts(["b", None, "a", "b"]), "same": ["b", None, "a", "b"]}
    row = connection.execute("SELECT %(names)b::text[] = %(same)s::text[] AS equal", values).fetchone()
    assert row == {"equal": True}


def test_a_text_with_nul_is_refused_as_data(connection: Connection) -> None:
    with pytest.raises(psycopg.DataError):
        connection.execute("SELECT %b::text[]", [texts(["a\0b"])])


def test_a_time_without_a_zone_is_refused() -> None:
    with pytest.raises(TypeError):
        instants([datetime(2026, 1, 1)])  # noqa: DTZ001 - what the test is about
    assert instants([datetime(2026, 1, 1, tzinfo=UTC)])
