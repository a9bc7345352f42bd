"""Which of Celery's own log lines are shown, and in what words.

A line for every task and tick would bury what matters. What Celery says of a message is not true of the deliveries that
it names: their outcomes are in Postgres, each with a line of its own.
"""

from __future__ import annotations

import logging
from typing import Final

from billiard.util import get_logger as get_pool_logger

from shared.rights import is_refusal
from workers.errors import DeliveryFailed

AT_EACH_TASK: Final = ("celery.beat", "celery.app.trace", "celery.worker.strategy", "multiprocessing")
"""Loggers of lines below a warning for every task, tick and process of a pool."""
DISCARDED: Final = "has been ignored and discarded"


def quieten() -> None:
    """Leave out, from now on, what is false or said twice; call it after the levels are set."""
    get_pool_logger().propagate = True  # else the end of a process is written past all handlers
    for name in AT_EACH_TASK:
        logging.getLogger(name).setLevel(max(logging.WARNING, logging.getLogger().level))
    logging.getLogger("celery.app.trace").addFilter(_is_no_delivery)
    consumer = logging.getLogger("celery.worker.consumer.consumer")
    consumer.addFilter(_shorten_discarded)
    consumer.addFilter(_is_no_missing_right)
    logging.getLogger("py.warnings").addFilter(_is_not_of_what_we_set)


def _is_no_delivery(record: logging.LogRecord) -> bool:
    """Leave out the end of a message in which deliveries failed: each of them has its line."""
    return not (record.exc_info and record.exc_info[0] is DeliveryFailed)


def _is_not_of_what_we_set(record: logging.LogRecord) -> bool:
    """Leave out what Celery says at each lost connection of `worker_cancel_long_running_tasks_on_connection_loss`."""
    return "worker_cancel_long_running_tasks_on_connection_loss" not in record.getMessage()


def _is_no_missing_right(record: logging.LogRecord) -> bool:
    """Leave out a connection that is made anew because Redis refuses a command: `workers.broker` says which right."""
    return not any(isinstance(it, Exception) and is_refusal(it) for it in record.args or ())


def _shorten_discarded(record: logging.LogRecord) -> bool:
    """Of a message that no worker can read, keep the first line: what it named comes again, or is told by us."""
    text = str(record.msg)
    if DISCARDED in text:
        record.msg = text.partition("\n")[0]
        record.args = record.args[:1] if isinstance(record.args, tuple) else record.args
        record.exc_info = None
        record.__dict__["code"] = "message_refused"
    return True
