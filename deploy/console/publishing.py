"""Telling the ingress of a changed endpoint, secret or limit at once."""

import logging
from typing import Final

import redis

from deploy.console.visit import Visit
from workers.housekeeping.publishing import Publisher

log: Final = logging.getLogger(__name__)


def publish(visit: Visit) -> str:
    """Publish the registry; return what to add to the sentence about the change.

    With Redis away the change is safe all the same: the sweeper publishes it.
    """
    console = visit.console
    try:
        Publisher(console.inbox, console.names, environment=console.environment).publish(visit.connection)
    except redis.RedisError as error:
        log.warning("a change is not published yet: %s", error, extra={"code": "redis_away"})
        return "; Redis does not answer, the sweeper publishes it as soon as it does"
    return ""
