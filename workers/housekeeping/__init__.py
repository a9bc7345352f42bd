"""Housekeeping: every second, recovers what a crash or a lost message has left behind.

- `sweeper`: expired leases, lost messages.
- `publishing`: the registry, from Postgres to Redis.
- `jobs`: what people have asked to be done with many deliveries, in steps.
- `incidents`, `causes`: what has failed, grouped by its cause.
- `alerting`, `alert_channels`, `alert_content`, `alert_sending`: messages about incidents: when, to whom, what, how.
"""
