"""`python -m deploy.exporter`: serve `/metrics` and `/wanted` until SIGTERM.

It reads Redis and Postgres every EXPORTER_SECONDS, each on its own, and answers scrapes with what it read last. While
one of them is away it goes on with the other. Wrong settings, a port in use and a Redis of another database or
environment end it with one line and exit code 2; one that becomes another's later is no longer read.
"""

import logging
import signal
import sys
import threading
import time
from contextlib import suppress
from types import FrameType
from typing import Final

from prometheus_client import CollectorRegistry, start_http_server
from prometheus_client.process_collector import ProcessCollector
from redis.exceptions import RedisError

from deploy.exporter.postgres_figures import PostgresFigures
from deploy.exporter.redis_figures import RedisFigures
from deploy.exporter.settings import ExporterSettings
from deploy.exporter.source import Source, Sources
from deploy.exporter.wanted import Wanted, serve_wanted
from shared.heartbeat import EVERY_SECONDS, Heartbeat
from shared.identity import ForeignRedisError
from shared.logs import configure
from shared.settings import SettingError, load
from shared.wire import Names
from workers.store.connect import SCHEMA_MISSING, UNREACHABLE

log: Final = logging.getLogger(__name__)

STILL_SECONDS: Final = 60.0
"""A source whose look takes longer than this, beyond its interval, stands still."""


def main() -> None:
    """Run the exporter."""
    is_over = threading.Event()

    def stop(_: int, __: FrameType | None) -> None:
        is_over.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stop)
    try:
        run(load(ExporterSettings), is_over)
    except (SettingError, ForeignRedisError) as error:
        sys.stderr.write(f"exporter: {error}\n")
        raise SystemExit(2) from None


def run(settings: ExporterSettings, is_over: threading.Event) -> None:
    """Read and serve until `is_over` is set.

    Raises:
        SettingError: the port is in use, or the address is not ours.
        ForeignRedisError: Redis belongs to another database or environment.
    """
    configure(settings.log_level, settings.log_format)
    redis = RedisFigures(
        settings.inbox_url,
        Names(settings.redis_prefix),
        broker_url=settings.broker_url,
        meant=settings.inbox_durability,
        read_identity=lambda: postgres.identity,
    )
    postgres = PostgresFigures(
        settings.database_url,
        schema=settings.database_schema,
        environment=settings.environment,
        list_refused=lambda: redis.refused,
    )
    with suppress(RedisError, *UNREACHABLE, *SCHEMA_MISSING):  # who is away now is looked at when it is there
        postgres.identify()
        redis.require_own()
    sources = [
        Source("redis", redis.read, away=[RedisError], every_seconds=settings.seconds),
        Source("postgres", postgres.read, away=[*UNREACHABLE, *SCHEMA_MISSING], every_seconds=settings.seconds),
    ]
    registry = CollectorRegistry()
    ProcessCollector(registry=registry)
    registry.register(Sources(sources))
    try:
        server, thread = start_http_server(settings.port, settings.host, registry)
    except OSError as error:
        raise SettingError(
            f"cannot listen on {settings.host} port {settings.port}: {error.strerror or error}; stop what uses it, or "
            "set EXPORTER_PORT"
        ) from None
    wanted = Wanted(
        settings.inbox_url,
        Names(settings.redis_prefix),
        settings.database_url,
        schema=settings.database_schema,
        broker_url=settings.broker_url,
    )
    server.set_app(serve_wanted(wanted, otherwise=server.get_app()))  # type: ignore[arg-type]
    for source in sources:
        source.start()
    heartbeat = Heartbeat(folder=settings.heartbeat_dir, name=f"exporter-{settings.port}", duties=["exporter"])
    log.info("metrics on port %d", settings.port)
    patience = settings.seconds + STILL_SECONDS
    while not is_over.wait(EVERY_SECONDS):
        if all(time.monotonic() - source.read_at < patience for source in sources):
            heartbeat.beat()
    server.shutdown()
    server.server_close()
    thread.join()
    wanted.close()
    heartbeat.remove()


if __name__ == "__main__":
    main()
