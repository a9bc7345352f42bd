"""One event, from the signed request to its effect."""

from __future__ import annotations

import json
import statistics
import threading
import time
from typing import TYPE_CHECKING

from tests.moveris import completed, other
from tests.system.ledger import deliveries, effects, wait_until_settled
from tests.system.waiting import until

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.system.provider import Endpoint
    from tests.system.stack import Stack


def test_a_signed_event_is_acknowledged_within_a_second_stored_exactly_and_handled(stack: Stack) -> None:
    body = b" " + completed("session-1", unheard_of="kept \xc3\xa9").replace(b", ", b" ,\t") + b"\n"
    started = time.monotonic()
    answer = stack.endpoint("pair").post(body)
    assert time.monotonic() - started < 1
    assert answer.status_code == 200
    event_id = answer.json()["id"]
    account = wait_until_settled(stack, [event_id], seconds=10)
    assert (account.succeeded, account.failed) == (2, 0)
    (event,) = stack.query("SELECT * FROM events WHERE id = %s", [event_id])
    assert bytes(event["body"]) == body
    assert (event["tenant"], event["type"], event["subject"]) == ("pair", "verification.completed", "session-1")
    assert (event["state"], event["secret_label"]) == ("accepted", "first")
    assert {effect["handler"]: effect["note"] for effect in effects(stack, [event_id])} == {
        "effects.first": "session-1",
        "effects.second": "session-1",
    }


def test_the_story_of_an_event_is_told_by_the_command(stack: Stack) -> None:
    body = completed("session-2")
    event_id = stack.endpoint("pair").deliver(body)
    wait_until_settled(stack, [event_id], seconds=10)
    (story,) = (json.loads(line) for line in stack.pipeline("events", "show", event_id, "--json").splitlines())
    assert (story["id"], story["tenant"], story["secret_label"]) == (event_id, "pair", "first")
    assert {delivery["handler"] for delivery in story["deliveries"]} == {"effects.first", "effects.second"}
    told = stack.pipeline("events", "show", event_id)
    assert "session-2" in told
    assert "succeeded" in told
    assert stack.pipeline("events", "show", event_id, "--body") == body.decode()


def test_an_event_signed_by_somebody_elses_published_test_vector_is_kept_as_rejected(stack: Stack) -> None:
    digest = "757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17"
    stack.pipeline(
        *("endpoints", "add", "github", "--provider", "github-vector", "--scheme", "moveris"),
        *("--label", "published", "--secret-stdin"),
        text="It's a Secret to Everybody",
    )
    url = f"{stack.ingress_url}/webhooks/github-vector/github"

    def post() -> str:
        headers = {"X-Webhook-Signature": f"sha256={digest}", "Content-Type": "application/json"}
        answer = stack.client.post(url, content=b"Hello, World!", headers=headers)
        assert answer.status_code in {200, 404}, answer.text
        return str(answer.json().get("id", ""))

    event_id = until(post, seconds=2, what="the new endpoint")
    rows = until(
        lambda: stack.query("SELECT * FROM events WHERE id = %s", [event_id]), seconds=10, what="the rejected event"
    )
    assert (rows[0]["state"], rows[0]["reject_reason"]) == ("rejected", "invalid_json")
    assert bytes(rows[0]["body"]) == b"Hello, World!"
    assert rows[0]["secret_label"] == "published"
    assert deliveries(stack, event_id) == {}


def test_one_event_sent_five_times_at_once_to_two_ingresses_is_one_event_and_one_run_of_each_handler(
    stack: Stack,
) -> None:
    body = completed()
    ids: list[str] = []
    together = threading.Barrier(5)

    def post(endpoint: Endpoint) -> None:
        together.wait()
        ids.append(endpoint.deliver(body))

    with stack.second_ingress() as second:
        endpoints = [stack.endpoint("pair"), stack.endpoint("pair", ingress_url=second)]
        threads = [threading.Thread(target=post, args=[endpoints[number % 2]]) for number in range(5)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len(set(ids)) == 5
    account = wait_until_settled(stack, ids, seconds=15)
    assert account.missing == 0
    (event,) = stack.query("SELECT id::text FROM events WHERE id = ANY (%s::uuid[])", [ids])
    arrivals = stack.query("SELECT id::text, first_id::text FROM arrivals WHERE id = ANY (%s::uuid[])", [ids])
    assert {arrival["id"] for arrival in arrivals} == set(ids) - {event["id"]}
    assert {arrival["first_id"] for arrival in arrivals} == {event["id"]}
    assert sorted(effect["handler"] for effect in effects(stack, ids)) == ["effects.first", "effects.second"]


def test_at_rest_an_event_is_handled_without_a_tick_within_a_fraction_of_a_second(
    stack: Stack, record_property: Callable[[str, object], None]
) -> None:
    def handle() -> float:
        started = time.monotonic()
        event_id = stack.endpoint("latency").deliver(other("effect.anyone"))
        until(lambda: effects(stack, [event_id]), seconds=10, what="the effect", every=0.005)
        return time.monotonic() - started

    beat = stack.main("beat")
    beat.suspend()
    try:
        times = sorted(handle() for _ in range(10))
    finally:
        beat.resume()
    record_property("milliseconds from POST to handled, median", round(statistics.median(times) * 1000))
    assert statistics.median(times) < 0.5


def test_only_the_ingress_holds_the_key_of_the_secrets(stack: Stack) -> None:
    assert "SECRETS_KEY" in stack.main("ingress").environ()
    for name in ("ingest", "handlers", "express", "housekeeping", "beat", "flower"):
        for process in (stack.main(name), *stack.children(name)):
            assert "SECRETS_KEY" not in process.environ()
