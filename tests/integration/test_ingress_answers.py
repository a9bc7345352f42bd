"""Every row of the ingress' status table, over real sockets."""

from __future__ import annotations

import json
import uuid
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import httpx
import pytest
import redis

from ingress.schemes import find
from shared.wire import INGEST_QUEUE
from tests.ingress_process import (
    PATH,
    SECRET,
    Process,
    endpoint,
    inbox,
    own_valkey,
    publish,
    request,
    serving,
    until_closed,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

moveris = find("moveris")

HEADER = "X-Webhook-Signature"
MAX_BODY = 100_000


@pytest.fixture(scope="module")
def valkey() -> Iterator[str]:
    with own_valkey() as server:
        publish(server.url, 1, endpoint(), endpoint(tenant="shut", enabled=False))
        yield server.url


@pytest.fixture(scope="module")
def ingress(valkey: str) -> Iterator[Process]:
    with serving(valkey, INGRESS_MAX_BODY_BYTES=str(MAX_BODY), INGRESS_BODY_TIMEOUT="1") as process:
        yield process


def code_of(answer: httpx.Response) -> str:
    assert answer.headers["content-type"] == "application/json"
    error = answer.json()["error"]
    assert set(error) == {"code", "message"}
    return str(error["code"])


def ending(body: bytes) -> tuple[int, str]:
    """Return status and code of the last answer in what a connection brought."""
    head, _, text = body.rpartition(b"\r\n\r\n")
    return int(head.rsplit(b"HTTP/1.1 ", 1)[1][:3]), json.loads(text)["error"]["code"]


def test_a_signed_event_is_acknowledged_and_in_the_inbox_byte_for_byte(ingress: Process, valkey: str) -> None:
    body = b'{"raw": "\xff\x00", "spaces" :  1}\r\n'
    headers = {
        **moveris.sign(SECRET, body),
        "Content-Type": "application/json",
        "X-Webhook-Event": "verification.completed",
        "Authorization": "Bearer x",
        "Cookie": "a=b",
    }
    before = datetime.now(UTC) - timedelta(milliseconds=1)
    answer = ingress.post(body, headers=headers)
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "application/json"
    entry = next(entry for entry in inbox(valkey) if entry.body == body)
    assert answer.json() == {"id": str(entry.id)}
    assert uuid.UUID(answer.json()["id"]).version == 7
    assert (entry.provider, entry.tenant, entry.secret_label) == ("moveris", "acme", "first")
    assert before <= entry.received_at <= datetime.now(UTC)
    kept = dict(entry.headers)
    assert kept[b"x-webhook-event"] == b"verification.completed"
    assert not {b"authorization", b"cookie", b"x-webhook-signature"} & set(kept)


def test_an_acknowledged_event_rings_the_doorbell_once(ingress: Process, valkey: str) -> None:
    with redis.Redis.from_url(valkey) as client:
        client.delete(INGEST_QUEUE, "inbox:bell")
        for number in range(20):
            assert ingress.post(b"%d" % number).status_code == 200
        assert 1 <= int(client.llen(INGEST_QUEUE)) <= 4, "never more than two for each drain slot"


def test_the_published_vector_of_the_scheme_is_accepted(ingress: Process) -> None:
    signature = "sha256=757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17"
    assert ingress.post(b"Hello, World!", headers={"X-Webhook-Signature": signature}).status_code == 200


def test_an_empty_signed_body_is_acknowledged(ingress: Process) -> None:
    assert ingress.post(b"").status_code == 200


def test_the_longest_allowed_body_is_acknowledged(ingress: Process, valkey: str) -> None:
    body = (bytes(range(256)) * MAX_BODY)[:MAX_BODY]
    assert ingress.post(body).status_code == 200
    assert body in [entry.body for entry in inbox(valkey)]


def test_a_chunked_body_is_acknowledged(ingress: Process) -> None:
    parts = [b"a" * 1000, b"b" * 1000]
    headers = moveris.sign(SECRET, b"".join(parts))
    assert httpx.post(ingress.url + PATH, content=iter(parts), headers=headers).status_code == 200


def test_no_signature_is_401(ingress: Process) -> None:
    answer = ingress.post(b"{}", headers={})
    assert (answer.status_code, code_of(answer)) == (401, "missing_signature")


@pytest.mark.parametrize(
    "headers",
    [
        "x-webhook-signature: sha256=" + "0" * 64,
        "x-webhook-signature: SHA256=" + "A" * 64,
        "x-webhook-signature: sha1=" + "0" * 40,
        "x-webhook-signature: \xff\xfe\x80",
        "x-webhook-signature: sha256=\xfc",
        f"{HEADER}: {moveris.sign(SECRET, b'{}')[HEADER].upper()}",
        "\r\n".join([f"{HEADER}: {moveris.sign(SECRET, b'{}')[HEADER]}"] * 2),
        "x-webhook-signature: " + "x" * 8000,
    ],
)
def test_a_wrong_signature_is_401_whatever_its_bytes_are(ingress: Process, headers: str) -> None:
    head = f"POST {PATH} HTTP/1.1\r\nhost: test\r\nconnection: close\r\n{headers}\r\ncontent-length: 2\r\n\r\n"
    assert ending(ingress.talk(head.encode("latin-1") + b"{}")) == (401, "invalid_signature")


def test_a_body_changed_on_its_way_is_401(ingress: Process) -> None:
    answer = ingress.post(b'{"a": 1}', headers=moveris.sign(SECRET, b'{"a":1}'))
    assert (answer.status_code, code_of(answer)) == (401, "invalid_signature")


@pytest.mark.parametrize(
    "path",
    [
        "/webhooks/moveris/nobody",
        "/webhooks/other/acme",
        "/webhooks/moveris/shut",
        "/webhooks/moveris/acme/",
        "/webhooks/moveris",
        "/webhooks//",
        "/webhooks/version",
        "/webhooks/moveris%2facme/x",
        "/webhooks/%ff%fe/%00",
        "/",
        "/metrics",
        "/livez/",
    ],
)
def test_an_unknown_endpoint_is_404(ingress: Process, path: str) -> None:
    answer = ingress.post(path=path)
    assert (answer.status_code, code_of(answer)) == (404, "unknown_endpoint")


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "PATCH", "OPTIONS", "HEAD"])
def test_any_other_method_is_405(ingress: Process, method: str) -> None:
    answer = httpx.request(method, ingress.url + PATH)
    assert (answer.status_code, answer.headers["allow"]) == (405, "POST")
    assert method == "HEAD" or code_of(answer) == "method_not_allowed"


@pytest.mark.parametrize("path", [PATH, "/webhooks/moveris/nobody"])
def test_a_slow_body_is_answered_and_the_connection_closed(ingress: Process, path: str) -> None:
    head = request(b"x" * 100, path=path)[:-50]
    expected = (408, "body_timeout") if path == PATH else (404, "unknown_endpoint")
    assert ending(ingress.talk(head)) == expected


def test_a_body_over_the_cap_is_413(ingress: Process) -> None:
    answer = ingress.post(b"x" * (MAX_BODY + 1))
    assert (answer.status_code, code_of(answer)) == (413, "body_too_large")


def test_a_chunked_body_over_the_cap_is_413(ingress: Process) -> None:
    answer = httpx.post(ingress.url + PATH, content=iter([b"x" * 10_000] * 50), headers={"X-Webhook-Signature": "x"})
    assert (answer.status_code, code_of(answer)) == (413, "body_too_large")


def test_an_endless_body_is_413_and_cut_off(ingress: Process) -> None:
    with ingress.connect() as connection:
        connection.sendall(f"POST {PATH} HTTP/1.1\r\nhost: test\r\ntransfer-encoding: chunked\r\n\r\n".encode())
        endless = (b"10000\r\n" + b"x" * 0x10000 + b"\r\n") * 1000
        with pytest.raises((BrokenPipeError, ConnectionResetError)):
            connection.sendall(endless)


def test_a_client_that_announces_too_much_is_told_so_before_it_sends(ingress: Process) -> None:
    with ingress.connect() as connection:
        head = f"POST {PATH} HTTP/1.1\r\nhost: test\r\nexpect: 100-continue\r\ncontent-length: 999999999\r\n\r\n"
        connection.sendall(head.encode())
        assert ending(until_closed(connection)) == (413, "body_too_large")


def test_a_client_that_leaves_in_the_middle_stores_nothing(ingress: Process, valkey: str) -> None:
    whole = request(b"left in the middle")
    with ingress.connect() as connection:
        connection.sendall(whole[:-3])
    assert ingress.post(b"another").status_code == 200
    assert not [entry for entry in inbox(valkey) if entry.body.startswith(b"left")]


def test_pipelined_requests_are_answered_in_order(ingress: Process) -> None:
    several = request(b"1") + request(b"2", secret=b"wrong") + request(b"3", extra="connection: close\r\n")
    answers = ingress.talk(several).split(b"HTTP/1.1 ")[1:]
    assert [answer[:3] for answer in answers] == [b"200", b"401", b"200"]


def test_what_is_no_http_is_400_in_our_form(ingress: Process) -> None:
    assert ending(ingress.talk(b"\x16\x03\x01\x02\x00\x01\r\n\r\n")) == (400, "malformed_request")


def test_a_contradicting_length_is_400(ingress: Process) -> None:
    head = f"POST {PATH} HTTP/1.1\r\nhost: test\r\ncontent-length: 5\r\ncontent-length: 6\r\n\r\nhello!"
    assert ending(ingress.talk(head.encode())) == (400, "malformed_request")


def test_health_is_json(ingress: Process) -> None:
    assert httpx.get(ingress.url + "/livez").json() == {"status": "alive"}
    assert httpx.get(ingress.url + "/readyz").json() == {"status": "ready", "registry_version": "1"}
    answer = httpx.post(ingress.url + "/livez")
    assert (answer.status_code, code_of(answer)) == (405, "method_not_allowed")
