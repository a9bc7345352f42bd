"""Changes by the command `pipeline` reach the running ingress within two seconds."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from tests.moveris import completed
from tests.system.stack import PREFIX
from tests.system.waiting import until

if TYPE_CHECKING:
    from tests.system.provider import Endpoint
    from tests.system.stack import Stack

PROMISED_SECONDS = 2


def wait_for_status(endpoint: Endpoint, status: int, *, since: float) -> None:
    """Wait until the endpoint answers with a status; fail if that is not within two seconds of `since`."""
    until(lambda: endpoint.post(completed()).status_code == status, seconds=10, what=f"status {status}", every=0.02)
    assert time.monotonic() - since < PROMISED_SECONDS


def test_a_secret_is_rotated_without_a_gap(stack: Stack) -> None:
    old, new = stack.endpoint("rotated"), stack.endpoint("rotated", secret=b"the next secret")
    assert new.post(completed()).status_code == 401
    stack.pipeline("secrets", "add", "rotated", "--label", "next", "--secret-stdin", text="the next secret")
    wait_for_status(new, 200, since=time.monotonic())
    event_id = new.deliver(completed())
    assert old.post(completed()).status_code == 200
    stack.pipeline("secrets", "expire", "rotated", "first")
    wait_for_status(old, 401, since=time.monotonic())
    assert new.post(completed()).status_code == 200
    rows = until(
        lambda: stack.query("SELECT secret_label FROM events WHERE id = %s", [event_id]), seconds=10, what="the event"
    )
    assert rows[0]["secret_label"] == "next"


def test_a_disabled_endpoint_answers_as_if_it_did_not_exist(stack: Stack) -> None:
    endpoint = stack.endpoint("disabled")
    assert endpoint.post(completed()).status_code == 200
    stack.pipeline("endpoints", "disable", "disabled", "--provider", "moveris")
    wait_for_status(endpoint, 404, since=time.monotonic())


def test_a_tenant_over_its_rate_is_answered_429_until_the_limit_is_lifted(stack: Stack) -> None:
    endpoint = stack.endpoint("hasty")
    event_id = endpoint.deliver(completed())
    stack.pipeline("tenants", "limit", "hasty", "--rate", "1/m", "--burst", "2")
    wait_for_status(endpoint, 429, since=time.monotonic())
    answer = endpoint.post(completed())
    assert answer.json()["error"]["code"] == "rate_limited"
    assert 0 < int(answer.headers["retry-after"]) <= 60
    assert stack.endpoint("patient").post(completed()).status_code == 200
    stack.pipeline("tenants", "limit", "hasty", "--lift")
    wait_for_status(endpoint, 200, since=time.monotonic())
    until(lambda: stack.query("SELECT FROM events WHERE id = %s", [event_id]), seconds=10, what="the event")


def test_events_beyond_the_burst_of_their_tenant_are_stored_too(stack: Stack) -> None:
    endpoint = stack.endpoint("flooding")
    stack.pipeline("tenants", "limit", "flooding", "--burst", "1")
    ids: list[str] = []
    with ThreadPoolExecutor(16) as pool:
        while not overflowed(stack) or len(ids) < 400:
            ids += pool.map(lambda _: endpoint.deliver(completed()), range(200))
            assert len(ids) < 20_000, "the limit is followed"
    stored = "SELECT count(*) AS n FROM events WHERE id = ANY (%s::uuid[])"
    until(lambda: stack.query(stored, [ids])[0]["n"] == len(ids), seconds=20, what="all events")


def overflowed(stack: Stack) -> int:
    """Return how many entries the overflow has had."""
    with stack.redis() as client:
        overflow = f"{PREFIX}inbox:overflow"
        stream: Any = client.xinfo_stream(overflow) if client.exists(overflow) else {}
    return int(stream.get("entries-added", 0))
