"""A scheme that is wrong is refused when it is read, by a line that says what."""

from __future__ import annotations

import base64
from contextlib import suppress
from typing import Any, Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingress.schemes import DECLARED, PRESETS, compose, find
from ingress.schemes.declared import KEYS
from ingress.schemes.scheme import BadSchemeError, BadSignature, Handshake, WrongSecretError

GOOD: Final = {"header": "X-Signature", "algorithm": "hmac-sha256"}
BOTH: Final = {"ed25519_prefix": "v1a,", "prefix": "v1,", "separator": " ", "key": "whsec"}
BORDERLESS: Final = {"content": "{id}{timestamp}{body}", "id": "X-Id", "timestamp": "X-Time"}


@pytest.mark.parametrize(
    ("description", "line"),
    [
        ({}, 'header is missing: the header that carries the signature, such as "X-Signature"'),
        ({"header": "X-Signature"}, "algorithm is missing: one of hmac-sha256, hmac-sha512, hmac-sha1, ed25519"),
        (GOOD | {"algoritm": "x"}, "unknown key 'algoritm': did you mean algorithm?"),
        (GOOD | {"zzz": 1}, "unknown key 'zzz': there are header, algorithm, encoding"),
        (GOOD | {"header": "X Signature"}, "header: a header's name or a list of names is expected, not 'X Signature'"),
        (GOOD | {"header": []}, "header: a header's name or a list of names is expected, not []"),
        (GOOD | {"header": 3}, "header: a header's name or a list of names is expected, not 3"),
        (GOOD | {"algorithm": "md5"}, "algorithm: 'md5' is none of hmac-sha256"),
        (GOOD | {"algorithm": ["hmac-sha256"]}, "algorithm: ['hmac-sha256'] is none of hmac-sha256"),
        (GOOD | {"encoding": "base32"}, "encoding: 'base32' is none of hex, hex-upper, base64"),
        (GOOD | {"handshake": "hello"}, "handshake: 'hello' is none of url_verification, hub.challenge"),
        (GOOD | {"tolerance": "300"}, "tolerance: whole seconds from 1 to 86400 are expected, not '300'"),
        (GOOD | {"tolerance": True}, "tolerance: whole seconds"),
        (GOOD | {"tolerance": 0}, "tolerance: whole seconds"),
        (GOOD | {"prefix": 1}, "prefix: a text of ASCII characters is expected, not 1"),
        (GOOD | {"prefix": "ü"}, "prefix: a text of ASCII characters is expected, not 'ü'"),
        (GOOD | {"content": "{boby}"}, "content: unknown placeholder {boby}; there are {body}, {timestamp}, {id}"),
        (GOOD | {"content": "{body!r}"}, "content: unknown placeholder {body!r}"),
        (GOOD | {"content": "{body:x}"}, "content: unknown placeholder {body:x}"),
        (GOOD | {"content": "{}{body}"}, "content: unknown placeholder {}"),
        (GOOD | {"content": "{header:}{body}"}, "content: unknown placeholder {header}"),
        (GOOD | {"content": "{header:a b}.{body}"}, "content: unknown placeholder {header:a b}"),
        (GOOD | {"content": "{body"}, "content: '{body' cannot be read: expected '}' before end of string"),
        (GOOD | {"content": "{timestamp}"}, "content: '{timestamp}' must hold {body} once"),
        (GOOD | {"content": "{body}{body}"}, "content: '{body}{body}' must hold {body} once"),
        (GOOD | {"content": "{id}.{id}.{body}", "id": "X-Id"}, "holds {id} twice"),
        (GOOD | {"content": "{id}{body}", "id": "X-Id"}, "must have a fixed text between {id} and {body}"),
        (GOOD | BORDERLESS, "and one signature for several events; only a time in iso8601 needs none there"),
        (GOOD | BORDERLESS | {"timestamp_unit": "ms"}, "must have a fixed text between {id} and {timestamp}"),
        (
            GOOD | BORDERLESS | {"content": "{timestamp}{id}.{body}", "timestamp_unit": "iso8601"},
            "must have a fixed text between {timestamp} and {id}",
        ),
        (GOOD | {"content": "{header:X-A}{body}"}, "must have a fixed text between {header:x-a} and {body}"),
        (GOOD | {"content": "{body}{header:X-A}"}, "must have a fixed text between {body} and {header:x-a}"),
        (GOOD | {"content": "{url}.{body}"}, "content: {url} needs the key url: the URL exactly as it is registered"),
        (GOOD | {"content": "{timestamp}.{body}"}, "content holds {timestamp}: give timestamp (a header) or"),
        (GOOD | {"content": "{id}.{body}"}, "content holds {id}: give id, the header that carries it"),
        (GOOD | {"timestamp": "X-Time"}, "a timestamp is given, but content has no {timestamp}"),
        (GOOD | {"id": "X-Id"}, "an id is given, but content has no {id}: an id that is not signed is no identity"),
        (GOOD | {"timestamp_field": "t="}, "timestamp_field is an item of the signature header: give the separator"),
        (
            GOOD | {"timestamp_field": "t=", "separator": ",", "content": "{timestamp}{body}"},
            "prefix and timestamp_field must tell signatures and the time apart",
        ),
        (GOOD | {"timestamp": "T", "timestamp_field": "t=", "separator": ","}, "two sources of one time"),
        (GOOD | {"algorithm": "ed25519"}, "key: an Ed25519 public key is hex, base64 or whsec"),
        (GOOD | {"ed25519_prefix": "v1a,"}, "ed25519_prefix is for an HMAC scheme with a separator"),
        (GOOD | BOTH | {"key": "hex"}, "ed25519_prefix is for an HMAC scheme with a separator"),
        (GOOD | BOTH | {"separator": ""}, "ed25519_prefix is for an HMAC scheme with a separator"),
        (GOOD | BOTH | {"algorithm": "ed25519"}, "ed25519_prefix is for an HMAC scheme with a separator"),
        ({"preset": "githup"}, "preset: 'githup' is none of github, hmac, meta"),
        ({"preset": "none"}, "preset: 'none' is none of github"),
    ],
)
def test_a_wrong_description_is_refused_with_a_line_that_says_what(description: dict[str, Any], line: str) -> None:
    with pytest.raises(BadSchemeError) as caught:
        compose(description)
    assert str(caught.value).startswith(line) or line in str(caught.value)
    assert "\n" not in str(caught.value)
    with pytest.raises(BadSchemeError):
        find(description)


@pytest.mark.parametrize(("name", "longest"), [("prefix", "p" * 2000), ("tolerance", 86_400), ("tolerance", 1)])
def test_a_value_may_be_as_large_as_its_bound_and_no_larger(name: str, longest: Any) -> None:
    timed = GOOD | {"content": "{timestamp}.{body}", "timestamp": "X-Time"}
    assert getattr(compose(timed | {name: longest}).description, name) == longest
    beyond = longest + "p" if isinstance(longest, str) else longest + 1 if longest > 1 else 0
    with pytest.raises(BadSchemeError, match=f"{name}: "):
        compose(timed | {name: beyond})


VALUES: Final = (
    st.none() | st.booleans() | st.integers() | st.text(max_size=20) | st.lists(st.text(max_size=5), max_size=3)
)


@given(
    st.dictionaries(
        st.sampled_from([*KEYS, "preset"]) | st.text(max_size=10),
        VALUES | st.sampled_from(["X-A", "hmac-sha256", "hex", "{body}", "{id}.{timestamp}.{body}", "github", "raw"]),
    )
)
def test_any_description_whatever_is_a_scheme_or_a_line(description: dict[str, Any]) -> None:
    with suppress(BadSchemeError):
        assert compose(description).verify(keys=[], headers=[], body=b"", now=0) is BadSignature.MISSING


@pytest.mark.parametrize("name", DECLARED)
def test_a_description_may_start_from_a_preset_and_change_some_of_it(name: str) -> None:
    it = compose({"preset": name, "header": "X-Other"}).description
    assert it.header == ("X-Other",)
    preset = compose({"preset": name}).description
    assert (it.content, it.encoding, it.key) == (preset.content, preset.encoding, preset.key)


def test_slack_and_meta_ask_before_they_send() -> None:
    asking = {name: it.handshake for name, it in PRESETS.items() if it.handshake is not Handshake.NONE}
    assert asking == {"slack": Handshake.URL_VERIFICATION, "meta": Handshake.HUB_CHALLENGE}


@pytest.mark.parametrize(
    ("name", "text", "line"),
    [
        ("github", b"", "the secret is empty"),
        ("moveris", b"", "the secret is empty"),
        ("standard-webhooks", b"whsec_", "the secret is empty"),
        ("standard-webhooks", b"whsec_a!b", "the secret is not base64"),
        ("standard-webhooks", b"whsk_c2VjcmV0", r"the provider's public key \(whpk_\) is expected"),
        ("standard-webhooks", b"whpk_c2VjcmV0", "an Ed25519 public key has 32 bytes, this one has 6"),
        ("none", b"secret", "the token of the path needs 32 to 200 letters"),
        ("none", b"a/" * 20, "the token of the path needs 32 to 200 letters"),
    ],
)
def test_a_secret_of_the_wrong_form_is_refused_and_not_shown(name: str, text: bytes, line: str) -> None:
    with pytest.raises(WrongSecretError, match=line) as caught:
        PRESETS[name].read_key(label="a", text=text)
    assert not text or text.decode() not in str(caught.value)


@pytest.mark.parametrize(
    ("key", "text", "line"),
    [
        ("hex", b"0g", r"the secret is not hexadecimal digits \(character 2 of 2 is something else\)"),
        ("hex", b"abc", r"the secret is not hexadecimal digits \(a part is missing\)"),
        ("base64", b"\xff", "the secret is not base64"),
        ("base64", b"a b", r"the secret is not base64 \(character 2 of 3 is something else\)"),
        ("base64", b"abcde", r"the secret is not base64 \(a part is missing\)"),
    ],
)
def test_a_secret_that_is_not_of_the_described_form_is_refused(key: str, text: bytes, line: str) -> None:
    with pytest.raises(WrongSecretError, match=line):
        compose(GOOD | {"key": key}).read_key(label="a", text=text)


@pytest.mark.parametrize(
    ("key", "text"), [("hex", b"736543"), ("base64", b"c2VD"), ("whsec", b"whsec_c2VD"), ("raw", b"seC")]
)
def test_secrets_are_brought_into_their_form(key: str, text: bytes) -> None:
    assert compose(GOOD | {"key": key}).read_key(label="a", text=text).secret == b"seC"


def test_a_secret_is_read_as_supabase_shows_it() -> None:
    scheme = PRESETS["standard-webhooks"]
    assert scheme.read_key(label="a", text=b"v1,whsec_c2VD").secret == b"seC"
    public = b"v1a,whpk_1SiA4o9hyqTCpIqC5V9HUakiiaeACeqfZTInDBbOir4="
    assert scheme.read_key(label="a", text=public).public_key is not None
    with pytest.raises(WrongSecretError, match="not base64"):
        scheme.read_key(label="a", text=b"v2,whsec_c2VD")
    assert PRESETS["stripe"].read_key(label="a", text=b"v1,whsec_c2VD").secret == b"v1,whsec_c2VD"


def test_a_preset_whose_secret_is_the_text_itself_needs_no_field_that_the_file_does_not_hold() -> None:
    scheme = compose({"preset": "standard-webhooks", "key": "raw"})
    assert scheme.read_key(label="a", text=b"whsec_c2VD").secret == b"whsec_c2VD"
    assert compose({"preset": "standard-webhooks", "tolerance": 60}).description.ed25519_prefix == "v1a,"
    assert compose({"preset": "standard-webhooks", "key": "whsec"}).description.ed25519_prefix == "v1a,"
    assert compose({"preset": "stripe", "content": "{body}", "timestamp_field": ""}).description.content == "{body}"
    assert compose({"preset": "slack", "content": "{body}", "timestamp": ""}).description.timestamp == ()
    with pytest.raises(BadSchemeError, match=r"the preset slack adds .*timestamp = 'X-Slack-Request-Timestamp'"):
        compose({"preset": "slack", "content": "{body}"})


def test_base64_without_its_padding_is_understood() -> None:
    assert compose(GOOD | {"key": "whsec"}).read_key(label="a", text=b"whsec_c2VjcmV0MQ").secret == b"secret1"


def test_a_public_key_cannot_sign() -> None:
    public = b"whpk_1SiA4o9hyqTCpIqC5V9HUakiiaeACeqfZTInDBbOir4="
    with pytest.raises(WrongSecretError, match="only the provider's private one"):
        PRESETS["standard-webhooks"].sign(public, b"", now=0, event_id="a")


@pytest.mark.parametrize("size", [0, 31, 33, 63, 65])
def test_a_private_key_of_another_length_cannot_sign(size: int) -> None:
    text = b"whsk_" + base64.b64encode(b"k" * size)
    with pytest.raises(WrongSecretError, match="an Ed25519 private key has 32 or 64 bytes"):
        PRESETS["standard-webhooks"].sign(text, b"", now=1, event_id="a")


def test_a_private_key_signs_with_and_without_its_public_half() -> None:
    scheme = PRESETS["standard-webhooks"]
    seed = b"k" * 32
    made = [
        scheme.sign(b"whsk_" + base64.b64encode(key), b"{}", now=1, event_id="a") for key in (seed, seed + b"p" * 32)
    ]
    assert made[0] == made[1]
