"""Changes by the command `pipeline` reach the running ingress within two seconds."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from tests.moveris import completed
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
