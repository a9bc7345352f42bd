"""Event ids: UUIDv7, never the same twice."""

from __future__ import annotations

import os
from datetime import UTC, datetime
from uuid import UUID

from shared.envelope import new_event_id

NOW = datetime(2026, 3, 27, 15, 26, 42, 123_456, tzinfo=UTC)


def test_an_id_holds_its_millisecond_and_its_version() -> None:
    made = new_event_id(NOW)
    assert (made.version, made.variant) == (7, "specified in RFC 4122")
    assert made.int >> 80 == int(NOW.timestamp() * 1000)


def test_ids_of_one_moment_differ_in_one_process_and_between_forks() -> None:
    mine = [new_event_id(NOW) for _ in range(1000)]
    reading, writing = os.pipe()
    if (child := os.fork()) == 0:
        os.write(writing, b"".join(new_event_id(NOW).bytes for _ in range(1000)))
        os._exit(0)
    with os.fdopen(reading, "rb") as pipe:
        theirs = [UUID(bytes=pipe.read(16)) for _ in range(1000)]
    os.close(writing)
    os.waitpid(child, 0)
    assert len({*mine, *theirs}) == 2000
