"""Latency over load: the percentiles of an acknowledgement at growing rates, ours beside the floor."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tests.benchmarks.acknowledging import our_ingress
from tests.benchmarks.processes import load, run_web
from tests.benchmarks.targets import middle
from tests.launching import free_port

if TYPE_CHECKING:
    from tests.benchmarks.ground import Ground


def measure_load_curve(ground: Ground, results: dict[str, Any]) -> None:
    """Measure at shares of our own highest rate."""
    highest = middle([figures["ack_rate"] for figures in results["rounds"]])
    lines: dict[str, list[tuple[float, float]]] = {"ours p50": [], "ours p99": [], "verify p50": [], "verify p99": []}
    for share in (0.05, 0.25, 0.5, 0.75):
        rate = highest * share
        port = free_port()
        with ground.fresh() as place, run_web(place, "tests.benchmarks.floors.verify:app", port):
            floor = load("opened", port=port, rate=rate, seconds=2, warm_up=0.5)
        with ground.fresh() as place, our_ingress(place) as port:
            ours = load("opened", port=port, rate=rate, seconds=2, warm_up=0.5)
        for name, run in (("ours", ours), ("verify", floor)):
            for percentile in ("p50", "p99"):
                lines[f"{name} {percentile}"].append((round(rate), run[percentile]))
    results["curves"]["latency over load"] = {
        "x": "requests per second", "y": "ms", "lines": lines, "log_y": True
    }  # fmt: skip
