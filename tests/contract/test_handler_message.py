"""Handler messages against Celery: what it would send itself. The system tests run them in real workers."""

from __future__ import annotations

import base64
import json
import uuid
from typing import Any

import pytest
import redis
from celery import Celery

from shared.wire import EXPRESS_QUEUE, HANDLERS_QUEUE
from tests.names import NAMES
from workers.dispatch.admission import Message
from workers.dispatch.queue import SHOWN, CeleryQueue, pack
from workers.store.deliveries import Candidate

OF_THE_SENDER = {"id", "root_id", "correlation_id", "delivery_tag", "origin", "reply_to"}
"""Fields that are the sender's own or fresh in every message."""


def message_of(count: int, *, express: bool = False) -> Message:
    """Return a message of so many deliveries."""
    made = (
        Candidate(event_id=uuid.uuid4(), tenant="acme", handler="acme.run", place=0, alone=False) for _ in range(count)
    )
    return Message(handler="acme.run", deliveries=tuple(made), express=express)


@pytest.mark.parametrize("queue", [HANDLERS_QUEUE, EXPRESS_QUEUE])
def test_a_handler_message_is_what_celery_would_send_field_by_field(redis_url: str, queue: str) -> None:
    message = message_of(3, express=queue == EXPRESS_QUEUE)
    with redis.Redis.from_url(redis_url) as client, Celery("other", broker=redis_url, set_as_current=False) as app:
        app.send_task(message.handler, args=[message.argument], queue=queue, ignore_result=True)
        CeleryQueue(client, NAMES).send(message)
        theirs, ours = (json.loads(client.rpop(queue)) for _ in range(2))
    assert list(ours) == list(theirs)
    for part in ("headers", "properties"):
        assert list(ours[part]) == list(theirs[part])
        for field in set(theirs[part]) - OF_THE_SENDER:
            assert ours[part][field] == theirs[part][field], f"{part}.{field}"
    assert body_of(ours) == body_of(theirs)


def test_the_ids_of_a_handler_message_agree_and_are_fresh() -> None:
    message = message_of(1)
    first, second = (json.loads(pack(message)) for _ in range(2))
    assert first["headers"]["id"] == first["headers"]["root_id"] == first["properties"]["correlation_id"]
    assert first["headers"]["id"] != second["headers"]["id"]
    assert first["properties"]["delivery_tag"] != second["properties"]["delivery_tag"]


def test_a_long_message_shows_its_first_deliveries_and_says_how_many_more() -> None:
    message = message_of(SHOWN + 5)
    packed = json.loads(pack(message))
    assert body_of(packed)[0] == [message.argument]
    assert message.argument[SHOWN - 1] in packed["headers"]["argsrepr"]
    assert message.argument[SHOWN] not in packed["headers"]["argsrepr"]
    assert "5 more" in packed["headers"]["argsrepr"]


def body_of(message: dict[str, Any]) -> Any:
    """Return the arguments, keyword arguments and options."""
    return json.loads(base64.b64decode(message["body"]))
