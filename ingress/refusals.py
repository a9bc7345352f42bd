"""A log line when requests of a registered endpoint are refused, at most one a minute for each endpoint and code.

A stranger who knows a path can cause lines, but not many: their number is bounded by the registry, not by requests.
"""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

    from ingress.errors import Refusal

log: Final = logging.getLogger(__name__)

EVERY_SECONDS: Final = 60.0
"""Between two lines about the same endpoint and code."""


class RefusalLog:
    """Counts refusals and logs samples of them."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._seen: dict[tuple[str, str, str], tuple[float, int]] = {}
        """When the last line was logged, and the refusals since then, by provider, tenant and code."""

    def add(self, refusal: Refusal, *, provider: str, tenant: str) -> None:
        """Count one refusal of a registered endpoint; log a line if none was logged lately."""
        key = (provider, tenant, refusal.code)
        now = self._clock()
        logged_at, unlogged = self._seen.get(key, (float("-inf"), 0))
        if now - logged_at < EVERY_SECONDS:
            self._seen[key] = logged_at, unlogged + 1
            return
        self._seen[key] = now, 0
        more = f", and {unlogged} since the last such line" if unlogged else ""
        log.warning(
            "refused a request for %s/%s: %s%s",
            provider,
            tenant,
            refusal.code,
            more,
            extra={"provider": provider, "tenant": tenant, "code": refusal.code},
        )
