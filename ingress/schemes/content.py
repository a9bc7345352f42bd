"""The signed content as a template: `{id}.{timestamp}.{body}` and the like.

Guarantees: what comes out can be read back in one way only, so that nobody can move bytes from one part into the next
under the same signature. Refuses (`BadTemplateError`): unknown placeholders, a content without `{body}`, parts that run
into each other; and, when it is filled, ids that hold the text which sets them apart.
"""

from __future__ import annotations

import re
from itertools import pairwise
from string import Formatter
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

HEADER_NAME: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_KNOWN: Final = ("body", "timestamp", "id", "url")
_SHOWN: Final = "{body}, {timestamp}, {id}, {url}, {header:Name-Of-Header}"
_HEADER: Final = "header:"


class BadTemplateError(ValueError):
    """A template that cannot be followed; the text says why."""


class Template:
    """A parsed template.

    Attributes:
        placeholders: in order: "body", "timestamp", "id", "header:" and a lower-case name.
        headers: names that it wants by `{header:...}`, in lower case.
    """

    def __init__(self, text: str, *, url: str = "") -> None:
        # Fixed texts are bytes, placeholders are str.
        parts = _merge(_parse(text, url))
        self.placeholders = tuple(part for part in parts if isinstance(part, str))
        self.headers = tuple(it.removeprefix(_HEADER).encode() for it in self.placeholders if it.startswith(_HEADER))
        _check(text, parts, self.placeholders)
        # Filling is part of every request: placeholders become places in a tuple of values.
        places = {"body": 0, "timestamp": 1, "id": 2}
        places |= {_HEADER + name.decode(): at for at, name in enumerate(self.headers, len(places))}
        self._parts = tuple(places[part] if isinstance(part, str) else part for part in parts)
        self._guards = tuple((places[part], text) for part, text in _guards(parts))
        self._is_body = parts == ["body"]

    def fill(self, *, body: bytes, timestamp: bytes, event_id: bytes, headers: Mapping[bytes, bytes]) -> bytes | None:
        """Return the signed content, None if a header is missing or blurs the borders."""
        if self._is_body:
            return body
        values: tuple[bytes, ...] = (body, timestamp, event_id)
        if self.headers:
            if any(name not in headers for name in self.headers):
                return None
            values = (*values, *(headers[name] for name in self.headers))
        for place, text in self._guards:
            if text in values[place]:
                return None
        return b"".join([values[part] if isinstance(part, int) else part for part in self._parts])


def _parse(text: str, url: str) -> list[bytes | str]:
    try:
        fields = list(Formatter().parse(text))
    except ValueError as error:
        raise BadTemplateError(f"{text!r} cannot be read: {error}; write {{{{ for a brace itself") from None
    parts: list[bytes | str] = []
    for literal, name, argument, conversion in fields:
        if literal:
            parts.append(literal.encode())
        if name is None:
            continue
        if name == "header" and argument and HEADER_NAME.fullmatch(argument) and not conversion:
            parts.append(_HEADER + argument.lower())
        elif name not in _KNOWN or argument or conversion:
            shown = name + (f"!{conversion}" if conversion else "") + (f":{argument}" if argument else "")
            raise BadTemplateError(f"unknown placeholder {{{shown}}}; there are {_SHOWN}")
        elif name != "url":
            parts.append(name)
        elif url:
            parts.append(url.encode())
        else:
            raise BadTemplateError("{url} needs the key url: the URL exactly as it is registered with the provider")
    return parts


def _merge(parts: Sequence[bytes | str]) -> list[bytes | str]:
    """Join fixed texts that stand side by side."""
    merged: list[bytes | str] = []
    for part in parts:
        last = merged[-1] if merged else None
        if isinstance(part, bytes) and isinstance(last, bytes):
            merged[-1] = last + part
        else:
            merged.append(part)
    return merged


def _check(text: str, parts: Sequence[bytes | str], placeholders: Sequence[str]) -> None:
    if placeholders.count("body") != 1:
        raise BadTemplateError(f"{text!r} must hold {{body}} once: what is not signed, anybody may change")
    for name in placeholders:
        if placeholders.count(name) > 1:
            raise BadTemplateError(f"{text!r} holds {{{name}}} twice")
    # A timestamp cannot lend or borrow a digit without leaving its tolerance; everything else needs a border.
    for left, right in pairwise(parts):
        if isinstance(left, str) and isinstance(right, str) and "timestamp" not in {left, right}:
            raise BadTemplateError(
                f"{text!r} must have a fixed text between {{{left}}} and {{{right}}}, "
                "else the end of the one could pass for the beginning of the other"
            )


def _guards(parts: Sequence[bytes | str]) -> list[tuple[str, bytes]]:
    """Return for the id and each header the fixed texts beside it, which must not occur in it."""
    guards = []
    for at, part in enumerate(parts):
        if isinstance(part, str) and part not in {"body", "timestamp"}:
            beside = (*parts[max(at - 1, 0) : at], *parts[at + 1 : at + 2])
            guards += [(part, it) for it in dict.fromkeys(beside) if isinstance(it, bytes)]
    return guards
