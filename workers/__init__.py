"""One event, three duties. What a team's handlers import is here.

The rest, in reading order:

- `tasks`, `app`, `process`, `broker`, `consumer_timer`, `settings`: the Celery app, its tasks, what a process holds.
- `ingest/`: inbox to Postgres.
- `dispatch/`: admit, run, record.
- `housekeeping/`: recovers expired leases and lost messages, publishes the registry.
- `registration`, `errors`, `events/`, `handlers/`: what a handler is, what it raises, what it is given, an example.
- `team_modules`: how the modules are imported that `HANDLERS` and `EVENTS` name.
- `store/`: all SQL.
"""

# ruff: noqa: E402 - nothing of ours is imported before the check
from webhook_pipeline import require_packages

require_packages("shared")

from workers.dispatch.delivery import Delivery, current_delivery
from workers.errors import Permanent, RetryAfter
from workers.events import Event, GenericEvent
from workers.registration import handler, on_process_start

__all__ = [
    "Delivery",
    "Event",
    "GenericEvent",
    "Permanent",
    "RetryAfter",
    "current_delivery",
    "handler",
    "on_process_start",
]
