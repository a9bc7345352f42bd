"""How room is dealt to lanes."""

from __future__ import annotations

import uuid

from hypothesis import given
from hypothesis import strategies as st

from workers.dispatch.admission import capacity, deal
from workers.store.deliveries import Candidate


def waiting(lanes: list[tuple[str, str]], depth: int, *, alone: bool = False) -> list[Candidate]:
    return [
        Candidate(event_id=uuid.uuid4(), tenant=tenant, handler=handler, place=place, alone=alone)
        for place, (tenant, handler) in enumerate(lanes)
        for _ in range(depth)
    ]


def test_what_fits_goes_one_to_a_message() -> None:
    lanes = [("x", "a.run"), ("y", "a.run")]
    messages = deal(waiting(lanes, 2), {}, room=4, capacities={"a.run": 64})
    assert [len(message.deliveries) for message in messages] == [1, 1, 1, 1]


def test_under_load_a_message_carries_the_handlers_of_several_tenants() -> None:
    lanes = [("x", "a.run"), ("y", "a.run")]
    messages = deal(waiting(lanes, 64), {}, room=2, capacities={"a.run": 64})
    assert [len(message.deliveries) for message in messages] == [64, 64]
    assert {candidate.tenant for candidate in messages[0].deliveries} == {"x", "y"}


def test_a_slow_handler_fills_messages_only_to_its_capacity() -> None:
    lanes = [("x", "a.run")]
    messages = deal(waiting(lanes, 64), {}, room=2, capacities={"a.run": 3})
    assert [len(message.deliveries) for message in messages] == [3, 3]


def test_what_was_lost_in_company_runs_alone() -> None:
    lanes = [("x", "a.run")]
    messages = deal(waiting(lanes, 3, alone=True), {}, room=2, capacities={"a.run": 64})
    assert [len(message.deliveries) for message in messages] == [1, 1]


def test_a_paused_tenant_gets_nothing_and_a_capped_one_its_cap() -> None:
    lanes = [("x", "a.run"), ("y", "a.run"), ("y", "b.run"), ("z", "a.run")]
    messages = deal(waiting(lanes, 5), {"x": 0, "y": 2}, room=50, capacities={"a.run": 64, "b.run": 64})
    tenants = [candidate.tenant for message in messages for candidate in message.deliveries]
    assert (tenants.count("x"), tenants.count("y"), tenants.count("z")) == (0, 2, 5)


def test_a_capacity_follows_the_mean_duration() -> None:
    assert capacity(0.1, message_seconds=1.0) == 10
    assert capacity(30.0, message_seconds=1.0) == 1
    assert capacity(0.0001, message_seconds=1.0) == 256


@given(
    depths=st.lists(st.integers(0, 30), min_size=1, max_size=12),
    handlers=st.integers(1, 3),
    room=st.integers(1, 10),
    size=st.integers(1, 64),
)
def test_nothing_is_dealt_twice_and_no_lane_is_passed_over(
    depths: list[int], handlers: int, room: int, size: int
) -> None:
    lanes = [(f"t{number}", f"h.{number % handlers}") for number in range(len(depths))]
    candidates = [one for place, depth in enumerate(depths) for one in waiting(lanes, depth) if one.place == place]
    messages = deal(candidates, {}, room=room, capacities={f"h.{number}": size for number in range(handlers)})
    dealt = [candidate.event_id for message in messages for candidate in message.deliveries]
    assert len(messages) <= room
    assert len(set(dealt)) == len(dealt)
    assert all(len(message.deliveries) <= size for message in messages)
    assert all({candidate.handler for candidate in message.deliveries} == {message.handler} for message in messages)
    if len(candidates) <= room:
        assert len(dealt) == len(candidates)
