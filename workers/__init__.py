"""One event, three duties: ingest, dispatch, sweep. What a team's handlers import is here."""

from workers.delivery import Delivery
from workers.errors import Permanent, RetryAfter
from workers.events import Event, GenericEvent
from workers.registration import handler

__all__ = ["Delivery", "Event", "GenericEvent", "Permanent", "RetryAfter", "handler"]
