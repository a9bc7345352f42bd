"""The life of deliveries under any order of events: a state machine drawn by hypothesis, on a real Postgres."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from tests.integration.open_work import NAMES, Key, Queue, Row, announce_handlers, look, outcome_of
from workers.dispatch.admission import Message, admit
from workers.housekeeping import sweeper
from workers.store import deliveries, manual
from workers.store.manual import Selection

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tests.integration.conftest import AddDeliveries
    from workers.store.connect import Connection
    from workers.store.deliveries import Claimed

CAP = 3
OPEN, FINAL = ("pending", "queued", "running"), ("succeeded", "dead", "cancelled")
BACK = st.sampled_from([0, 0, 0, 0, 1, 1, 2, 3, 5, 8, 13])
"""How many messages or claims ago: mostly the latest, whose deliveries still wait for what comes next."""
KIND = st.sampled_from(["succeeded", "again", "later", "dead"])


class Run(NamedTuple):
    """What a worker holds: claims of one message, valid or long fenced off."""

    handler: str
    claims: tuple[Claimed, ...]


class Life(RuleBasedStateMachine):
    """Any order of what workers, sweepers and people do; each step may change only what it is there to change.

    The same draws lead to the same steps: they choose by position, in the order in which deliveries were stored, and
    neither the random part of an id, nor jitter, nor what an earlier order has left in a table changes what follows.
    """

    def __init__(self, connection: Connection, add: AddDeliveries) -> None:
        super().__init__()
        self.connection = connection
        self.add = add
        self.seen: dict[Key, Row] = {}
        self.messages: list[Message] = []
        self.runs: list[Run] = []
        self.claims: set[tuple[Key, int]] = set()
        self.failures = 0
        self.moment = datetime.now(UTC)

    @initialize(count=st.integers(1, 4), tenant=st.sampled_from(["acme", "small", "other"]))
    def begin(self, count: int, tenant: str) -> None:
        """Begin with deliveries that wait and some that are queued: many an order draws neither step in its time."""
        self.connection.execute(
            "TRUNCATE deliveries, deliveries_done, attempts, events, endpoint_secrets, endpoints, admission_turns,"
            " lane_marks"
        )
        self.connection.execute("UPDATE admission SET tenant = '', express = '{}', express_at = NULL")
        self.connection.execute("DELETE FROM tenants")
        announce_handlers(self.connection)
        self.connection.execute("INSERT INTO tenants (name, max_in_flight) VALUES ('acme', NULL), ('small', %s)", [CAP])
        for handler in NAMES:
            self.store(count, tenant, handler)
        self.admit(1, None)

    @rule(count=st.integers(1, 4), tenant=st.sampled_from(["acme", "small", "other"]), handler=st.sampled_from(NAMES))
    def store(self, count: int, tenant: str, handler: str) -> None:
        self.moment += timedelta(milliseconds=1)  # no two calls make ids whose order is drawn by lot
        ids = self.add(count, tenant=tenant, handler=handler, moment=self.moment)
        fresh = Row("pending", 0, 0, alone=False, tenant=tenant)
        self.seen |= {(event_id, handler): fresh for event_id in ids}

    @rule(room=st.integers(1, 3), fails_at=st.sampled_from([None, None, None, 0, 1]))
    def admit(self, room: int, fails_at: int | None) -> None:
        queue = Queue(fails_at=fails_at)
        try:
            admit(self.connection, queue, slots=room, message_seconds=0.2)
        except ConnectionError:
            assert fails_at is not None
        sent = {(c.event_id, message.handler) for message in queue.sent for c in message.deliveries}
        self.expect({key: self.seen[key]._replace(state="queued") for key in sent if key in self.seen})
        assert all(len(m.deliveries) == 1 for m in queue.sent if any(c.alone for c in m.deliveries))
        self.messages += queue.sent
        self.connection.execute(  # only `lease_ends` makes them late: an order that takes seconds must not differ
            "UPDATE deliveries SET lease_until = now() + interval '1 hour'"
            " WHERE state = 'queued' AND event_id = ANY (%s)",
            [[event_id for event_id, _ in sent]],
        )

    @precondition(lambda self: self.messages)
    @rule(back=BACK, lease=st.sampled_from([3600.0, 3600.0, -1.0]))
    def claim(self, back: int, lease: float) -> None:
        message, before = self.messages[-1 - back % len(self.messages)], self.seen
        claimed, _ = deliveries.claim(self.connection, message.handler, message.event_ids, worker="one", lease=lease)
        keys = {(one.event_id, message.handler): one for one in claimed}
        waiting = {(event_id, message.handler) for event_id in message.event_ids}
        assert set(keys) == {key for key in waiting if before[key].state == "queued"}
        self.check_claims(message.handler, claimed)
        alone = len(message.event_ids) == 1
        self.expect(
            {key: before[key]._replace(state="running", fence=before[key].fence + 1, alone=alone) for key in keys}
        )
        if claimed:
            self.runs.append(Run(message.handler, tuple(claimed)))

    @precondition(lambda self: self.runs)
    @rule(back=BACK, first=st.integers(0, 7), kinds=st.lists(KIND, min_size=1, max_size=8))
    def finish(self, back: int, first: int, kinds: list[str]) -> None:
        """Record outcomes of any claim ever made; only those of running claims with their fence count."""
        run = self.runs[-1 - back % len(self.runs)]
        turned = [run.claims[(first + number) % len(run.claims)] for number in range(len(run.claims))]
        outcomes = [outcome_of(one, kind) for one, kind in zip(turned, kinds, strict=False)]
        before = self.seen
        counted = deliveries.record(self.connection, run.handler, outcomes)
        valid = {o.claimed.event_id: o for o in outcomes if self.is_valid(run.handler, o.claimed)}
        assert counted == set(valid)
        self.failures += sum(o.error is not None for o in valid.values())
        self.expect(
            {
                (event_id, run.handler): (row := before[event_id, run.handler])._replace(
                    state=o.state or "pending", attempt=row.attempt + 1, alone=False
                )
                for event_id, o in valid.items()
            }
        )

    @precondition(lambda self: self.runs)
    @rule(back=BACK)
    def hand_back(self, back: int) -> None:
        run = self.runs[-1 - back % len(self.runs)]
        valid = [one for one in run.claims if self.is_valid(run.handler, one)]
        deliveries.hand_back(self.connection, run.handler, run.claims)
        self.expect(
            {
                (one.event_id, run.handler): self.seen[one.event_id, run.handler]._replace(state="pending")
                for one in valid
            }
        )

    @precondition(lambda self: self.messages)
    @rule(back=BACK)
    def unqueue(self, back: int) -> None:
        """A message that could not be sent is taken back; it may have been sent all the same."""
        message = self.messages[-1 - back % len(self.messages)]
        deliveries.unqueue(self.connection, message.handler, message.event_ids)
        keys = [(event_id, message.handler) for event_id in message.event_ids]
        self.expect({key: self.seen[key]._replace(state="pending") for key in keys if self.seen[key].state == "queued"})

    @precondition(lambda self: self.messages)
    @rule(back=BACK)
    def disown(self, back: int) -> None:
        """The message reaches a worker that does not know the handler: it is due again, and no attempt is counted."""
        message = self.messages[-1 - back % len(self.messages)]
        keys = [
            (event_id, message.handler)
            for event_id in message.event_ids
            if self.seen[event_id, message.handler].state == "queued"
        ]
        sweeper.disown(self.connection, message.handler, message.event_ids, worker="strange")
        self.connection.execute(  # only `lease_ends` makes them due: jitter may have made it any moment from now on
            "UPDATE deliveries SET due_at = now() + interval '1 hour'"
            " WHERE state = 'pending' AND handler = %s AND event_id = ANY (%s)",
            [message.handler, [event_id for event_id, _ in keys]],
        )
        self.expect({key: self.seen[key]._replace(state="pending") for key in keys})

    @rule(share=st.floats(0, 1))
    def lease_ends(self, share: float) -> None:
        """Time passes for some of the open work."""
        in_flight = [key for key, row in self.seen.items() if row.state in {"queued", "running"}]
        self.connection.execute(
            "UPDATE deliveries SET lease_until = now() - interval '1 second'"
            " WHERE state <> 'pending' AND event_id = ANY (%s)",
            [[event_id for event_id, _ in in_flight[: round(share * len(in_flight))]]],
        )
        self.connection.execute("UPDATE deliveries SET due_at = now() WHERE state = 'pending' AND due_at > now()")
        self.expect({})

    @rule()
    def expire(self) -> None:
        with self.connection.transaction():
            late = self.list_late("running")
            assert sweeper.expire_leases(self.connection) == len(late)
        self.failures += len(late)
        changes = {}
        for key in late:
            row = self.seen[key]
            if not row.alone:
                changes[key] = row._replace(state="pending", alone=True)
            elif row.attempt + 1 >= 2:
                changes[key] = row._replace(state="dead", attempt=row.attempt + 1, alone=False)
            else:
                changes[key] = row._replace(state="pending", attempt=row.attempt + 1)
        self.expect(changes)

    @rule(named_by=st.integers(0, 15))
    def return_queued(self, named_by: int) -> None:
        """What has waited long enough returns, but for what some message still names."""
        with self.connection.transaction():
            late = self.list_late("queued")
            named = {key for number, key in enumerate(late) if named_by >> number % 4 & 1}
            assert sweeper.return_queued(self.connection, list_named=lambda: named) == len(late) - len(named)
        self.expect({key: self.seen[key]._replace(state="pending") for key in late if key not in named})

    @rule(state=st.sampled_from(["dead", "cancelled"]), tenant=st.sampled_from([None, "acme", "small"]))
    def retry(self, state: Any, tenant: str | None) -> None:
        list(manual.retry(self.connection, Selection(tenant=tenant), state=state))
        self.expect(
            {
                key: row._replace(state="pending", attempt=0)
                for key, row in self.seen.items()
                if row.state == state and tenant in {None, row.tenant}
            },
            by_hand=True,
        )

    @precondition(lambda self: self.seen)
    @rule(position=st.integers(0, 1000), tenant=st.sampled_from([None, None, None, "acme", "small"]))
    def cancel(self, position: int, tenant: str | None) -> None:
        """A person cancels what one event is to do, or all that a tenant waits for from one handler."""
        event_id, handler = list(self.seen)[position % len(self.seen)]
        chosen = Selection(tenant=tenant, handler=handler, event_ids=None if tenant else [event_id])
        list(manual.cancel(self.connection, chosen))
        self.expect(
            {
                key: row._replace(state="cancelled", fence=row.fence + (row.state == "running"), alone=False)
                for key, row in self.seen.items()
                if row.state in OPEN and key[1] == handler and (row.tenant == tenant if tenant else key[0] == event_id)
            }
        )

    @invariant()
    def attempts_are_never_lost(self) -> None:
        (row,) = self.connection.execute("SELECT count(*) AS number FROM attempts")
        assert row["number"] == self.failures

    @invariant()
    def no_mark_hides_what_is_ready(self) -> None:
        query = "SELECT FROM deliveries JOIN lane_marks USING (tenant, handler) WHERE ready AND position < low"
        assert not self.connection.execute(query).fetchall()

    @invariant()
    def the_cap_holds(self) -> None:
        in_flight = sum(row.state in {"queued", "running"} and row.tenant == "small" for row in self.seen.values())
        assert in_flight <= CAP

    def list_late(self, state: str) -> list[Key]:
        query = "SELECT event_id, handler FROM deliveries WHERE state = %s AND lease_until < now()"
        late = {(row["event_id"], row["handler"]) for row in self.connection.execute(query, [state])}
        return [key for key in self.seen if key in late]

    def is_valid(self, handler: str, claimed: Claimed) -> bool:
        row = self.seen[claimed.event_id, handler]
        return row.state == "running" and row.fence == claimed.fence

    def check_claims(self, handler: str, claimed: Sequence[Claimed]) -> None:
        """No two claims of a delivery, ever, have the same fence."""
        made = {((one.event_id, handler), one.fence) for one in claimed}
        assert not made & self.claims
        self.claims |= made

    def expect(self, changes: dict[Key, Row], *, by_hand: bool = False) -> None:
        """Compare the tables with what they held, but for the changes; only a person changes what is finished."""
        assert by_hand or all(row == self.seen[key] for key, row in changes.items() if self.seen[key].state in FINAL)
        expected = self.seen | changes
        found = look(self.connection)
        assert found == expected
        assert all(found[key].fence >= self.seen[key].fence for key in self.seen)
        self.seen = {key: found[key] for key in expected}  # in the order in which they were stored


def live(connection: Connection, add: AddDeliveries, *, examples: int, steps: int, fixed: bool) -> None:
    run_state_machine_as_test(
        lambda: Life(connection, add),  # type: ignore[arg-type] # a factory is documented, and not in the hints
        settings=settings(
            max_examples=examples,
            stateful_step_count=steps,
            derandomize=fixed,
            database=None,
            deadline=None,
            print_blob=not fixed,
            suppress_health_check=[HealthCheck.too_slow],
        ),
    )


@pytest.fixture(autouse=True)
def _always_marking(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every admission mark the lanes that it has seen, as beside an old snapshot."""
    monkeypatch.setattr(deliveries, "MOST_WALKED", -(10**9))


def test_any_order_of_steps_keeps_every_delivery_in_one_place(
    connection: Connection, add_deliveries: AddDeliveries
) -> None:
    live(connection, add_deliveries, examples=60, steps=30, fixed=True)


@pytest.mark.long
@pytest.mark.timeout(3600)  # 1,500 orders take five to nine minutes alone, and several times that on a busy machine
def test_thousands_of_orders_of_steps_keep_every_delivery_in_one_place(
    connection: Connection, add_deliveries: AddDeliveries
) -> None:
    live(connection, add_deliveries, examples=1500, steps=50, fixed=False)
