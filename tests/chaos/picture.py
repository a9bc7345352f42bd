"""The timeline of a run as an SVG: acknowledged, stored and handled per second, the backlog, the faults.

Written by hand, because a plotting library would weigh more than everything else that the tests need. The file refers
to nothing outside itself.
"""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from tests.chaos.reconcile import Injection
    from tests.chaos.run import Result

WIDTH: Final = 1400
LEFT, RIGHT = 70, 20
TOP: Final = 84
RATE_HEIGHT, BACKLOG_HEIGHT, GAP = 250, 150, 40
LANE: Final = 20
LETTER: Final = 6.2
"""Width of a letter of a name, roughly."""
COLOURS: Final = {"acknowledged": "#1f6feb", "stored": "#2da44e", "handled": "#bc4c00", "backlog": "#6e7781"}
FAULT, RECOVERY = "#cf222e", "#d4a72c"
MOST_STEPS: Final = 300
HIGHEST: Final = 3.0
"""Times the highest rate acknowledged: a backlog stored at once would flatten everything else."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Panel:
    """A pair of axes: where it is, and what its edges mean."""

    top: float
    height: float
    most: float
    seconds: float

    def x(self, at: float) -> float:
        """Return the place of a second."""
        return LEFT + at / self.seconds * (WIDTH - LEFT - RIGHT)

    def y(self, value: float) -> float:
        """Return the place of a value."""
        return self.top + self.height * (1 - min(value, self.most) / self.most)


def draw(result: Result) -> str:
    """Return the SVG."""
    seconds = max(result.ended + result.quiet, *result.handled[-1:], result.ended) - result.began
    step = max(1.0, seconds / MOST_STEPS)
    acknowledged = sorted(sent.answered for sent in result.sent if sent.event_id)
    series = {"acknowledged": acknowledged, "stored": result.stored, "handled": result.handled}
    marks = [(number + 1) * step for number in range(int(seconds / step) + 1)]
    rates = {
        name: [(at, _between(times, result.began + at - step, result.began + at) / step) for at in marks]
        for name, times in series.items()
    }
    fresh = sorted(sent.answered for sent in result.sent if sent.event_id and sent.kind == "fresh")
    backlog = [
        (at, max(0.0, bisect_right(fresh, result.began + at) - bisect_right(result.handled, result.began + at)))
        for at in marks
    ]
    lanes = _lanes(result, seconds)
    rows = max((row for _, row in lanes), default=0) + 1
    highest = min(_most(rates.values()), HIGHEST * _most([rates["acknowledged"]]))
    rate = Panel(top=TOP, height=RATE_HEIGHT, most=_rounded(highest), seconds=seconds)
    waiting = Panel(
        top=TOP + RATE_HEIGHT + GAP, height=BACKLOG_HEIGHT, most=_rounded(_most([backlog])), seconds=seconds
    )
    bottom = waiting.top + BACKLOG_HEIGHT
    height = bottom + 34 + rows * LANE + 20
    total = result.total
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height:.0f}" font-family="sans-serif">',
        f'<rect width="{WIDTH}" height="{height:.0f}" fill="white"/>',
        _text(LEFT, 26, "Events per second under faults", size=18, weight="bold"),
        _text(
            LEFT,
            46,
            f"{total.acknowledged:,} acknowledged, {total.lost} lost, {total.twice} stored twice, {total.missing}"
            f" effects missing, {total.doubled} doubled; {len(result.injections)} faults, seed {result.plan.seed}",
        ),
    ]
    for one in result.injections:
        began, ended = one.began - result.began, one.ended - result.began
        recovered = seconds if one.recovered is None else one.recovered - result.began
        parts.append(_span(rate, began, ended, top=TOP, height=bottom - TOP, colour=FAULT, opacity=0.13))
        parts.append(_span(rate, ended, recovered, top=TOP, height=bottom - TOP, colour=RECOVERY, opacity=0.10))
    parts += _axes(
        rate, "events/s" + (" (peaks of a second are cut off)" if highest < _most(rates.values()) else "")
    ) + _axes(waiting, "backlog: acknowledged, not yet handled")
    for name, points in rates.items():
        parts.append(_line(rate, points, COLOURS[name], dashed=name == "stored"))
    parts.append(_line(waiting, backlog, COLOURS["backlog"]))
    parts += _legend()
    for mark in range(0, int(seconds) + 1, _tick(seconds)):
        parts.append(_text(rate.x(mark), bottom + 15, f"{mark} s", anchor="middle", size=11))
    for one, row in lanes:
        at, y = rate.x(one.began - result.began), bottom + 38 + row * LANE
        parts.append(f'<line x1="{at:.1f}" x2="{at:.1f}" y1="{bottom + 20}" y2="{y - 4:.1f}" stroke="#f0d5d7"/>')
    for one, row in lanes:  # over the lines of all
        began, ended, y = one.began - result.began, one.ended - result.began, bottom + 38 + row * LANE
        recovered = seconds if one.recovered is None else one.recovered - result.began
        parts.append(_span(rate, began, ended, top=y + 4, height=3, colour=FAULT, opacity=0.9))
        parts.append(_span(rate, ended, recovered, top=y + 4, height=3, colour=RECOVERY, opacity=0.9))
        parts.append(f'<circle cx="{rate.x(began):.1f}" cy="{y - 4:.1f}" r="2.5" fill="{FAULT}"/>')
        late = " (no recovery seen)" if one.recovered is None else ""
        parts.append(_text(_label_at(rate.x(began), one.name), y, one.name + late, size=11, halo=True))
    return "\n".join([*parts, "</svg>\n"])


def _lanes(result: Result, seconds: float) -> list[tuple[Injection, int]]:
    """Put the names of the faults into rows so that none covers another."""
    ends: list[float] = []
    placed = []
    for one in sorted(result.injections, key=lambda injection: injection.began):
        scale = (WIDTH - LEFT - RIGHT) / seconds
        at = LEFT + (one.began - result.began) * scale
        begin = min(at, _label_at(at, one.name))
        row = next((number for number, end in enumerate(ends) if end < begin), len(ends))
        if row == len(ends):
            ends.append(0.0)
        bar = ((one.recovered or one.ended) - one.began) * scale
        ends[row] = max(_label_at(at, one.name) + LETTER * len(one.name) + 9, at + bar + 4)
        placed.append((one, row))
    return placed


def _label_at(at: float, name: str) -> float:
    """Return where the name of a fault begins: behind its mark, or as far left as it must to end inside."""
    return min(at + 5, WIDTH - RIGHT - LETTER * len(name))


def _between(times: Sequence[float], begin: float, end: float) -> int:
    return bisect_right(times, end) - bisect_right(times, begin)


def _most(lines: Iterable[Sequence[tuple[float, float]]]) -> float:
    return max((value for points in lines for _, value in points), default=1.0)


def _rounded(value: float) -> float:
    """Return the next round number."""
    for base in (10**power for power in range(8)):
        for factor in (1, 2, 5):
            if value <= base * factor:
                return float(base * factor)
    return value


def _tick(seconds: float) -> int:
    return next((tick for tick in (5, 10, 30, 60, 120, 300) if seconds / tick <= 16), 600)


def _axes(panel: Panel, title: str) -> list[str]:
    parts = [_text(LEFT, panel.top - 8, title, size=12, weight="bold")]
    for share in (0, 0.5, 1):
        y = panel.y(panel.most * share)
        parts.append(f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}" stroke="#d0d7de"/>')
        parts.append(_text(LEFT - 8, y + 4, f"{panel.most * share:,.0f}", anchor="end", size=11))
    return parts


def _line(panel: Panel, points: Sequence[tuple[float, float]], colour: str, *, dashed: bool = False) -> str:
    places = " ".join(f"{panel.x(min(at, panel.seconds)):.1f},{panel.y(value):.1f}" for at, value in points)
    dash = ' stroke-dasharray="5 3"' if dashed else ""
    return f'<polyline points="{places}" fill="none" stroke="{colour}" stroke-width="1.6"{dash}/>'


def _span(panel: Panel, begin: float, end: float, *, top: float, height: float, colour: str, opacity: float) -> str:
    """Mark a stretch of time, however short."""
    left, right = panel.x(begin), panel.x(min(end, panel.seconds))
    return (
        f'<rect x="{left:.1f}" y="{top:.1f}" width="{max(1.2, right - left):.1f}" height="{height:.1f}"'
        f' fill="{colour}" opacity="{opacity}"/>'
    )


def _legend() -> list[str]:
    """Return what the colours mean, in the upper right corner."""
    x, parts = WIDTH - RIGHT - 480.0, []
    for name in ("acknowledged", "stored", "handled"):
        dash = ' stroke-dasharray="5 3"' if name == "stored" else ""
        parts.append(f'<line x1="{x}" x2="{x + 22}" y1="22" y2="22" stroke="{COLOURS[name]}" stroke-width="3"{dash}/>')
        parts.append(_text(x + 27, 26, name, size=12))
        x += 45 + 7 * len(name)
    for name, colour in (("fault", FAULT), ("recovery", RECOVERY)):
        parts.append(f'<rect x="{x}" y="15" width="22" height="13" fill="{colour}" opacity="0.35"/>')
        parts.append(_text(x + 27, 26, name, size=12))
        x += 45 + 7 * len(name)
    return parts


def _text(
    x: float,
    y: float,
    text: str,
    *,
    size: int = 13,
    weight: str = "normal",
    anchor: str = "start",
    halo: bool = False,
) -> str:
    around = ' stroke="white" stroke-width="3" stroke-linejoin="round" paint-order="stroke"' if halo else ""
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size}" font-weight="{weight}" text-anchor="{anchor}"'
        f' fill="#24292f"{around}>{escape(text)}</text>'
    )
