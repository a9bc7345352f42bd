"""The Celery app: `celery -A workers.app worker -Q ingest|handlers|housekeeping`, `celery -A workers.app beat`.

A wrong setting or handler ends the start with one line. Handlers are imported by workers of the queues `handlers` and
`express` only. Messages carry ids only, results are not stored, and JSON is the only serializer.
"""

from __future__ import annotations

import gc
import logging
import sys
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from celery import Celery, signals

from shared import logs, traces, wire
from shared.identity import ForeignRedisError
from shared.rights import MissingRightsError
from shared.settings import SettingError, load
from workers import events, free_slots, heartbeat, registration, team_modules
from workers.broker import PatientAMQP, PatientConsumer, broker_options, broker_tls, broker_url
from workers.celery_lines import quieten
from workers.dispatch.delivery import current_delivery
from workers.errors import RegistrationError
from workers.ingest.inbox_reader import RedisError
from workers.process import Process, name_refusal, require_fit_servers, require_rights
from workers.settings import WorkerSettings
from workers.store.connect import SCHEMA_MISSING, UNREACHABLE, UnfitDatabaseError, require_readable

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from workers.registration import Handlers

log = logging.getLogger(__name__)

COLLECT_EVERY: Final = 50_000
"""Allocations after which a worker process looks for cyclic garbage. A batch makes that many and soon needs none of
them: with Python's default, 700, workers for handlers take 1.23 times the CPU, those for ingest 1.08 (5 pairs)."""

try:
    settings = load(WorkerSettings)
    require_readable(settings.database_url)
    require_readable(settings.handler_database_url)
    traces.require_packages(settings.otlp_endpoint)
    events.load_modules(settings.events)
except (SettingError, UnfitDatabaseError, RegistrationError) as refusal:
    sys.exit(f"workers: {refusal}")

app = Celery("pipeline", broker=broker_url(settings.broker_url), include=["workers.tasks"], amqp=PatientAMQP)
app.conf.update(
    # Before these, Celery looks at CELERY_BROKER_URL and BROKER_URL, which belong to other apps of whoever sets them:
    # the workers would listen where neither the ingress nor admission sends to.
    broker_read_url=app.conf.get("broker_url"),
    broker_write_url=app.conf.get("broker_url"),
    accept_content=["json"],
    task_serializer="json",
    result_backend=None,
    task_ignore_result=True,
    # A message is a hint: it is acknowledged when its work is committed, and comes again if its process dies.
    task_acks_late=True,
    task_reject_on_worker_lost=True,
    worker_prefetch_multiplier=1,
    # Every task bears being run twice, so that a killed worker's messages may come back soon: kombu looks for them
    # every 10 s, and only every tenth look counts unless it is told otherwise.
    broker_transport_options={
        "visibility_timeout": 30,
        "unacked_restore_throttle": 1,
        # A worker of several queues looks into them in the order that it was given: `express` before `handlers`.
        "queue_order_strategy": "priority",
        "socket_timeout": 10,
        "socket_connect_timeout": 5,
        **broker_options(settings.broker_url, settings.redis_prefix),
    },
    broker_use_ssl=broker_tls(settings.broker_url) or False,
    broker_connection_retry_on_startup=True,
    broker_connection_max_retries=None,
    # Redis full or read-only is an answer, not a lost connection: without this it ends the worker's main process, and a
    # second such end within 30 s waits for its restart.
    broker_channel_error_retry=True,
    worker_consumer="workers.broker:PatientConsumer",
    worker_cancel_long_running_tasks_on_connection_loss=False,
    worker_enable_prefetch_count_reduction=False,  # nothing to reduce where no more than one is prefetched
    task_default_queue=wire.HOUSEKEEPING_QUEUE,
    task_create_missing_queues=True,
    task_routes={"ingest.*": {"queue": wire.INGEST_QUEUE}, "housekeeping.*": {"queue": wire.HOUSEKEEPING_QUEUE}},
    worker_send_task_events=False,
    task_send_sent_event=False,
    worker_hijack_root_logger=False,
    worker_redirect_stdouts=False,
    worker_enable_remote_control=True,
    timezone="UTC",
    enable_utc=True,
    # Ticks are cheap to repeat and never worth remembering.
    beat_scheduler="workers.heartbeat:BeatingScheduler",
    beat_max_loop_interval=1.0,
    beat_schedule={
        "sweep": {"task": "housekeeping.sweep", "schedule": 1.0, "options": {"expires": 10}},
        "tally": {"task": "housekeeping.tally", "schedule": 5.0, "options": {"expires": 10}},
        "group": {"task": "housekeeping.group", "schedule": 5.0, "options": {"expires": 10}},
        "jobs": {"task": "housekeeping.work_on_jobs", "schedule": 1.0, "options": {"expires": 10}},
        "warn": {"task": "housekeeping.warn", "schedule": 60.0, "options": {"expires": 30}},
        "keep": {"task": "housekeeping.keep_days", "schedule": 600.0, "options": {"expires": 60}},
    },
)

heartbeat.connect_signals(settings.heartbeat_dir, on_tick=lambda: Process.of(settings).note_end("tick"))
app.steps["consumer"].add(heartbeat.HeartbeatTimer)


class _FreeSlotTimer(free_slots.FreeSlotTimer):
    redis_url = settings.broker_url
    prefix = settings.redis_prefix
    stuck_seconds = settings.stuck_seconds


app.steps["consumer"].add(_FreeSlotTimer)


@signals.celeryd_init.connect  # a worker warns of some things before it sets its logging up
@signals.setup_logging.connect
def _set_up_logging(**_: Any) -> None:
    """Replace Celery's logging by ours."""
    logs.configure(settings.log_level, settings.log_format, delivery=current_delivery)
    quieten()


def load_handlers() -> Handlers:
    """Import the modules of `HANDLERS`; what is wrong with them ends this process with one line."""
    if not settings.handlers:
        sys.exit("workers: HANDLERS is not set: name the modules that register your handlers, such as acme_handlers")
    try:
        return registration.load(settings.handlers)
    except RegistrationError as refusal:
        sys.exit(f"workers: {refusal}")


@signals.celeryd_init.connect
def _start(options: Mapping[str, Any], **_: Any) -> None:
    """Load the handlers, if this worker is to run any, and see that the servers can be used."""
    given = options.get("queues") or wire.HOUSEKEEPING_QUEUE
    queues = given.split(",") if isinstance(given, str) else given
    if {wire.HANDLERS_QUEUE, wire.EXPRESS_QUEUE}.intersection(queues):
        load_handlers()
    Process.queues = tuple(queues)
    PatientConsumer.name_refusal = partial(name_refusal, settings, queues=queues)
    _require_fit_servers(queues)


def _require_fit_servers(queues: Collection[str]) -> None:
    """End the start of a worker that could do nothing with these servers; what is away or not there yet may come."""
    try:
        require_rights(settings, queues=queues)
    except MissingRightsError as refusal:
        sys.exit(f"workers: {refusal}")
    except RedisError:
        pass  # said below, as far as Postgres can be reached, and by Celery
    try:
        require_fit_servers(settings)
    except (UnfitDatabaseError, ForeignRedisError) as refusal:
        sys.exit(f"workers: {refusal}")
    except SCHEMA_MISSING:
        pass  # the first task says so
    except RedisError as error:
        log.warning("Redis cannot be reached: %s", error, extra={"code": "redis_away"})
    except UNREACHABLE as error:
        log.warning("Postgres cannot be reached: %s", error, extra={"code": "postgres_away"})


@signals.celeryd_after_setup.connect
def _warn_of_shared_connections(**_: Any) -> None:
    for line in team_modules.shared_connections:
        log.warning(line, extra={"code": "shared_connection"})


@signals.worker_before_create_process.connect
def _share_memory(**_: Any) -> None:
    """Freeze what was imported before the fork, so that the garbage collector does not write to its memory pages.

    Those pages then stay shared. It is done in the main process, because a child collects before it could do so.
    """
    gc.collect()
    gc.freeze()


@signals.worker_process_init.connect
def _collect_seldom(**_: Any) -> None:
    gc.set_threshold(COLLECT_EVERY, 10, 10)


@signals.worker_process_init.connect
def _start_traces(**_: Any) -> None:
    traces.start(settings.otlp_endpoint, service="webhook-worker")


@signals.worker_process_shutdown.connect
def _send_last_traces(**_: Any) -> None:
    traces.current().flush()
