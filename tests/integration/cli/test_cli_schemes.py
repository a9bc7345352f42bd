"""Any provider through the command: endpoints with schemes, events as each provider sends them, failures explained."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Final
from urllib.parse import urlencode
from urllib.request import urlopen

import pytest
import redis as redis_library

from shared.envelope import decode
from tests.names import NAMES
from workers import events

if TYPE_CHECKING:
    from tests.integration.cli.conftest import Pipeline

PUBLISHED: Final = "sha256=757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17"
PUBLIC: Final = b"whpk_11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo="
PRIVATE: Final = b"whsk_nWGxne/9WmC6hEr0kuwsxERJxWl7MmkZcDusAxyuf2DXWpgBgrEKt9VL/tPJZAc6DuFy89qmIyWvAhpo9wdRGg=="
SCHEME: Final = """
header = "X-Acme-Signature"
algorithm = "hmac-sha256"
encoding = "base64"
prefix = "v1,"
content = "{timestamp}.{body}"
timestamp = "X-Acme-Timestamp"
tolerance = 300
"""
TYPES: Final = {
    "github": "push",
    "meta": "whatsapp_business_account",
    "moveris": "verification.completed",
    "shopify": "orders/create",
    "slack": "app_mention",
    "standard-webhooks": "sample.sent",
    "stripe": "customer.created",
}


def add(pipeline: Pipeline, provider: str, *more: str, secret: bytes = b"a secret", status: int = 0) -> str:
    """Add an endpoint of acme and return all that was said."""
    result = pipeline(
        *("endpoints", "add", "acme", "--provider", provider, "--label", "main", "--secret-stdin", *more),
        stdin=secret,
        status=status,
    )
    assert secret.decode() not in result.text + result.err
    return result.text + result.err


def received(pipeline: Pipeline) -> list[tuple[str, str]]:
    """Return provider and type of all that the inbox has."""
    with redis_library.Redis.from_url(pipeline.environ["REDIS_URL"]) as client:
        entries = [decode(fields) for _, fields in client.xrange(NAMES.inbox)]
    return [(it.provider, events.parse(it.provider, it.body, it.headers).type) for it in entries]


def send(pipeline: Pipeline, provider: str, *more: str, **options: bytes) -> None:
    """Send one event as soon as the ingress has followed the last change of the endpoint."""
    ends = time.monotonic() + 10
    while True:
        result = pipeline("send", "acme", "--provider", provider, *more, status=None, **options)  # type: ignore[arg-type]
        if result.status == 0 or time.monotonic() > ends:
            assert result.status == 0, result
            return
        time.sleep(0.1)


def test_events_are_sent_as_every_provider_does(ingress: Pipeline) -> None:
    for provider in TYPES:
        if provider != "moveris":
            add(ingress, provider, secret=b"whsec_c2VjcmV0")
    for provider in TYPES:
        send(ingress, provider)
    send(ingress, "github", "--event", "pull_request.opened")
    assert received(ingress) == [*TYPES.items(), ("github", "pull_request.opened")]


def test_a_scheme_file_describes_a_provider_of_ones_own(ingress: Pipeline) -> None:
    (ingress.folder / "acme.toml").write_text(SCHEME)
    add(ingress, "billing", "--scheme-file", "acme.toml")
    send(ingress, "billing")
    assert received(ingress) == [("billing", "sample.sent")]
    table = ingress("endpoints", "list").text
    assert "hmac-sha256 in X-Acme-Signature" in table
    (row,) = [it for it in ingress.json("endpoints", "list") if it["provider"] == "billing"]
    assert row["scheme"]["prefix"] == "v1,"


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ('header = "X-A"\nalgorithm = "hmac-sha256"\ncontent = "{boby}"', "content: unknown placeholder {boby}"),
        ('algorithm = "hmac-sha256"', "header is missing"),
        ('header = "X-A"\nalgoritm = "x"', "unknown key 'algoritm': did you mean algorithm?"),
        ("header = ", "is not TOML"),
        ('preset = "stripe"\ncontent = "{body}"', "(the preset stripe adds header = 'Stripe-Signature'"),
    ],
)
def test_a_wrong_scheme_file_is_refused_with_a_line_that_says_what(acme: Pipeline, text: str, line: str) -> None:
    (acme.folder / "acme.toml").write_text(text)
    said = add(acme, "billing", "--scheme-file", "acme.toml", status=1)
    assert line in said
    assert len(said.splitlines()) == 1
    assert [it["provider"] for it in acme.json("endpoints", "list")] == ["moveris"]


def test_a_scheme_file_with_a_byte_order_mark_is_read_and_one_in_utf_16_is_named(acme: Pipeline) -> None:
    (acme.folder / "acme.toml").write_text(SCHEME, encoding="utf-8-sig")
    add(acme, "billing", "--scheme-file", "acme.toml")
    (acme.folder / "acme.toml").write_text(SCHEME, encoding="utf-16")
    assert "acme.toml is not TOML: it is not UTF-8" in add(acme, "other", "--scheme-file", "acme.toml", status=1)


@pytest.mark.parametrize(
    ("provider", "more", "secret", "line"),
    [
        ("billing", (), b"x", "billing has no scheme of its own, choose one with --scheme or describe one with"),
        ("billing", ("--scheme", "morse"), b"x", "no signature scheme 'morse': choose another (github, hmac, meta"),
        ("standard-webhooks", (), b"whsec_a!b", "the secret 'main' does not fit: the secret is not base64"),
        ("feed", ("--scheme", "none"), b"x", "add --i-know-this-is-unsigned if the provider cannot sign"),
        ("github", ("--i-know-this-is-unsigned",), b"x", "github is signed"),
    ],
)
def test_what_cannot_work_is_refused(
    acme: Pipeline, provider: str, more: tuple[str, ...], secret: bytes, line: str
) -> None:
    said = acme(
        *("endpoints", "add", "acme", "--provider", provider, "--label", "main", "--secret-stdin", *more),
        stdin=secret,
        status=1,
    ).err
    assert line in said
    assert len(said.splitlines()) == 1


def test_a_scheme_is_changed_and_the_secrets_stay(ingress: Pipeline) -> None:
    add(ingress, "billing", "--scheme", "hmac", secret=b"whsec_c2VjcmV0")
    said = ingress("endpoints", "change", "acme", "--provider", "billing", "--scheme", "stripe").text
    assert said == "acme's endpoint of billing now expects stripe\n"
    send(ingress, "billing")
    said = ingress("endpoints", "change", "acme", "--provider", "billing", status=1).err
    assert "give --scheme or --scheme-file" in said


def test_an_unsigned_endpoint_gets_a_path_that_nobody_guesses(ingress: Pipeline) -> None:
    arguments = ("endpoints", "add", "acme", "--provider", "feed", "--label", "main", "--scheme", "none")
    (row,) = ingress.json(*arguments, "--i-know-this-is-unsigned")
    assert row["path"].startswith("/webhooks/feed/acme/")
    assert len(row["path"]) > 60
    send(ingress, "feed")
    (more,) = ingress.json("secrets", "add", "acme", "--provider", "feed", "--label", "next")
    assert more["path"] != row["path"]
    assert received(ingress) == [("feed", "sample.sent")]
    said = ingress("endpoints", "list").text
    assert row["path"] not in said
    assert "/webhooks/feed/acme/TOKEN" in said


def test_metas_verify_token_is_printed_and_opens_the_endpoint(ingress: Pipeline) -> None:
    arguments = ("endpoints", "add", "acme", "--provider", "meta", "--label", "main", "--secret-stdin")
    (row,) = ingress.json(*arguments, stdin=b"app secret")
    send(ingress, "meta")
    asked = {"hub.mode": "subscribe", "hub.challenge": "42", "hub.verify_token": row["verify_token"]}
    with urlopen(f"{ingress.environ['INGRESS_URL']}{row['path']}?{urlencode(asked)}", timeout=10) as answer:  # noqa: S310
        assert answer.read() == b"42"


def test_with_a_public_key_only_the_private_one_sends(ingress: Pipeline) -> None:
    add(ingress, "standard-webhooks", secret=PUBLIC)
    said = ingress("send", "acme", "--provider", "standard-webhooks", status=1).err
    assert (
        "main is a public key, which verifies and cannot sign: pipe its private key in and add --secret-stdin" in said
    )
    send(ingress, "standard-webhooks", "--secret-stdin", stdin=PRIVATE)
    said = ingress("send", "acme", "--provider", "standard-webhooks", "--secret-stdin", stdin=PUBLIC, status=1).err
    assert "this secret cannot sign" in said


def test_a_right_request_is_verified(acme: Pipeline) -> None:
    add(acme, "github", secret=b"It's a Secret to Everybody")
    (acme.folder / "headers.txt").write_text(f"POST / HTTP/1.1\nHost: x\n> X-Hub-Signature-256: {PUBLISHED}\n\n")
    (acme.folder / "body").write_bytes(b"Hello, World!")
    files = ("--headers-file", "headers.txt", "--body-file", "body")
    for name in ("github/acme", "/webhooks/github/acme", "https://hooks.example.com/webhooks/github/acme"):
        said = acme("verify", name, *files).text
        assert "verdict        verified by main" in said
    assert "signed content {body}, 13 bytes" in said
    assert PUBLISHED not in said


def test_a_failing_request_is_explained(acme: Pipeline) -> None:
    add(acme, "github", secret=b"It's a Secret to Everybody")
    (acme.folder / "headers.json").write_text(json.dumps({"X-Hub-Signature-256": PUBLISHED}), encoding="utf-8-sig")
    (acme.folder / "body").write_bytes(b"Hello, World!\n")
    files = ("--headers-file", "headers.json", "--body-file", "body")
    said = acme("verify", "github/acme", *files, status=1).text
    assert "verdict        invalid_signature" in said
    assert "secret         main: expects sha256=" in said
    assert "cause          it fits the body without the newline at its end: something added one (secret main)" in said
    result = acme("verify", "github/acme", *files, "--json", status=1)
    assert result.rows[0]["code"] == "invalid_signature"
    assert PUBLISHED not in said + result.text
    assert "Everybody" not in said + result.text


def test_a_capture_is_judged_at_its_own_time(acme: Pipeline) -> None:
    add(acme, "stripe", secret=b"webhook_secret")
    (acme.folder / "body").write_bytes(b"{}")
    made = "t=1533204620,v1=ab7dba2a53b40e0d7ea6b5b1dba8d5a1d1e8c0f0"
    (acme.folder / "headers.txt").write_text(f"Stripe-Signature: {made}\n")
    files = ("--headers-file", "headers.txt", "--body-file", "body")
    said = acme("verify", "stripe/acme", *files, status=1).text
    assert "s old: a replay, a slow queue, or a capture from then (judge it with --at)" in said
    said = acme("verify", "stripe/acme", *files, "--at", "2018-08-02T10:10:20", status=1).text
    assert "old" not in said
    assert "nothing that was tried fits: another secret signed, or the body was changed" in said


@pytest.mark.parametrize(
    ("name", "headers", "line"),
    [
        ("acme", "A: b", "'acme' names no endpoint: write PROVIDER/TENANT, such as github/acme"),
        ("moveris/nobody", "A: b", "'nobody' has no endpoint of 'moveris'"),
        ("moveris/acme", "nothing", "holds no headers: write one a line"),
        ("moveris/acme", "{", "is no JSON object of headers"),
    ],
)
def test_what_cannot_be_read_ends_in_one_line(acme: Pipeline, name: str, headers: str, line: str) -> None:
    (acme.folder / "headers.txt").write_text(headers)
    (acme.folder / "body").write_bytes(b"{}")
    said = acme("verify", name, "--headers-file", "headers.txt", "--body-file", "body", status=1).err
    assert line in said
    assert len(said.splitlines()) == 1
