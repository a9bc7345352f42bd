"""A Celery task for each handler, under the handler's name. It runs the deliveries of one message.

It ends in RETRY or FAILURE, with the traceback, when any of its deliveries did.
"""

from __future__ import annotations

import gc
import logging
import time
from typing import TYPE_CHECKING, Any, Final
from uuid import UUID

from billiard.common import terminate_handler_fired
from celery import Task, signals
from celery.exceptions import Reject
from redis.exceptions import RedisError

from shared import wire
from workers.announcer import Announcer, log_announced
from workers.app import app, settings
from workers.dispatch.outcomes import hard_limit
from workers.dispatch.running import MessageRun
from workers.failed_task import end_as_failed
from workers.process import LostRightError, SchemaMissingError
from workers.registration import load
from workers.store.connect import UNREACHABLE
from workers.tasks.admission import admit_after_message
from workers.tasks.housekeeping import disown
from workers.tasks.this_process import list_handlers, require_schema, set_handlers, tell_refusal, this_process

if TYPE_CHECKING:
    from workers.registration import Handler

log = logging.getLogger(__name__)

AWAY_SECONDS: Final = 1.0
"""Between two attempts at a message while Postgres is away."""


def _make_handler_task(handler: Handler) -> None:
    """Register the Celery task of one handler, under the handler's name."""

    @app.task(
        bind=True,
        name=handler.name,
        time_limit=hard_limit(handler, message_seconds=settings.message_seconds),
        # A message that hits the hard limit is not sent again: the leases of its deliveries decide.
        acks_on_failure_or_timeout=True,
    )
    def run_message(task: Task, argument: list[str]) -> dict[str, int]:
        process = this_process()
        if process.holds_errors:
            # An error and the frames of its traceback hold each other, with all that the handler had in hand, and so do
            # Celery's copies. Left to the collector's own pace, 20 minutes in which one attempt in a hundred failed
            # took a process from 42 MB to 100. The errors are let go of only now, when their task is over.
            gc.collect()
            process.holds_errors = False
        run = MessageRun(
            handler,
            postgres=process.postgres,
            session=process.session,
            loop=process.handler_loop,
            message_seconds=settings.message_seconds,
            is_terminating=terminate_handler_fired,
        )
        event_ids = [UUID(text.rpartition("/")[2]) for text in argument]
        try:
            with process.connections():
                require_schema()
                run.run(event_ids)
        except (SchemaMissingError, LostRightError) as error:
            tell_refusal(error)
            time.sleep(AWAY_SECONDS)
            return {"succeeded": 0, "fenced": 0}  # what it names is still queued: the sweeper finds it
        except UNREACHABLE as error:
            process.holds_errors = bool(run.failures)
            # The message stays: what it names and is still queued would else wait for the sweeper, seconds.
            time.sleep(AWAY_SECONDS)
            raise Reject(str(error), requeue=True) from error
        try:
            with process.connections():
                process.handler_durations.add(handler.name, run.durations)
                queue = (task.request.delivery_info or {}).get("routing_key", wire.HANDLERS_QUEUE)
                admit_after_message(queue, is_serial=handler.serial_by is not None)
        except (RedisError, LostRightError, *UNREACHABLE) as error:
            # Everything is recorded: the sweeper admits what waits.
            log.warning("no admission after a message: %s", error, extra={"code": "admission_failed"})
        if run.failures:
            process.holds_errors = True
            end_as_failed(run)
        return {"succeeded": run.succeeded, "fenced": run.fenced}


@signals.celeryd_init.connect
def _make_handler_tasks(**_: Any) -> None:
    """Make the tasks of the handlers that `workers.app` has loaded for this worker, if any."""
    set_handlers(handlers := load(()))
    for handler in handlers:
        _make_handler_task(handler)


def announce_handlers() -> bool:
    """Tell the catalogue what the handlers ask for, in a process of the pool, for `Announcer`; return if it is told."""
    try:
        with this_process().connections() as process:
            done = process.announce(list_handlers())
    except (SchemaMissingError, LostRightError) as error:
        tell_refusal(error)
    except (RedisError, *UNREACHABLE) as error:
        log.warning("the handlers are not announced yet: %s", error, extra={"code": "not_announced"})
    else:
        log_announced(done)
        return True
    return False


class _Announcer(Announcer):
    redis_url = settings.broker_url
    names = wire.Names(settings.redis_prefix)
    list_handlers = staticmethod(list_handlers)
    announce = staticmethod(announce_handlers)


app.steps["consumer"].add(_Announcer)


@signals.task_unknown.connect
def _tell_unknown(sender: Any = None, name: str = "", message: Any = None, **_: Any) -> None:
    """Pass a message that this worker cannot run on to housekeeping; Celery itself would drop it."""
    try:
        (argument,) = message.decode()[0]
    except (ValueError, TypeError, AttributeError, IndexError):
        log.exception("a message of the unknown task %s cannot be read", name, extra={"code": "unknown_task"})
        return
    worker = str(getattr(sender, "hostname", sender))
    extra = {"handler": name, "code": "unknown_handler"}
    log.warning("this worker has no such handler: %d deliveries come again", len(argument), extra=extra)
    disown.apply_async(args=[name, argument, worker])
