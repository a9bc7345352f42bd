"""Pictures as SVG, drawn here: bars and lines need no library."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final
from xml.sax.saxutils import escape

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

WIDTH: Final = 720
LEFT: Final = 230
COLOURS: Final = ("#2563eb", "#9ca3af", "#f59e0b", "#10b981", "#ef4444", "#8b5cf6")
_HEAD: Final = (
    '<svg xmlns="http://www.w3.org/2000/svg" width="{0}" height="{1}" viewBox="0 0 {0} {1}" '
    'font-family="system-ui, sans-serif" font-size="13"><rect width="{0}" height="{1}" fill="white"/>'
)


def draw_bars(title: str, groups: Mapping[str, Mapping[str, float]]) -> str:
    """Return bars on a logarithmic scale.

    Args:
        title: above them.
        groups: heading of each group, to the value of each bar by name.
    """
    parts, y = [_text(10, 22, title, bold=True)], 40
    values = [value for bars in groups.values() for value in bars.values() if value > 0]
    low, high = math.floor(math.log10(min(values))), math.log10(max(values))
    for heading, bars in groups.items():
        parts.append(_text(10, y + 16, heading, bold=True))
        y += 24
        for number, (name, value) in enumerate(bars.items()):
            length = (math.log10(max(value, 10**low)) - low) / (high - low + 1e-9) * (WIDTH - LEFT - 90)
            colour = COLOURS[0] if name == "ours" else COLOURS[1 + number % 2]
            parts.append(_text(LEFT - 8, y + 14, name, anchor="end"))
            parts.append(
                f'<rect x="{LEFT}" y="{y + 2}" width="{max(length, 1):.1f}" height="16" rx="2" fill="{colour}"/>'
            )
            parts.append(_text(LEFT + length + 6, y + 14, f"{value:,.0f}"))
            y += 22
        y += 10
    return _HEAD.format(WIDTH, y + 10) + "".join(parts) + "</svg>\n"


def draw_lines(
    title: str, x_name: str, y_name: str, lines: Mapping[str, Sequence[tuple[float, float]]], *, log_y: bool = False
) -> str:
    """Return lines over a logarithmic x axis.

    Args:
        title: above them.
        x_name: of the axis.
        y_name: of the axis.
        lines: points by name.
        log_y: whether the y axis is logarithmic too; otherwise it begins at 0.
    """
    left, top, right, bottom, height = 70, 48, WIDTH - 50, 300, 380
    points = [point for line in lines.values() for point in line]
    nothing = min((x for x, _ in points if x > 0), default=1.0) / 10  # where 0 stands on a logarithmic axis
    xs = [math.log10(max(x, nothing)) for x, _ in points]
    ys = [math.log10(max(y, 1e-9)) if log_y else y for _, y in points]
    x_low, x_high = min(xs), max(xs) if max(xs) > min(xs) else min(xs) + 1
    y_low, y_high = (min(ys) - 0.1 if log_y else 0.0), (max(ys) + 0.1 if log_y else max(ys) * 1.15 or 1.0)

    def place(x: float, y: float) -> tuple[float, float]:
        across = (math.log10(max(x, nothing)) - x_low) / (x_high - x_low)
        up = ((math.log10(max(y, 1e-9)) if log_y else y) - y_low) / (y_high - y_low)
        return left + across * (right - left), bottom - up * (bottom - top)

    parts = [_text(10, 22, title, bold=True)]
    parts.append(f'<path d="M{left} {top}V{bottom}H{right}" stroke="#374151" fill="none"/>')
    parts.append(_text((left + right) / 2, bottom + 36, x_name, anchor="middle"))
    parts.append(_text(left, top - 4, y_name))
    for x in sorted({x for x, _ in points}):
        at, _ = place(x, points[0][1])
        parts.append(_text(at, bottom + 18, f"{x:g}" if x < 1e4 else f"{x:,.0f}", anchor="middle"))
    for step in range(5):
        y = y_low + (y_high - y_low) * step / 4
        value = 10**y if log_y else y
        at = bottom - (bottom - top) * step / 4
        parts.append(f'<path d="M{left} {at:.1f}H{right}" stroke="#e5e7eb"/>')
        parts.append(_text(left - 6, at + 4, f"{value:,.0f}" if value >= 100 else f"{value:.3g}", anchor="end"))
    for number, (name, line) in enumerate(lines.items()):
        colour = COLOURS[number % len(COLOURS)]
        placed = [place(x, y) for x, y in line]
        path = "L".join(f"{x:.1f} {y:.1f}" for x, y in placed)
        parts.append(f'<path d="M{path}" stroke="{colour}" stroke-width="2" fill="none"/>')
        parts += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{colour}"/>' for x, y in placed]
        parts.append(_text(left + 10 + (number % 3) * 215, bottom + 56 + number // 3 * 18, f"● {name}", colour=colour))
    return _HEAD.format(WIDTH, height) + "".join(parts) + "</svg>\n"


def _text(x: float, y: float, text: str, *, anchor: str = "start", bold: bool = False, colour: str = "#111827") -> str:
    weight = ' font-weight="600"' if bold else ""
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="{colour}"{weight}>{escape(text)}</text>'
