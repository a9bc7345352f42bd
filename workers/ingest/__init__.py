"""Inbox to Postgres.

- `drain`: reads the inbox in batches and stores each in one transaction.
- `inbox_reader`, `inbox_scripts`: the Redis stream, as a drain reads it.
- `parsing`: one inbox entry becomes a row, accepted or rejected.
- `reprocess`: rejected events are parsed again after a fix.
"""
