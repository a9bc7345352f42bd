"""What the figures must reach, as ratios within a round."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tests.benchmarks.measuring import Figures


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """One row of the table.

    Attributes:
        title: what a person reads.
        ours: name of our figure.
        other: name of the figure that it is divided by; None: ours is judged as it is.
        must: bound.
        aim: wish.
        unit: of our figure.
        more_is_better: whether the bounds are from below.
        in_readme: whether the README shows it; `deploy/PERFORMANCE.md` shows all.
        note: why it is missed, where it is known.
    """

    title: str
    ours: str
    other: str | None
    must: float
    aim: float
    unit: str
    more_is_better: bool = True
    in_readme: bool = False
    note: str = ""

    def ratios(self, rounds: Sequence[Figures]) -> list[float]:
        """Return the ratio of each round that has both figures."""
        return [
            figures[self.ours] / (figures[self.other] if self.other else 1.0)
            for figures in rounds
            if self.ours in figures and (self.other is None or figures.get(self.other))
        ]

    def judge(self, ratio: float) -> str:
        """Return "aim", "must" or "missed"."""
        for word, bound in (("aim", self.aim), ("must", self.must)):
            if ratio >= bound if self.more_is_better else ratio <= bound:
                return word
        return "missed"


# fmt: off - a row a line
TARGETS: Final = (
    Target(
        title="durable acks ÷ Starlette that only verifies",
        ours="ack_rate",
        other="verify_rate",
        must=0.75,
        aim=0.85,
        unit="/s",
        in_readme=True,
        note="Redis, which writes each event to disk, shares the cores with the ingress and the load",
    ),
    Target(
        title="durable acks ÷ FastAPI + delay()",
        ours="ack_rate",
        other="naive_ack_rate",
        must=14,
        aim=25,
        unit="/s",
        in_readme=True,
        note="as above: ingress, Redis and the load share the cores",
    ),
    Target(
        title="ack p99 at half of the slower's rate ÷ verify-only at that rate",
        ours="ack_p99_ms",
        other="verify_p99_ms",
        must=2.5,
        aim=1.5,
        unit="ms",
        more_is_better=False,
        note="every acknowledgement waits for the disk, verify-only for nothing: see the two rows below",
    ),
    Target(
        title="the same ÷ verify-only beside a process that flushes as many bodies to a file",
        ours="ack_p99_ms",
        other="flushing_verify_p99_ms",
        must=2.5,
        aim=1.5,
        unit="ms",
        more_is_better=False,
        note="an event waits for the flush of the batch before it and for its own; verify-only waits for neither",
    ),
    Target(
        title="the same with Redis' file in memory, the disk left out ÷ verify-only",
        ours="memory_ack_p99_ms",
        other="verify_p99_ms",
        must=2.5,
        aim=1.5,
        unit="ms",
        more_is_better=False,
        note="a round trip to Redis, on the same cores, which verify-only does not have",
    ),
    Target(
        title="stored from a backlog ÷ COPY in batches of 1,000",
        ours="stored_rate",
        other="copy_rate",
        must=0.35,
        aim=0.6,
        unit="/s",
        note="COPY writes `events` alone; a drain also reads Redis, and writes receipts and deliveries",
    ),
    Target(
        title="all the way, handler does nothing ÷ FastAPI + Celery",
        ours="nothing_rate",
        other="naive_nothing_rate",
        must=16,
        aim=30,
        unit="/s",
        in_readme=True,
    ),
    Target(
        title="the same ÷ Celery's own no-op tasks", ours="nothing_rate", other="noop_rate", must=4, aim=8, unit="/s"
    ),
    Target(
        title="all the way, handler writes a row ÷ FastAPI + Celery with that write",
        ours="write_rate",
        other="naive_write_rate",
        must=8,
        aim=14,
        unit="/s",
        in_readme=True,
    ),
    Target(
        title="at rest, POST to handler finished, p50 ÷ FastAPI + Celery",
        ours="idle_p50_ms",
        other="naive_idle_p50_ms",
        must=2,
        aim=1.2,
        unit="ms",
        more_is_better=False,
        in_readme=True,
    ),
    Target(
        title="ingress memory after many requests (unique set)",
        ours="ingress_megabytes",
        other=None,
        must=60,
        aim=45,
        unit="MB",
        more_is_better=False,
    ),
    Target(
        title="Redis memory per waiting event of 600 bytes",
        ours="waiting_bytes",
        other=None,
        must=1200,
        aim=900,
        unit="B",
        more_is_better=False,
    ),
)
# fmt: on


def middle(values: Sequence[float]) -> float:
    """Return the median."""
    return float(median(values))


def spread(values: Sequence[float]) -> float:
    """Return half the distance from the least to the most, as a share of the median."""
    return (max(values) - min(values)) / 2 / middle(values) if middle(values) else 0.0
