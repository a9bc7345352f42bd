"""Which deliveries take the express queue."""

from __future__ import annotations

import uuid

import pytest

from workers.dispatch.express import (
    AHEAD,
    ALL,
    DELIVERY_SECONDS,
    MESSAGE_SECONDS,
    MOST_COUNTED,
    MOST_WAITING,
    choose_express,
    count_others,
    run_off,
)
from workers.store.deliveries import Candidate, DueTenant

LANE = ("acme", "acme.run")


def due(count: int, *, tenant: str = "acme", alone: bool = False) -> list[Candidate]:
    return [
        Candidate(event_id=uuid.uuid4(), tenant=tenant, handler=f"{tenant}.run", place=1, alone=alone)
        for _ in range(count)
    ]


def choose(
    candidates: list[Candidate],
    *,
    seconds: float | None = 0.005,
    crowded: bool = False,
    counts: dict[str, float] | None = None,
    waiting: int = 0,
    messages: int = 8,
) -> int:
    """Return how many are chosen."""
    lanes = {(it.tenant, it.handler) for it in candidates}
    return len(
        choose_express(
            candidates,
            {tenant: DueTenant(crowded=crowded) for tenant, _ in lanes},
            {} if seconds is None else dict.fromkeys(lanes, seconds),
            {} if counts is None else counts,
            waiting=waiting,
            messages=messages,
            slots=1,
            budget=1.0,
        )
    )


def test_a_quiet_tenants_quick_work_is_chosen() -> None:
    assert choose(due(3)) == 3


@pytest.mark.parametrize("seconds", [1.01, 30.0, None])
def test_a_handler_that_takes_longer_than_a_message_or_has_never_run_is_not_chosen(seconds: float | None) -> None:
    assert choose(due(1), seconds=seconds) == 0
    assert choose(due(1), seconds=1.0) == 1


def test_a_tenant_is_not_quiet_when_what_is_due_takes_longer_than_five_messages() -> None:
    assert choose(due(5), seconds=0.15) == 2, "the third would find more than a quarter of a second ahead of it"
    assert choose(due(32), seconds=0.15) == 2, "a hiccup of some seconds does not make a tenant noisy"
    assert choose(due(34), seconds=0.15) == 0


def test_many_quick_deliveries_share_messages() -> None:
    assert choose(due(200), seconds=0.0005) == 200


def test_more_quick_deliveries_find_room_in_one_message_than_in_many() -> None:
    assert choose(due(50), seconds=0.0005, counts={ALL: 0.2, "other": 0.1}, messages=8) < 50
    assert choose(due(50), seconds=0.0005, counts={ALL: 0.2, "other": 0.1}, messages=1) == 50


def test_a_crowded_tenant_is_not_quiet_however_quick_its_work() -> None:
    assert choose(due(3), seconds=0.0001, crowded=True) == 0


def test_what_killed_its_process_in_company_is_not_let_into_the_express_worker() -> None:
    assert choose(due(1, alone=True)) == 0


def test_the_express_queue_takes_no_more_than_its_room() -> None:
    assert choose(due(5), waiting=MOST_WAITING, counts={ALL: 0.0}) == 0
    assert choose(due(5, tenant="other"), seconds=0.0, waiting=20) == 5


def test_a_tenant_that_has_sent_a_messages_worth_waits_while_others_use_the_queue() -> None:
    counts = {"acme": 1.01}
    assert choose(due(1), counts=dict(counts), waiting=6) == 0
    assert choose(due(1), counts=run_off(counts, seconds=0.1, slots=1), waiting=6) == 1


def test_a_tenant_that_has_sent_more_than_its_share_uses_what_nobody_else_does() -> None:
    assert choose(due(7), counts={"acme": 1.01}) == 3, "as long as the queue is as good as empty"
    assert choose(due(8), counts={"acme": 1.01}) == 0, "and all that is due of it is little"
    assert choose(due(7), counts={"acme": 1.01}, waiting=10) == 0, "a long queue says more than the estimate"
    assert choose(due(1), seconds=0.1, counts={"acme": 1.01}) == 0, "only for quick work"


def test_nothing_joins_more_than_a_quarter_of_a_budget_that_is_ahead() -> None:
    assert choose(due(1), counts={ALL: AHEAD + 0.01, "other": AHEAD}, waiting=1) == 0
    assert choose(due(1), counts={ALL: AHEAD, "other": AHEAD}, waiting=1) == 1


def test_what_is_chosen_is_counted_for_the_tenant_and_for_all() -> None:
    counts = {"other": 0.1, ALL: 0.1}
    choose(due(2), counts=counts, waiting=1)
    own, everything = 2 * (0.005 + DELIVERY_SECONDS), 0.1 + 2 * (0.005 + MESSAGE_SECONDS)
    assert counts == {"other": 0.1, "acme": pytest.approx(own), ALL: pytest.approx(everything)}


def test_a_flood_that_handlers_keep_up_with_is_not_quiet_until_some_seconds_after_it() -> None:
    counts: dict[str, float] = {}
    lane = {("acme", "acme.run"): 0.0001}
    for _ in range(20):
        count_others(counts, due(125), lane, budget=1.0)
    assert counts == {"acme": MOST_COUNTED}
    assert choose(due(100), seconds=0.0001, counts=dict(counts)) == 0
    assert choose(due(100), seconds=0.0001, counts=run_off(counts, seconds=3.0, slots=1)) == 100


def test_what_handlers_get_of_a_tenant_now_and_then_is_not_counted() -> None:
    counts: dict[str, float] = {}
    count_others(counts, due(10), {("*", "acme.run"): 0.001}, budget=1.0)
    assert counts == {}


def test_counts_run_off_at_half_the_workers_speed_for_a_tenant_and_are_forgotten() -> None:
    assert run_off({"acme": 3.0, "other": 0.5, ALL: 3.5}, seconds=1.0, slots=2) == {"acme": 2.0, ALL: 1.5}
    assert run_off({"acme": 1.0}, seconds=-5.0, slots=2) == {"acme": 1.0}, "a clock that went back"
