"""How commands print: a table for people, one JSON object a line for programs.

With `--json`, standard output has nothing but JSON lines.
"""

from __future__ import annotations

import json
import sys
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object a line, for programs.")]
"""The parameter that every command takes: `as_json: AsJson = False`."""


def console() -> Console:
    """Return the console on standard output: colours and bars on a terminal, plain text elsewhere."""
    plain = not sys.stdout.isatty()
    return Console(highlight=False, soft_wrap=plain, no_color=plain, width=200 if plain else None)


def emit(rows: Iterable[Mapping[str, Any]], *, as_json: bool, columns: Sequence[str]) -> None:
    """Print rows.

    Args:
        rows: by column name; JSON gets all of a row, the table `columns` only.
        as_json: one JSON object a line instead of a table.
        columns: of the table, in order; an underscore is shown as a space.
    """
    if as_json:
        for row in rows:
            print(json.dumps(row, default=_as_text))
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(column.replace("_", " "), overflow="fold")
    for row in rows:
        table.add_row(*(Text(_cell(row.get(column))) for column in columns))
    if table.row_count:
        console().print(table)
    else:
        print("none", file=sys.stderr)


def say(*rows: Mapping[str, Any], as_json: bool, lines: Sequence[str]) -> None:
    """Print what a command did: `rows` as JSON objects, or `lines` for people."""
    if as_json:
        emit(rows, as_json=True, columns=[])
        return
    for line in lines:
        print(line)


def _as_text(value: object) -> object:
    """Turn what JSON does not know into text; a duration becomes seconds."""
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, timedelta):
        return value.total_seconds()
    if isinstance(value, (bytes, bytearray, memoryview)):
        return bytes(value).decode(errors="replace")
    return str(value)


def _cell(value: object) -> str:
    """Return what a table shows."""
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, datetime):
        return value.astimezone().isoformat(sep=" ", timespec="milliseconds")
    return str(_as_text(value))
