"""What the exporter reads from Redis: memory, durability and the inbox; of the broker queues, workers and last runs."""

from collections.abc import Callable, Sequence
from typing import Any, Final

from redis.exceptions import ResponseError

from deploy.exporter.figures import Families
from shared.durability import Durability, assess
from shared.identity import require_own
from shared.redis_client import open_client
from shared.refusals import Refused, parse
from shared.registry import VERSION_FIELD
from shared.wire import EXPRESS_QUEUE, HANDLERS_QUEUE, HOUSEKEEPING_QUEUE, INGEST_QUEUE, Names
from workers.seen_workers import SeenWorker, read_seen
from workers.store.tallies import OTHERS

ENDPOINTS: Final = 20
"""Refused endpoints that have series of their own, for each code: those that have been refused for longest."""
READ_SECONDS: Final = 2.0
OLDEST: Final = """
local first = redis.call('XRANGE', KEYS[1], '-', '+', 'COUNT', 1)[1]
return first and first[1] or false
"""
"""Lua: the id of a stream's oldest entry, without its body."""


class RedisFigures:
    """Reads Redis on a connection of its own."""

    def __init__(
        self,
        redis_url: str,
        names: Names,
        *,
        broker_url: str | None = None,
        meant: Durability,
        read_identity: Callable[[], str | None] = lambda: None,
    ) -> None:
        """Connect at first use.

        Args:
            redis_url: of the inbox.
            names: in Redis.
            broker_url: of the queues, if they are elsewhere.
            meant: INBOX_DURABILITY.
            read_identity: returns the identity of the database whose figures are served; None while it is not known.
        """
        self._redis = open_client(redis_url, seconds=READ_SECONDS, prefix=names.prefix)
        self._broker = self._redis
        if broker_url not in {None, redis_url}:
            self._broker = open_client(str(broker_url), seconds=READ_SECONDS)
        self._names = names
        self._queues = {
            INGEST_QUEUE: names.ingest_queue,
            HANDLERS_QUEUE: names.handlers_queue,
            EXPRESS_QUEUE: names.express_queue,
            HOUSEKEEPING_QUEUE: names.housekeeping_queue,
        }
        self._streams = {"inbox": names.inbox, "overflow": names.overflow}
        self._meant = meant
        self._read_identity = read_identity
        self.refused: list[Refused] = []
        """What was refused when Redis was asked last."""

    def require_own(self) -> None:
        """Check whose Redis it is, as `read` does."""
        if (identity := self._read_identity()) is not None:
            owner: Any = self._redis.get(self._names.identity)
            require_own(owner, identity)

    def read(self, families: Families) -> None:
        """Add what Redis says.

        Raises:
            redis.RedisError: it is away.
            ForeignRedisError: it belongs to another database or environment.
        """
        identity = self._read_identity()
        pipeline = self._redis.pipeline(transaction=False)
        pipeline.get(self._names.identity)
        pipeline.time()
        pipeline.info("memory", "persistence")
        pipeline.hget(self._names.registry, VERSION_FIELD)
        pipeline.hgetall(self._names.refusals)
        for stream in self._streams.values():
            pipeline.xlen(stream)
            pipeline.eval_ro(OLDEST, 1, stream)
        owner, (seconds, micros), facts, version, refusals, *streams = pipeline.execute()
        if identity is not None:
            require_own(owner, identity)
        now = seconds + micros / 1e6
        for name, length, oldest in zip(self._streams, streams[::2], streams[1::2], strict=True):
            families.add("pipeline_inbox_entries", length, name)
            age = now - int(oldest.partition(b"-")[0]) / 1000 if oldest else 0.0
            families.add("pipeline_inbox_oldest_seconds", max(0.0, age), name)
        families.add("pipeline_registry_version", int(version or 0), "redis")
        self.refused = parse(refusals, now=now)
        for it in self.refused[:ENDPOINTS]:
            families.add("pipeline_refused_requests", it.count, it.tenant, it.provider, it.code)
        if others := self.refused[ENDPOINTS:]:
            families.add("pipeline_refused_requests", sum(it.count for it in others), *[OTHERS] * 3)
        self._add_memory(families, facts)
        self._add_broker(families)
        self._add_workers(families, read_seen(self._broker, self._names))

    def _add_broker(self, families: Families) -> None:
        pipeline = self._broker.pipeline(transaction=False)
        pipeline.time()
        pipeline.hgetall(self._names.tasks_ended)
        pipeline.hlen(self._names.unacked)
        for queue in self._queues.values():
            pipeline.llen(queue)
        (seconds, micros), ended, held, *lengths = pipeline.execute()
        now = seconds + micros / 1e6
        for queue, length in zip(self._queues, lengths, strict=True):
            families.add("pipeline_queue_messages", length, queue)
        families.add("pipeline_held_messages", held)
        for task, at in sorted(ended.items()):
            families.add("pipeline_task_age_seconds", max(0.0, now - float(at)), task.decode())

    def _add_workers(self, families: Families, seen: Sequence[SeenWorker]) -> None:
        """Add the workers of each duty, as sums: restarts of them add no series."""
        for duty in self._queues:
            workers = [it for it in seen if duty in it.activity.duties]
            live = [it.activity for it in workers if not it.is_lost]
            waits = [it.fetched_seconds for it in live if it.busy < it.slots]
            families.add("pipeline_workers", len(live), duty)
            families.add("pipeline_worker_slots", sum(it.slots for it in live), duty)
            families.add("pipeline_worker_busy_slots", sum(min(it.busy, it.slots) for it in live), duty)
            families.add("pipeline_worker_fetch_age_seconds", max(waits, default=0.0), duty)
            families.add("pipeline_workers_lost", len(workers) - len(live), duty)

    def _add_memory(self, families: Families, facts: dict[str, Any]) -> None:
        families.add("pipeline_redis_used_bytes", facts.get("used_memory", 0))
        families.add("pipeline_redis_max_bytes", facts.get("maxmemory", 0))
        try:
            appendfsync = self._redis.config_get("appendfsync").get("appendfsync")
        except ResponseError:
            appendfsync = None  # managed servers forbid CONFIG
        verdict = assess(facts, appendfsync, meant=self._meant)
        if verdict.texts("wrong") or not verdict.texts("unknown"):
            families.add("pipeline_redis_durable", not verdict.texts("wrong"))
