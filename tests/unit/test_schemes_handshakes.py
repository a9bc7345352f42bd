"""Questions that providers ask before they send."""

from __future__ import annotations

import json
from urllib.parse import urlencode

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingress.schemes import unsigned
from ingress.schemes.handshakes import answer_hub_challenge, answer_url_verification, verify_token
from ingress.schemes.scheme import BadSignature, Key

KEYS = [Key(label="a", secret=b"app secret"), Key(label="b", secret=b"other")]
TOKEN = "a" * 32


def test_slacks_published_example_is_answered_with_its_challenge() -> None:
    body = {
        "token": "Jhj5dZrVaK7ZwHHjRyZWjbDl",
        "challenge": "3eZbrw1aBm2rZgRNFdxV2595E9CY3gmdALWMmHkvFXO7tYXAYM8P",
        "type": "url_verification",
    }
    assert answer_url_verification(json.dumps(body).encode()) == body["challenge"].encode()


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"url_verification",
        b'{"type": "event_callback", "challenge": "url_verification"}',
        b'{"type": "url_verification"}',
        b'{"type": "url_verification", "challenge": ""}',
        b'{"type": "url_verification", "challenge": 3}',
        b'{"type": "url_verification", "challenge": "a\\nb"}',
        '{"type": "url_verification", "challenge": "ü"}'.encode(),
        b'{"type": "url_verification", "challenge": "' + b"x" * 1001 + b'"}',
        b'["url_verification"]',
        b"[" * 4000 + b"url_verification",
        b'{"type": "url_verification", "challenge": "x"}' + b" " * 4096,
        b'\xff{"type": "url_verification", "challenge": "x"}',
    ],
)
def test_anything_else_is_no_question(body: bytes) -> None:
    assert answer_url_verification(body) is None


@given(st.binary())
def test_no_body_whatever_raises(body: bytes) -> None:
    assert answer_url_verification(body + b"url_verification") is None


def query(**fields: str) -> bytes:
    return urlencode({f"hub.{name}": value for name, value in fields.items()}).encode()


@pytest.mark.parametrize("key", KEYS)
def test_the_hubs_challenge_is_given_back_to_who_knows_the_verify_token(key: Key) -> None:
    asked = query(mode="subscribe", challenge="1158201444", verify_token=verify_token(key.secret))
    assert answer_hub_challenge(asked, KEYS) == b"1158201444"


@pytest.mark.parametrize(
    "asked",
    [
        b"",
        b"\xff",
        b"&" * 1000,
        query(mode="subscribe", challenge="1"),
        query(mode="subscribe", challenge="1", verify_token=""),
        query(mode="subscribe", challenge="1", verify_token="meatyhamhock"),
        query(mode="unsubscribe", challenge="1", verify_token=verify_token(b"app secret")),
        query(mode="subscribe", challenge="<b>\r\n", verify_token=verify_token(b"app secret")),
        query(mode="subscribe", verify_token=verify_token(b"app secret")),
    ],
)
def test_any_other_question_is_not_answered(asked: bytes) -> None:
    assert answer_hub_challenge(asked, KEYS) is None


@given(st.binary())
def test_no_query_whatever_raises(asked: bytes) -> None:
    assert answer_hub_challenge(asked, KEYS) is None


def test_a_verify_token_is_neither_the_secret_nor_a_signature() -> None:
    token = verify_token(b"app secret")
    assert len(token) == 32
    assert token != verify_token(b"other")


def test_the_token_of_an_unsigned_endpoint_opens_its_path_only() -> None:
    keys = [unsigned.SCHEME.read_key(label=it[:1], text=it.encode()) for it in ("b" * 32, TOKEN)]
    found = unsigned.find_token(keys, TOKEN)
    assert found is keys[1]
    assert unsigned.find_token(keys, TOKEN[:-1]) is None
    assert unsigned.find_token(keys, "") is None
    assert unsigned.find_token(keys, "\ud800") is None
    assert unsigned.find_token([], TOKEN) is None
    assert unsigned.SCHEME.sign(b"b" * 32, b"{}", now=0, event_id="") == {}
    assert unsigned.SCHEME.verify(keys=keys, headers=[], body=b"", now=0) is BadSignature.NO_PATH
    assert unsigned.OPENED.verify(keys=[keys[1]], headers=[], body=b"", now=0) is keys[1]
    assert unsigned.OPENED.verify(keys=[], headers=[], body=b"", now=0) is BadSignature.NO_PATH
