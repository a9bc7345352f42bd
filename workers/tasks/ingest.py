"""The task that moves events from the inbox to Postgres."""

from __future__ import annotations

import logging
from typing import Final

from redis.exceptions import RedisError

from shared import wire
from shared.identity import ForeignRedisError
from workers.app import app, settings
from workers.drain_timer import DrainTimer
from workers.ingest.drain import drain
from workers.process import LostRightError, SchemaMissingError
from workers.store.connect import UNREACHABLE
from workers.tasks.admission import admit_after_drain
from workers.tasks.this_process import require_schema, tell_refusal, this_process

log = logging.getLogger(__name__)

DRAIN_LIMIT_SECONDS: Final = 300
"""After which a process of the pool hangs in a drain and is killed. What it held is taken up by the next one."""


@app.task(name=wire.DRAIN_TASK, time_limit=DRAIN_LIMIT_SECONDS)
def drain_inbox() -> dict[str, int]:
    """Store what waits in the inbox; return the counts."""
    return _drain()


def drain_without_doorbell() -> None:
    """Do the same in a process of the pool, for `DrainTimer`."""
    try:
        counts = _drain()
    except (RedisError, *UNREACHABLE) as error:
        log.warning("a drain without a doorbell failed: %s", error, extra={"code": "drain_failed"})
    else:
        log.info("a drain without a doorbell: %s", counts)


class _DrainTimer(DrainTimer):
    redis_url = settings.inbox_url
    names = wire.Names(settings.redis_prefix)
    drain = staticmethod(drain_without_doorbell)
    limit_seconds = DRAIN_LIMIT_SECONDS


app.steps["consumer"].add(_DrainTimer)


def _drain() -> dict[str, int]:
    try:
        return _drain_inbox()
    except (SchemaMissingError, ForeignRedisError, LostRightError) as error:
        tell_refusal(error)
        return {"stored": 0, "duplicates": 0, "rejected": 0}


def _drain_inbox() -> dict[str, int]:
    with this_process().connections() as process:
        require_schema()
        counts = drain(
            process.inbox,
            process.postgres.connection,
            identity=process.identity,
            catalogue=process.catalogue,
            settings=settings,
            on_stored=admit_after_drain,
        )
        process.note_end("drain")
    return {"stored": counts.stored, "duplicates": counts.duplicates, "rejected": counts.rejected}
