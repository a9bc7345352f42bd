"""What the processes log: lines of JSON that name the delivery they are about."""

from __future__ import annotations

import json
from collections import Counter
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from tests.moveris import other
from tests.system.ledger import delivery, wait_until_settled
from tests.system.waiting import until

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tests.system.stack import Stack

SERVICES = ("ingress", "ingest", "handlers", "express", "housekeeping", "beat", "flower")
COUNT = 35


def read_lines(stack: Stack, *services: str) -> list[dict[str, Any]]:
    """Return all whole lines of these services' logs; fail if one is not JSON."""
    found = []
    for service in services:
        text = (stack.home / "logs" / f"{service}.log").read_text()
        for line in text.splitlines()[: text.count("\n")]:
            try:
                found.append(json.loads(line))
            except ValueError:
                raise AssertionError(f"{service} has logged {line!r}") from None
    return found


def about(stack: Stack, ids: Sequence[str], **fields: object) -> list[dict[str, Any]]:
    """Return the lines of handler workers about these events that have these fields."""
    lines = read_lines(stack, "handlers", "express")
    return [it for it in lines if it.get("event_id") in ids and fields.items() <= it.items()]


def test_lines_of_a_handler_name_its_delivery_by_themselves(stack: Stack) -> None:
    event_id = stack.endpoint("lines").deliver(other("lines.logged"))
    for handler in ("lines.plain", "lines.coroutine"):
        delivery(stack, event_id, handler, "succeeded", seconds=15)
    lines = until(
        lambda: found if len(found := about(stack, [event_id], logger="team.lines")) >= 4 else None,
        seconds=5,
        what="four lines of handlers",
    )
    assert {(it["message"], it["handler"]) for it in lines} == {
        ("from a handler", "lines.plain"),
        ("from a thread", "lines.plain"),
        ("from a task", "lines.coroutine"),
        ("from asyncio's thread", "lines.coroutine"),
    }
    for line in lines:
        assert (line["level"], line["tenant"], line["provider"], line["attempt"]) == ("info", "lines", "moveris", 1)
    assert [it["customer"] for it in lines if "customer" in it] == [7]


def test_each_failed_attempt_and_each_dead_delivery_is_one_line_with_its_fields(stack: Stack) -> None:
    endpoint = stack.endpoint("lines")
    ids = [endpoint.deliver(other("lines.broken")) for _ in range(COUNT)]
    wait_until_settled(stack, ids, seconds=30)
    dead = until(
        lambda: found if len(found := about(stack, ids, code="delivery_dead")) >= COUNT else None,
        seconds=5,
        what="the lines of dead deliveries",
    )
    retried = about(stack, ids, code="attempt_failed")
    for lines, level, attempt, outcome in ((retried, "warning", 1, "retry"), (dead, "error", 2, "dead")):
        assert Counter(it["event_id"] for it in lines) == Counter(ids)
        for line in lines:
            expected = {"level": level, "attempt": attempt, "outcome": outcome, "handler": "lines.broken"}
            assert line.items() >= {**expected, "tenant": "lines", "provider": "moveris"}.items()
            assert 0 <= line["duration"] < 10
            assert "LookupError: no such user" in line["message"]
            assert "traceback" not in line, "it is in Postgres"
    messages = " ".join(it["message"] for it in read_lines(stack, "handlers", "express"))
    assert "raised unexpected: DeliveryFailed" not in messages, "said twice, and once for a whole message"


@pytest.mark.long
def test_an_attempt_that_died_with_its_process_is_a_line_too(stack: Stack) -> None:
    event_id = stack.endpoint("lines").deliver(other("failure.fatal", fatal=True))
    delivery(stack, event_id, "failures.fatal", "dead", seconds=90)
    lines = [it for it in read_lines(stack, "housekeeping") if it.get("event_id") == event_id]
    assert [it["outcome"] for it in lines] == ["retry", "dead"]
    assert {it["handler"] for it in lines} == {"failures.fatal"}


def test_a_wrong_signature_is_a_line_with_the_label_and_nothing_of_the_request(stack: Stack) -> None:
    endpoint = stack.endpoint("lines", secret=b"not the secret of this endpoint")
    answer = endpoint.post(other("lines.forged", note="in the body only"))
    assert answer.status_code == httpx.codes.UNAUTHORIZED
    (line,) = until(
        lambda: [it for it in read_lines(stack, "ingress") if it.get("code") == "invalid_signature"],
        seconds=5,
        what="the line of the refusal",
    )
    assert (line["tenant"], line["provider"], line["labels"]) == ("lines", "moveris", ["first"])
    assert "in the body only" not in json.dumps(line)
    assert "sha256=" not in json.dumps(line)


def test_every_process_logs_lines_of_json_and_nothing_else(stack: Stack) -> None:
    lines = read_lines(stack, *SERVICES)
    assert [it for it in lines if not {"at", "level", "logger", "message"} <= it.keys()] == []
    loggers = {it["logger"] for it in lines}
    assert {"uvicorn.error", "celery.apps.worker", "flower.command"} <= loggers
