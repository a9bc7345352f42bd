"""Events: what bodies mean, one file per provider.

A provider's file sets `PROVIDER` and defines `parse(provider, body, headers)`; it is found by being in this folder. It
may set `LOADERS`, by event type, which read a body that `parse` has accepted before, without what only the store needs.
Providers without one are read by `generic`. Guarantees: for any bytes, `parse` returns `Parsed` or raises `Rejected`.
"""

from __future__ import annotations

import importlib
import pkgutil
from functools import cache
from typing import TYPE_CHECKING, Protocol

from workers.events import generic
from workers.events.model import Event, GenericEvent, Headers, Parsed, Rejected

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from types import ModuleType

    Parse = Callable[[str, bytes, Headers], Parsed]
    Load = Callable[[bytes], Event]

__all__ = ["Event", "GenericEvent", "Headers", "Parsed", "Rejected", "load", "parse"]


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


@cache
def providers() -> Mapping[str, Parse]:
    """Return the parsers of the providers that have a file here."""
    return {module.PROVIDER: module.parse for module in _files()}


@cache
def loaders() -> Mapping[tuple[str, str], Load]:
    """Return the loaders that they have, by provider and type."""
    found = {module.PROVIDER: getattr(module, "LOADERS", {}) for module in _files()}
    return {(provider, kind): read for provider, kinds in found.items() for kind, read in kinds.items()}


def _files() -> Sequence[ModuleType]:
    modules = [importlib.import_module(f"{__name__}.{found.name}") for found in pkgutil.iter_modules(__path__)]
    return [module for module in modules if hasattr(module, "PROVIDER")]


def parse(provider: str, body: bytes, headers: Headers = ()) -> Parsed:
    """Read one body.

    Args:
        provider: as the endpoint names it.
        body: exactly the bytes received.
        headers: not signed: a contradiction is noted, not obeyed.

    Raises:
        Rejected: it must not reach a handler; says why.
    """
    return providers().get(provider, generic.parse)(provider, body, headers)


def load(stored: Stored) -> Event:
    """Return a stored, accepted event as handlers are given it.

    Raises:
        Rejected: today's model refuses what an earlier one accepted.
    """
    read = loaders().get((stored.provider, stored.type))
    if read is not None:
        return read(stored.body)
    headers = tuple((name.encode("latin-1"), value.encode("latin-1")) for name, value in stored.headers.items())
    return parse(stored.provider, stored.body, headers).event
