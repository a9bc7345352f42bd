"""Housekeeping: every second, recovers what a crash or a lost message has left behind.

- `sweeper`: expired leases, lost messages.
- `jobs`: what people have asked to be done with many deliveries, in steps.
- `publishing`: the registry, from Postgres to Redis.
"""
