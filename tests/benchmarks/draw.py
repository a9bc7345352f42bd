"""The pictures of a run: throughput as bars, latency over load, a line for each growth curve."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from tests.benchmarks.pictures import draw_bars, draw_lines
from tests.benchmarks.report import RESULTS, everything
from tests.benchmarks.targets import middle

if TYPE_CHECKING:
    from pathlib import Path

_BARS: Final = {
    "acknowledged per second": {
        "ours": "ack_rate", "FastAPI + delay()": "naive_ack_rate", "Starlette, verify only": "verify_rate"
    },
    "stored per second": {"ours": "stored_rate", "COPY of the rows": "copy_rate"},
    "handled per second, all the way": {
        "ours": "nothing_rate", "FastAPI + Celery": "naive_nothing_rate", "Celery, no-op tasks": "noop_rate"
    },
    "the same, the handler writes a row": {"ours": "write_rate", "FastAPI + Celery": "naive_write_rate"},
}  # fmt: skip


def draw_all(results: dict[str, Any], name: str) -> list[Path]:
    """Write the pictures of these results; return where."""
    pictures = {}
    if results["rounds"]:
        groups = {
            heading: {
                bar: middle([figures[figure] for figures in results["rounds"] if figure in figures])
                for bar, figure in bars.items()
            }
            for heading, bars in _BARS.items()
        }
        pictures["throughput"] = draw_bars("Throughput (logarithmic)", groups)
    for title, curve in everything(results, "curves").items():
        lines = {line: points for line, points in curve["lines"].items() if points}
        pictures[title.replace(" ", "_")] = draw_lines(
            title, curve["x"], curve["y"], lines, log_y=curve.get("log_y", False)
        )
    paths = []
    for title, picture in pictures.items():
        path = RESULTS / f"{name}-{title}.svg"
        path.write_text(picture)
        paths.append(path)
    return paths
