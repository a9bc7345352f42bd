"""How commands print: a table or lines for people, one JSON object a line with `--json`."""

import inspect
import json
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import asdict, fields, is_dataclass
from datetime import datetime, timedelta
from functools import wraps
from typing import Annotated, Any, Final

import typer
from rich.cells import cell_len
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

FOLDED_ROWS: Final = 200
"""Most rows whose cells are folded to the width of a terminal; more get a line each, as in a pipe."""
_wants_json: Final = ContextVar("wants_json", default=False)
_reason: Final[ContextVar[str | None]] = ContextVar("reason", default=None)
_AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object a line, for programs.")]


def command(
    app: typer.Typer, name: str | None = None, *, changes: bool = False, reason_option: str = "--reason"
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Register the function below as a command of `app` that takes `--json` too, which `emit` and `say` follow.

    A parameter whose type is a dataclass stands for the options that its fields declare.

    Args:
        app: of the group.
        name: None for that of the function.
        changes: whether it changes something, or shows what is recorded to have been shown, so that it takes a reason
            too: `given_reason` returns it.
        reason_option: the option's name.
    """
    reason = Annotated[str | None, typer.Option(reason_option, help="Why; kept in the audit.")]
    options = {"as_json": (_AsJson, False)} | ({"why": (reason, None)} if changes else {})

    def register(function: Callable[..., None]) -> Callable[..., None]:
        own = inspect.signature(function, eval_str=True)
        groups: dict[str, Any] = {
            it.name: it.annotation for it in own.parameters.values() if is_dataclass(it.annotation)
        }

        @wraps(function)
        def run(*, as_json: bool, why: str | None = None, **arguments: Any) -> None:
            _wants_json.set(as_json)
            _reason.set(why)
            for group, kind in groups.items():
                arguments[group] = kind(**{field.name: arguments.pop(field.name) for field in fields(kind)})
            function(**arguments)

        added = (
            inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)
            for name, (annotation, default) in options.items()
        )
        declared = [
            parameter
            for it in own.parameters.values()
            for parameter in (_parameters(groups[it.name]) if it.name in groups else (it,))
        ]
        run.__signature__ = own.replace(parameters=[*declared, *added])  # type: ignore[attr-defined]
        run.__annotations__ = {name: it.annotation for name, it in run.__signature__.parameters.items()}  # type: ignore[attr-defined]
        app.command(name)(run)
        return function

    return register


def _parameters(of: Callable[..., Any]) -> Iterable[inspect.Parameter]:
    return inspect.signature(of, eval_str=True).parameters.values()


def wants_json() -> bool:
    """Return whether the command was called with `--json`: standard output then has nothing but JSON lines."""
    return _wants_json.get()


def given_reason() -> str | None:
    """Return why a person makes this change, as the command was given it."""
    return _reason.get()


def emit(
    rows: Iterable[Any], *columns: str, shown: Callable[[dict[str, Any]], Mapping[str, Any]] = lambda row: row
) -> None:
    """Print rows, which are mappings or dataclasses.

    JSON gets all of a row; the table gets `columns` only (an underscore is shown as a space), of what `shown` returns.
    """
    found = (asdict(row) if is_dataclass(row) and not isinstance(row, type) else dict(row) for row in rows)
    if wants_json():
        for row in found:
            print(json.dumps(row, default=_as_text))
        return
    cells = [[_cell(row.get(column)) for column in columns] for row in map(shown, found)]
    if not cells:
        print("none", file=sys.stderr)
    elif not sys.stdout.isatty() or len(cells) > FOLDED_ROWS:
        print(*_lines([[column.replace("_", " ") for column in columns], *cells]), sep="\n")
    else:
        table = Table(*(column.replace("_", " ") for column in columns), box=None, pad_edge=False, header_style="bold")
        for column in table.columns:
            column.overflow = "fold"
        for texts in cells:
            table.add_row(*map(Text, texts))
        console().print(table)


def _lines(rows: Sequence[Sequence[str]]) -> Iterable[str]:
    """Return a line for each row, without folding: rich takes milliseconds a row, 10,000 rows take it 30 seconds."""
    clean = [
        [it if it.isprintable() else "".join(c if c.isprintable() else " " for c in it) for it in row] for row in rows
    ]
    sizes = [[len(it) if it.isascii() else cell_len(it) for it in row] for row in clean]
    widths = [max(column) for column in zip(*sizes, strict=True)]
    for row, own in zip(clean, sizes, strict=True):
        yield "  ".join(
            text + " " * (width - size) for text, size, width in zip(row, own, widths, strict=True)
        ).rstrip()


def say(row: Any, *lines: str) -> None:
    """Print what a command did: `row` as a JSON object, or `lines` for people."""
    if wants_json():
        emit([row])
    else:
        print(*lines, sep="\n")


def console() -> Console:
    """Return the console on standard output: colours and bars on a terminal, plain text elsewhere."""
    plain = not sys.stdout.isatty()
    return Console(highlight=False, soft_wrap=plain, no_color=plain, width=200 if plain else None)


def progress(*, is_hidden: bool = False) -> Progress:
    """Return a bar on standard error that disappears at its end; nothing with `--json` or where that is no terminal."""
    on = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    hides = is_hidden or wants_json() or not on.is_terminal
    return Progress(*columns, console=on, transient=True, disable=hides)


def _as_text(value: object) -> object:
    """Turn what JSON does not know into text; a duration becomes seconds."""
    match value:
        case datetime():
            return value.isoformat()
        case timedelta():
            return value.total_seconds()
        case bytes() | bytearray() | memoryview():
            return bytes(value).decode(errors="replace")
    return str(value)


def _cell(value: object) -> str:
    """Return what a table shows."""
    match value:
        case None:
            return "-"
        case bool():
            return "yes" if value else "no"
        case datetime():
            return value.astimezone().isoformat(sep=" ", timespec="milliseconds")
        case list() | tuple():
            return ", ".join(map(str, value))
    return str(_as_text(value))
