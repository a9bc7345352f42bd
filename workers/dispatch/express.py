"""The express queue: quick work of quiet tenants does not wait for the slots that others have filled.

A tenant is quiet while all that is due of it takes at most five messages' budgets (of a second), by the recent
durations of its handlers. Its deliveries are sent to the queue `express`: one a message while they are few and no
process is busy; else those of a handler share one, for a message costs more than a quick delivery. The express worker
serves nothing else, and handler workers look into `express` first, so a free slot of theirs is never idle beside it.

What a tenant sends this way is counted in seconds of work, and so is what it sends through the queue `handlers` if that
is much. The count runs off at half of the express worker's speed. With more than a message's budget of it, a tenant
uses the queue only while all that is due of it takes some milliseconds and the queue is as good as empty, and has its
turns in the queue `handlers` besides, like all others. So no tenant holds the express worker, however its work arrives;
one that is alone with its quick work may use all of it; and no delivery joins more than a quarter of a second of work
that is ahead of it.
A handler that has never run, or that takes longer than a message's budget, is never sent this way.

Nothing is sent to `express` while no express worker lives. Losing it costs time only: what waits in `express` longer
than two seconds moves to `handlers`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from workers.store.limits import ANY

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from workers.store.deliveries import Candidate, DueTenant

FEW: Final = 256
"""Due deliveries of a tenant beyond which it is not quiet, however quick they are."""
QUIET: Final = 5
"""Budgets of due work up to which a tenant is quiet. It has to stay so after seconds in which nothing was admitted,
or its deliveries would wait with those of others from then on."""
MOST_MESSAGES: Final = 8
"""Messages that one admission sends to `express`, or one a handler: few deliveries have one each, many share them.
Where messages wait in either queue, others would wait with them, and it is one a slot."""
MOST_WAITING: Final = 64
"""Messages that may wait in the queue `express`."""
MESSAGE_SECONDS: Final = 0.01
"""What Celery and the outcome take of a slot for each message, beside the handler."""
DELIVERY_SECONDS: Final = 0.002
"""What claim and outcome take for each delivery, beside the handler, on a busy machine."""
MOST_COUNTED: Final = 2
"""Budgets of work that are counted for a tenant at the most: after a flood it is quiet again in some seconds."""
AHEAD: Final = 0.25
"""Budgets of work that may be in the express queue already when a delivery joins it."""
AS_GOOD_AS_EMPTY: Final = 0.05
"""Budgets of work with which a tenant still joins that has sent more than its share lately: all that is due of it, and
what is ahead of it. As much at once in `handlers` is counted."""
ALL: Final = ""
"""Stands for all tenants together in the counts; no tenant has that name."""


def run_off(counts: Mapping[str, float], *, seconds: float, slots: int) -> dict[str, float]:
    """Return what is left of the counts after so many seconds."""
    left = {}
    for tenant, count in counts.items():
        speed = slots if tenant == ALL else slots / 2
        if (rest := count - max(0.0, seconds) * speed) > 0:
            left[tenant] = rest
    return left


def count_others(
    counts: dict[str, float],
    admitted: Iterable[Candidate],
    durations: Mapping[tuple[str, str], float],
    *,
    budget: float,
) -> None:
    """Add what is sent through the queue `handlers` to the counts of the tenants of which it is much.

    Args:
        counts: as below.
        admitted: what is sent.
        durations: mean seconds of a (tenant, handler); tenant "*" is all of them.
        budget: seconds of a message.
    """
    work: dict[str, float] = {}
    for it in admitted:
        mean = durations.get((it.tenant, it.handler), durations.get((ANY, it.handler), 0.0))
        work[it.tenant] = work.get(it.tenant, 0.0) + mean + DELIVERY_SECONDS
    for tenant, seconds in work.items():
        if seconds > budget * AS_GOOD_AS_EMPTY:
            counts[tenant] = min(counts.get(tenant, 0.0) + seconds, MOST_COUNTED * budget)


def choose_express(
    candidates: Sequence[Candidate],
    tenants: Mapping[str, DueTenant],
    durations: Mapping[tuple[str, str], float],
    counts: dict[str, float],
    *,
    waiting: int,
    messages: int,
    slots: int,
    budget: float,
) -> set[int]:
    """Choose what is sent through the express queue, and add it to the counts.

    Args:
        candidates: due deliveries in the order of their turns.
        tenants: by name.
        durations: mean seconds of a (tenant, handler), as far as they are known.
        counts: seconds of work by tenant that went through the express queue, run off to this moment.
        waiting: messages in the express queue.
        messages: that may be sent there.
        slots: processes of the express worker.
        budget: seconds of a message.

    Returns:
        Positions in `candidates`.
    """
    due = dict.fromkeys(tenants, 0.0)
    for candidate in candidates:
        mean = durations.get((candidate.tenant, candidate.handler), float("inf"))
        due[candidate.tenant] += mean + DELIVERY_SECONDS
    quiet = [it for it in candidates if due[it.tenant] <= QUIET * budget and not tenants[it.tenant].crowded]
    own_part = MESSAGE_SECONDS / max(1, len(quiet) / messages)
    counts[ALL] = max(counts.get(ALL, 0.0), waiting * MESSAGE_SECONDS)  # the first is an estimate
    chosen: set[int] = set()
    for position, candidate in enumerate(candidates):
        tenant = candidate.tenant
        if waiting >= MOST_WAITING:
            break
        if candidate.alone or tenants[tenant].crowded or due[tenant] > QUIET * budget:
            continue
        mean = durations[tenant, candidate.handler]
        if mean > budget:
            continue
        cost = mean + DELIVERY_SECONDS
        own, ahead = counts.get(tenant, 0.0) + cost, counts[ALL]
        has_share = own <= budget + MESSAGE_SECONDS and ahead <= slots * budget * AHEAD
        if has_share or max(due[tenant], ahead + cost) <= slots * budget * AS_GOOD_AS_EMPTY:
            counts[tenant], counts[ALL] = own, ahead + mean + own_part
            chosen.add(position)
    return chosen
