"""Samples of refusals in the log."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ingress.endpoints import Endpoint
from ingress.errors import INVALID_SIGNATURE, MISSING_SIGNATURE, RATE_LIMITED
from ingress.refusal_log import LOG_EVERY_SECONDS, RefusalLog
from ingress.schemes import find
from ingress.schemes.scheme import Key
from shared.registry import Limits

if TYPE_CHECKING:
    import pytest


def endpoint(tenant: str, *keys: Key) -> Endpoint:
    return Endpoint(
        provider="moveris",
        tenant=tenant,
        scheme=find("moveris"),
        keys=keys,
        unreadable_until=0.0,
        limits=Limits(),
    )


def test_one_line_a_minute_for_each_endpoint_and_code_and_the_next_tells_how_many(
    caplog: pytest.LogCaptureFixture,
) -> None:
    now = 0.0
    log = RefusalLog(clock=lambda: now)
    acme = endpoint("acme")
    for _ in range(50):
        log.add(INVALID_SIGNATURE, acme)
    log.add(MISSING_SIGNATURE, acme)
    log.add(INVALID_SIGNATURE, endpoint("other"))
    now = LOG_EVERY_SECONDS
    log.add(INVALID_SIGNATURE, acme)
    assert [record.getMessage() for record in caplog.records] == [
        "refused a request for moveris/acme: invalid_signature",
        "refused a request for moveris/acme: missing_signature",
        "refused a request for moveris/other: invalid_signature",
        "refused a request for moveris/acme: invalid_signature, and 49 since the last such line",
    ]
    assert vars(caplog.records[0])["tenant"] == "acme"


def test_a_wrong_signature_is_logged_with_the_labels_of_the_secrets_and_nothing_else_of_them(
    caplog: pytest.LogCaptureFixture,
) -> None:
    keys = (Key(label="2027", secret=b"new"), Key(label="2026", secret=b"old", expires_at=1.0))
    log = RefusalLog()
    log.add(INVALID_SIGNATURE, endpoint("acme", *keys))
    log.add(RATE_LIMITED, endpoint("acme", *keys))
    wrong, limited = (vars(record) for record in caplog.records)
    assert (wrong["labels"], wrong["expired_labels"]) == (["2027"], ["2026"])
    assert "labels" not in limited
