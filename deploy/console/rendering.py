"""Templates and how values are written in them.

Everything that is shown is escaped: what a stranger sent is text, never markup. Times are UTC.
"""

import json
import shlex
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlencode

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape

from deploy.console import charts

TEMPLATES: Final = Path(__file__).with_name("templates")
MINUTE: Final = 60
NOTHING: Final = "-"
"""Stands for what is not known or not there."""
_UNITS: Final = (("d", 86_400), ("h", 3600), ("min", 60))
_VISIBLE: Final = {"\n", "\t"}


def environment() -> Environment:
    """Return the environment of the templates: escaping everywhere, and an unknown name is an error."""
    made = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters |= {
        "moment": moment,
        "ago": ago,
        "span": span,
        "number": number,
        "text": printable,
        "pretty": pretty,
        "unix": unix,
    }
    made.globals |= {"lines": charts.lines, "bars": charts.bars, "url": url}
    return made


def url(path: str, values: Mapping[str, Any] | None = None, **more: Any) -> str:
    """Return a path with a query of those values that are not empty."""
    given = {name.rstrip("_"): it for name, it in {**(values or {}), **more}.items() if it not in (None, "", False)}
    return f"{path}?{urlencode(given)}" if given else path


def command_line(*words: str, **options: Any) -> str:
    """Return a command as it is typed in a shell; options that are None or False are left out.

    Args:
        words: of the command after `pipeline`, and its arguments.
        options: by name, with _ for -; True is an option without a value, a tuple one that is repeated.

    What begins with - among the words is an argument, and no option: somebody else may have chosen it.
    """
    place = next((place for place, it in enumerate(words) if it.startswith("-")), len(words))
    typed, arguments = ([shlex.quote(printable(it)) for it in part] for part in (words[:place], words[place:]))
    for name, value in options.items():
        option = f"--{name.strip('_').replace('_', '-')}"
        if value is True:
            typed.append(option)
        elif value not in (None, "", False):
            values = value if isinstance(value, tuple) else (value,)
            typed += [f"{option} {shlex.quote(printable(str(it)))}" for it in values]
    return " ".join(["pipeline", *typed, *(["--", *arguments] if arguments else [])])


def moment(at: datetime | None) -> Markup:
    """Return a time to the second, in UTC."""
    if at is None:
        return escape(NOTHING)
    at = at.astimezone(UTC)
    return Markup('<time datetime="{}">{}</time>').format(at.isoformat(), f"{at:%Y-%m-%d %H:%M:%S}")


def ago(at: datetime | None) -> Markup:
    """Return how long ago something was, or in how long it will be."""
    if at is None:
        return escape(NOTHING)
    at = at.astimezone(UTC)
    seconds = (datetime.now(UTC) - at).total_seconds()
    text = f"in {span(-seconds)}" if seconds < 0 else f"{span(seconds)} ago"
    return Markup('<time datetime="{}" title="{}">{}</time>').format(
        at.isoformat(), f"{at:%Y-%m-%d %H:%M:%S} UTC", text
    )


def unix(seconds: float) -> datetime:
    """Return the time of Unix seconds."""
    return datetime.fromtimestamp(seconds, UTC)


def span(of: float | timedelta | None) -> str:
    """Return a duration as people say it; seconds, if it is a number."""
    if of is None:
        return NOTHING
    seconds = of.total_seconds() if isinstance(of, timedelta) else of
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 2 * MINUTE:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"  # noqa: PLR2004 - one digit before the point
    for unit, size in _UNITS:
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds / MINUTE:.0f} min"


def number(of: float | None) -> str:
    """Return a number with its thousands apart; a rate below 10 has one digit after the point."""
    if of is None:
        return NOTHING
    return f"{of:,.1f}" if isinstance(of, float) and of < 10 and of != int(of) else f"{of:,.0f}"  # noqa: PLR2004


def counted(of: int, noun: str) -> str:
    """Return a number and what it counts, given in the plural: 1 dead delivery, 2 dead deliveries."""
    one = noun.removesuffix("ies") + "y" if noun.endswith("ies") else noun.removesuffix("s")
    return f"{of:,} {one if of == 1 else noun}"


def printable(text: object) -> str:
    """Return a text of which nothing is invisible: what does not print is shown by its number."""
    return "".join(
        sign if sign.isprintable() or sign in _VISIBLE else f"\\u{ord(sign):04x}"
        for sign in ("" if text is None else str(text))
    )


def pretty(body: bytes) -> str | None:
    """Return a JSON body with its parts on lines of their own, None if it is no JSON."""
    try:
        return json.dumps(json.loads(body), indent=2, ensure_ascii=False)
    except (ValueError, RecursionError):
        return None
