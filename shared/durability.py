"""Whether Redis keeps what it has acknowledged, as far as `INBOX_DURABILITY` asks for it.

The ingress, `make run` and `pipeline doctor` judge by this one rule. What Redis does not tell is unknown, not good.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal

if TYPE_CHECKING:
    from collections.abc import Mapping

Durability = Literal["always", "everysec", "any"]
DURABILITY_ABOUT: Final = (
    "what Redis must do for an event before it may be acknowledged: always (appendfsync), everysec (a crash of its "
    "machine may lose a second), any (not checked)"
)
_FLUSHES: Final = ("always", "everysec", "no")
"""Values of `appendfsync`, the safest first."""


def durability(text: str) -> Durability:
    """Parse the setting."""
    match text.lower():
        case "always" | "everysec" | "any" as known:
            return known
        case _:
            raise ValueError(f"always, everysec or any is expected, not {text!r}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What was found; each text is a line without a full stop.

    Attributes:
        faults: what is wrong and what to do.
        unknown: what Redis does not tell.
    """

    faults: tuple[str, ...] = ()
    unknown: tuple[str, ...] = ()


def assess(facts: Mapping[str, Any], appendfsync: str | None, *, meant: Durability) -> Verdict:
    """Compare a Redis with what is asked for.

    Args:
        facts: what INFO says of memory and persistence.
        appendfsync: as CONFIG says; None where CONFIG is forbidden or does not tell.
        meant: the setting.
    """
    if meant == "any":
        return Verdict()
    faults, unknown = [], []
    policy, bound, has_log = (facts.get(name) for name in ("maxmemory_policy", "maxmemory", "aof_enabled"))
    if has_log is None:
        unknown.append("Redis does not tell whether it has an append-only file (aof_enabled in INFO)")
    elif not int(has_log):
        faults.append("Redis has no append-only file and loses acknowledged events when it dies: set appendonly yes")
    elif appendfsync not in _FLUSHES:
        unknown.append(f"Redis does not tell appendfsync (CONFIG is forbidden): see that it is {meant} or safer")
    elif _FLUSHES.index(appendfsync) > _FLUSHES.index(meant):
        faults.append(
            f"Redis has appendfsync {appendfsync} and loses acknowledged events when its machine dies: set {meant}"
        )
    if bound is None or policy is None:
        unknown.append("Redis does not tell its bound of memory (maxmemory in INFO)")
    elif not int(bound):
        faults.append("Redis has no maxmemory and is ended by the system when memory is used up: set one")
    elif policy != "noeviction":
        faults.append(
            f"Redis throws acknowledged events away when it is full: set maxmemory-policy {policy} to noeviction"
        )
    return Verdict(faults=tuple(faults), unknown=tuple(unknown))
