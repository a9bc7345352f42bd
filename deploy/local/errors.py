"""What keeps the local stack from starting."""

from __future__ import annotations


class StackError(Exception):
    """The stack cannot start or run; the text is one line that says why and what to do."""
