"""Handlers: how a team registers them, and which of them want an event.

Guarantees: what is registered is complete and consistent when the worker starts. Refuses, with a line that names the
culprit (`RegistrationError`): two handlers of one name, an unknown parameter, a bad value, a module of `HANDLERS` that
does not import.
"""

from __future__ import annotations

import inspect
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, TypeVar

from workers.dispatch.retry import DEFAULT_SCHEDULE
from workers.errors import RegistrationError
from workers.team_modules import import_module

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

F = TypeVar("F", bound="Callable[..., Any]")

_NAME: Final = re.compile(r"[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)+")
_RESERVED: Final = ("ingest.", "housekeeping.", "celery.")
_PARAMETERS: Final = ("event", "tenant", "provider", "max_attempts", "timeout", "schedule")
ANY: Final = "*"
DEFAULT_TIMEOUT: Final = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Handler:
    """A registered handler.

    Attributes:
        name: unique; also the name of its Celery task.
        function: called with the event and the delivery; may be `async def`.
        event: the event type it asks for, or "*".
        tenant: the tenant it belongs to, or "*".
        provider: the provider it listens to, or "*".
        max_attempts: failed attempts after which a delivery is dead.
        timeout: seconds that one attempt may take.
        schedule: seconds, the upper bound of the wait after each failure.
    """

    name: str
    function: Callable[..., Any]
    event: str = ANY
    tenant: str = ANY
    provider: str = ANY
    max_attempts: int = len(DEFAULT_SCHEDULE) + 1
    timeout: float = DEFAULT_TIMEOUT
    schedule: tuple[float, ...] = DEFAULT_SCHEDULE


class Handlers:
    """All handlers of this process, by name."""

    def __init__(self, handlers: Iterable[Handler]) -> None:
        self._by_name = {handler.name: handler for handler in handlers}
        self._wanting: dict[tuple[str, str | None, str], tuple[str, ...]] = {}

    def __iter__(self) -> Iterator[Handler]:
        return iter(self._by_name.values())

    def get(self, name: str) -> Handler | None:
        """Return the handler of that name, if this process knows it."""
        return self._by_name.get(name)

    def wanting(self, provider: str, event: str | None, tenant: str) -> tuple[str, ...]:
        """Return the names of the handlers that ask for such an event, sorted."""
        key = (provider, event, tenant)
        if key not in self._wanting:
            if len(self._wanting) > 100_000:  # noqa: PLR2004 - event types come from outside: bound what they fill
                self._wanting.clear()
            self._wanting[key] = tuple(
                sorted(
                    handler.name
                    for handler in self._by_name.values()
                    if handler.provider in {ANY, provider}
                    and _asks_for(handler.event, event)
                    and handler.tenant in {ANY, tenant}
                )
            )
        return self._wanting[key]


_registered: dict[str, Handler] = {}


def handler(name: str, **parameters: Any) -> Callable[[F], F]:
    """Register the function below as a handler.

    Args:
        name: unique, with a dot, such as "acme.grant_access".
        **parameters: `event` (type it asks for; a "*" at its end stands for anything, as in "pull_request.*"; default
            "*"), `tenant` (default "*": every tenant), `provider` (default
            "*"), `max_attempts` (default one more than the schedule has steps), `timeout` in seconds (default 30),
            `schedule` (seconds, upper bounds of the waits between attempts).

    Raises:
        RegistrationError: the name is taken, or a parameter is unknown or wrong.
    """

    def register(function: F) -> F:
        made = _make(name, function, parameters)
        held = _registered.get(name)
        if held is not None and _place(held.function) != _place(function):
            raise RegistrationError(
                f"two handlers are named {name!r}: {_place(held.function)} and {_place(function)}; rename one"
            )
        _registered[name] = made
        return function

    return register


def load(modules: Sequence[str]) -> Handlers:
    """Import the modules of `HANDLERS` and return what they registered.

    Raises:
        RegistrationError: a module does not import, or registers what is refused.
    """
    for module in modules:
        import_module("HANDLERS", module)
    return Handlers(_registered.values())


def _asks_for(asked: str, event: str | None) -> bool:
    """Say whether a handler's `event` covers an event's type; `manual.sql` says the same for backfills."""
    return asked in {ANY, event} or (asked.endswith(ANY) and event is not None and event.startswith(asked[:-1]))


def _make(name: str, function: Callable[..., Any], parameters: dict[str, Any]) -> Handler:
    """Check and build one handler."""
    who = f"handler {name!r} ({_place(function)})"
    if not _NAME.fullmatch(name) or name.startswith(_RESERVED):
        raise RegistrationError(
            f"{who}: a name has letters, digits, _ and -, a dot, and does not start with {_RESERVED}"
        )
    if unknown := sorted(set(parameters) - set(_PARAMETERS)):
        raise RegistrationError(f"{who}: unknown parameter {unknown[0]!r}; known are {', '.join(_PARAMETERS)}")
    for text in ("event", "tenant", "provider"):
        if not isinstance(parameters.get(text, ANY), str):
            raise RegistrationError(f"{who}: {text} is a text, not {parameters[text]!r}")
    try:
        inspect.signature(function).bind(None, None)
    except TypeError:
        raise RegistrationError(f"{who}: it is called with two arguments, the event and the delivery") from None
    schedule = _seconds(parameters.get("schedule", DEFAULT_SCHEDULE))
    if schedule is None:
        raise RegistrationError(f"{who}: schedule is a list of seconds, not {parameters['schedule']!r}")
    max_attempts = parameters.get("max_attempts", len(schedule) + 1)
    if not isinstance(max_attempts, int) or max_attempts < 1:
        raise RegistrationError(f"{who}: max_attempts is a whole number from 1, not {max_attempts!r}")
    timeout = _seconds([parameters.get("timeout", DEFAULT_TIMEOUT)])
    if not timeout or not timeout[0]:
        raise RegistrationError(f"{who}: timeout is a number of seconds above 0, not {parameters['timeout']!r}")
    texts = {key: parameters[key] for key in ("event", "tenant", "provider") if key in parameters}
    return Handler(
        name=name, function=function, max_attempts=max_attempts, timeout=timeout[0], schedule=schedule, **texts
    )


def _seconds(values: Any) -> tuple[float, ...] | None:
    """Return the values as finite seconds from 0, or None if they are not."""
    try:
        numbers = tuple(float(value) for value in values)
    except (TypeError, ValueError):
        return None
    return numbers if all(0 <= number < float("inf") for number in numbers) else None


def _place(function: Callable[..., Any]) -> str:
    return f"{function.__module__}.{function.__qualname__}"
