"""Slack: the example in its documentation, and its Python library as sender and as receiver."""

from __future__ import annotations

from typing import Final

import pytest
from slack_sdk.signature import Clock, SignatureVerifier

from ingress.schemes import find
from ingress.schemes.scheme import BadSignature, Key

slack = find("slack")

NOW: Final = 1_531_420_618
SECRET: Final = "8f742231b10e8888abcd99yyyzzz85a5"
BODY: Final = (
    b"token=xyzz0WbapA4vBCDEFasx0q6G&team_id=T1DC2JH3J&team_domain=testteamnow&channel_id=G8PSS9T3V"
    b"&channel_name=foobar&user_id=U2CERLKJA&user_name=roadrunner&command=%2Fwebhook-collect&text="
    b"&response_url=https%3A%2F%2Fhooks.slack.com%2Fcommands%2FT1DC2JH3J%2F397700885554%2F96rGlfmibIGlgcZRskXaIFfN"
    b"&trigger_id=398738663015.47445629121.803a0bc887a14d10d2c447fce8b6703c"
)
PUBLISHED: Final = "v0=a2114d57b48eac39b9ad189dd8316235a7b4a8d21a10bd27519666489c69b503"
KEY: Final = Key(label="a", secret=SECRET.encode())


class Then(Clock):
    def now(self) -> float:
        return NOW


def verify(signature: str, body: bytes = BODY, *, timestamp: int = NOW, now: float = NOW) -> Key | BadSignature:
    headers = [(b"x-slack-request-timestamp", str(timestamp).encode()), (b"x-slack-signature", signature.encode())]
    return slack.verify(keys=[KEY], headers=headers, body=body, now=now)


def test_the_published_example_verifies() -> None:
    assert verify(PUBLISHED) is KEY
    assert slack.sign(SECRET.encode(), BODY, now=NOW, event_id="") == {
        "X-Slack-Request-Timestamp": str(NOW),
        "X-Slack-Signature": PUBLISHED,
    }


@pytest.mark.parametrize("body", [b"{}", BODY, '{"text": "Zoë"}'.encode(), b""])
def test_what_slacks_library_signs_verifies(body: bytes) -> None:
    made = SignatureVerifier(SECRET).generate_signature(timestamp=str(NOW), body=body)
    assert made is not None
    assert verify(made, body, now=NOW + 300) is KEY
    assert verify(made, body, now=NOW + 301) is BadSignature.STALE
    assert verify(made, body, now=NOW - 301) is BadSignature.STALE
    assert verify(made, body, timestamp=NOW + 1) is BadSignature.INVALID


def test_slacks_library_verifies_what_we_sign() -> None:
    headers = slack.sign(SECRET.encode(), BODY, now=NOW, event_id="")
    assert SignatureVerifier(SECRET, Then()).is_valid_request(BODY, headers)
