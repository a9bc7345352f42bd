"""The Celery tasks: the drain, one per handler, and those of housekeeping. The steps themselves are elsewhere.

Every task may run twice, or be lost, without harm.
"""

from workers.app import app
from workers.tasks.handlers import announce_handlers
from workers.tasks.housekeeping import disown, group, keep_days, sweep, tally, warn
from workers.tasks.ingest import drain_inbox

__all__ = ["announce_handlers", "app", "disown", "drain_inbox", "group", "keep_days", "sweep", "tally", "warn"]
