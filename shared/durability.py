"""Whether Redis keeps what it has acknowledged, as far as `INBOX_DURABILITY` asks for it.

The ingress, `make run` and `pipeline doctor` judge by this one rule. What Redis does not tell is unknown, not good.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

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
class Judgement:
    """Of one thing; `text` says what was found and, where it is wrong, what to do."""

    state: Literal["ok", "wrong", "unknown"]
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What was found of both."""

    durability: Judgement = Judgement(state="unknown", text="Redis has not been asked")
    eviction: Judgement = Judgement(state="unknown", text="Redis has not been asked")

    def texts(self, state: Literal["wrong", "unknown"]) -> tuple[str, ...]:
        """Return the lines of what is wrong, or unknown."""
        return tuple(it.text for it in (self.durability, self.eviction) if it.state == state)


def assess(facts: Mapping[str, Any], appendfsync: str | None, *, meant: Durability) -> Verdict:
    """Compare a Redis with what is asked for.

    Args:
        facts: what INFO says of memory and persistence.
        appendfsync: as CONFIG says; None where CONFIG is forbidden or does not tell.
        meant: the setting.
    """
    if meant == "any":
        unasked = Judgement(state="ok", text="not asked for: INBOX_DURABILITY is any")
        return Verdict(durability=unasked, eviction=unasked)
    has_log, bound, policy = (facts.get(name) for name in ("aof_enabled", "maxmemory", "maxmemory_policy"))
    return Verdict(
        durability=_assess_log(has_log, appendfsync, meant),
        eviction=_assess_bound(bound, policy),
    )


def _assess_log(has_log: Any, appendfsync: str | None, meant: Literal["always", "everysec"]) -> Judgement:
    if has_log is None:
        return Judgement(
            state="unknown", text="Redis does not tell whether it has an append-only file (aof_enabled in INFO)"
        )
    if not int(has_log):
        return Judgement(
            state="wrong",
            text="Redis has no append-only file and loses acknowledged events when it dies: set appendonly yes",
        )
    if appendfsync not in _FLUSHES:
        return Judgement(
            state="unknown",
            text=f"Redis does not tell appendfsync (CONFIG is forbidden): see that it is {meant} or safer",
        )
    if _FLUSHES.index(appendfsync) > _FLUSHES.index(meant):
        return Judgement(
            state="wrong",
            text=f"Redis has appendfsync {appendfsync} and loses acknowledged events if its machine dies: set {meant}",
        )
    return Judgement(state="ok", text=f"append-only file, appendfsync {appendfsync}")


def _assess_bound(bound: Any, policy: Any) -> Judgement:
    if bound is None or policy is None:
        return Judgement(state="unknown", text="Redis does not tell its bound of memory (maxmemory in INFO)")
    if not int(bound):
        return Judgement(
            state="wrong", text="Redis has no maxmemory and is ended by the system when memory is used up: set one"
        )
    if policy != "noeviction":
        return Judgement(
            state="wrong",
            text=f"Redis throws acknowledged events away when it is full: set maxmemory-policy {policy} to noeviction",
        )
    return Judgement(state="ok", text="maxmemory with noeviction")
