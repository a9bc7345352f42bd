"""What is left of Celery's own log lines."""

from __future__ import annotations

import logging

import pytest
from celery.worker.consumer import consumer

from workers.celery_lines import quieten
from workers.errors import DeliveryFailed


@pytest.fixture(autouse=True)
def _quiet(caplog: pytest.LogCaptureFixture) -> None:
    quieten()
    caplog.set_level(logging.INFO)


@pytest.mark.parametrize(
    ("text", "arguments", "left"),
    [
        (
            consumer.UNKNOWN_TASK_ERROR,
            ("'gone'", "body", {}, {}),
            "Received unregistered task of type 'gone'.",
        ),
        (consumer.INVALID_TASK_ERROR, ("no id", "body"), "Received invalid task message: no id"),
    ],
)
def test_no_message_is_said_to_be_discarded(
    text: str, arguments: tuple[object, ...], left: str, caplog: pytest.LogCaptureFixture
) -> None:
    assert "ignored and discarded" in text
    consumer.error(text, *arguments, exc_info=ValueError("no"))
    (record,) = caplog.records
    assert record.getMessage() == left
    assert record.exc_info is None


def test_the_end_of_a_message_whose_deliveries_have_lines_of_their_own_is_none(
    caplog: pytest.LogCaptureFixture,
) -> None:
    log = logging.getLogger("celery.app.trace")
    log.error("raised unexpected", exc_info=DeliveryFailed("tenant acme"))
    log.error("raised unexpected", exc_info=ValueError("of the drain"))
    assert [str(it.exc_info and it.exc_info[1]) for it in caplog.records] == ["of the drain"]
