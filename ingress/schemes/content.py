"""The signed content as a template, such as `{id}.{timestamp}.{body}`.

Signed bytes can be read back in one way only, so that one signature never verifies as two events. Three rules ensure
it. A fixed text stands between two placeholders, and neither an id nor a header may hold a text that is beside it. A
time may touch the body: it is written in one way only, and no digit moves into or out of it without leaving the
tolerance. A time in ISO 8601 may also follow an id or a header that holds no such time. `BadSchemeError` refuses any
other template, unknown placeholders, and a content without `{body}`.
"""

import re
from collections.abc import Mapping, Sequence
from itertools import pairwise
from string import Formatter
from typing import Final

from ingress.schemes.scheme import BadSchemeError

HEADER_NAME: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
SECONDS: Final = re.compile(rb"[1-9][0-9]{0,14}")
"""The one way to write a time in Unix seconds or milliseconds."""
ISO8601: Final = re.compile(rb"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,9})?(Z|[+-]\d\d:\d\d)")
"""The same for `iso8601`, as RFC 3339 has it."""
_KNOWN: Final = ("body", "timestamp", "id", "url")
_SHOWN: Final = "{body}, {timestamp}, {id}, {url}, {header:Name-Of-Header}"
_HEADER: Final = "header:"


class Template:
    """A parsed template.

    Attributes:
        placeholders: in order: "body", "timestamp", "id", "header:" and a lower-case name.
        headers: the names of `{header:...}`, in lower case.
    """

    def __init__(self, text: str, *, url: str = "", has_iso_time: bool = False) -> None:
        parts = _parse(text, url)
        self.placeholders = tuple(part for part in parts if isinstance(part, str))
        self.headers = tuple(it.removeprefix(_HEADER).encode() for it in self.placeholders if it.startswith(_HEADER))
        _check(text, parts, self.placeholders, has_iso_time=has_iso_time)
        # Filling is part of every request: placeholders become places in a tuple of values.
        places = {"body": 0, "timestamp": 1, "id": 2}
        places |= {_HEADER + name.decode(): at for at, name in enumerate(self.headers, len(places))}
        self._parts = tuple(places[part] if isinstance(part, str) else part for part in parts)
        named = [(at, places[part]) for at, part in enumerate(parts) if part in places and places[str(part)] > 1]
        self._ends = tuple((place, parts[at + 1]) for at, place in named if at + 1 < len(parts))
        self._beginnings = tuple((place, parts[at - 1]) for at, place in named if at > 0)
        self._is_body = parts == ["body"]

    def fill(self, *, body: bytes, timestamp: bytes, event_id: bytes, headers: Mapping[bytes, bytes]) -> bytes | None:
        """Return the signed content, None if a header is missing or blurs a border."""
        if self._is_body:
            return body
        values: tuple[bytes, ...] = (body, timestamp, event_id)
        if self.headers:
            if any(name not in headers for name in self.headers):
                return None
            values = (*values, *(headers[name] for name in self.headers))
        for place, border in self._ends:
            value = values[place]
            if isinstance(border, str):
                if ISO8601.search(value):
                    return None
            elif (value + border).find(border) != len(value):
                return None
        for place, border in self._beginnings:
            if isinstance(border, bytes) and (border + values[place]).rfind(border):
                return None
        return b"".join([values[part] if isinstance(part, int) else part for part in self._parts])


def _parse(text: str, url: str) -> list[bytes | str]:
    """Return fixed texts as bytes, those side by side as one, and placeholders as str."""
    try:
        fields = list(Formatter().parse(text))
    except ValueError as error:
        raise BadSchemeError(f"content: {text!r} cannot be read: {error}; write {{{{ for a brace itself") from None
    parts: list[bytes | str] = []
    for literal, name, argument, conversion in fields:
        found = () if name is None else (_placeholder(name, argument or "", conversion or "", url),)
        for part in (literal.encode(), *found):
            last = parts[-1] if parts else b""
            if isinstance(part, bytes) and isinstance(last, bytes):
                parts[-1:] = [last + part]
            else:
                parts.append(part)
    return [part for part in parts if part]


def _placeholder(name: str, argument: str, conversion: str, url: str) -> bytes | str:
    """Return a placeholder's name, or the text that `{url}` stands for."""
    if name == "header" and HEADER_NAME.fullmatch(argument) and not conversion:
        return _HEADER + argument.lower()
    if name not in _KNOWN or argument or conversion:
        shown = name + (f"!{conversion}" if conversion else "") + (f":{argument}" if argument else "")
        raise BadSchemeError(f"content: unknown placeholder {{{shown}}}; there are {_SHOWN}")
    if name != "url":
        return name
    if not url:
        raise BadSchemeError("content: {url} needs the key url: the URL exactly as it is registered with the provider")
    return url.encode()


def _check(text: str, parts: Sequence[bytes | str], placeholders: Sequence[str], *, has_iso_time: bool) -> None:
    if placeholders.count("body") != 1:
        raise BadSchemeError(f"content: {text!r} must hold {{body}} once: what is not signed, anybody may change")
    for name in placeholders:
        if placeholders.count(name) > 1:
            raise BadSchemeError(f"content: {text!r} holds {{{name}}} twice")
    for left, right in pairwise(parts):
        if isinstance(left, bytes) or isinstance(right, bytes) or {left, right} == {"timestamp", "body"}:
            continue
        if right == "timestamp" and has_iso_time:
            continue
        raise BadSchemeError(
            f"content: {text!r} must have a fixed text between {{{left}}} and {{{right}}}, else the end of the one "
            "could pass for the beginning of the other, and one signature for several events"
            + ("; only a time in iso8601 needs none there" if right == "timestamp" else "")
        )
