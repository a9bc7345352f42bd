"""Samples of refusals in the log."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ingress.errors import INVALID_SIGNATURE, LOG_EVERY_SECONDS, MISSING_SIGNATURE, RefusalLog

if TYPE_CHECKING:
    import pytest


def test_one_line_a_minute_for_each_endpoint_and_code_and_the_next_tells_how_many(
    caplog: pytest.LogCaptureFixture,
) -> None:
    now = 0.0
    log = RefusalLog(clock=lambda: now)
    for _ in range(50):
        log.add(INVALID_SIGNATURE, provider="moveris", tenant="acme")
    log.add(MISSING_SIGNATURE, provider="moveris", tenant="acme")
    log.add(INVALID_SIGNATURE, provider="moveris", tenant="other")
    now = LOG_EVERY_SECONDS
    log.add(INVALID_SIGNATURE, provider="moveris", tenant="acme")
    assert [record.getMessage() for record in caplog.records] == [
        "refused a request for moveris/acme: invalid_signature",
        "refused a request for moveris/acme: missing_signature",
        "refused a request for moveris/other: invalid_signature",
        "refused a request for moveris/acme: invalid_signature, and 49 since the last such line",
    ]
    assert vars(caplog.records[0])["tenant"] == "acme"
