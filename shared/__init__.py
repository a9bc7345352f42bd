"""What crosses the wire between ingress, workers and deploy, and nothing else.

- `envelope`: the inbox entry. `registry`: tenants, endpoints and secrets, as Redis holds them.
- `redis_url`, `redis_client`: which Redis a URL names, and clients that find it again after a failover.
- `identity`, `rights`: whose Redis it is, and what its users must be allowed.
- `wire`: names in Redis, Celery's messages, the doorbell.
- `settings`, `logs`, `heartbeat`, `durability`: what the processes of both read, log, show and ask of Redis.
- `refusals`, `releases`: what the ingress says of itself: what it has refused, and of which release it is.
- `traces`, `otlp`: the spans of an event, where a collector is named.
"""
