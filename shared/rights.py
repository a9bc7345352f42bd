"""What each duty asks of Redis, so that a user with few rights who lacks one is told which.

deploy/REDIS_USERS.md has the same as a line of ACL for each duty. Redis itself says whether a connection's user may
run a command (`redis.acl_check_cmd`, Redis 7); nothing is run. What a server cannot tell counts as allowed.
"""

import json
from collections.abc import Collection, Iterator
from typing import Any, Final

from shared.wire import EXPRESS_QUEUE, HANDLERS_QUEUE, HOUSEKEEPING_QUEUE, INBOX_GROUP, INGEST_QUEUE, Names

Command = tuple[str | int, ...]

LIST_MISSING: Final = """
local missing = {}
if not redis.acl_check_cmd then return missing end
for i = 1, #ARGV do
  if not redis.acl_check_cmd(unpack(cjson.decode(ARGV[i]))) then missing[#missing + 1] = ARGV[i] end
end
return missing
"""
"""Lua: no KEYS; ARGV commands with their arguments, each a JSON list. Returns those that the user may not run."""
QUEUES: Final = (INGEST_QUEUE, HANDLERS_QUEUE, EXPRESS_QUEUE, HOUSEKEEPING_QUEUE)
ADVICE: Final = "give it the rights that deploy/REDIS_USERS.md lists for its duty"


class MissingRightsError(Exception):
    """The user of Redis may not do what this process must; the text is one line that names it."""

    def __init__(self, missing: Collection[str], variable: str = "REDIS_URL") -> None:
        super().__init__(f"the user of {variable} may not run {', '.join(missing)}: {ADVICE}")


def require(client: Any, commands: Collection[Command], *, variable: str) -> None:
    """Check that the user of this client may run all of these commands.

    Args:
        client: of Redis.
        commands: with their arguments.
        variable: that names its URL, for the error.

    Raises:
        MissingRightsError: it may not.
        redis.RedisError: Redis is away.
    """
    try:
        missing = read_missing(client.eval(LIST_MISSING, 0, *pack(commands)))
    except Exception as error:
        if not is_refusal(error):
            raise
        missing = ("EVAL",)
    if missing:
        raise MissingRightsError(missing, variable)


def pack(commands: Collection[Command]) -> list[str]:
    """Return the arguments of `LIST_MISSING`."""
    return [json.dumps([str(word) for word in command]) for command in commands]


def read_missing(reply: Any) -> tuple[str, ...]:
    """Return commands of a reply of `LIST_MISSING`, each with the name that it is about."""
    commands = [json.loads(text) for text in reply]
    return tuple(dict.fromkeys(" ".join(_shown(command)) for command in commands))


def is_refusal(error: Exception) -> bool:
    """Return whether Redis has refused a command for want of a right."""
    refusals = ("NOPERM", "ACL failure in script", "has no permissions")
    return type(error).__name__ == "NoPermissionError" or any(it in str(error) for it in refusals)


def _shown(command: list[str]) -> list[str]:
    """Return a command and its key or channel, without what else it is called with."""
    if command[0] == "XREADGROUP":
        return [command[0], command[5]]
    has_subcommand = command[0] in {"XINFO", "XGROUP", "SCRIPT"}
    return command[: 3 if has_subcommand else 2]


def of_ingress(names: Names, *, rings: bool = True, waits: bool = False) -> list[Command]:
    """Return what the ingress does at the inbox: append, count, read the registry.

    Args:
        names: in Redis.
        rings: the broker is there, too.
        waits: for replicas.
    """
    return [
        *(("XADD", stream, "*", "v", 1) for stream in names.streams),
        *(("XLEN", stream) for stream in names.streams),
        ("HINCRBY", names.inbox_bytes, "t", 1),
        ("HMGET", names.inbox_bytes, "t"),
        ("HGET", names.inbox_rates, "t"),
        ("HSET", names.inbox_rates, "t", 1),
        ("ZADD", names.active_tenants, 1, "t"),
        ("ZRANGE", names.active_tenants, 0, -1),
        ("ZREMRANGEBYRANK", names.active_tenants, 0, -4),
        ("ZADD", names.live_ingresses, 1, "p"),
        ("ZREMRANGEBYSCORE", names.live_ingresses, 0, 1),
        ("ZREM", names.live_ingresses, "p"),
        ("HLEN", names.refusals),
        ("HGET", names.refusals, "t"),
        ("HSET", names.refusals, "t", 1),
        ("HGET", names.registry, "version"),
        ("HGETALL", names.registry),
        *(_ring(names) if rings else ()),
        *([("WAIT", 0, 1)] if waits else ()),
        ("TIME",),
        ("INFO",),
    ]


def of_worker(names: Names, queues: Collection[str]) -> list[Command]:
    """Return what a worker of these queues does where inbox and broker are one Redis."""
    return [*of_worker_at_broker(names, queues), *of_worker_at_inbox(names, queues)]


def of_worker_at_broker(names: Names, queues: Collection[str]) -> list[Command]:
    """Return what a worker of these queues does at the broker: take messages as kombu does, admit, ring."""
    needs = [*_kombu(names), *_admit(names), *_identify(names)]
    if {INGEST_QUEUE, HOUSEKEEPING_QUEUE} & set(queues):
        needs += [("HSET", names.tasks_ended, "t", 1), *_ring(names)]
    if INGEST_QUEUE in queues:
        needs.append(("DEL", names.bell))
    if set(queues) & {HANDLERS_QUEUE, EXPRESS_QUEUE}:
        needs.append(("HSET", names.handler_means, "t", 1))
    if HOUSEKEEPING_QUEUE in queues:
        needs += _tidy(names)
    return needs


def of_worker_at_inbox(names: Names, queues: Collection[str]) -> list[Command]:
    """Return what a worker of these queues does at the inbox."""
    needs = [*_identify(names)]
    if {INGEST_QUEUE, HOUSEKEEPING_QUEUE} & set(queues):
        needs += [*(("XLEN", stream) for stream in names.streams), ("DEL", names.inbox_bytes)]
        for stream in names.streams:
            needs += [("EXISTS", stream), ("XGROUP", "CREATE", stream, INBOX_GROUP, 0, "MKSTREAM")]
    if INGEST_QUEUE in queues:
        needs += _drain(names)
    if HOUSEKEEPING_QUEUE in queues:
        needs += _sweep(names)
    return needs


def of_console_at_inbox(names: Names) -> list[Command]:
    """Return what the console does at the inbox: look, also as the doctor, and publish the registry."""
    return [
        *(("XLEN", stream) for stream in names.streams),
        *(("XRANGE", stream, "-", "+", "COUNT", 1) for stream in names.streams),
        *_identify(names),
        ("HGET", names.registry, "version"),
        ("HSET", names.registry, "f", 1),
        ("DEL", names.registry),
        ("HGETALL", names.refusals),
        ("ZRANGE", names.live_ingresses, 0, -1),
        ("EVAL_RO", "return 1", 0),
        ("TIME",),
        ("INFO",),
    ]


def of_console_at_broker(names: Names) -> list[Command]:
    """Return what the console does at the broker: see who works."""
    lists = (names.live_workers, names.live_handlers, names.seen_workers)
    return [*(("ZRANGE", it, 0, -1) for it in lists), ("HGETALL", names.worker_activity), ("TIME",), ("INFO",)]


def of_console(names: Names) -> list[Command]:
    """Return what the console does where inbox and broker are one Redis."""
    return [*of_console_at_inbox(names), *of_console_at_broker(names)]


def of_commands(names: Names) -> list[Command]:
    """Return what the user of commands needs where inbox and broker are one Redis: what ingress and workers do."""
    return _without_patterns([*of_ingress(names), *of_worker(names, QUEUES)])


def of_commands_at_inbox(names: Names) -> list[Command]:
    """Return what the user of commands needs at the inbox."""
    return _without_patterns([*of_ingress(names, rings=False), *of_worker_at_inbox(names, QUEUES)])


def _without_patterns(commands: Collection[Command]) -> list[Command]:
    """Leave PSUBSCRIBE out: Redis allows a pattern to those who have that very one, not to those with a wider one."""
    return [it for it in commands if it[0] != "PSUBSCRIBE"]


def _identify(names: Names) -> Iterator[Command]:
    yield from (("GET", names.identity), ("SET", names.identity, 1))


def _ring(names: Names) -> Iterator[Command]:
    yield from (("LLEN", names.ingest_queue), ("SET", names.bell, 1), ("LPUSH", names.ingest_queue, 1))


def _admit(names: Names) -> Iterator[Command]:
    for queue in (names.handlers_queue, names.express_queue):
        yield from (("LLEN", queue), ("LPUSH", queue, 1))
    for live in (names.live_workers, names.live_handlers):
        yield from (
            ("ZADD", live, 1, "w"),
            ("ZREMRANGEBYSCORE", live, 0, 1),
            ("ZREM", live, "w"),
            ("ZRANGE", live, 0, 1),
        )
    seen, activity = names.seen_workers, names.worker_activity
    yield from (("ZADD", seen, 1, "w"), ("ZRANGEBYSCORE", seen, 0, 1), ("ZREM", seen, "w"))
    yield from (("HSET", activity, "w", 1), ("HDEL", activity, "w"))
    yield from (("EXISTS", names.express_closed), ("HMGET", names.handler_means, "t"))


def _kombu(names: Names) -> Iterator[Command]:
    """What kombu does for every worker; any of them returns messages of a dead one to their queues."""
    for queue in QUEUES:
        key, binding = f"{names.prefix}{queue}", f"{names.prefix}_kombu.binding.{queue}"
        yield from (("BRPOP", key, 1), ("LLEN", key), ("RPUSH", key, 1), ("LPUSH", key, 1), ("SADD", binding, 1))
    pidbox = f"{names.prefix}worker.celery.pidbox"
    yield from (("DEL", pidbox), ("LLEN", pidbox), ("LPUSH", f"{names.prefix}1.reply.celery.pidbox", 1))
    bindings = f"{names.prefix}_kombu.binding.reply.celery.pidbox"
    yield from (("SMEMBERS", bindings), ("SREM", bindings, 1), ("EXISTS", bindings), ("DEL", bindings))
    deadlines = f"{names.prefix}_kombu.binding_deadlines"
    yield from (("ZADD", deadlines, 1, 1), ("ZRANGEBYSCORE", deadlines, 0, 1), ("ZREM", deadlines, 1))
    yield from (("HSET", names.unacked, 1, 1), ("HGET", names.unacked, 1), ("HDEL", names.unacked, 1))
    yield from (("ZADD", names.unacked_index, 1, 1), ("ZREM", names.unacked_index, 1))
    yield from (("ZRANGE", names.unacked_index, 0, 1), ("WATCH", names.unacked))
    mutex = f"{names.prefix}unacked_mutex"
    yield from (("SET", mutex, 1), ("GET", mutex), ("DEL", mutex), ("EVALSHA", 0, 0))
    yield from (("MULTI",), ("EXEC",), ("UNWATCH",), ("PING",), ("TIME",))
    yield from (("SCRIPT", "LOAD", 1), ("SCRIPT", "EXISTS", 1))
    yield from (("PSUBSCRIBE", f"{names.prefix}/0.celery.pidbox"), ("PUNSUBSCRIBE",))
    yield ("PUBLISH", f"{names.prefix}/0.celeryev/worker.heartbeat", 1)


def _drain(names: Names) -> Iterator[Command]:
    for stream in names.streams:
        yield from (
            ("XREADGROUP", "GROUP", INBOX_GROUP, "c", "STREAMS", stream, ">"),
            ("XPENDING", stream, INBOX_GROUP),
            ("XCLAIM", stream, INBOX_GROUP, "c", 0, "0-1"),
            ("XACK", stream, INBOX_GROUP, "0-1"),
            ("XDEL", stream, "0-1"),
            ("XINFO", "GROUPS", stream),
        )
    yield ("DEL", names.bell)
    for command in ("EXISTS", "HEXISTS", "HINCRBY", "HDEL"):
        yield (command, names.inbox_bytes, *(("t", 1)[: {"EXISTS": 0, "HINCRBY": 2}.get(command, 1)]))


def _sweep(names: Names) -> Iterator[Command]:
    for stream in names.streams:
        yield from (("XINFO", "CONSUMERS", stream, INBOX_GROUP), ("XGROUP", "DELCONSUMER", stream, INBOX_GROUP, "c"))
    yield from (("HGET", names.registry, 1), ("HSET", names.registry, 1, 1), ("DEL", names.registry))
    yield from (("HGETALL", names.refusals), ("HDEL", names.refusals, "t"))


def _tidy(names: Names) -> Iterator[Command]:
    yield from (("LRANGE", names.handlers_queue, 0, -1), ("LRANGE", names.express_queue, 0, -1))
    yield from (("LINDEX", names.express_queue, -1), ("SET", names.express_closed, 1))
    yield ("LMOVE", names.express_queue, names.handlers_queue, "RIGHT", "LEFT")
    yield from (("HGETALL", names.unacked), ("ZRANGEBYSCORE", names.unacked_index, 0, 1))
