"""The cause of a failure: its error with the variable parts taken out, so that failures of one cause are one incident.

A pure function of one line, such as `ConnectionError: Connection to '10.0.0.7:5432' refused after 30 s`. Two errors
have one cause if the same is left of both. What stays is what tells causes apart: the type, the words, HTTP statuses
and error numbers. `tests/unit/test_causes.py` has the errors that it was made for.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Final

MOST_CHARACTERS: Final = 300
"""Of a cause; what is beyond is cut off."""
_CUT_OFF: Final = 999
"""Characters from which on a recorded error may have lost its end (`workers.dispatch.outcomes.describe`)."""

_KEPT: Final = re.compile(
    r"\b(?:HTTP(?:/[\d.]+)?|status(?:[ _]code)?|Errno|error code|SQLSTATE)\W{0,3}\d+"
    r"|'[1-5]\d\d [A-Z][A-Za-z -]*'|[1-5]\d\d (?:Client|Server) Error",
    re.IGNORECASE,
)
"""Numbers that say what is wrong: '503 Service Unavailable', status 429, [Errno 111]."""
_CODE_ERRORS: Final = (
    "AttributeError:",
    "ImportError:",
    "ModuleNotFoundError:",
    "NameError:",
    "TypeError:",
    "UnboundLocalError:",
)
_CODE_NAME: Final = re.compile(r"'[\w.]+'")
"""What errors of a program's code quote: names in it, not values."""
_UUID: Final = r"[0-9a-fA-F]{8}-?(?:[0-9a-fA-F]{4}-?){3}[0-9a-fA-F]{12}"
_RULES: Final = tuple(
    (re.compile(pattern, re.VERBOSE), instead)
    for pattern, instead in (
        (r"\b[a-zA-Z][a-zA-Z0-9+.-]*://[^\s'\"`<>)\]]+", "<url>"),
        # quoted values; an apostrophe inside a word quotes nothing
        (r"(?<!\w)[bru]?'(?:\\.|[^'\\\n])*'(?!\w) | (?<!\w)[bru]?\"(?:\\.|[^\"\\\n])*\"(?!\w)", "<value>"),
        (r"`[^`\n]*` | ‘[^’\n]*’ | “[^”\n]*” | «[^»\n]*»", "<value>"),  # noqa: RUF001 - they are meant
        (r"[\w.+-]+@[\w-]+(?:\.[\w-]+)+", "<email>"),
        (rf"\b{_UUID}\b", "<id>"),
        (r"\b\d{4}-\d\d-\d\d(?:[T ]\d\d:\d\d(?::\d\d(?:[.,]\d+)?)?(?:\s?(?:Z|UTC|[+-]\d\d:?\d\d))?)?(?!\w)", "<time>"),
        (r"\b\d{1,3}(?:\.\d{1,3}){3}(?::\d+)?\b", "<address>"),
        (r"\[?(?<![\w:])(?:[0-9a-fA-F]{0,4}:){2,7}[0-9a-fA-F]{1,4}(?![\w:])\]?(?::\d+\b)?", "<address>"),
        (r"(?<![\w.-])[a-zA-Z0-9](?:[\w-]*\w)?(?:\.[\w-]+)*:\d{2,5}\b(?!:)", "<address>"),
        (r"(?<![\w/])/(?:tmp|var/tmp|private/var|proc|run/user)(?:/[^\s'\",:;)\]]+)+", "<path>"),
        (r"\b0[xX][0-9a-fA-F]+\b", "<hex>"),
        (r"\b(?=[0-9]*[a-fA-F])(?=[a-fA-F]*\d)[0-9a-fA-F]{8,}\b", "<hex>"),
        # identifiers such as cus_9sYJ2k1, evt-81, 01HZX3: letters and digits together
        (r"(?<![\w<])(?=[\w-]*[a-zA-Z])(?=(?:[\w-]*\d){2})[\w-]{6,}(?![\w>])", "<id>"),
        (
            r"(?<![\w<])[+-]?\d[\d_]*(?:[.,:]\d+)*(?:e[+-]?\d+)?(?:\s?(?:ns|us|µs|ms|s|sec|min|h|B|[kKMG]i?B|%)(?!\w))?(?![\w>])",
            "<n>",
        ),
        # what is left of identifiers and paths: order-7, item_12, /users/7a/orders
        (r"(?<=[/_#=-])\d+(?![a-zA-Z])", "<n>"),
        (r"(<\w+>)(?:(?:\s*[,;:]\s*|\s+)\1)+", r"\1"),
        (r"\s+", " "),
    )
)


@lru_cache(maxsize=4096)
def cause_of(error: str) -> str:
    """Return what is left of an error when its variable parts are taken out.

    Args:
        error: its first line, the type before the first colon.
    """
    line = error.partition("\n")[0]
    if len(line) >= _CUT_OFF:
        line = re.sub(r"(?<!\w)(['\"])(?:(?!\1).)*$", "<value>", line)
    kept: list[str] = []

    def keep(found: re.Match[str]) -> str:
        kept.append(found[0])
        return f"\ue000{chr(0xE000 + len(kept))}" if len(kept) <= _MOST_KEPT else found[0]

    line = _KEPT.sub(keep, line)
    if line.startswith(_CODE_ERRORS):
        line = _CODE_NAME.sub(keep, line)
    for pattern, instead in _RULES:
        line = pattern.sub(instead, line)
    for place, text in enumerate(kept[:_MOST_KEPT]):
        line = line.replace(f"\ue000{chr(0xE001 + place)}", text)
    return line.strip()[:MOST_CHARACTERS]


_MOST_KEPT: Final = 20
"""Numbers of one line that are kept; characters of private use stand for them meanwhile."""
