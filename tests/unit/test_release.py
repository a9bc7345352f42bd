"""What a failed attempt leaves to the garbage collector: nothing, neither the handler's objects nor Celery's copies."""

from __future__ import annotations

import gc
import logging
import weakref
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest
from celery import Celery, signals
from celery.app.trace import build_tracer
from celery.exceptions import Retry

from workers.dispatch.release import release

if TYPE_CHECKING:
    from collections.abc import Iterator


class Held:
    """Something large that a handler has in hand."""


def fail(held: weakref.WeakSet[Held]) -> None:
    mine = Held()
    held.add(mine)
    try:
        int("the first")
    except ValueError as error:
        caught = error  # a ring: the error's traceback holds this frame, and this frame the error
        raise ExceptionGroup("both", [caught, ValueError("the second")]) from error


def attempt(held: weakref.WeakSet[Held]) -> Exception:
    try:
        fail(held)
    except ExceptionGroup as error:
        return error
    raise AssertionError


@contextmanager
def no_collector() -> Iterator[None]:
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def test_an_error_that_was_let_go_of_holds_no_object_of_its_handler() -> None:
    held: weakref.WeakSet[Held] = weakref.WeakSet()
    with no_collector():
        error = attempt(held)
        assert held
        release(error)
        assert not held


def test_an_error_that_is_its_own_cause_is_let_go_of_too() -> None:
    one, two = ValueError("one"), ValueError("two")
    one.__cause__, two.__cause__ = two, one
    release(one)


def test_a_generator_that_others_still_use_goes_on() -> None:
    def serve() -> Iterator[BaseException | int]:
        number = 0
        while True:
            try:
                int("no number")
            except ValueError as error:
                yield error
            number += 1
            yield number

    served = serve()
    error = next(served)
    assert isinstance(error, ValueError)
    release(error)
    assert next(served) == 1


@pytest.mark.parametrize("how", [ValueError, Retry])
def test_a_celery_task_that_fails_leaves_no_traceback_behind(
    how: type[Exception], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.CRITICAL, logger="celery.app.trace")  # a record that is kept keeps its traceback
    held: weakref.WeakSet[Held] = weakref.WeakSet()
    name = f"alone.{how.__name__}"
    with Celery("alone", broker="memory://", set_as_current=False) as app:
        app.conf.task_ignore_result = True

        @app.task(name=name)
        def run() -> None:
            errors = [attempt(held) for _ in range(3)]
            for other in errors[1:]:
                release(other)
            raise how("failed") from errors[0]

        def let_go(retval: Any = None, **_: Any) -> None:
            release(retval)

        app.finalize()
        trace = build_tracer(name, app.tasks[name], app=app)
        request = {"id": "one", "hostname": "here", "delivery_info": {}}
        signals.task_postrun.connect(let_go)
        try:
            trace("one", [], {}, request)  # the first fills caches
            with no_collector():
                before = len(gc.get_objects())
                for _ in range(50):
                    trace("one", [], {}, request)
                assert len(gc.get_objects()) - before < 50  # tens of thousands, without
        finally:
            signals.task_postrun.disconnect(let_go)
    assert not held
