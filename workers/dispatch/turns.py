"""Turns: in which order due deliveries are served, and where service goes on.

Turns go round tenants, then each tenant's handlers; limits and pauses hold deliveries back. All of it is pure: what was
looked at comes in, decisions go out.
"""

from __future__ import annotations

from operator import itemgetter
from typing import TYPE_CHECKING, NamedTuple

from workers.store.limits import ANY

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from workers.store.deliveries import Candidate, DueTenant


class Turn(NamedTuple):
    """A candidate in the order of service: turns of tenants, then places, then a tenant's own order."""

    number: int
    place: int
    row: int
    lane: int
    candidate: Candidate


def take_turns(
    candidates: Sequence[Candidate], tenants: Mapping[str, DueTenant], allowances: Mapping[tuple[str, str], int]
) -> list[Turn]:
    """Order candidates by turns, and leave out what limits do not admit.

    1. Within a tenant: one of each handler, then the next of each.
    2. Over tenants: as many of each as its weight, then the next.
    3. Each limit admits as many as it has left, whichever lanes they come from.

    Args:
        candidates: the oldest of each lane, oldest first.
        tenants: by name; without an entry, a weight of 1.
        allowances: deliveries that may still be queued, by (tenant, handler), where "*" is all of them.
    """
    rows: dict[tuple[int, int], int] = {}
    own = []
    for candidate in candidates:
        place, lane = candidate.place, candidate.lane
        row = rows[place, lane] = rows.get((place, lane), 0) + 1
        own.append((place, row, lane, candidate))
    own.sort(key=itemgetter(0, 1, 2))
    turns = []
    before = position = 0
    for place, row, lane, candidate in own:
        position = position + 1 if place == before else 0
        before = place
        tenant = tenants.get(candidate.tenant)
        weight = tenant.weight if tenant else 1
        turns.append(Turn(position // weight + 1, place, row, lane, candidate))
    turns.sort(key=itemgetter(0, 1, 2, 3))
    if not allowances:
        return turns
    left = dict(allowances)
    admitted = []
    for turn in turns:
        tenant_name, handler = turn.candidate.tenant, turn.candidate.handler
        bounds = [bound for bound in ((tenant_name, ANY), (ANY, handler), (tenant_name, handler)) if bound in left]
        if all(left[bound] > 0 for bound in bounds):
            admitted.append(turn)
            for bound in bounds:
                left[bound] -= 1
    return admitted


def last_served(skipped: Iterable[tuple[int, int]], *, last: int, more: bool) -> int:
    """Return the place after which service goes on; 0 if it is to begin where it began.

    Args:
        skipped: turn and place of what found no room.
        last: the last place that was looked at.
        more: whether others may wait after it, which were not looked at. They come before second turns.
    """
    first = min(skipped, default=None)
    if first is None or (more and first[0] > 1):
        return last
    return first[1] - 1


def list_held(
    candidates: Sequence[Candidate], turns: Sequence[Turn], tenants: Mapping[str, DueTenant], *, more: int
) -> dict[str, str]:
    """Return after which handler the turns go on of tenants some of whose handlers limits and pauses hold back.

    Otherwise a cap would let the first handlers run again and again, and those that are held back would hide the next.

    Args:
        candidates: what was looked at.
        turns: what limits have admitted of it.
        tenants: by name; one that may have nothing at all stays where it is.
        more: handlers of a tenant beyond which others may wait that were not looked at.
    """
    if len(turns) == len(candidates):
        return {}
    admitted = {(turn.place, turn.lane) for turn in turns}
    lanes: dict[str, list[Candidate]] = {}
    for candidate in candidates:
        lanes.setdefault(candidate.tenant, []).append(candidate)
    found = {}
    for tenant, own in lanes.items():
        allowance = tenants[tenant].allowance
        served = [it for it in own if (it.place, it.lane) in admitted]
        if (allowance is not None and allowance <= 0) or len(served) == len(own):
            continue
        last = max(served or own, key=lambda it: it.lane)
        if served or last.lane >= more:
            found[tenant] = last.handler
    return found
