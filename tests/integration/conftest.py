"""Rows to work on, put in place by plain SQL."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import pytest

from shared.envelope import new_event_id

if TYPE_CHECKING:
    from workers.store.connect import Connection

AddDeliveries = Callable[..., list[uuid.UUID]]


@pytest.fixture
def add_deliveries(connection: Connection) -> AddDeliveries:
    """Return a function that stores events with one delivery each, and returns their ids in order."""

    def add(count: int = 1, *, tenant: str = "acme", handler: str = "acme.run", body: bytes = b"{}") -> list[uuid.UUID]:
        ids = sorted(new_event_id(datetime.now(UTC)) for _ in range(count))
        connection.execute(
            "INSERT INTO events"
            " (id, provider, tenant, type, received_at, headers, body, secret_label, fingerprint, state)"
            " SELECT id, 'other', %s, 'thing.happened', now(), '{}', %s, 'first', uuid_send(id), 'accepted'"
            " FROM unnest(%s::uuid[]) AS id",
            [tenant, body, ids],
        )
        connection.execute(
            "INSERT INTO deliveries (event_id, handler, tenant) SELECT id, %s, %s FROM unnest(%s::uuid[]) AS id",
            [handler, tenant, ids],
        )
        return ids

    return add
