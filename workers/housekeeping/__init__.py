"""Housekeeping: every second, recovers what a crash or a lost message has left behind.

- `sweeper`: expired leases, lost messages.
- `publishing`: the registry, from Postgres to Redis.
"""
