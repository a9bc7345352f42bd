"""Named queries: each `*.sql` file here holds statements under `-- name: verb_noun` lines.

Guarantees: a query is looked up once, at import, and an unknown name fails there. Refuses two of one name.
"""

from __future__ import annotations

import re
from importlib import resources
from typing import Final, LiteralString, overload

_NAME: Final = re.compile(r"^-- name: (\w+)\s*$", re.MULTILINE)
_UNREADABLE: Final = re.compile("[\0\ud800-\udfff]")


class Queries:
    """The statements of one file, by name."""

    def __init__(self, file: str) -> None:
        text = resources.files(__package__).joinpath(file).read_text("utf-8")
        _, *parts = _NAME.split(text)
        names, bodies = parts[::2], parts[1::2]
        if len(set(names)) != len(names):
            raise ValueError(f"{file} holds two queries of one name")
        self._file = file
        self._queries: dict[str, str] = dict(zip(names, (body.strip().rstrip(";") for body in bodies), strict=True))

    def __getitem__(self, name: str) -> LiteralString:
        """Return the statement; KeyError names the file."""
        try:
            return self._queries[name]
        except KeyError:
            raise KeyError(f"{self._file} has no query {name!r}") from None


@overload
def readable(text: str) -> str: ...
@overload
def readable(text: None) -> None: ...
def readable(text: str | None) -> str | None:
    """Return a text to look for as Postgres takes it: what it cannot hold becomes U+FFFD, which no name has."""
    return None if text is None else _UNREADABLE.sub("\ufffd", text)
