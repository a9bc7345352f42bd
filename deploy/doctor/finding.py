"""What a check has found."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One line of `pipeline doctor`.

    Attributes:
        thing: what was looked at, such as "redis eviction".
        state: unknown where a server does not tell, or was not reached.
        found: what is there; of what is wrong also what to do.
    """

    thing: str
    state: Literal["ok", "wrong", "unknown"]
    found: str


def ok(thing: str, found: str) -> Finding:
    """Return a finding of something that is as it must be."""
    return Finding(thing=thing, state="ok", found=found)


def wrong(thing: str, found: str) -> Finding:
    """Return a finding of something that a guarantee does not hold with."""
    return Finding(thing=thing, state="wrong", found=found)


def unknown(thing: str, found: str) -> Finding:
    """Return a finding of something that nobody tells."""
    return Finding(thing=thing, state="unknown", found=found)
