"""What becomes of deliveries whose handlers fail, hang, kill their process, or are not there."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from tests.moveris import other
from tests.system.ledger import (
    account,
    attempts,
    deliveries,
    delivery,
    effects,
    wait_until_settled,
)
from tests.system.stack import HANDLERS
from tests.system.waiting import until

if TYPE_CHECKING:
    from tests.system.stack import Stack

COUNT = 40
FATAL = (1, 20)


@pytest.fixture(scope="module")
def fatal_events(stack: Stack) -> list[tuple[str, bool]]:
    """Start what takes longest: events that end their process, in messages together with others of the same handler.

    Each id comes with whether its event is one of those. The tenant is paused until all are stored, so that they are
    dealt together.
    """
    stack.query("UPDATE tenants SET paused_at = now() WHERE name = 'fatal'")
    endpoint = stack.endpoint("fatal")
    ids = [
        (endpoint.deliver(other("failure.fatal", fatal=number in FATAL)), number in FATAL) for number in range(COUNT)
    ]
    until(lambda: account(stack, [it for it, _ in ids]).is_stored, seconds=10, what="the stored events")
    stack.query("UPDATE tenants SET paused_at = NULL WHERE name = 'fatal'")
    return ids


@pytest.fixture(autouse=True)
def _begun(fatal_events: list[tuple[str, bool]]) -> None:
    """Let the deliveries that need several leases begin before the first test of this file."""


def test_a_handler_that_does_not_return_is_ended_by_its_timeout_and_its_writes_are_undone(stack: Stack) -> None:
    event_id = stack.endpoint("endless").deliver(other("failure.endless"))
    row = delivery(stack, event_id, "failures.endless", "dead", seconds=15)
    assert "did not return within its timeout of 1 s" in row["last_error"]
    assert effects(stack, [event_id]) == []


def test_a_permanent_failure_is_dead_at_once_and_its_writes_are_undone(stack: Stack) -> None:
    event_id = stack.endpoint("permanent").deliver(other("failure.permanent"))
    row = delivery(stack, event_id, "failures.permanent", "dead", seconds=10)
    assert (row["attempt"], row["last_error"]) == (1, "Permanent: the account is closed")
    (attempt,) = attempts(stack, event_id, "failures.permanent")
    assert 'raise Permanent("the account is closed")' in attempt["traceback"]
    assert effects(stack, [event_id]) == []


def test_a_handler_that_asks_for_a_second_is_tried_again_after_it_and_takes_effect_once(stack: Stack) -> None:
    event_id = stack.endpoint("later").deliver(other("failure.later"))
    row = delivery(stack, event_id, "failures.later", "succeeded", seconds=15)
    (attempt,) = attempts(stack, event_id, "failures.later")
    assert attempt["error"] == "RetryAfter: the other side asks for a second"
    assert (row["finished_at"] - attempt["failed_at"]).total_seconds() >= 1
    assert len(effects(stack, [event_id])) == 1


def test_two_handlers_of_one_event_are_independent(stack: Stack) -> None:
    event_id = stack.endpoint("independent").deliver(other("failure.pair"))
    dead = delivery(stack, event_id, "failures.broken", "dead", seconds=15)
    assert (dead["attempt"], dead["last_error"]) == (3, "LookupError: no such user")
    assert len(attempts(stack, event_id, "failures.broken")) == 3
    delivery(stack, event_id, "failures.neighbour", "succeeded", seconds=15)
    assert [effect["handler"] for effect in effects(stack, [event_id])] == ["failures.neighbour"]


def test_a_coroutine_is_a_handler(stack: Stack) -> None:
    event_id = stack.endpoint("asynchronous").deliver(other("effect.asynchronous"))
    delivery(stack, event_id, "effects.asynchronous", "succeeded", seconds=10)
    assert len(effects(stack, [event_id])) == 1


def test_a_handler_of_every_tenant_runs_for_every_tenant(stack: Stack) -> None:
    ids = [stack.endpoint(tenant).deliver(other("effect.anyone")) for tenant in ("anyone", "latency")]
    wait_until_settled(stack, ids, seconds=10)
    assert {effect["note"] for effect in effects(stack, ids)} == {"anyone", "latency"}


def test_a_delivery_whose_handler_no_worker_runs_waits_and_is_told_until_the_handler_is_removed(stack: Stack) -> None:
    event_id = stack.endpoint("unknown").deliver(other("nobody.asks"))
    until(lambda: stack.query("SELECT FROM events WHERE id = %s", [event_id]), seconds=10, what="the stored event")
    stack.query("INSERT INTO deliveries (event_id, handler, tenant) VALUES (%s, 'team.removed', 'unknown')", [event_id])
    row = delivery(stack, event_id, "team.removed", "pending", seconds=5)
    assert row["attempt"] == 0
    assert "a worker that runs team.removed" in stack.pipeline("stats")
    assert attempts(stack, event_id, "team.removed") == []
    assert "1 open deliveries cancelled" in stack.pipeline("handlers", "remove", "team.removed")
    delivery(stack, event_id, "team.removed", "cancelled", seconds=5)


@pytest.mark.parametrize(
    ("module", "culprit"),
    [
        (
            "unimportable",
            f"HANDLERS: the module '{HANDLERS}unimportable' does not import: RuntimeError: the licence file",
        ),
        ("missing_module", f"HANDLERS: the module '{HANDLERS}missing_module' does not import: ModuleNotFoundError"),
        ("twice", f"two handlers are named 'twice.named': {HANDLERS}twice.one and {HANDLERS}twice.two"),
        ("mistyped", f"handler 'mistyped.parameter' ({HANDLERS}mistyped.one): unknown parameter 'max_atempts'"),
    ],
)
def test_a_worker_with_wrong_handlers_refuses_to_start_with_one_line(module: str, culprit: str, stack: Stack) -> None:
    environ = {
        **stack.environ,
        "HANDLERS": f"{HANDLERS}{module}",
        "REDIS_URL": "redis://127.0.0.1:1/0",
        "DATABASE_URL": "postgresql://nobody@127.0.0.1:1/none",
        "SECRETS_KEY": "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=",
    }
    command = [sys.executable, "-m", "celery", "-A", "workers.app", "worker", "--queues=handlers"]
    done = subprocess.run(command, env=environ, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode != 0
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert culprit in line


def test_flower_tells_which_tenants_handler_fails_and_why_and_no_payload_or_secret(stack: Stack) -> None:
    endpoint = stack.endpoint("independent")
    event_id = endpoint.deliver(other("failure.pair", iban="DE02120300000000202051"))
    delivery(stack, event_id, "failures.broken", "dead", seconds=15)
    tasks = until(lambda: _tasks_of(stack, "failures.broken", event_id), seconds=10, what="the tasks in Flower")
    until(
        lambda: {task["state"] for task in _tasks_of(stack, "failures.broken", event_id)} >= {"FAILURE", "RETRY"},
        seconds=10,
        what="a failure and a retry in Flower",
    )
    failed = next(task for task in _tasks_of(stack, "failures.broken", event_id) if task["state"] == "FAILURE")
    for word in ("independent", event_id, "LookupError: no such user"):
        assert word in failed["exception"]
    assert "LookupError" in failed["traceback"]
    assert tasks
    shown = stack.flower("/api/tasks?limit=10000").text
    page = stack.flower(f"/task/{failed['uuid']}").text + stack.flower("/tasks").text + stack.flower("/workers").text
    for hidden in ("DE02120300000000202051", "iban", endpoint.secret.hex(), "housekeeping.sweep"):
        assert hidden not in shown
        assert hidden not in page
    assert stack.client.get(f"{stack.flower_url}/api/tasks").status_code == 401


def _tasks_of(stack: Stack, handler: str, event_id: str) -> list[dict[str, str]]:
    answer = stack.flower("/api/tasks?limit=10000")
    assert answer.status_code == 200, answer.text
    tasks = json.loads(answer.text).values()
    return [task for task in tasks if task["name"] == handler and event_id in (task["args"] or "")]


def test_a_handler_that_ends_its_process_uses_up_its_own_attempts_and_nobody_elses(
    stack: Stack, fatal_events: list[tuple[str, bool]]
) -> None:
    wait_until_settled(stack, [event_id for event_id, _ in fatal_events], seconds=60)
    for event_id, is_fatal in fatal_events:
        row, failed = deliveries(stack, event_id)["failures.fatal"], attempts(stack, event_id, "failures.fatal")
        if is_fatal:
            assert (row["state"], row["attempt"]) == ("dead", 2)
            assert "WorkerLost" in row["last_error"]
        else:
            assert [a["error"] for a in failed if "not counted" not in a["error"]] == []
            assert (row["state"], row["attempt"]) == ("succeeded", 1)
    bystanders = [event_id for event_id, is_fatal in fatal_events if not is_fatal]
    assert len(effects(stack, bystanders)) == COUNT - len(FATAL)
    lost = [event_id for event_id in bystanders if attempts(stack, event_id, "failures.fatal")]
    assert lost, "no delivery shared a message with one that ended its process: nothing was proved"
