"""Handlers: how a team registers them.

Guarantees: what is registered is complete and consistent when the worker starts. A wrong registration is a
`RegistrationError`, one line that names the culprit: two handlers of one name, an unknown parameter, a bad value, a
module of `HANDLERS` that does not import.
"""

from __future__ import annotations

import hashlib
import inspect
import re
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal, TypeVar, overload

from pydantic import BaseModel

from workers.dispatch.retry import DEFAULT_SCHEDULE
from workers.errors import RegistrationError
from workers.store.catalogue import Registration
from workers.store.limits import ANY
from workers.team_modules import import_module

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from workers.dispatch.delivery import Delivery
    from workers.events.moveris import VerificationCompleted, VerificationFailed

F = TypeVar("F", bound="Callable[[Any, Delivery], object]")
Completed = TypeVar("Completed", bound="Callable[[VerificationCompleted, Delivery], object]")
Failed = TypeVar("Failed", bound="Callable[[VerificationFailed, Delivery], object]")
StartFunction = TypeVar("StartFunction", bound="Callable[[], object]")

_NAME: Final = re.compile(r"[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)+")
_RESERVED: Final = ("ingest.", "housekeeping.", "celery.")
_PARAMETERS: Final = ("event", "tenant", "provider", "max_attempts", "timeout", "schedule", "serial_by", "settings")
DEFAULT_TIMEOUT: Final = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Handler(Registration):
    """A registered handler.

    Attributes:
        function: called with the event and the delivery; may be `async def`.
        settings: the model that the tenant's settings must fit before it is called; None: any.
    """

    function: Callable[..., Any]
    event: str = ANY
    tenant: str = ANY
    provider: str = ANY
    max_attempts: int = len(DEFAULT_SCHEDULE) + 1
    timeout: float = DEFAULT_TIMEOUT
    schedule: tuple[float, ...] = DEFAULT_SCHEDULE
    serial_by: Literal["subject"] | None = None
    settings: type[BaseModel] | None = None


class Handlers:
    """All handlers of this process, by name.

    Attributes:
        on_process_start: what each worker process runs before its first delivery.
    """

    def __init__(
        self, handlers: Iterable[Handler] = (), *, on_process_start: Sequence[Callable[[], object]] = ()
    ) -> None:
        self.on_process_start = tuple(on_process_start)
        self._by_name = {handler.name: handler for handler in handlers}

    def __iter__(self) -> Iterator[Handler]:
        return iter(self._by_name.values())

    def get(self, name: str) -> Handler | None:
        """Return the handler of that name, if this process knows it."""
        return self._by_name.get(name)

    @cached_property
    def code_version(self) -> str:
        """A short text that changes with the files in which the handlers are defined; empty if there are none."""
        digest = hashlib.sha256()
        files = sorted({it for handler in self if (it := _file_of(handler.function))})
        for file in files:
            with suppress(OSError):
                digest.update(Path(file).read_bytes())
        return digest.hexdigest()[:12] if files else ""


_registered: dict[str, Handler] = {}
_start_functions: dict[str, Callable[[], object]] = {}


@overload
def handler(
    name: str,
    *,
    event: Literal["verification.completed"],
    provider: Literal["moveris"],
    tenant: str = ...,
    max_attempts: int | None = ...,
    timeout: float = ...,
    schedule: Sequence[float] = ...,
    serial_by: Literal["subject"] | None = ...,
    settings: type[BaseModel] | None = ...,
) -> Callable[[Completed], Completed]: ...
@overload
def handler(
    name: str,
    *,
    event: Literal["verification.failed"],
    provider: Literal["moveris"],
    tenant: str = ...,
    max_attempts: int | None = ...,
    timeout: float = ...,
    schedule: Sequence[float] = ...,
    serial_by: Literal["subject"] | None = ...,
    settings: type[BaseModel] | None = ...,
) -> Callable[[Failed], Failed]: ...
@overload
def handler(
    name: str,
    *,
    event: str = ...,
    tenant: str = ...,
    provider: str = ...,
    max_attempts: int | None = ...,
    timeout: float = ...,
    schedule: Sequence[float] = ...,
    serial_by: Literal["subject"] | None = ...,
    settings: type[BaseModel] | None = ...,
) -> Callable[[F], F]: ...
def handler(
    name: str,
    *,
    event: str = ANY,
    tenant: str = ANY,
    provider: str = ANY,
    max_attempts: int | None = None,
    timeout: float = DEFAULT_TIMEOUT,
    schedule: Sequence[float] = DEFAULT_SCHEDULE,
    serial_by: Literal["subject"] | None = None,
    settings: type[BaseModel] | None = None,
    **unknown: object,
) -> Callable[[Any], Any]:
    """Register the function below as a handler.

    It is called with the event and a `Delivery`, and may be `async def`. With `provider="moveris"`, type checkers know
    the model of the event that it asks for.

    Args:
        name: unique, with a dot, such as "acme.grant_access".
        event: the type it asks for; a "*" at its end stands for anything, as in "pull_request.*". Default: every type.
        tenant: whose events. Default: every tenant's.
        provider: who sent them. Default: every provider.
        max_attempts: failed attempts after which a delivery is dead. Default: one more than the schedule has steps.
        timeout: seconds that one attempt may take.
        schedule: seconds, upper bounds of the waits between attempts.
        serial_by: "subject": of the deliveries of a tenant and a subject, such as a session, run one at a time, oldest
            first by arrival. One that fails holds only its own subject back, until it succeeds or is dead. Holds for
            events that are stored from then on.
        settings: a pydantic model that the tenant's settings must fit: `delivery.settings` is an object of it. If they
            do not, the attempt fails before the function is called, and is tried again by the schedule.
        **unknown: refused; the error lists the parameters that there are.

    Raises:
        RegistrationError: the name is taken, or a parameter is unknown or wrong.
    """

    def register(function: Callable[..., Any]) -> Callable[..., Any]:
        made = _make(
            name,
            function,
            texts={"event": event, "tenant": tenant, "provider": provider},
            max_attempts=max_attempts,
            timeout=timeout,
            schedule=schedule,
            serial_by=serial_by,
            settings=settings,
            unknown=unknown,
        )
        held = _registered.get(name)
        if held is not None and _place(held.function) != _place(function):
            raise RegistrationError(
                f"two handlers are named {name!r}: {_place(held.function)} and {_place(function)}; rename one"
            )
        _registered[name] = made
        return function

    return register


def on_process_start(function: StartFunction) -> StartFunction:
    """Run the function below once in each worker process, before its first delivery.

    Open clients and pools in it: worker processes are forked after the imports, and a connection that was opened before
    the fork would be shared by all of them. It takes no arguments and may be `async def`; it then runs on the event
    loop of the handlers. If it raises, the attempt at hand fails with that error, and it runs again with the next one.

    Raises:
        RegistrationError: it needs an argument, or yields.
    """
    who = f"on_process_start ({_place(function)})"
    _require_no_generator(who, function)
    try:
        inspect.signature(function).bind()
    except TypeError:
        raise RegistrationError(f"{who}: it is called without arguments") from None
    _start_functions[_place(function)] = function
    return function


def load(modules: Sequence[str]) -> Handlers:
    """Import the modules of `HANDLERS` and return what they registered.

    Raises:
        RegistrationError: a module does not import, or registers what is refused.
    """
    for module in modules:
        import_module("HANDLERS", module)
    return Handlers(_registered.values(), on_process_start=tuple(_start_functions.values()))


def _make(
    name: str,
    function: Callable[..., Any],
    *,
    texts: dict[str, Any],
    max_attempts: Any,
    timeout: Any,
    schedule: Any,
    serial_by: Any,
    settings: Any,
    unknown: dict[str, object],
) -> Handler:
    """Check and build one handler."""
    who = f"handler {name!r} ({_place(function)})"
    if not is_name(name):
        raise RegistrationError(
            f"{who}: a name has letters, digits, _ and -, a dot, and does not start with {_RESERVED}"
        )
    if unknown:
        raise RegistrationError(f"{who}: unknown parameter {min(unknown)!r}; known are {', '.join(_PARAMETERS)}")
    for parameter, text in texts.items():
        if not isinstance(text, str):
            raise RegistrationError(f"{who}: {parameter} is a text, not {text!r}")
    _require_no_generator(who, function)
    try:
        inspect.signature(function).bind(None, None)
    except TypeError:
        raise RegistrationError(f"{who}: it is called with two arguments, the event and the delivery") from None
    steps = _seconds(schedule)
    if steps is None:
        raise RegistrationError(f"{who}: schedule is a list of seconds, not {schedule!r}")
    attempts = len(steps) + 1 if max_attempts is None else max_attempts
    if not isinstance(attempts, int) or attempts < 1:
        raise RegistrationError(f"{who}: max_attempts is a whole number from 1, not {max_attempts!r}")
    limit = _seconds([timeout])
    if not limit or not limit[0]:
        raise RegistrationError(f"{who}: timeout is a number of seconds above 0, not {timeout!r}")
    if serial_by not in {None, "subject"}:
        raise RegistrationError(f"{who}: serial_by is 'subject' or None, not {serial_by!r}")
    _require_model(who, settings)
    return Handler(
        name=name,
        function=function,
        max_attempts=attempts,
        timeout=limit[0],
        schedule=steps,
        serial_by=serial_by,
        settings=settings,
        **texts,
    )


def _require_no_generator(who: str, function: Callable[..., Any]) -> None:
    """Raise `RegistrationError` for a function that yields: calling it would run nothing, and look like a success."""
    if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
        raise RegistrationError(f"{who}: it yields, so that a call of it runs nothing; return instead")


def _require_model(who: str, settings: Any) -> None:
    if settings is not None and not (isinstance(settings, type) and issubclass(settings, BaseModel)):
        raise RegistrationError(f"{who}: settings is a pydantic model, not {settings!r}")


def _seconds(values: Any) -> tuple[float, ...] | None:
    """Return the values as finite seconds from 0, or None if they are not."""
    try:
        numbers = tuple(float(value) for value in values)
    except (TypeError, ValueError):
        return None
    return numbers if all(0 <= number < float("inf") for number in numbers) else None


def is_name(text: str) -> bool:
    """Return whether a handler may have this name."""
    return _NAME.fullmatch(text) is not None and not text.startswith(_RESERVED)


def _place(function: Callable[..., Any]) -> str:
    return f"{function.__module__}.{function.__qualname__}"


def _file_of(function: Callable[..., Any]) -> str | None:
    """Return the file of a function, or of the class of a callable object."""
    code = inspect.unwrap(function)
    with suppress(TypeError):
        return inspect.getsourcefile(code if inspect.isroutine(code) else type(code))
    return None
