"""What `pipeline up` prints: a line for each thing that happened, with colour on a terminal and plain elsewhere."""

import sys
from contextlib import AbstractContextManager
from typing import Any

import rich.console
from rich.text import Text


class Terminal:
    """Prints to standard output; a reader that went away (`make run | head`) stops no service."""

    def __init__(self, console: rich.console.Console | None = None) -> None:
        is_plain = not sys.stdout.isatty()
        self._console = console or rich.console.Console(highlight=False, soft_wrap=True, no_color=is_plain)

    def print(self, line: str = "", style: str = "") -> None:
        """Print one line as it is."""
        try:
            self._console.print(Text(line, style=style))
            self._console.file.flush()
        except OSError:
            self._console.quiet = True

    def good(self, line: str) -> None:
        """Print what went well."""
        has_check_mark = "utf" in (self._console.encoding or "").lower()
        self.print(f"  ✓ {line}" if has_check_mark else f"  ok: {line}", "green")

    def bad(self, line: str) -> None:
        """Print what went wrong and is being dealt with."""
        self.print(f"  ! {line}", "yellow")

    def waiting(self, what: str) -> AbstractContextManager[Any]:
        """Show, on a terminal only, that something takes a while."""
        return self._console.status(what)
