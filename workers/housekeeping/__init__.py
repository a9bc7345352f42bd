"""What fell between two steps is picked up again.

- `sweeper`: expired leases, lost messages.
- `publishing`: the registry, from Postgres to Redis.
"""
