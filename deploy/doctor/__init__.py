"""`pipeline doctor`: is what the guarantees rest on as it must be? Read `deploy.cli.doctor` first, which runs it.

- `finding`: what a check returns.
- `redis_server`: version and role, durability, eviction, memory.
- `postgres_server`: version, pooler, encoding, rights, the role of handlers, durability, replicas, old snapshots, days.
- `deployment`: rights in Redis, clocks, keys, the published registry, workers, releases, and handlers that nobody runs.

Nothing here changes anything.
"""
