"""Properties that hold for every preset and for described schemes, whatever the bytes are."""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING, Any, Final

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st

from ingress.schemes import PRESETS, find
from ingress.schemes.declared import Declared
from ingress.schemes.scheme import BadSignature, Key

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ingress.schemes import Scheme

NOW: Final = 1_614_265_330
DISCORD: Final = {
    "header": "X-Signature-Ed25519",
    "algorithm": "ed25519",
    "encoding": "hex",
    "content": "{timestamp}{body}",
    "timestamp": "X-Signature-Timestamp",
    "key": "hex",
}
SQUARE: Final = {
    "preset": "hmac",
    "header": "X-Square-Hmacsha256-Signature",
    "encoding": "base64",
    "content": "{url}{body}",
    "url": "https://hooks.example.com/webhooks/square/acme",
}
TWITCH: Final = {
    "header": "Twitch-Eventsub-Message-Signature",
    "algorithm": "hmac-sha256",
    "prefix": "sha256=",
    "content": "{id}{timestamp}{body}",
    "id": "Twitch-Eventsub-Message-Id",
    "timestamp": "Twitch-Eventsub-Message-Timestamp",
    "timestamp_unit": "iso8601",
}
ODD: Final = {
    "header": ["X-New", "X-Old"],
    "algorithm": "hmac-sha512",
    "encoding": "base64url",
    "prefix": "s=",
    "separator": ";",
    "content": "{{{header:X-Tenant}}}|{body}|{timestamp}",
    "timestamp_field": "at=",
    "timestamp_unit": "ms",
    "tolerance": 10,
}
SHA1: Final = {"header": "X-Hub-Signature", "algorithm": "hmac-sha1", "encoding": "hex-upper", "prefix": "sha1="}
DESCRIBED: Final[Mapping[str, Mapping[str, Any]]] = {
    "discord": DISCORD,
    "odd": ODD,
    "sha1": SHA1,
    "square": SQUARE,
    "twitch": TWITCH,
}
SIGNING: Final = sorted((set(PRESETS) - {"none"}) | set(DESCRIBED) | {"standard-webhooks v1a"})
EACH: Final = pytest.mark.parametrize("name", SIGNING)


def scheme_of(name: str) -> Scheme:
    return find(DESCRIBED.get(name, name.removesuffix(" v1a")))


def secrets_of(name: str, seed: bytes) -> tuple[bytes, bytes]:
    """Return what signs and what the endpoint holds, in the form that the provider shows."""
    private = Ed25519PrivateKey.from_private_bytes(seed.ljust(32, b"\0")[:32])
    public = private.public_key().public_bytes_raw()
    if name == "discord":
        return private.private_bytes_raw().hex().encode(), public.hex().encode()
    if name.endswith("v1a"):
        whole = private.private_bytes_raw() + public
        return b"whsk_" + base64.b64encode(whole), b"whpk_" + base64.b64encode(public)
    if name == "standard-webhooks":
        return (b"whsec_" + base64.b64encode(seed),) * 2
    return seed, seed


def as_asgi(headers: Mapping[str, str]) -> list[tuple[bytes, bytes]]:
    return [(name.lower().encode(), value.encode()) for name, value in headers.items()]


def signed(name: str, seed: bytes, body: bytes, event_id: str) -> tuple[Key, list[tuple[bytes, bytes]]]:
    signing, held = secrets_of(name, seed)
    key = scheme_of(name).read_key(label="a", text=held)
    return key, as_asgi(scheme_of(name).sign(signing, body, now=NOW, event_id=event_id))


EXAMPLES: Final = settings(max_examples=40, deadline=None)  # 14 schemes each, on busy machines
SEEDS: Final = st.binary(min_size=1, max_size=200)
IDS: Final = st.text("abcXYZ019_-", min_size=1, max_size=40)


@EACH
@EXAMPLES
@given(seed=SEEDS, body=st.binary(max_size=2000), event_id=IDS, off=st.floats(-9, 9))
def test_what_is_signed_verifies(name: str, seed: bytes, body: bytes, event_id: str, off: float) -> None:
    key, headers = signed(name, seed, body, event_id)
    assert scheme_of(name).verify(keys=[key], headers=headers, body=body, now=NOW + off) is key


@EACH
@EXAMPLES
@given(seed=SEEDS, body=st.binary(min_size=1, max_size=200), event_id=IDS, data=st.data())
def test_any_single_changed_byte_is_refused(
    name: str, seed: bytes, body: bytes, event_id: str, data: st.DataObject
) -> None:
    key, headers = signed(name, seed, body, event_id)
    texts = [body, *(value for _, value in headers)]
    which = data.draw(st.integers(0, len(texts) - 1), label="body or header")
    where = data.draw(st.integers(0, len(texts[which]) - 1), label="byte")
    changed = bytearray(texts[which])
    changed[where] ^= data.draw(st.integers(1, 255), label="change")
    texts[which] = bytes(changed)
    new_headers = [(header, value) for (header, _), value in zip(headers, texts[1:], strict=True)]
    assert isinstance(scheme_of(name).verify(keys=[key], headers=new_headers, body=texts[0], now=NOW), BadSignature)


@EACH
@EXAMPLES
@given(seed=SEEDS, body=st.binary(max_size=50), event_id=IDS, data=st.data())
def test_a_byte_more_or_less_is_refused(
    name: str, seed: bytes, body: bytes, event_id: str, data: st.DataObject
) -> None:
    key, headers = signed(name, seed, body, event_id)
    texts = [body, *(value for _, value in headers)]
    which = data.draw(st.integers(0, len(texts) - 1), label="body or header")
    where = data.draw(st.integers(0, len(texts[which])), label="byte")
    if data.draw(st.booleans(), label="one less") and where < len(texts[which]):
        texts[which] = texts[which][:where] + texts[which][where + 1 :]
    else:
        texts[which] = texts[which][:where] + data.draw(st.binary(min_size=1, max_size=1)) + texts[which][where:]
    new_headers = [(header, value) for (header, _), value in zip(headers, texts[1:], strict=True)]
    verdict = scheme_of(name).verify(keys=[key], headers=new_headers, body=texts[0], now=NOW)
    if [body, *(value for _, value in headers)] != texts:
        assert isinstance(verdict, BadSignature)


def names_of(scheme: Scheme) -> Sequence[bytes]:
    if not isinstance(scheme, Declared):
        return (b"x-webhook-signature",)
    it = scheme.description
    return tuple(name.lower().encode() for name in (*it.header, *it.timestamp, *it.id, "x-tenant"))


@EACH
@EXAMPLES
@given(data=st.data(), body=st.binary(max_size=100))
def test_no_input_whatever_raises_or_verifies(name: str, data: st.DataObject, body: bytes) -> None:
    scheme = scheme_of(name)
    like_one = st.from_regex(
        rb"(t=|at=|v1=|v1,|v1a,|v0=|sha256=|s=|[,; ]|[0-9]{1,25}|[0-9a-f]{64}|[A-Za-z0-9+/_=-]{44,90}){1,8}",
        fullmatch=True,
    )
    values = st.binary(max_size=100) | like_one | st.sampled_from([b"", str(NOW).encode(), "²".encode(), b"9" * 30])
    headers = data.draw(
        st.lists(st.tuples(st.sampled_from(names_of(scheme)) | st.binary(max_size=9), values), max_size=6)
    )
    keys = [
        scheme.read_key(label=label, text=secrets_of(name, label.encode() * 20)[1]) for label in ("first", "second")
    ]
    assert isinstance(scheme.verify(keys=keys, headers=headers, body=body, now=NOW), BadSignature)
    assert isinstance(scheme.verify(keys=[], headers=headers, body=body, now=NOW), BadSignature)


@EACH
def test_any_of_several_secrets_may_sign_and_is_named(name: str) -> None:
    keys = [signed(name, bytes([n]) * 32, b"x", "id")[0] for n in range(3)]
    for n, key in enumerate(keys):
        headers = signed(name, bytes([n]) * 32, b"x", "id")[1]
        assert scheme_of(name).verify(keys=keys, headers=headers, body=b"x", now=NOW) is key


@EACH
def test_a_header_of_the_scheme_that_comes_twice_is_refused(name: str) -> None:
    key, headers = signed(name, b"k" * 32, b"x", "id")
    for header in headers:
        verdict = scheme_of(name).verify(keys=[key], headers=[*headers, header], body=b"x", now=NOW)
        assert verdict is BadSignature.INVALID


@EACH
def test_without_its_signature_header_a_request_is_missing_one(name: str) -> None:
    key, _ = signed(name, b"k" * 32, b"x", "id")
    assert scheme_of(name).verify(keys=[key], headers=[(b"host", b"a")], body=b"x", now=NOW) is BadSignature.MISSING
    nothing = [(names_of(scheme_of(name))[0], b"")]
    assert scheme_of(name).verify(keys=[key], headers=nothing, body=b"x", now=NOW) is BadSignature.MISSING


TIMED: Final = {"slack": 300, "stripe": 300, "standard-webhooks": 300, "standard-webhooks v1a": 300} | {
    "discord": 300,
    "odd": 10,
    "twitch": 300,
}


@pytest.mark.parametrize(("name", "tolerance"), TIMED.items())
@EXAMPLES
@given(beyond=st.floats(0.01, 1e9))
def test_a_signed_time_out_of_tolerance_is_stale_in_both_directions(name: str, tolerance: int, beyond: float) -> None:
    key, headers = signed(name, b"k" * 32, b"{}", "id")
    scheme = scheme_of(name)
    assert scheme.verify(keys=[key], headers=headers, body=b"{}", now=NOW + tolerance) is key
    assert scheme.verify(keys=[key], headers=headers, body=b"{}", now=NOW - tolerance) is key
    assert scheme.verify(keys=[key], headers=headers, body=b"{}", now=NOW + tolerance + beyond) is BadSignature.STALE
    assert scheme.verify(keys=[key], headers=headers, body=b"{}", now=NOW - tolerance - beyond) is BadSignature.STALE


@pytest.mark.parametrize("name", TIMED)
def test_a_wrong_signature_is_invalid_however_stale_it_is(name: str) -> None:
    key, headers = signed(name, b"k" * 32, b"{}", "id")
    assert scheme_of(name).verify(keys=[key], headers=headers, body=b"{ }", now=NOW + 1e6) is BadSignature.INVALID


@pytest.mark.parametrize("name", sorted(set(SIGNING) - set(TIMED)))
def test_schemes_without_a_signed_time_do_not_look_at_the_clock(name: str) -> None:
    key, headers = signed(name, b"k" * 32, b"{}", "id")
    assert scheme_of(name).verify(keys=[key], headers=headers, body=b"{}", now=0) is key


def test_bytes_cannot_move_from_one_signed_part_into_the_next() -> None:
    scheme, secret = find("standard-webhooks"), b"whsec_c2VjcmV0"
    key = scheme.read_key(label="a", text=secret)
    body = f"{NOW}.{{}}".encode()
    headers = dict(as_asgi(scheme.sign(secret, body, now=NOW, event_id="msg")))
    moved = headers | {b"webhook-id": f"msg.{NOW}".encode()}
    assert scheme.verify(keys=[key], headers=list(moved.items()), body=b"{}", now=NOW) is BadSignature.INVALID


def test_an_id_that_holds_what_sets_it_apart_cannot_be_signed() -> None:
    with pytest.raises(ValueError, match=r"the id 'a\.b' holds a text that separates it"):
        find("standard-webhooks").sign(b"whsec_c2VjcmV0", b"{}", now=NOW, event_id="a.b")


def test_more_signatures_than_any_provider_sends_are_refused() -> None:
    scheme, key = find("stripe"), Key(label="a", secret=b"s")
    ((name, value),) = as_asgi(scheme.sign(b"s", b"x", now=NOW, event_id=""))
    few, many = value + b",v1=00" * 7, value + b",v1=00" * 8
    assert scheme.verify(keys=[key], headers=[(name, few)], body=b"x", now=NOW) is key
    assert scheme.verify(keys=[key], headers=[(name, many)], body=b"x", now=NOW) is BadSignature.INVALID


@pytest.mark.parametrize(("shared", "public", "is_taken"), [(0, 8, True), (7, 1, True), (0, 9, False), (4, 5, False)])
def test_signatures_of_both_kinds_are_counted_together(shared: int, public: int, is_taken: bool) -> None:  # noqa: FBT001
    key, headers = signed("standard-webhooks v1a", b"k", b"x", "id")
    as_dict = dict(headers)
    more = [b"v1,AAAA"] * shared + [b"v1a,AAAA"] * (public - 1)
    as_dict[b"webhook-signature"] = b" ".join([*more, as_dict[b"webhook-signature"]])
    verdict = find("standard-webhooks").verify(keys=[key], headers=list(as_dict.items()), body=b"x", now=NOW)
    assert verdict is (key if is_taken else BadSignature.INVALID)


def test_a_second_spelling_of_an_ed25519_signature_is_refused() -> None:
    name = "standard-webhooks v1a"
    key, headers = signed(name, b"k", b"x", "id")
    as_dict = dict(headers)
    text = as_dict[b"webhook-signature"]
    last = text[-3:-2]  # of 64 bytes, the last letter before == has four bits that mean nothing
    alphabet = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
    other = alphabet[alphabet.index(last) ^ 1 :][:1]
    as_dict[b"webhook-signature"] = text[:-3] + other + b"=="
    assert base64.b64decode(text[4:]) == base64.b64decode(as_dict[b"webhook-signature"][4:])
    assert scheme_of(name).verify(keys=[key], headers=list(as_dict.items()), body=b"x", now=NOW) is BadSignature.INVALID
