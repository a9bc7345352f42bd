"""What a worker reports after its lease: another run has the delivery, and nothing of the first one counts."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.integration.open_work import look, outcome_of
from workers.store import deliveries

if TYPE_CHECKING:
    import uuid

    from tests.integration.conftest import AddDeliveries
    from workers.store.connect import Connection
    from workers.store.deliveries import Claimed

HANDLER = "acme.run"


def claim(connection: Connection, ids: list[uuid.UUID], *, worker: str) -> list[Claimed]:
    """Claim deliveries, whoever has them: as if their lease had ended and another message had brought them."""
    connection.execute(
        "UPDATE deliveries SET state = 'queued', ready = false, lease_until = now() WHERE event_id = ANY (%s)",
        [ids],
    )
    claimed, _ = deliveries.claim(connection, HANDLER, ids, worker=worker, lease=60.0)
    assert [one.event_id for one in claimed] == ids
    return claimed


@pytest.mark.parametrize("kind", ["succeeded", "dead", "again", "later"])
def test_an_outcome_of_a_claim_that_another_has_followed_changes_nothing(
    connection: Connection, add_deliveries: AddDeliveries, kind: str
) -> None:
    ids = add_deliveries(3)
    late = claim(connection, ids, worker="slow")
    second = claim(connection, ids[:2], worker="next")
    before = look(connection)
    third = late[2].event_id

    counted = deliveries.record(connection, HANDLER, [outcome_of(one, kind) for one in late])

    assert counted == {third}, "the claim of the third still stands"
    after = look(connection)
    assert {key: row for key, row in after.items() if key[0] != third} == {
        key: row for key, row in before.items() if key[0] != third
    }
    failed = {row["event_id"] for row in connection.execute("SELECT event_id FROM attempts")}
    assert failed == (set() if kind == "succeeded" else {third})
    assert deliveries.record(connection, HANDLER, [outcome_of(one, "succeeded") for one in second]) == set(ids[:2])


def test_a_claim_that_another_has_followed_is_not_handed_back(
    connection: Connection, add_deliveries: AddDeliveries
) -> None:
    ids = add_deliveries(2)
    late = claim(connection, ids, worker="slow")
    claim(connection, ids[:1], worker="next")

    deliveries.hand_back(connection, HANDLER, late)

    assert {key[0]: row.state for key, row in look(connection).items()} == {ids[0]: "running", ids[1]: "pending"}
