"""Log lines and figures about refusals of registered endpoints.

Guarantees: at most one line a minute for each endpoint and code. A stranger who knows a path can cause lines, but their
number is bounded by the registry, not by requests.
"""

import logging
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from http import HTTPStatus
from typing import Final

from redis.asyncio import Redis
from redis.exceptions import ResponseError

from ingress.endpoints import Endpoint
from ingress.errors import Refusal
from shared.refusals import Key, add_arguments

log: Final = logging.getLogger(__name__)

LOG_EVERY_SECONDS: Final = 60.0
"""Between two log lines about the same endpoint and code."""
PUBLISH_SECONDS: Final = 5.0
"""Between two additions to the hash in Redis that all processes share."""


class RefusalLog:
    """Counts refusals of registered endpoints; every process of the ingress has one."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._seen: dict[Key, tuple[float, int]] = {}
        """When the last line was logged, and the refusals since then, by provider, tenant and code."""
        self._unpublished: Counter[Key] = Counter()
        """Refusals that are not in Redis yet."""
        self._publish_at = 0.0

    def add(self, refusal: Refusal, endpoint: Endpoint) -> None:
        """Count one refusal of a registered endpoint; log a line if none was logged lately.

        The line names the secrets of the endpoint by their labels: a sender may still sign with one that has expired.
        """
        key = (endpoint.provider, endpoint.tenant, refusal.code)
        self._unpublished[key] += 1
        now = self._clock()
        logged_at, unlogged = self._seen.get(key, (float("-inf"), 0))
        if now - logged_at < LOG_EVERY_SECONDS:
            self._seen[key] = logged_at, unlogged + 1
            return
        self._seen[key] = now, 0
        more = f", and {unlogged} since the last such line" if unlogged else ""
        about = {"provider": endpoint.provider, "tenant": endpoint.tenant, "code": refusal.code}
        extra = {**about, **_labels_of(refusal, endpoint)}
        log.warning("refused a request for %s/%s: %s%s", *about.values(), more, extra=extra)

    async def publish(self, redis: Redis, name: str) -> None:
        """Add what was refused since the last time to the hash of this name; a full Redis refuses that."""
        if not self._unpublished or self._clock() < self._publish_at:
            return
        self._publish_at = self._clock() + PUBLISH_SECONDS
        published = dict(self._unpublished)
        with suppress(ResponseError):
            await redis.eval(*add_arguments(name, published))
            self._unpublished -= Counter(published)  # more may have come meanwhile


def _labels_of(refusal: Refusal, endpoint: Endpoint) -> dict[str, list[str]]:
    """Return the labels of the secrets that were tried and of those that had expired, for a signature that is wrong."""
    if refusal.status != HTTPStatus.UNAUTHORIZED:
        return {}
    alive = [key.label for key in endpoint.valid_keys(time.time())]
    return {"labels": alive, "expired_labels": [key.label for key in endpoint.keys if key.label not in alive]}
