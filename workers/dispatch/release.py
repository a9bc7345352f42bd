"""Lets go of what a raised error holds: the frames of its tracebacks, with everything that handlers had in hand.

An error holds its traceback, that its frames and their callers', and a frame the error that it caught: a ring that only
the garbage collector's oldest generation finds, and that runs when a quarter of all objects is new. Celery's part of
it, a copy of each traceback with thousands of numbers for its own functions, is half a megabyte: 20 minutes at 80
events/s with one attempt in a hundred failing took a handler's process from 42 MB to 100.

Guarantees: an error that was let go of still tells its type and text, and is freed with its last reference. Refuses
nothing: frames that still run, or may go on, are left alone.
"""

from __future__ import annotations

from contextlib import suppress
from inspect import CO_ASYNC_GENERATOR, CO_COROUTINE, CO_GENERATOR
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from types import TracebackType

_MAY_GO_ON: Final = CO_GENERATOR | CO_COROUTINE | CO_ASYNC_GENERATOR
"""Kinds of code whose frame may be suspended, and in use by others: clearing it would close it."""


def release(error: BaseException) -> None:
    """Clear the frames of an error, its causes and contexts, and the errors of a group; then drop the tracebacks.

    Both: a traceback's frames hold those that called them, and these what they have in hand, as long as it lives. An
    error among its own arguments is taken out of them: it would hold itself.
    """
    waiting: list[BaseException | None] = [error]
    seen: set[int] = set()
    while waiting:
        one = waiting.pop()
        if one is None or id(one) in seen:
            continue
        seen.add(id(one))
        _clear(one.__traceback__)
        one.__traceback__ = None
        one.args = tuple(argument for argument in one.args if argument is not one)  # as Celery's Retry has it
        waiting += [one.__cause__, one.__context__]
        if isinstance(one, BaseExceptionGroup):
            waiting += one.exceptions


def _clear(traceback: TracebackType | None) -> None:
    while traceback is not None:
        frame = traceback.tb_frame
        if not frame.f_code.co_flags & _MAY_GO_ON:
            with suppress(RuntimeError):  # it runs
                frame.clear()
        traceback = traceback.tb_next
