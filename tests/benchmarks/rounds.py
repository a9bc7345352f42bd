"""One round: floors, the peer and ours in alternation, so that its ratios share one moment of the machine."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.benchmarks.acknowledging import measure_latency, measure_naive_acks, measure_our_acks, measure_verify_acks
from tests.benchmarks.handling import measure_naive_pipeline, measure_noop, measure_our_pipeline
from tests.benchmarks.idle import measure_naive_idle, measure_our_idle
from tests.benchmarks.storing import measure_copy, measure_stored

if TYPE_CHECKING:
    from tests.benchmarks.ground import Ground
    from tests.benchmarks.measuring import Figures, Sizes


def run_round(ground: Ground, sizes: Sizes) -> Figures:
    """Measure everything once, and print each figure as it comes."""
    figures: Figures = {}
    for measure in (measure_verify_acks, measure_our_acks, measure_naive_acks):
        figures |= tell(measure(ground, sizes))
    # half of what the slower one can do: beyond its own limit the floor's latency says nothing
    figures |= tell(measure_latency(ground, sizes, min(figures["ack_rate"], figures["verify_rate"]) / 2))
    for measure in (measure_copy, measure_stored, measure_noop):
        figures |= tell(measure(ground, sizes))
    for name in ("nothing", "write"):
        figures |= tell(measure_our_pipeline(ground, sizes, name))
        figures |= tell(measure_naive_pipeline(ground, sizes, name))
    figures |= tell(measure_our_idle(ground, sizes))
    return figures | tell(measure_naive_idle(ground, sizes))


def tell(figures: Figures) -> Figures:
    """Print figures and return them."""
    print("   ", ", ".join(f"{name} {value:,.4g}" for name, value in figures.items()), flush=True)
    return figures
