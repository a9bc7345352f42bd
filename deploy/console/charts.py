"""Charts as SVG in the page: no script and no style of their own, so that the strictest policy shows them.

Colours are classes of the style sheet, for light and dark. Each chart says in words what it shows.
"""

from collections.abc import Sequence
from typing import Final

from markupsafe import Markup

WIDTH: Final = 600
HEIGHT: Final = 120


def lines(series: Sequence[tuple[str, Sequence[float]]], *, about: str) -> Markup:
    """Return a chart of lines over the same times.

    Args:
        series: name and values of each, all of the same length; the name is also its class.
        about: what the chart shows, for those who do not see it.
    """
    top = max((max(values, default=0.0) for _, values in series), default=0.0) or 1.0
    drawn = Markup("").join(
        Markup('<polyline class="line {}" points="{}"/>').format(name, _points(values, top)) for name, values in series
    )
    return _svg(drawn, about, top)


def bars(values: Sequence[float], *, about: str) -> Markup:
    """Return a small chart of one bar for each value."""
    top = max(values, default=0.0) or 1.0
    width = WIDTH / max(1, len(values))
    drawn = Markup("").join(
        Markup('<rect class="bar" x="{:.1f}" y="{:.1f}" width="{:.1f}" height="{:.1f}"/>').format(
            place * width, HEIGHT - HEIGHT * value / top, max(1.0, width - 1), HEIGHT * value / top
        )
        for place, value in enumerate(values)
    )
    return Markup(
        '<svg class="bars" viewBox="0 0 {} {}" preserveAspectRatio="none" role="img" aria-label="{}">{}</svg>'
    ).format(WIDTH, HEIGHT, about, drawn)


def _points(values: Sequence[float], top: float) -> str:
    step = WIDTH / max(1, len(values) - 1)
    return " ".join(
        f"{place * step:.1f},{HEIGHT - (HEIGHT - 2) * value / top:.1f}" for place, value in enumerate(values)
    )


def _svg(drawn: Markup, about: str, top: float) -> Markup:
    return Markup(
        '<svg class="lines" viewBox="0 0 {} {}" preserveAspectRatio="none" role="img" '
        'aria-label="{}, at most {:,.0f}">{}</svg>'
    ).format(WIDTH, HEIGHT, about, top, drawn)
