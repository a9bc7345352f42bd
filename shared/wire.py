"""Names in Redis, Celery's messages, and the doorbell.

Messages are made without Celery: one costs 0.06 ms of CPU, 0.30 with `send_task`. They are what Celery 5.7 would send
(contract tests compare the two). One Lua call decides and rings, so that doorbells do not pile up while no worker runs.
A doorbell that could not be rung costs time only.
"""

import base64
import json
import uuid
from collections.abc import Sequence
from typing import Final

INBOX: Final = "inbox"
"""The stream of acknowledged entries; the truth until Postgres has committed."""
OVERFLOW: Final = "inbox:overflow"
"""The stream of what a tenant sends beyond its burst; like the inbox in all else. Drains serve it with what the inbox
leaves them, and with a fifth at least."""
INBOX_GROUP: Final = "drain"
"""The consumer group of the drains, in both streams; created at id 0 when missing."""
INBOX_BYTES: Final = "inbox:bytes"
"""A hash: the bytes of each tenant in both streams, of tenants with a share of the inbox only. The ingress adds what it
appends. Whoever removes entries subtracts them where a tenant has a field, and removes a field that falls to zero; the
sweep removes all of them while nothing waits."""
INBOX_RATES: Final = "inbox:rates"
"""A hash: for each tenant with a rate the microsecond (Redis' Unix time) when it may send a whole burst again."""
ACTIVE_TENANTS: Final = "inbox:active"
"""A sorted set: the three tenants that sent events last, by Unix time."""
BELL: Final = "inbox:bell"
"""Set while a bell rings; the drain clears it before it reads."""
INGEST_QUEUE: Final = "ingest"
HANDLERS_QUEUE: Final = "handlers"
EXPRESS_QUEUE: Final = "express"
HOUSEKEEPING_QUEUE: Final = "housekeeping"
DRAIN_TASK: Final = "ingest.drain"

BELL_MILLISECONDS: Final = 250
"""How long a bell keeps others silent if no drain clears it: in a flood it rings a few times a second."""

RING: Final = """
if redis.call('LLEN', KEYS[2]) >= tonumber(ARGV[1]) then return 0 end
if not redis.call('SET', KEYS[1], '1', 'NX', 'PX', ARGV[2]) then return 0 end
redis.call('LPUSH', KEYS[2], ARGV[3])
return 1
"""
"""Lua: KEYS bell, queue; ARGV bound of waiting bells, milliseconds, message. Returns 1 if it rang."""


def task_message(
    task: str, arguments: Sequence[object], *, queue: str, origin: str, shown: str, task_id: str, tag: str
) -> str:
    """Return the message for one Celery task (protocol 2), as kombu keeps it in the Redis list of its queue.

    Args:
        task: name.
        arguments: positional ones; nothing but JSON.
        queue: that it will be put into.
        origin: who sends it, for people to read.
        shown: the arguments as Flower shows them.
        task_id: fresh for each message; without one a worker reconnects for ever.
        tag: fresh for each message: by it a worker acknowledges.
    """
    body = json.dumps([arguments, {}, {"callbacks": None, "errbacks": None, "chain": None, "chord": None}])
    headers: dict[str, object] = {
        "lang": "py",
        "task": task,
        "id": task_id,
        "shadow": None,
        "eta": None,
        "expires": None,
        "group": None,
        "group_index": None,
        "retries": 0,
        "timelimit": [None, None],
        "root_id": task_id,
        "parent_id": None,
        "argsrepr": shown,
        "kwargsrepr": "{}",
        "origin": origin,
        "ignore_result": True,
        "replaced_task_nesting": 0,
        "stamped_headers": None,
        "stamps": {},
    }
    properties: dict[str, object] = {
        "correlation_id": task_id,
        "reply_to": "",
        "delivery_mode": 2,
        "delivery_info": {"exchange": "", "routing_key": queue},
        "priority": 0,
        "body_encoding": "base64",
        "delivery_tag": tag,
    }
    message = {
        "body": base64.b64encode(body.encode()).decode(),
        "content-encoding": "utf-8",
        "content-type": "application/json",
        "headers": headers,
        "properties": properties,
    }
    return json.dumps(message)


_DOORBELL: Final = task_message(
    DRAIN_TASK, [], queue=INGEST_QUEUE, origin="doorbell", shown="()", task_id="%(id)s", tag="%(tag)s"
)
"""Made once: the ingress sends one with every batch."""


def doorbell() -> bytes:
    """Return a fresh message for `ingest.drain`, with its own id and delivery tag."""
    return (_DOORBELL % {"id": uuid.uuid4(), "tag": uuid.uuid4()}).encode()


def ring_arguments(ingest_slots: int) -> tuple[tuple[str, str], tuple[int, int, bytes]]:
    """Return the keys and arguments of one `RING` call for so many drain slots."""
    return (BELL, INGEST_QUEUE), (2 * ingest_slots, BELL_MILLISECONDS, doorbell())
