"""How turns are ordered, and dealt into messages."""

from __future__ import annotations

import uuid

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workers.dispatch.admission import Message, capacity, deal
from workers.dispatch.turns import last_served, take_turns
from workers.store.deliveries import Candidate, DueTenant


def waiting(lanes: list[tuple[str, str]], depth: int, *, alone: bool = False) -> list[Candidate]:
    """Return so many candidates of each lane, a (tenant, handler)."""
    tenants = list(dict.fromkeys(tenant for tenant, _ in lanes))
    own = {name: [handler for tenant, handler in lanes if tenant == name] for name in tenants}
    return [
        Candidate(
            event_id=uuid.uuid4(),
            tenant=tenant,
            handler=handler,
            place=tenants.index(tenant) + 1,
            lane=own[tenant].index(handler) + 1,
            alone=alone,
        )
        for tenant, handler in lanes
        for _ in range(depth)
    ]


def dealt(candidates: list[Candidate], *, room: int, capacities: dict[str, int]) -> list[Message]:
    return deal(take_turns(candidates, {}, {}), room=room, capacities=capacities).messages


def test_what_fits_goes_one_to_a_message() -> None:
    lanes = [("x", "a.run"), ("y", "a.run")]
    messages = dealt(waiting(lanes, 2), room=4, capacities={"a.run": 64})
    assert [len(message.deliveries) for message in messages] == [1, 1, 1, 1]


def test_under_load_a_message_carries_the_handlers_of_several_tenants() -> None:
    lanes = [("x", "a.run"), ("y", "a.run")]
    messages = dealt(waiting(lanes, 64), room=2, capacities={"a.run": 64})
    assert [len(message.deliveries) for message in messages] == [64, 64]
    assert {candidate.tenant for candidate in messages[0].deliveries} == {"x", "y"}


def test_a_slow_handler_fills_messages_only_to_its_capacity() -> None:
    messages = dealt(waiting([("x", "a.run")], 64), room=2, capacities={"a.run": 3})
    assert [len(message.deliveries) for message in messages] == [3, 3]


def test_what_was_lost_in_company_runs_alone_also_beside_a_message_that_is_filling() -> None:
    lanes = [("x", "a.run")]
    company, alone = waiting(lanes, 2), waiting(lanes, 2, alone=True)
    messages = dealt([company[0], alone[0], company[1], alone[1]], room=3, capacities={"a.run": 64})
    assert [[it.event_id for it in message.deliveries] for message in messages] == [
        [company[0].event_id, company[1].event_id],
        [alone[0].event_id],
        [alone[1].event_id],
    ]


def test_turns_go_round_tenants_first_then_their_handlers() -> None:
    lanes = [("x", "a.run"), ("x", "b.run"), ("y", "a.run")]
    turns = take_turns(waiting(lanes, 2), {}, {})
    assert [(turn.candidate.tenant, turn.candidate.handler) for turn in turns] == [
        *(("x", "a.run"), ("y", "a.run")),
        *(("x", "b.run"), ("y", "a.run")),
        *(("x", "a.run"), ("x", "b.run")),
    ]


def test_a_tenant_has_as_many_deliveries_in_a_turn_as_its_weight() -> None:
    turns = take_turns(waiting([("x", "a.run"), ("y", "a.run")], 4), {"x": DueTenant(weight=3)}, {})
    assert "".join(turn.candidate.tenant for turn in turns) == "xxxyxyyy"


def test_a_paused_tenant_gets_nothing_and_a_capped_one_its_cap_once_for_all_its_handlers() -> None:
    lanes = [("x", "a.run"), ("y", "a.run"), ("y", "b.run"), ("z", "a.run")]
    turns = take_turns(waiting(lanes, 5), {}, {("x", "*"): 0, ("y", "*"): 2})
    tenants = [turn.candidate.tenant for turn in turns]
    assert (tenants.count("x"), tenants.count("y"), tenants.count("z")) == (0, 2, 5)


def test_limits_of_a_handler_hold_over_all_tenants_and_for_one() -> None:
    lanes = [("x", "a.run"), ("y", "a.run"), ("z", "a.run"), ("z", "b.run")]
    turns = take_turns(waiting(lanes, 5), {}, {("*", "a.run"): 4, ("x", "a.run"): 1})
    taken = [(turn.candidate.tenant, turn.candidate.handler) for turn in turns]
    assert taken.count(("x", "a.run")) == 1
    assert sum(handler == "a.run" for _, handler in taken) == 4
    assert taken.count(("z", "b.run")) == 5


@pytest.mark.parametrize(
    ("skipped", "more", "place"),
    [
        ([], 0, 9),
        ([(1, 4), (1, 7), (2, 1)], 0, 3),
        ([(1, 1)], 0, 0),
        ([(2, 3)], 0, 2),
        ([(2, 3)], 1, 9),
        ([(1, 5), (2, 1)], 1, 4),
    ],
)
def test_service_goes_on_with_the_first_turn_that_found_no_room(
    skipped: list[tuple[int, int]], more: int, place: int
) -> None:
    assert last_served(skipped, last=9, more=bool(more)) == place


def test_a_capacity_follows_the_mean_duration() -> None:
    assert capacity(0.1, message_seconds=1.0) == 10
    assert capacity(30.0, message_seconds=1.0) == 1
    assert capacity(0.0001, message_seconds=1.0) == 256


@given(
    depths=st.lists(st.integers(0, 30), min_size=1, max_size=12),
    handlers=st.integers(1, 3),
    room=st.integers(0, 10),
    size=st.integers(1, 64),
    alone=st.integers(0, 1),
)
def test_nothing_is_dealt_twice_and_what_found_no_room_is_told(
    depths: list[int], handlers: int, room: int, size: int, alone: int
) -> None:
    lanes = [(f"t{number}", f"h.{number % handlers}") for number in range(len(depths))]
    candidates = [
        one
        for place, depth in enumerate(depths, 1)
        for one in waiting(lanes, depth, alone=bool(alone) and place % 2 == 0)
        if one.place == place
    ]
    turns = take_turns(candidates, {}, {})
    messages, skipped = deal(turns, room=room, capacities={f"h.{number}": size for number in range(handlers)})
    ids = [candidate.event_id for message in messages for candidate in message.deliveries]
    assert len(messages) <= room
    assert len(set(ids)) == len(ids)
    assert sorted([*ids, *(turn.candidate.event_id for turn in skipped)]) == sorted(it.event_id for it in candidates)
    assert all(len(message.deliveries) <= size for message in messages)
    assert all(len(it.deliveries) == 1 for it in messages if any(one.alone for one in it.deliveries))
    assert all({candidate.handler for candidate in message.deliveries} == {message.handler} for message in messages)
    if len(candidates) <= room:
        assert len(ids) == len(candidates)
