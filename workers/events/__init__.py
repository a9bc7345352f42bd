"""Events: what bodies mean, one file per provider.

A provider's module sets `PROVIDER` and defines `parse(provider, body, headers)`. It may set `LOADERS`, by event type:
functions that read a body which `parse` has accepted before, without what only the store needs. The modules of this
folder are found by themselves, a team's own are named by `EVENTS` and come before ours. `generic` reads what is left.
For any bytes, `parse` returns `Parsed` or raises `Rejected`.
"""

from __future__ import annotations

import importlib
import pkgutil
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final, Protocol

from workers.errors import RegistrationError
from workers.events import generic
from workers.events.model import (
    Event,
    GenericEvent,
    Headers,
    Parsed,
    Rejected,
    body_fingerprint,
    fingerprint_of,
    identity_fingerprint,
)
from workers.events.strict_json import read_object
from workers.team_modules import import_module

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    Parse = Callable[[str, bytes, Headers], Parsed]
    Load = Callable[[bytes], Event]

__all__ = [
    "Event",
    "GenericEvent",
    "Headers",
    "Parsed",
    "Rejected",
    "body_fingerprint",
    "fingerprint_of",
    "identity_fingerprint",
    "load",
    "load_modules",
    "parse",
    "read_object",
]


class Stored(Protocol):
    """An accepted event as the store keeps it."""

    @property
    def provider(self) -> str:
        """Who sent it."""

    @property
    def type(self) -> str:
        """What `parse` found it to be."""

    @property
    def body(self) -> bytes:
        """Exactly the bytes that were received."""

    @property
    def headers(self) -> Mapping[str, str]:
        """Those kept, as text; some providers name the event's type nowhere else."""


_parsers: Final[dict[str, Parse]] = {}
_loaders: Final[dict[tuple[str, str], Load]] = {}


def parse(provider: str, body: bytes, headers: Headers = ()) -> Parsed:
    """Read one body.

    Args:
        provider: as the endpoint names it.
        body: exactly the bytes received.
        headers: not signed: a contradiction is noted, not obeyed.

    Raises:
        Rejected: it must not reach a handler; says why.
    """
    return _parsers.get(provider, generic.parse)(provider, body, headers)


def load(stored: Stored) -> Event:
    """Return a stored, accepted event as handlers are given it.

    Raises:
        Rejected: today's model refuses what an earlier one accepted.
    """
    read = _loaders.get((stored.provider, stored.type))
    if read is not None:
        return read(stored.body)
    headers = tuple((name.encode("latin-1"), value.encode("latin-1")) for name, value in stored.headers.items())
    return parse(stored.provider, stored.body, headers).event


def load_modules(names: Sequence[str]) -> None:
    """Import the modules of `EVENTS`; each takes the place of ours for its provider.

    Raises:
        RegistrationError: a module does not import, is no provider's, or is the second one of a provider.
    """
    found: dict[str, str] = {}
    for name in names:
        module = import_module("EVENTS", name)
        provider, parse_body = getattr(module, "PROVIDER", None), getattr(module, "parse", None)
        if not isinstance(provider, str) or not callable(parse_body):
            raise RegistrationError(
                f"EVENTS: the module {name!r} needs PROVIDER, a text, and parse(provider, body, headers)"
            )
        if provider in found:
            raise RegistrationError(f"EVENTS: {found[provider]!r} and {name!r} are both of {provider}: name one")
        found[provider] = name
        _register(module, _checked(parse_body))


def _register(module: Any, parse_body: Parse) -> None:
    """Register a module for its provider, in place of the one that was registered before."""
    for key in [key for key in _loaders if key[0] == module.PROVIDER]:
        del _loaders[key]
    _parsers[module.PROVIDER] = parse_body
    _loaders.update({(module.PROVIDER, kind): read for kind, read in getattr(module, "LOADERS", {}).items()})


def _checked(parse_body: Parse) -> Parse:
    """Wrap a team's parser: raise TypeError if what it returns could not be stored."""

    def parse_and_check(provider: str, body: bytes, headers: Headers) -> Parsed:
        parsed = parse_body(provider, body, headers)
        if not (
            isinstance(parsed, Parsed)
            and isinstance(parsed.type, str)
            and isinstance(parsed.subject, str | None)
            and isinstance(parsed.fingerprint, bytes)
            and all(isinstance(it, str) for it in parsed.notes)
            and all(
                it is None or (isinstance(it, datetime) and it.tzinfo is not None)
                for it in (parsed.occurred_at, parsed.signed_at)
            )
        ):
            raise TypeError("parse returns Parsed with texts, aware times and a fingerprint of bytes")
        "".join([parsed.type, parsed.subject or "", *parsed.notes]).encode()  # raises on lone surrogates
        return parsed

    return parse_and_check


for _found in pkgutil.iter_modules(__path__):
    _module = importlib.import_module(f"{__name__}.{_found.name}")
    if hasattr(_module, "PROVIDER"):
        _register(_module, _module.parse)
