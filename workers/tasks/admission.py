"""Admission by the tasks of this process: after a drain, after a message, and in each sweep."""

from __future__ import annotations

import logging

from redis.exceptions import RedisError

from shared import wire
from workers.app import settings
from workers.dispatch.admission import admit
from workers.tasks.this_process import this_process

log = logging.getLogger(__name__)


def admit_due(*, wait: bool = True, express: bool = True, below: int | None = None, messages: int | None = None) -> int:
    """Top the queues of handlers up."""
    process = this_process()
    live = process.live.read()
    return admit(
        process.postgres.connection,
        process.queue,
        slots=live.handler_slots,
        express_slots=live.express_slots,
        runnable=live.handlers,
        message_seconds=settings.message_seconds,
        wait=wait,
        express=express,
        below=below,
        messages=messages,
    )


def admit_after_message(queue: str, *, is_serial: bool) -> None:
    """Top the queues up after a message of `handlers` or `express`.

    An admission that fills `handlers` takes tens of milliseconds, in which quiet tenants' messages would wait for the
    express worker. After one of those only one other is sent, for what waited for its end, such as the next of its
    subject. None is while more of them wait, for the last one sees to it, nor to `handlers` while some wait there:
    whoever ends one of those does.

    Args:
        queue: that the message came by.
        is_serial: whether others of a subject may have waited for it.
    """
    process = this_process()
    waiting, waiting_express = process.queue.lengths()
    if queue != wire.EXPRESS_QUEUE:
        if waiting < process.live.read().handler_slots:
            admit_due(wait=False)
    elif not waiting_express and (is_serial or not waiting):
        admit_due(wait=False, below=1, messages=1)


def admit_after_drain(has_overflowed: bool) -> None:  # noqa: FBT001 - of a callback
    """Top the queues up after a drain's commit; a Redis that is full must not keep the drain from making room.

    `handlers` only if it is empty: events of quiet tenants would wait meanwhile, and who ends a message tops it up.
    """
    try:
        with this_process().connections():
            admit_due(express=not has_overflowed, below=1)
    except RedisError as error:
        log.warning("no admission after a drain: %s", error, extra={"code": "admission_failed"})
