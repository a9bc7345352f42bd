"""Admit, run, record: a delivery from `pending` to its outcome.

- `admission`: tops the Celery queue up from Postgres, fairly.
- `turns`: in which order due deliveries are served, and where service goes on.
- `express`: which deliveries go past the others, through a queue of their own.
- `queue`: those queues, in Redis.
- `running`: runs the deliveries of one message.
- `delivery`, `deadline`, `handler_loop`: what a handler is given, its timeout, the loop of `async def` ones.
- `outcomes`, `retry`, `failure_log`: what comes of an attempt, when the next one is due, the log line of a failed one.
"""
