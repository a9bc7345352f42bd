"""`hmac.compare_digest` is what compares a signature, in every scheme, and nothing beside it.

Shown by taking its place: where it says no, the right signature is refused; where it says yes, a wrong one is accepted;
and what it is given are the right text and the one received, both whole. How long it takes is measured by
`python -m tests.chaos timing`. Ed25519 compares nothing that is secret: anybody can verify.
"""

from __future__ import annotations

import hmac
from typing import TYPE_CHECKING, Final

import pytest

from ingress.schemes import PRESETS, find, unsigned
from ingress.schemes.handshakes import answer_hub_challenge, verify_token
from ingress.schemes.scheme import BadSignature, Key

if TYPE_CHECKING:
    from ingress.schemes import Scheme

NOW: Final = 1_614_265_330
BODY: Final = b'{"event": "verification.completed"}'
SECRET: Final = b"c2VjcmV0LW9mLXRoZS1lbmRwb2ludA=="
DESCRIBED: Final = {
    "header": "X-Acme-Signature",
    "algorithm": "hmac-sha512",
    "encoding": "base64",
    "prefix": "v1,",
    "content": "{timestamp}.{body}",
    "timestamp": "X-Acme-Timestamp",
}
SCHEMES: Final = {**{name: find(name) for name in sorted(PRESETS) if name != "none"}, "described": find(DESCRIBED)}
EACH: Final = pytest.mark.parametrize("scheme", SCHEMES.values(), ids=SCHEMES)


class Comparison:
    """Stands in for `hmac.compare_digest`: keeps what it is given and says what it is told to."""

    def __init__(self, verdict: bool) -> None:  # noqa: FBT001 - it is the verdict
        self.verdict = verdict
        self.given: list[tuple[bytes, bytes]] = []

    def __call__(self, one: bytes, two: bytes) -> bool:
        self.given.append((one, two))
        return self.verdict


def compare(monkeypatch: pytest.MonkeyPatch, *, verdict: bool) -> Comparison:
    comparison = Comparison(verdict)
    monkeypatch.setattr(hmac, "compare_digest", comparison)
    return comparison


def signed(scheme: Scheme, body: bytes) -> tuple[Key, list[tuple[bytes, bytes]]]:
    """Return the key and the headers under which the provider would send this body."""
    key = scheme.read_key(label="a", text=SECRET)
    headers = scheme.sign(SECRET, body, now=NOW, event_id="msg_1")
    return key, [(name.lower().encode(), value.encode()) for name, value in headers.items()]


@EACH
def test_a_right_signature_is_refused_where_the_comparison_says_no(
    scheme: Scheme, monkeypatch: pytest.MonkeyPatch
) -> None:
    key, headers = signed(scheme, BODY)
    assert scheme.verify(keys=[key], headers=headers, body=BODY, now=NOW) is key
    comparison = compare(monkeypatch, verdict=False)
    assert scheme.verify(keys=[key], headers=headers, body=BODY, now=NOW) is BadSignature.INVALID
    assert len(comparison.given) == 1


@EACH
def test_a_wrong_signature_is_accepted_where_the_comparison_says_yes(
    scheme: Scheme, monkeypatch: pytest.MonkeyPatch
) -> None:
    key, headers = signed(scheme, b"another body")
    _, right = signed(scheme, BODY)
    assert scheme.verify(keys=[key], headers=headers, body=BODY, now=NOW) is BadSignature.INVALID
    comparison = compare(monkeypatch, verdict=True)
    assert scheme.verify(keys=[key], headers=headers, body=BODY, now=NOW) is key
    ((one, two),) = comparison.given
    assert len(one) == len(two)
    assert any(one in value for _, value in right)
    assert any(two in value for _, value in headers)


def test_every_signature_and_every_key_is_compared_in_a_way_that_tells_not_which_one_was_nearer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    scheme = find("standard-webhooks")
    keys = [scheme.read_key(label=label, text=SECRET) for label in "ab"]
    headers = signed(scheme, BODY)[1]
    several = [(n, b" ".join([v] * 3) if n == b"webhook-signature" else v) for n, v in headers]
    comparison = compare(monkeypatch, verdict=False)
    assert scheme.verify(keys=keys, headers=several, body=BODY, now=NOW) is BadSignature.INVALID
    assert len(comparison.given) == 6


def test_tokens_of_paths_and_of_handshakes_are_compared_the_same_way(monkeypatch: pytest.MonkeyPatch) -> None:
    key = Key(label="a", secret=b"t" * 43)
    query = f"hub.mode=subscribe&hub.challenge=1&hub.verify_token={verify_token(key.secret)}".encode()
    assert unsigned.find_token([key], "t" * 43) is key
    assert answer_hub_challenge(query, [key]) == b"1"
    comparison = compare(monkeypatch, verdict=False)
    assert unsigned.find_token([key], "t" * 43) is None
    assert answer_hub_challenge(query, [key]) is None
    assert comparison.given == [(b"t" * 43, b"t" * 43), (verify_token(key.secret).encode(),) * 2]
