"""Names in Redis, Celery's messages, and the doorbell.

Every name in Redis begins with the prefix of the installation (`REDIS_PREFIX`), those of Celery too: kombu adds it to
the names of its queues itself (`global_keyprefix`), and nowhere else, so a queue's name inside a message has none.
Messages are made without Celery: one costs 0.06 ms of CPU, 0.30 with `send_task`. They are what Celery 5.7 would send
(contract tests compare the two). One Lua call decides and rings, so that doorbells do not pile up while no worker runs.
A doorbell that could not be rung costs time only.
"""

import base64
import json
import uuid
from collections.abc import Sequence
from typing import Final

INBOX_GROUP: Final = "drain"
"""The consumer group of the drains, in both streams; created at id 0 when missing."""
INGEST_QUEUE: Final = "ingest"
HANDLERS_QUEUE: Final = "handlers"
EXPRESS_QUEUE: Final = "express"
HOUSEKEEPING_QUEUE: Final = "housekeeping"
DRAIN_TASK: Final = "ingest.drain"

BELL_MILLISECONDS: Final = 250
"""How long a bell keeps others silent if no drain clears it: in a flood it rings a few times a second."""


class Names:
    """The names of what lies in Redis, for one prefix; empty, or one that ends with a colon.

    Attributes:
        prefix: of all of them.
        inbox: the stream of acknowledged entries; the truth until Postgres has committed.
        overflow: the stream of what a tenant sends beyond its burst; like the inbox in all else. Drains serve it with
            what the inbox leaves them, and with a fifth at least.
        streams: both.
        inbox_bytes: a hash: the bytes of each tenant in both streams, of tenants with a share of the inbox only. The
            ingress adds what it appends. Whoever removes entries subtracts them where a tenant has a field, and removes
            a field that falls to zero; the sweep removes all of them while nothing waits.
        inbox_rates: a hash: for each tenant with a rate the microsecond (Redis' Unix time) when it may send a whole
            burst again.
        active_tenants: a sorted set: the three tenants that sent events last, by Unix time.
        bell: set while a bell rings; the drain clears it before it reads.
        registry: a hash; see `shared.registry`.
        refusals: a hash; see `shared.refusals`.
        tasks_ended: a hash: when the last `drain`, `sweep`, `keep_days` and `tick` (of beat) ended well, Redis' Unix
            time, seconds.
        identity: see `shared.identity`.
        ingest_queue, handlers_queue, express_queue, housekeeping_queue: lists of messages, under the names that Celery
            gives them.
        unacked: kombu's hash of messages that workers hold.
        unacked_index: kombu's sorted set of the same messages by the moment when a worker took them, seconds of the
            epoch.
        handler_means: a hash: handler, and tenant and handler, to the recent mean duration in seconds. Losing it costs
            a few badly filled messages.
        express_closed: set while nothing is sent to `express`, because nobody served it.
        live_workers, live_handlers: sorted sets; see `workers.live_workers`.
        live_ingresses: a sorted set; see `shared.releases`.
        seen_workers, worker_activity: a sorted set and a hash; see `workers.seen_workers`.
    """

    def __init__(self, prefix: str) -> None:
        self.prefix = prefix
        self.inbox = f"{prefix}inbox"
        self.overflow = f"{prefix}inbox:overflow"
        self.streams = (self.inbox, self.overflow)
        self.inbox_bytes = f"{prefix}inbox:bytes"
        self.inbox_rates = f"{prefix}inbox:rates"
        self.active_tenants = f"{prefix}inbox:active"
        self.bell = f"{prefix}inbox:bell"
        self.registry = f"{prefix}registry"
        self.refusals = f"{prefix}ingress:refusals"
        self.tasks_ended = f"{prefix}tasks:ended"
        self.identity = f"{prefix}identity"
        self.ingest_queue = f"{prefix}{INGEST_QUEUE}"
        self.handlers_queue = f"{prefix}{HANDLERS_QUEUE}"
        self.express_queue = f"{prefix}{EXPRESS_QUEUE}"
        self.housekeeping_queue = f"{prefix}{HOUSEKEEPING_QUEUE}"
        self.unacked = f"{prefix}unacked"
        self.unacked_index = f"{prefix}unacked_index"
        self.handler_means = f"{prefix}handlers:mean"
        self.express_closed = f"{prefix}express:closed"
        self.live_workers = f"{prefix}workers:live"
        self.live_handlers = f"{prefix}handlers:live"
        self.live_ingresses = f"{prefix}ingress:live"
        self.seen_workers = f"{prefix}workers:seen"
        self.worker_activity = f"{prefix}workers:activity"


MOST_BELLS: Final = 8
"""Doorbells that wait at the most. A process that is free takes one at once, so more would start nothing sooner; and as
many are left when a flood is over, each of which costs a look into an empty inbox."""

RING: Final = """
if redis.call('LLEN', KEYS[2]) >= tonumber(ARGV[1]) then return 0 end
if not redis.call('SET', KEYS[1], '1', 'NX', 'PX', ARGV[2]) then return 0 end
redis.call('LPUSH', KEYS[2], ARGV[3])
return 1
"""
"""Lua: KEYS bell, queue; ARGV bound of waiting bells, milliseconds, message. Returns 1 if it rang."""
NOTE_END: Final = """
local now = redis.call('TIME')
redis.call('HSET', KEYS[1], ARGV[1], string.format('%d.%06d', now[1], now[2]))
"""
"""Lua: KEYS `tasks_ended`; ARGV task. Notes that it ended now."""


def task_message(
    task: str, arguments: Sequence[object], *, queue: str, origin: str, shown: str, task_id: str, tag: str
) -> str:
    """Return the message for one Celery task (protocol 2), as kombu keeps it in the Redis list of its queue.

    Args:
        task: name.
        arguments: positional ones; nothing but JSON.
        queue: that it will be put into, without the prefix.
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


def ring_arguments(names: Names) -> tuple[tuple[str, str], tuple[int, int, bytes]]:
    """Return the keys and arguments of one `RING` call."""
    return (names.bell, names.ingest_queue), (MOST_BELLS, BELL_MILLISECONDS, doorbell())
