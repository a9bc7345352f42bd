"""Latencies as HdrHistogram keeps them: buckets of equal relative width, so that a percentile is right to 0.8 %."""

from __future__ import annotations

from collections import Counter
from typing import Final

_BITS: Final = 7


class Histogram:
    """Counts durations."""

    def __init__(self) -> None:
        self._counts: Counter[int] = Counter()
        self.count = 0

    def add(self, seconds: float) -> None:
        """Count one duration; below a microsecond counts as one."""
        value = max(1, int(seconds * 1e6))
        shift = max(0, value.bit_length() - _BITS - 1)
        self._counts[(value >> shift) << shift] += 1
        self.count += 1

    def percentile(self, percent: float) -> float:
        """Return the seconds below which so many percent of the durations lie; 0 of none."""
        wanted, seen = self.count * percent / 100, 0
        for value in sorted(self._counts):
            seen += self._counts[value]
            if seen >= wanted:
                return value / 1e6
        return 0.0

    def summary(self) -> dict[str, float]:
        """Return the usual percentiles in milliseconds."""
        return {f"p{percent:g}": round(self.percentile(percent) * 1000, 3) for percent in (50, 90, 99, 99.9, 100)}
