"""A handler worker looks into `express` before `handlers`: kombu's `queue_order_strategy`, as the app sets it."""

from __future__ import annotations

from typing import Any

from kombu.connection import Connection
from kombu.entity import Queue
from kombu.messaging import Consumer

from shared.wire import EXPRESS_QUEUE, HANDLERS_QUEUE

MESSAGES = 20


def test_messages_of_the_first_queue_are_taken_before_those_of_the_second(redis_url: str) -> None:
    taken: list[str] = []

    def take(body: Any, message: Any) -> None:
        taken.extend(body)
        message.ack()

    with Connection(redis_url, transport_options={"queue_order_strategy": "priority"}) as connection:
        with (
            connection.SimpleQueue(HANDLERS_QUEUE, serializer="json") as handlers,
            connection.SimpleQueue(EXPRESS_QUEUE, serializer="json") as express,
        ):
            for _ in range(MESSAGES):
                handlers.put([HANDLERS_QUEUE])
                express.put([EXPRESS_QUEUE])
        queues = [Queue(EXPRESS_QUEUE), Queue(HANDLERS_QUEUE)]
        with Consumer(connection.channel(), queues, callbacks=[take], accept=["json"]) as consumer:
            consumer.qos(prefetch_count=1)
            while len(taken) < 2 * MESSAGES:
                connection.drain_events(timeout=5)
    assert taken == [EXPRESS_QUEUE] * MESSAGES + [HANDLERS_QUEUE] * MESSAGES
