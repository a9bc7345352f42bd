"""Which releases run, so that a new form is written only when every process that may read it does.

Entries, messages and the registry cross Redis between processes that are deployed one after the other. A release reads
the forms of the one before it and its own, and every process says in Redis which release it is of: workers in what
`workers.live_workers` keeps, the ingress here. Processes of version 0.1 say nothing, and 0.2 writes no form that those
do not read; the first to ask before it writes will be the release that changes a form. `pipeline doctor` shows all.
"""

import json
from typing import Final

from redis import Redis

from shared.wire import Names

RELEASE: Final = "0.2.0"
"""Of this code; `pyproject.toml` and CHANGELOG.md say the same."""
LIVE_SECONDS: Final = 30.0
EVERY_SECONDS: Final = 5.0

SAY: Final = f"""
local now = redis.call('TIME')
redis.call('ZADD', KEYS[1], now[1], ARGV[1])
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now[1] - {LIVE_SECONDS:.0f})
"""
"""Lua: KEYS `Names.live_ingresses`; ARGV what a process says of itself."""


def describe(process: str) -> str:
    """Return what a process of the ingress says of itself; the name is unique."""
    return json.dumps({"name": process, "release": RELEASE})


def read_ingresses(redis: Redis, names: Names) -> list[str]:
    """Return the releases of the ingress processes that live, one for each."""
    pipeline = redis.pipeline(transaction=False)
    pipeline.time()
    pipeline.zrange(names.live_ingresses, 0, -1, withscores=True)
    (now, _), found = pipeline.execute()
    return sorted(str(json.loads(text)["release"]) for text, at in found if at > now - LIVE_SECONDS)
