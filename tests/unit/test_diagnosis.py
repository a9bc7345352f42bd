"""`pipeline verify` names a cause only if the signature fits with it, and shows no secret."""

from __future__ import annotations

import base64
import gzip
import hmac
import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Final

import pytest

from deploy.signatures.captured import EndpointSecret
from deploy.signatures.diagnosis import Diagnosis, diagnose, mask
from ingress.schemes import DECLARED, compose

if TYPE_CHECKING:
    from ingress.schemes.declared import Declared

NOW: Final = 1_700_000_000.0
SECRET: Final = b"It's a Secret to Everybody"
BODY: Final = '{"b": 1,\n "a": "Zoë"}'.encode()
GITHUB: Final = DECLARED["github"]
STRIPE: Final = DECLARED["stripe"]
STANDARD: Final = DECLARED["standard-webhooks"]


def signature(body: bytes, secret: bytes = SECRET, digest: str = "sha256") -> str:
    return hmac.digest(secret, body, digest).hex()


def explain(
    scheme: Declared,
    headers: dict[str, str],
    *,
    secret: bytes = SECRET,
    body: bytes = BODY,
    note: str = "",
    now: float = NOW,
) -> Diagnosis:
    sent = [(name.lower().encode(), value.encode()) for name, value in headers.items()]
    found = diagnose(scheme, [EndpointSecret(label="main", text=secret, note=note)], headers=sent, body=body, now=now)
    shown = repr(asdict(found))
    assert secret.decode() not in shown
    assert all(value not in shown for value in headers.values() if len(value) > 40), "signatures are masked"
    return found


def github(made: str, *, body: bytes = BODY) -> str:
    """Return the only cause."""
    (cause,) = explain(GITHUB, {"X-Hub-Signature-256": made}, body=body).causes
    return cause


def test_a_right_signature_is_verified_and_named() -> None:
    found = explain(GITHUB, GITHUB.sign(SECRET, BODY, now=NOW, event_id=""))
    assert (found.code, found.label, found.signed_length, found.causes) == ("verified", "main", len(BODY), ())
    assert found.given.startswith("sha256=")
    assert found.given.endswith("... (71 characters)")
    assert found.given in found.tried[0].expected


@pytest.mark.parametrize(
    ("signed", "cause"),
    [
        (
            json.dumps(json.loads(BODY), separators=(",", ":"), ensure_ascii=False),
            "the body as compact JSON: something",
        ),
        (json.dumps(json.loads(BODY), separators=(",", ":")), "the body as compact JSON with \\u escapes"),
        (json.dumps(json.loads(BODY)), "the body as JSON with a space after , and : and \\u escapes"),
        (json.dumps(json.loads(BODY), indent=2, ensure_ascii=False), "the body as JSON indented by 2"),
        (BODY.decode() + "\n", "the body with a newline at its end: something took it away"),
        (BODY.decode().replace("\n", "\r\n"), "the body with Windows line ends"),
        ("", "an empty body"),
        ("\ufeff" + BODY.decode(), "the body with a byte-order mark"),
    ],
)
def test_a_changed_body_is_found(signed: str, cause: str) -> None:
    assert github("sha256=" + signature(signed.encode())).startswith(f"it fits {cause}")


def test_a_newline_that_an_editor_added_is_found() -> None:
    cause = github("sha256=" + signature(BODY), body=BODY + b"\n")
    assert cause.startswith("it fits the body without the newline at its end: something added one")


def test_a_packed_body_is_found() -> None:
    assert "the body unpacked" in github("sha256=" + signature(BODY), body=gzip.compress(BODY))


@pytest.mark.parametrize(
    ("made", "cause"),
    [
        (signature(BODY), "it fits without the prefix 'sha256=' (secret main)"),
        ("v1=" + signature(BODY), "it fits with the prefix 'v1=', not 'sha256=' (secret main)"),
        ("sha256=" + signature(BODY).upper(), "it fits hex-upper, not hex (secret main)"),
        (
            "sha256=" + base64.b64encode(hmac.digest(SECRET, BODY, "sha256")).decode(),
            "it fits base64, not hex (secret main)",
        ),
        (
            "sha1=" + signature(BODY, digest="sha1"),
            "it fits hmac-sha1, not hmac-sha256, with the prefix 'sha1=', not 'sha256=' (secret",
        ),
        ("sha256=" + signature(BODY, SECRET + b"\n"), "it fits the secret with white space at its end"),
        ("sha256=" + signature(BODY, b'"' + SECRET + b'"'), "it fits the secret in quotes"),
    ],
)
def test_another_spelling_is_found(made: str, cause: str) -> None:
    assert github(made).startswith(cause)


@pytest.mark.parametrize("around", ["\ufeff", "\u00a0", "\u200b"])
def test_a_secret_that_was_stored_with_what_nobody_sees_is_found(around: str) -> None:
    held = around.encode() + SECRET
    (cause,) = explain(GITHUB, {"X-Hub-Signature-256": "sha256=" + signature(BODY)}, secret=held).causes
    assert cause == "it fits the secret without the invisible characters around it: add it again (secret main)"


def test_a_secret_in_the_wrong_form_is_found() -> None:
    raw = b"0123456789abcdef01234567"
    text = b"whsec_" + base64.b64encode(raw)
    sent = {"webhook-id": "msg_1", "webhook-timestamp": str(int(NOW))}
    content = f"msg_1.{int(NOW)}.".encode() + BODY
    made = base64.b64encode(hmac.digest(text, content, "sha256")).decode()
    (cause,) = explain(STANDARD, sent | {"webhook-signature": f"v1,{made}"}, secret=text).causes
    assert cause == 'it fits the secret\'s text as it is (key = "raw") (secret main)'
    scheme = compose({"header": "X-Signature", "algorithm": "hmac-sha256"})
    hexed = raw.hex().encode()
    (cause,) = explain(scheme, {"X-Signature": signature(BODY, raw)}, secret=hexed).causes
    assert cause == 'it fits the secret read as hexadecimal (key = "hex") (secret main)'


def test_another_signed_content_is_found() -> None:
    sent = {"Stripe-Signature": f"t={int(NOW)},v1={signature(BODY)}"}
    (cause,) = explain(STRIPE, sent).causes
    assert cause == "it fits '{body}' as the signed content, not '{timestamp}.{body}' (secret main)"


@pytest.mark.parametrize(
    ("off", "cause"),
    [(-3600, "the signed time is 3,600 s old: a replay"), (3600, "the signed time is 3,600 s in the future")],
)
def test_a_stale_time_is_found_and_nothing_else(off: int, cause: str) -> None:
    found = explain(STRIPE, STRIPE.sign(SECRET, BODY, now=NOW + off, event_id=""))
    assert found.code == "stale_signature"
    assert len(found.causes) == 1
    assert found.causes[0].startswith(cause)


def test_a_time_in_milliseconds_is_found() -> None:
    content = f"{int(NOW * 1000)}.".encode() + BODY
    sent = {"Stripe-Signature": f"t={int(NOW * 1000)},v1={signature(content)}"}
    found = explain(STRIPE, sent)
    assert (found.code, found.causes) == (
        "stale_signature",
        ('the time counts milliseconds: set timestamp_unit = "ms"',),
    )


@pytest.mark.parametrize(("unit", "wanted"), [("s", "whole seconds, such as"), ("iso8601", "RFC 3339 has it, such as")])
def test_a_time_in_another_spelling_is_found(unit: str, wanted: str) -> None:
    scheme = compose({"preset": "stripe", "timestamp_unit": unit})
    text = f"0{int(NOW)}"
    found = explain(scheme, {"Stripe-Signature": f"t={text},v1={signature(f'{text}.'.encode() + BODY)}"})
    assert found.code == "stale_signature"
    assert found.causes[0].startswith(f"the time '{text}' is not written as {wanted}")


def test_an_expired_secret_is_found() -> None:
    sent = GITHUB.sign(SECRET, BODY, now=NOW, event_id="")
    found = explain(GITHUB, sent, note="expired since yesterday")
    assert found.code == "invalid_signature"
    assert found.causes[0] == "it fits a secret that is expired since yesterday (secret main)"


def test_another_providers_scheme_is_found() -> None:
    found = explain(DECLARED["moveris"], GITHUB.sign(SECRET, BODY, now=NOW, event_id=""))
    assert found.code == "missing_signature"
    assert found.causes[0].startswith("X-Webhook-Signature is missing or empty; there is x-hub-signature-256: does a")
    assert "this is how `github` signs, with the secret main: change the endpoint's scheme to it" in found.causes


def test_a_header_that_comes_twice_is_found() -> None:
    ((name, value),) = GITHUB.sign(SECRET, BODY, now=NOW, event_id="").items()
    header = (name.lower().encode(), value.encode())
    held = [EndpointSecret(label="main", text=SECRET)]
    found = diagnose(GITHUB, held, headers=[header, header], body=BODY, now=NOW)
    assert found.causes == ("X-Hub-Signature-256 comes twice; whoever adds one must not choose the one that counts",)


def test_missing_ids_and_times_are_named() -> None:
    found = explain(STANDARD, {"webhook-signature": "v1,AAAA"}, secret=b"whsec_c2VjcmV0")
    assert found.causes[:2] == (
        "the timestamp is missing: webhook-timestamp or svix-timestamp",
        "the id is missing: webhook-id or svix-id",
    )
    assert found.signed_length is not None


def test_a_changed_body_is_found_under_a_public_key() -> None:
    private, public = (
        b"whsk_nWGxne/9WmC6hEr0kuwsxERJxWl7MmkZcDusAxyuf2DXWpgBgrEKt9VL/tPJZAc6DuFy89qmIyWvAhpo9wdRGg==",
        b"whpk_11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo=",
    )
    sent = STANDARD.sign(private, BODY, now=NOW, event_id="msg_1")
    assert explain(STANDARD, sent, secret=public).code == "verified"
    (cause,) = explain(STANDARD, sent, secret=public, body=BODY + b"\n").causes
    assert cause.startswith("it fits the body without the newline at its end")


def test_with_nothing_that_fits_there_is_no_cause() -> None:
    assert explain(GITHUB, {"X-Hub-Signature-256": "sha256=" + "0" * 64}).causes == ()


def test_a_body_of_a_megabyte_is_explained_in_seconds() -> None:
    large = b'{"a": "' + b"x" * 2**20 + b'"}'
    assert "a newline" in github("sha256=" + signature(large + b"\n"), body=large)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (b"", "(nothing)"),
        (b"sha256=0123456789" + b"a" * 54, "sha256=012345... (71 characters)"),
        (b"t=1614265330,v1=0123456789" + b"a" * 54, "t=1614265330,v1=012345... (80 characters)"),
        (b"g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=", "g0hM9S... (44 characters)"),
        (b"\xff\n", "\xff?... (2 characters)"),
    ],
)
def test_a_signature_is_masked(text: bytes, shown: str) -> None:
    assert mask(text) == shown
