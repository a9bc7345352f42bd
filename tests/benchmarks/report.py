"""What a run prints and writes: one table, a row for each line that may not grow, the JSON."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final

from tests.benchmarks.processes import ROOT
from tests.benchmarks.targets import TARGETS, Target, middle, spread

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

RESULTS: Final = ROOT / "tests" / "benchmarks" / "results"
FLAT: Final = 1.25
"""By how much the variable cost may grow from the first point of a curve to the last."""

Results = dict[str, Any]


def rows_of(results: Results) -> list[list[str]]:
    """Return the rows of the one table: figure, ours, other, ratio, spread, must, aim, verdict."""
    return [row for _, row in rows_by_target(results)]


def rows_by_target(results: Results) -> list[tuple[Target, list[str]]]:
    """Return the same rows, each with its target."""
    rounds = results["rounds"]
    rows = []
    for target in TARGETS:
        ratios = target.ratios(rounds)
        if not ratios:
            continue
        ratio = middle(ratios)
        ours = middle([figures[target.ours] for figures in rounds if target.ours in figures])
        other = target.other and middle([figures[target.other] for figures in rounds if target.other in figures])
        row = [
            target.title,
            f"{short(ours)} {target.unit}",
            f"{short(other)} {target.unit}" if other else "",
            short(ratio) if other else "",
            f"±{spread(ratios):.0%}" if len(ratios) > 1 else "",
            f"{'≥' if target.more_is_better else '≤'} {target.must:g}",
            f"{target.aim:g}",
            target.judge(ratio),
        ]
        rows.append((target, row))
    return rows


def short(value: float) -> str:
    """Return three significant digits."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


HEADINGS: Final = ("figure", "ours", "other", "ratio", "spread", "must", "aim", "reached")


def print_table(rows: Sequence[Sequence[str]], headings: Sequence[str], title: str) -> None:
    """Print a table as wide as it needs to be."""
    everything = [list(headings), *map(list, rows)]
    widths = [max(len(row[column]) for row in everything) for column in range(len(headings))]
    print(f"\n{title}")
    for row in everything:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip(), flush=True)


def markdown(rows: Sequence[Sequence[str]], headings: Sequence[str]) -> str:
    """Return the table in Markdown."""
    lines = [headings, ["---"] * len(headings), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def write_json(results: Results, name: str) -> Path:
    """Write the results; return where."""
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.json"
    path.write_text(json.dumps(results, indent=1, ensure_ascii=False, default=str) + "\n")
    return path


def read_json(name: str) -> Results:
    """Read what `write_json` wrote; nothing if it never has."""
    try:
        results: Results = json.loads((RESULTS / f"{name}.json").read_text())
    except FileNotFoundError:
        return {}
    return results


def everything(results: Results, kind: str) -> dict[str, Any]:
    """Return all "curves" or "tables" by title: those of the run itself and those of what grows."""
    found = dict(results.get(kind, {}))
    for section in results.get("growth", {}).values():
        found |= section[kind]
    return found


CURVE_HEADINGS: Final = ("curve", "of", "first", "last", "last ÷ first", "within 25 %")


def curve_rows(results: Results) -> list[list[str]]:
    """Return a row for each line of the growth curves: its first and last point."""
    rows = []
    for title, curve in everything(results, "curves").items():
        if not curve.get("flat"):
            continue
        for name, points in curve["lines"].items():
            (first_x, first), (last_x, last) = points[0], points[-1]
            grown = last / first if first else 1.0
            rows.append(
                [
                    f"{title}: {name}",
                    curve["y"],
                    f"{short(first)} at {first_x:,g}",
                    f"{short(last)} at {last_x:,g}",
                    f"{grown:.2f}",
                    "yes" if grown <= FLAT else "no",
                ]
            )
    return rows
