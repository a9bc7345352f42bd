"""What `pipeline up` says: one line per thing that happened, with colour on a terminal and plain elsewhere.

Guarantees: a reader that went away (`make run | head`) stops no service. Refuses nothing.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from rich.console import Console
from rich.text import Text

if TYPE_CHECKING:
    from contextlib import AbstractContextManager
    from typing import Any


class Report:
    """Writes to standard output."""

    def __init__(self, console: Console | None = None) -> None:
        plain = not sys.stdout.isatty()
        self._console = console or Console(highlight=False, soft_wrap=True, no_color=plain)

    def say(self, line: str = "", style: str = "") -> None:
        """Print one line as it is."""
        try:
            self._console.print(Text(line, style=style))
            self._console.file.flush()
        except OSError:
            self._console.quiet = True

    def good(self, line: str) -> None:
        """Print what went well."""
        self.say(f"  ✓ {line}" if self._can_draw() else f"  ok: {line}", "green")

    def bad(self, line: str) -> None:
        """Print what went wrong and is being dealt with."""
        self.say(f"  ! {line}", "yellow")

    def waiting(self, what: str) -> AbstractContextManager[Any]:
        """Show that something takes a while; on a terminal only."""
        return self._console.status(what)

    def _can_draw(self) -> bool:
        return "utf" in (self._console.encoding or "").lower()
