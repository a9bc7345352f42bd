"""Every scheme through a real ingress: accepted, refused, asked before anything is sent."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any, Final

import httpx
import pytest

from ingress.schemes import PRESETS, find
from ingress.schemes.handshakes import verify_token
from shared.registry import Endpoint
from tests.ingress_process import Process, inbox, publish, secret, serving

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

SECRET: Final = b"whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
TOKEN: Final = b"t" * 43
DESCRIBED: Final = {
    "header": "X-Acme-Signature",
    "algorithm": "hmac-sha512",
    "encoding": "base64",
    "content": "{timestamp}.{body}",
    "timestamp": "X-Acme-Timestamp",
    "tolerance": 60,
}
SCHEMES: Final[Mapping[str, str | Mapping[str, Any]]] = {
    **{name: name for name in PRESETS if name != "none"},
    "acme": DESCRIBED,
    "gitea": {"preset": "github", "header": "X-Gitea-Signature", "prefix": ""},
}


@pytest.fixture
def ingress(redis_url: str) -> Iterator[Process]:
    endpoints = [
        Endpoint(provider=name, tenant="acme", scheme=scheme, enabled=True, secrets=(secret(SECRET),))
        for name, scheme in SCHEMES.items()
    ]
    unsigned = Endpoint(
        provider="none",
        tenant="acme",
        scheme="none",
        enabled=True,
        secrets=(secret(TOKEN, label="old"), secret(b"n" * 43, label="new")),
    )
    broken = Endpoint(
        provider="broken", tenant="acme", scheme={"header": "X-A"}, enabled=True, secrets=(secret(SECRET),)
    )
    publish(redis_url, 1, *endpoints, unsigned, broken)
    with serving(redis_url) as process:
        yield process


def send(
    ingress: Process, name: str, body: bytes, *, now: float | None = None, more: Mapping[str, str] | None = None
) -> httpx.Response:
    signed = find(SCHEMES[name]).sign(SECRET, body, now=time.time() if now is None else now, event_id="msg_1")
    return httpx.post(
        f"{ingress.url}/webhooks/{name}/acme", content=body, headers={**signed, **(more or {})}, timeout=20
    )


def code(answer: httpx.Response) -> tuple[int, str]:
    return answer.status_code, answer.json()["error"]["code"]


def test_what_each_provider_signs_is_accepted_and_nothing_else(ingress: Process, redis_url: str) -> None:
    for name in SCHEMES:
        body = json.dumps({"provider": name}).encode()
        answer = send(ingress, name, body)
        assert answer.status_code == 200, (name, answer.text)
        wrong = find(SCHEMES[name]).sign(SECRET, body, now=time.time(), event_id="msg_1")
        refused = httpx.post(f"{ingress.url}/webhooks/{name}/acme", content=body + b" ", headers=wrong)
        assert code(refused) == (401, "invalid_signature"), name
        assert code(httpx.post(f"{ingress.url}/webhooks/{name}/acme", content=body)) == (401, "missing_signature"), name
    stored = {it.provider: it for it in inbox(redis_url)}
    assert {name: json.loads(it.body)["provider"] for name, it in stored.items()} == {name: name for name in SCHEMES}


def test_a_signed_time_out_of_tolerance_is_stale_in_both_directions(ingress: Process) -> None:
    for name, tolerance in (("slack", 300), ("stripe", 300), ("standard-webhooks", 300), ("acme", 60)):
        for direction in (-1, 1):
            stale = send(ingress, name, b"{}", now=time.time() + direction * (tolerance + 20))
            assert code(stale) == (401, "stale_signature")
            assert send(ingress, name, b"{}", now=time.time() + direction * (tolerance - 20)).status_code == 200


def test_only_an_id_that_is_signed_travels_as_one(ingress: Process, redis_url: str) -> None:
    send(ingress, "standard-webhooks", b"{}", more={"Signed-Id": "mine"})
    send(ingress, "github", b"{}", more={"Signed-Id": "mine", "webhook-id": "mine"})
    sent = [dict(it.headers).get(b"signed-id") for it in inbox(redis_url)]
    assert sent == [b"msg_1", None]


def test_slacks_question_is_answered_if_it_is_signed_and_stored_nowhere(ingress: Process, redis_url: str) -> None:
    question = json.dumps(
        {"type": "url_verification", "token": "x", "challenge": "3eZbrw1aBm2rZgRNFdxV2595E9CY3g"}
    ).encode()
    answer = send(ingress, "slack", question)
    assert (answer.status_code, answer.text) == (200, "3eZbrw1aBm2rZgRNFdxV2595E9CY3g")
    assert answer.headers["content-type"].startswith("text/plain")
    unsigned = httpx.post(f"{ingress.url}/webhooks/slack/acme", content=question)
    assert code(unsigned) == (401, "missing_signature")
    assert code(send(ingress, "slack", question, now=1)) == (401, "stale_signature")
    assert inbox(redis_url) == []
    # Elsewhere it is an event like any other.
    assert "id" in send(ingress, "stripe", question).json()


def test_the_hubs_question_is_answered_to_who_knows_the_verify_token(ingress: Process, redis_url: str) -> None:
    asked = {"hub.mode": "subscribe", "hub.challenge": "1158201444", "hub.verify_token": verify_token(SECRET)}
    answer = httpx.get(f"{ingress.url}/webhooks/meta/acme", params=asked)
    assert (answer.status_code, answer.text) == (200, "1158201444")
    assert answer.headers["content-type"].startswith("text/plain")
    wrong = asked | {"hub.verify_token": "meatyhamhock"}
    assert code(httpx.get(f"{ingress.url}/webhooks/meta/acme", params=wrong)) == (403, "wrong_verify_token")
    assert code(httpx.get(f"{ingress.url}/webhooks/github/acme", params=asked)) == (405, "method_not_allowed")
    assert code(httpx.put(f"{ingress.url}/webhooks/meta/acme", params=asked)) == (405, "method_not_allowed")
    assert inbox(redis_url) == []


def test_an_unsigned_endpoint_has_no_path_but_the_one_with_its_token(ingress: Process, redis_url: str) -> None:
    base = f"{ingress.url}/webhooks/none/acme"
    for token, label in ((TOKEN.decode(), "old"), ("n" * 43, "new")):
        assert httpx.post(f"{base}/{token}", content=b"{}").status_code == 200
        assert inbox(redis_url)[-1].secret_label == label
    for path in ("", "/", "/wrong", f"/{TOKEN.decode()[:-1]}", f"/{TOKEN.decode()}/", f"/{TOKEN.decode()}x", "/%ff"):
        assert code(httpx.post(base + path, content=b"{}")) == (404, "unknown_endpoint"), path
    signed = f"{ingress.url}/webhooks/github/acme/{SECRET.decode()}"
    assert code(httpx.post(signed, content=b"{}")) == (404, "unknown_endpoint")
    assert code(httpx.get(f"{base}/{TOKEN.decode()}")) == (405, "method_not_allowed")
    assert TOKEN.decode() not in ingress.log.read_text()


def test_a_description_that_cannot_be_followed_is_our_fault(ingress: Process) -> None:
    answer = httpx.post(f"{ingress.url}/webhooks/broken/acme", content=b"{}", headers={"X-A": "x"})
    assert code(answer) == (503, "endpoint_unreadable")
    assert "algorithm is missing" in ingress.log.read_text()
