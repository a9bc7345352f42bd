"""Every fault that is injected into the stack, by name.

A fault is a coroutine that injects and, where it lasts, takes back; it returns when nothing of it is left but its
consequences. What is left to chance is drawn from the given generator. A fault whose victim is not running does nothing
and raises `Missed`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    import random

    from tests.chaos.stack import Stack

Inject = Callable[["Stack", "random.Random"], Awaitable[None]]


class Missed(Exception):  # noqa: N818 - says what happened
    """The fault found no victim; the text may say what was looked for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """One fault.

    Attributes:
        name: in options and reports.
        about: one line.
        inject: does it.
        mixes: whether it may overlap with others; one that waits for a certain moment of a healthy pipeline does not.
        loses: whether acknowledged events may be lost by it, which ones being noted by the fault itself.
    """

    name: str
    about: str
    inject: Inject
    mixes: bool = True
    loses: bool = False


FAULTS: Final[dict[str, Fault]] = {}


def fault(name: str, about: str, *, mixes: bool = True, loses: bool = False) -> Callable[[Inject], Inject]:
    """Register a fault."""

    def register(inject: Inject) -> Inject:
        FAULTS[name] = Fault(name=name, about=about, inject=inject, mixes=mixes, loses=loses)
        return inject

    return register


def load() -> dict[str, Fault]:
    """Return all faults."""
    for module in ("processes", "moments", "redis", "postgres", "oddities", "entries", "network"):
        import_module(f"tests.chaos.faults.{module}")
    return FAULTS
