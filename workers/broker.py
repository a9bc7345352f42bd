"""Celery's connection to Redis: the options it needs, and how it reconnects.

Celery reaches the same server by the same URL as every other part, and trusts the same certificates: kombu 5.7 knows no
`unix://`, and accepts any certificate over `rediss://` unless the URL asks for a check. While Redis refuses commands
(full, read-only, loading) or is away, a worker and beat try again every half second to two seconds, and no worker ends
because of it. A worker that ends for another reason is gone within `END_SECONDS`, so that it can be restarted.
"""

from __future__ import annotations

import logging
import os
import random
import threading
import time
from functools import partial
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import parse_qsl, quote, urlencode, urlsplit

import billiard.pool
from celery.app.amqp import AMQP
from celery.worker.consumer import Consumer
from kombu.connection import Connection
from kombu.utils.objects import cached_property
from redis.exceptions import ConnectionError, ResponseError  # noqa: A004 - redis-py's own name

from shared import rights
from shared.redis_url import REDIS_OPTIONS, REDIS_TLS_OPTIONS, SENTINEL_OPTIONS, SENTINELS
from workers.heartbeat import beat

if TYPE_CHECKING:
    from collections.abc import Callable

log = logging.getLogger(__name__)

LONGEST_PAUSE: Final = 2.0
"""Seconds between two attempts to connect. kombu's own pauses grow to 30 s, and by those the pipeline stood still
after Redis had come back."""
billiard.pool.GUARANTEE_MESSAGE_CONSUMPTION_RETRY_LIMIT = 5
"""Tenths of a second that a process of the pool waits at its end until the main process has read all of its results;
billiard waits 30 s. Now and then the main process no longer reads at a stop, and for half a minute nothing ran. A
result that is not read is a message that comes again, and messages may come twice."""
READ_SECONDS: Final = 1.0
"""In which a message for all workers has to be there, once its connection can be read."""
REFUSAL_SECONDS: Final = 60.0
"""Between two lines about a right that is missing."""
END_SECONDS: Final = 30.0
"""In which a worker finishes what runs and ends, after an error that it cannot go on with. Without that bound one was
seen to wait for ever for a child that it had not told to end: it lived, and did nothing."""


def broker_url(redis_url: str) -> str:
    """Return the URL for Celery, of one that `shared.redis_url` has checked; see also `broker_options`."""
    parts = urlsplit(redis_url)
    query = {name: value for name, value in parse_qsl(parts.query) if name not in REDIS_OPTIONS}
    if redis_url.startswith(SENTINELS):
        credentials, at, hosts = parts.netloc.rpartition("@")
        return ";".join(f"sentinel://{credentials}{at}{host}/{query['db']}" for host in hosts.split(","))
    if parts.scheme == "rediss":
        return parts._replace(query=urlencode({"ssl_cert_reqs": "required"} | query)).geturl()
    if parts.scheme == "unix":
        user = parts.username or quote(query.get("username", ""), safe="")
        password = parts.password or quote(query.get("password", ""), safe="")
        return f"redis+socket://{user}:{password}@{parts.path}?virtual_host={query.get('db', '0')}"
    return parts._replace(query=urlencode(query)).geturl()


def broker_options(redis_url: str, prefix: str) -> dict[str, Any]:
    """Return the options of a Redis URL that kombu takes from its transport options instead, and the names' prefix."""
    parts = urlsplit(redis_url)
    query = dict(parse_qsl(parts.query))
    options: dict[str, Any] = {name: value for name, value in query.items() if name in REDIS_OPTIONS}
    options["global_keyprefix"] = prefix
    if redis_url.startswith(SENTINELS):
        options["master_name"] = parts.path.strip("/")
        user = {name.removeprefix("sentinel_"): query[name] for name in SENTINEL_OPTIONS if name in query}
        tls = {"ssl": True, **found} if (found := broker_tls(redis_url)) else {}
        options["sentinel_kwargs"] = {"socket_timeout": 1, "socket_connect_timeout": 1, **user, **tls}
    if "health_check_interval" in options:
        options["health_check_interval"] = int(options["health_check_interval"])
    if "socket_keepalive" in options:
        options["socket_keepalive"] = options["socket_keepalive"] == "true"
    return options


def broker_tls(redis_url: str) -> dict[str, Any]:
    """Return how Celery speaks TLS with servers that Sentinels name; empty for any other, whose URL says it."""
    if not redis_url.startswith("rediss+sentinel:"):
        return {}
    query = dict(parse_qsl(urlsplit(redis_url).query))
    given: dict[str, Any] = {name: value for name, value in query.items() if name in REDIS_TLS_OPTIONS}
    checks_host = given.get("ssl_check_hostname", "true") == "true"
    return {"ssl_cert_reqs": "required", **given, "ssl_check_hostname": checks_host}


class _LostChannel:
    """Makes the use of a channel whose connection was closed a connection error, which Celery recovers from.

    kombu 5.7 looks for the connection's host then, and ends the worker with an AttributeError (kombu#582). It keeps the
    heartbeat going, too, while Redis is away. And it bounds the read of a message for all workers: kombu's has none,
    and a worker that had renewed that connection, since its server fell silent, was seen to wait there for ever.
    """

    connection: Any

    @cached_property
    def subclient(self) -> Any:
        """The connection on which messages for all workers come."""
        client = super().subclient  # type: ignore[misc]
        client.parse_response = partial(client.parse_response, block=False, timeout=READ_SECONDS)
        return client

    def _connparams(self, *args: Any, **kwargs: Any) -> Any:
        beat()  # each attempt to connect comes through here, and while they fail no loop runs
        if self.connection is None or self.connection.client is None:
            raise ConnectionError("the connection to the broker was closed")
        return super()._connparams(*args, **kwargs)  # type: ignore[misc]


class PatientConnection(Connection):
    """A connection that tries again at short intervals, and whose channels may be used after it was lost."""

    def get_transport_cls(self) -> Any:
        """Return the transport of the URL's scheme with our channel."""
        transport = super().get_transport_cls()
        if not hasattr(transport.Channel, "_connparams"):
            return transport  # no Redis, such as the one in memory
        channel = type("Channel", (_LostChannel, transport.Channel), {})
        return type("Transport", (transport,), {"Channel": channel})

    def ensure_connection(self, *args: Any, **kwargs: Any) -> Any:
        """Connect; while that fails, try again, at most `LONGEST_PAUSE` seconds apart."""
        pauses = {"interval_start": _jitter(0.3, 0.7), "interval_step": 0.3, "interval_max": LONGEST_PAUSE}
        return super().ensure_connection(*args, **{**pauses, **kwargs})


class PatientAMQP(AMQP):
    """Celery's factory of connections, with ours."""

    Connection = PatientConnection


class PatientConsumer(Consumer):
    """The part of a worker that takes messages; with `broker_channel_error_retry`, no refusal of Redis ends it.

    Attributes:
        taken: messages that it has taken since it was made, whatever became of them.
        name_refusal: returns a line about a command that Redis has refused for want of a right.
    """

    taken = 0
    name_refusal: Callable[[Exception], str] = str
    _refusal_told_at = float("-inf")

    def create_task_handler(self, *args: Any, **kwargs: Any) -> Callable[[Any], None]:
        """Return what is called with each message."""
        handle = super().create_task_handler(*args, **kwargs)

        def take(message: Any) -> None:
            self.taken += 1
            handle(message)

        return take

    def start(self) -> None:
        """Take messages until the worker ends."""
        try:
            super().start()
        except Exception:
            end_within(END_SECONDS)
            raise

    def on_connection_error_before_connected(self, exc: Exception) -> None:
        """Wait a moment before the next attempt."""
        self._tell_refusal(exc)
        super().on_connection_error_before_connected(exc)
        _pause_if_refused(exc)

    def on_connection_error_after_connected(self, exc: Exception) -> None:
        """Reconnect: at once after a lost connection, after a pause when Redis has refused a command."""
        self._tell_refusal(exc)
        super().on_connection_error_after_connected(exc)
        _pause_if_refused(exc)

    def _tell_refusal(self, error: Exception) -> None:
        """Say which right is missing, at most once a minute; `workers.celery_lines` leaves Celery's own line out."""
        if rights.is_refusal(error) and time.monotonic() - self._refusal_told_at >= REFUSAL_SECONDS:
            self._refusal_told_at = time.monotonic()
            log.error("%s", type(self).name_refusal(error), extra={"code": "missing_rights"})


def _pause_if_refused(error: Exception) -> None:
    """Pause if Redis answered with a refusal: it can be reached, so reconnecting would not wait."""
    if rights.is_refusal(error):
        time.sleep(_jitter(1.5, 2.5))  # a person must mend it
    elif isinstance(error, ResponseError):
        time.sleep(_jitter(0.3, 0.9))


def _jitter(low: float, high: float) -> float:
    """Return a random number of seconds, so that not all processes try at the same moment."""
    return random.uniform(low, high)  # noqa: S311 - nothing to guess


def end_within(seconds: float) -> None:
    """End this process if it still runs after so many seconds; what its children were running is tried again."""

    def end() -> None:
        log.critical("the worker does not end by itself after its error", extra={"code": "worker_stuck"})
        os._exit(1)

    timer = threading.Timer(seconds, end)
    timer.daemon = True
    timer.start()
