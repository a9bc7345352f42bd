"""An outage as the people see it who must act: one incident for each cause, one message, one replay."""

from __future__ import annotations

import json
import logging
import os
import shutil
import signal
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
import pytest
from standardwebhooks.webhooks import Webhook as Verifier

from tests.launching import free_port
from tests.moveris import other
from tests.receivers import HttpReceiver, http_receiver
from tests.system.ledger import EFFECTS, account, effects, effects_of_more_than_one_run, wait_until_settled
from tests.system.stack import Stack
from tests.system.waiting import until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.system.provider import Endpoint

log = logging.getLogger(__name__)

EVENTS = int(os.environ.get("OUTAGE_EVENTS", "2000"))
TENANTS = ("acme", "globex", "hooli", "initech", "umbrella")
SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
CAUSES = {
    "LookupError: no account <n> of <value> at <address>",
    "ConnectionError: HTTP 503 after <n> from <url>",
}
SECONDS = 60 + EVENTS / 100


@pytest.fixture
def receiver() -> Iterator[HttpReceiver]:
    with http_receiver() as it:
        yield it


@pytest.fixture
def outage_stack(receiver: HttpReceiver) -> Iterator[Stack]:
    """A stack that tells the receiver of incidents."""
    home = Path(tempfile.mkdtemp(prefix="pipeline-outage-", dir="/tmp"))
    home.chmod(0o755)
    alerts = home / "alerts.toml"
    alerts.write_text(
        f'[[channel]]\nname = "operations"\ntype = "webhook"\nurl = "{receiver.url}"\nsecret = "{SECRET}"\n'
    )
    settings = {"INGRESS_METRICS_PORT": str(free_port()), "INGRESS_WORKERS": "1"}
    settings |= {"ALERTS": str(alerts), "INCIDENT_QUIET_SECONDS": "15"}
    try:
        with Stack(home, handlers=("outage",), environ=settings) as it:
            it.query(EFFECTS)
            it.add_tenants(*TENANTS)
            yield it
    finally:
        shutil.rmtree(home, ignore_errors=True)


def post_all(endpoint: Endpoint, count: int) -> list[str]:
    with httpx.Client() as client:
        own = replace(endpoint, client=client)
        return [own.deliver(other("outage.event", number=number)) for number in range(count)]


def told(receiver: HttpReceiver) -> dict[str, tuple[str, str]]:
    """Return type and cause of what came, by its id: the same id is the same message."""
    found = {}
    for headers, body in receiver.posts:
        Verifier(SECRET).verify(body, headers)
        content = json.loads(body)
        (incident,) = content["data"]["incidents"]
        found[headers["webhook-id"]] = (content["type"], incident["cause"])
    return found


@pytest.mark.long
@pytest.mark.timeout(3600)
def test_an_outage_is_two_incidents_two_messages_and_one_replay_each(
    outage_stack: Stack, receiver: HttpReceiver
) -> None:
    stack, began = outage_stack, time.monotonic()

    def note(what: str) -> None:
        log.info("%6.1f s: %s", time.monotonic() - began, what)

    def incidents() -> list[dict[str, object]]:
        return [json.loads(line) for line in stack.pipeline("incidents", "list", "--json").splitlines()]

    (stack.home / "outage").touch()
    until(lambda: stack.query("SELECT FROM alert_channels"), seconds=60, what="the channel")
    with ThreadPoolExecutor(len(TENANTS)) as pool:
        posting = [pool.submit(post_all, stack.endpoint(tenant), EVENTS // len(TENANTS)) for tenant in TENANTS]
        killed = stack.main("housekeeping")
        for process in [*stack.children("housekeeping"), killed]:
            process.send_signal(signal.SIGKILL)
        ids = [event_id for it in posting for event_id in it.result()]
    stack.successor("housekeeping", killed)
    note(f"{EVENTS} events posted, housekeeping killed and started again")
    assert wait_until_settled(stack, ids, seconds=60).failed == EVENTS
    note("all are dead")

    # Two incidents, each death counted once, within 30 s on a machine that has time for it.
    until(
        lambda: sum(int(str(it["count"])) for it in incidents()) == EVENTS,
        seconds=SECONDS,
        what="all of them in incidents",
        every=0.5,
    )
    found = incidents()
    note(f"all are in {len(found)} incidents")
    assert {it["cause"] for it in found} == CAUSES
    assert [(it["count"], it["tenants"]) for it in found] == [(EVENTS // 2, 5)] * 2

    # Two messages.
    until(lambda: len(told(receiver)) >= 2, seconds=90, what="two messages")
    assert sorted(told(receiver).values()) == sorted(("incident.opened", cause) for cause in CAUSES)

    note(f"{len(told(receiver))} messages have come in {len(receiver.posts)} requests")

    # One replay each, and the first touches nothing of the second.
    (stack.home / "outage").unlink()
    first, second = (str(it["id"]) for it in found)
    stack.pipeline("incidents", "replay", first, "--reason", "their API is back")
    until(lambda: account(stack, ids).succeeded == EVENTS // 2, seconds=SECONDS, what="the first half", every=0.5)
    note("the first is replayed and handled")
    assert account(stack, ids).failed == EVENTS // 2
    stack.pipeline("incidents", "replay", second)
    until(lambda: account(stack, ids).succeeded == EVENTS, seconds=SECONDS, what="the second half", every=0.5)
    note("the second is replayed and handled")

    # Everything was handled once, and that it is over is told once.
    assert len(effects(stack, ids)) == EVENTS
    assert effects_of_more_than_one_run(stack) == []
    until(lambda: len(told(receiver)) >= 4, seconds=120, what="that both are resolved")
    expected = [(kind, cause) for kind in ("incident.opened", "incident.resolved") for cause in CAUSES]
    assert sorted(told(receiver).values()) == sorted(expected)
    assert incidents() == []
    note(f"all is told in {len(receiver.posts)} requests")
