"""Names in Redis, and the doorbell: the one Celery message that is sent without Celery.

Guarantees: one Lua call decides and rings, so that bells do not pile up with workers away; the message is what Celery
5.7 itself would send (a contract test compares them). Refuses nothing: a bell that is not rung costs time only.
"""

from __future__ import annotations

import base64
import uuid
from typing import Final

INBOX: Final = "inbox"
"""The stream of acknowledged entries; the truth until Postgres has committed."""
INBOX_GROUP: Final = "drain"
"""The consumer group of the drains; created at id 0 when missing."""
BELL: Final = "inbox:bell"
"""Set while a bell rings; the drain clears it before it reads."""
INGEST_QUEUE: Final = "ingest"
HANDLERS_QUEUE: Final = "handlers"
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

_BODY: Final = base64.b64encode(
    b'[[], {}, {"callbacks": null, "errbacks": null, "chain": null, "chord": null}]'
).decode()

_TEMPLATE: Final = (
    '{"body": "' + _BODY + '", "content-encoding": "utf-8", "content-type": "application/json", '
    '"headers": {"lang": "py", "task": "' + DRAIN_TASK + '", "id": "%(id)s", "shadow": null, "eta": null, '
    '"expires": null, "group": null, "group_index": null, "retries": 0, "timelimit": [null, null], '
    '"root_id": "%(id)s", "parent_id": null, "argsrepr": "()", "kwargsrepr": "{}", "origin": "doorbell", '
    '"ignore_result": true, "replaced_task_nesting": 0, "stamped_headers": null, "stamps": {}}, '
    '"properties": {"correlation_id": "%(id)s", "reply_to": "", '
    '"delivery_mode": 2, "delivery_info": {"exchange": "", "routing_key": "' + INGEST_QUEUE + '"}, '
    '"priority": 0, "body_encoding": "base64", "delivery_tag": "%(tag)s"}}'
)


def doorbell() -> bytes:
    """Return a fresh message for `ingest.drain`, with its own id and delivery tag."""
    return (_TEMPLATE % {"id": uuid.uuid4(), "tag": uuid.uuid4()}).encode()


def ring_arguments(ingest_slots: int) -> tuple[tuple[str, str], tuple[int, int, bytes]]:
    """Return the keys and arguments of one `RING` call for so many drain slots."""
    return (BELL, INGEST_QUEUE), (2 * ingest_slots, BELL_MILLISECONDS, doorbell())
