"""Admission tops the Celery queues up from Postgres, fairly.

Turns go round the tenants with due work, beginning after the one served last, and within each tenant round its
handlers. A turn is one delivery, or as many as the tenant's weight. Limits are seen by concurrent admissions: a pause
and a cap of a tenant, a cap and a rate of a handler. Service goes on with the first turn that found no room, so no lane
starves. The cost follows what is admitted, not what waits.

Most deliveries are sent to the queue `handlers`, which holds two messages a slot at the most. Quick work of quiet
tenants is sent to the queue `express`; see `workers.dispatch.express`. All messages of an admission are sent together.
"""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NamedTuple, Protocol

from shared import traces
from workers.dispatch.express import FEW, MOST_MESSAGES, MOST_WAITING, choose_express, count_others, run_off
from workers.dispatch.turns import Turn, last_served, list_held, take_turns
from workers.store import deliveries, limits, serial
from workers.store.limits import ANY

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping, Sequence
    from uuid import UUID

    from workers.store.connect import Connection
    from workers.store.deliveries import AdmissionState, Candidate, DueTenant
    from workers.store.limits import Allowance

MOST_PER_MESSAGE: Final = 256
"""Deliveries in one message, at the most. A message costs Celery and an admission some milliseconds: measured on two
cores, messages of 256 carry 1.65 times as many events all the way as messages of 64."""
MOST_AT_ONCE: Final = 1024
"""Deliveries that one admission looks at. On a busy machine 4,096 kept its lock for 150 ms, which quiet ones waited."""
ASSUMED_SECONDS: Final = 0.05
"""Duration assumed of a handler that has never run."""
QUEUED_SECONDS: Final = 2.0
"""After which the sweeper looks whether a message still names a queued delivery; admission has sent it by then, also on
a busy machine. Returning one early is harmless: only queued rows are claimed."""
LEAST_LANES: Final = 8
"""Handlers of a tenant that are looked at where there is less room than that in `handlers`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """One Celery message: deliveries of one handler."""

    handler: str
    deliveries: tuple[Candidate, ...]
    express: bool = False

    @property
    def event_ids(self) -> list[UUID]:
        """The events, in order."""
        return [candidate.event_id for candidate in self.deliveries]

    @property
    def argument(self) -> list[str]:
        """What the message says: "tenant/event-id" texts."""
        return [f"{candidate.tenant}/{candidate.event_id}" for candidate in self.deliveries]


class HandlerQueue(Protocol):
    """The Celery queues of handler tasks, as admission sees them."""

    def lengths(self) -> tuple[int, int]:
        """Return the messages that wait in `handlers` and in `express`; many in `express` while it is closed."""

    def durations(self, lanes: Collection[tuple[str, str]]) -> Mapping[tuple[str, str], float]:
        """Return the mean seconds of each (tenant, handler), as far as they are known; tenant "*" is all of them."""

    def send(self, *messages: Message) -> None:
        """Send messages; any exception means that they may not have been sent."""


class Dealt(NamedTuple):
    """Messages, and the turns that found no room in them."""

    messages: list[Message]
    skipped: list[Turn]


def deal(turns: Sequence[Turn], *, room: int, capacities: Mapping[str, int], fill: bool = False) -> Dealt:
    """Deal turns into at most `room` messages.

    While everything fits, a message carries one delivery; otherwise as many as spread the load over the room, up to the
    handler's capacity; as many as that if messages are to be filled. What runs alone has a message of its own.

    Args:
        turns: in the order of service.
        room: messages that may be sent.
        capacities: deliveries that fit one message, by handler.
        fill: messages to the capacity.
    """
    share = MOST_PER_MESSAGE if fill else -(-len(turns) // max(1, room))
    messages: list[list[Candidate]] = []
    filling: dict[str, list[Candidate]] = {}
    skipped = []
    for turn in turns:
        candidate = turn.candidate
        message = None if candidate.alone else filling.get(candidate.handler)
        if message is None:
            if len(messages) >= room:
                skipped.append(turn)
                continue
            message = []
            messages.append(message)
            if not candidate.alone:
                filling[candidate.handler] = message
        message.append(candidate)
        if not candidate.alone and len(message) >= min(share, capacities[candidate.handler]):
            del filling[candidate.handler]
    return Dealt([Message(handler=message[0].handler, deliveries=tuple(message)) for message in messages], skipped)


def admit(
    connection: Connection,
    queue: HandlerQueue,
    *,
    slots: int,
    message_seconds: float,
    express_slots: int = 1,
    runnable: Collection[str] | None = None,
    wait: bool = True,
    express: bool = True,
    below: int | None = None,
    messages: int | None = None,
) -> int:
    """Top the queues up; return how many deliveries were sent.

    1. Look how much room there is: some in `express`, and two messages a slot in `handlers`, which is left alone while
       `below` wait there: whoever ends a message tops it up.
    2. Lock admission; only then look at the lanes: limits hold between concurrent admissions.
    3. Deal, mark as queued, remember where service goes on, commit.
    4. Send. What could not be sent is pending again; what was sent twice is claimed once.

    Args:
        connection: outside a transaction.
        queue: where the messages go.
        slots: processes that run handlers, without those of express workers; 0: the queue `handlers` gets nothing.
        message_seconds: time budget of one message.
        express_slots: processes of express workers; 0: the queue `express` gets nothing.
        runnable: names of the handlers that some live worker runs; deliveries of others wait. None: of all.
        wait: for another admission, which may have looked too early to see what is new; False where the next
            occasion is near.
        express: look for quiet tenants' work even where `handlers` is left alone.
        below: messages in `handlers` with which it is left alone; None: as many as a slot each.
        messages: most that are sent to `handlers`; None: as many as there is room for.
    """
    waiting, waiting_express = queue.lengths()
    if not express_slots:
        waiting_express = MOST_WAITING
    room = 2 * slots - waiting if waiting < (slots if below is None else below) else 0
    room = room if messages is None else min(room, messages)
    if not room and not (express and waiting_express < MOST_WAITING):
        return 0
    began = time.time_ns()
    admission = _Admission(
        connection,
        queue,
        express_slots=express_slots,
        runnable=runnable,
        budget=message_seconds,
        is_busy=waiting > 0 or waiting_express > 0,
    )
    queued = admission.queue_what_is_due(room, waiting_express, wait=wait)
    if not queued:
        return 0
    try:
        queue.send(*queued)
    except Exception:
        for message in queued:
            deliveries.unqueue(connection, message.handler, message.event_ids)
        raise
    traces.current().queued((one for message in queued for one in message.deliveries), began)
    return sum(len(message.deliveries) for message in queued)


class _Admission:
    """Steps 2 and 3 of `admit`: one transaction of four round trips, five where handlers have limits.

    Where it had to walk over many finished deliveries, which an old snapshot keeps in the index, it marks the lanes.
    """

    def __init__(
        self,
        connection: Connection,
        queue: HandlerQueue,
        *,
        express_slots: int,
        runnable: Collection[str] | None,
        budget: float,
        is_busy: bool,
    ) -> None:
        self._connection = connection
        self._queue = queue
        self._express_slots = express_slots
        self._runnable = runnable
        self._budget = budget
        self._is_busy = is_busy

    def queue_what_is_due(self, room: int, waiting_express: int, *, wait: bool) -> list[Message]:
        """Mark as queued what finds room, and return the messages that carry it."""
        connection = self._connection
        most = min(max(1, room) * MOST_PER_MESSAGE, MOST_AT_ONCE)
        lanes = max(LEAST_LANES, room)  # a message carries one handler: a tenant cannot use more
        with connection.pipeline(), connection.transaction():
            state = deliveries.lock_admission(connection, wait=wait)
            if state is None:
                return []
            candidates, tenants, walked = deliveries.list_candidates(
                connection, after=state.after, tenants=most, lanes=lanes, most=most, room=room, few=FEW
            )
            if not candidates:
                return []
            limited = self._read_limits(candidates) if state.limited else []
            blocked = serial.park_blocked(connection, candidates) if state.serial else set()
            free = [it for it in candidates if (it.event_id, it.handler) not in blocked] if blocked else candidates
            runnable = self._runnable
            nobodys = {(ANY, it.handler): 0 for it in candidates if runnable is not None and it.handler not in runnable}
            turns = take_turns(free, tenants, _allowances(tenants, limited) | nobodys)
            is_cut = most < room * MOST_PER_MESSAGE and _is_cut(candidates, most=most)
            messages, skipped, counts = self._fill(
                turns, tenants, state, room=room, waiting_express=waiting_express, is_cut=is_cut
            )
            marks = deliveries.queue(connection, [one for it in messages for one in it.deliveries], wait=QUEUED_SECONDS)
            if walked - state.walked > deliveries.MOST_WALKED + 2 * len(candidates) + FEW * len(tenants):
                deliveries.mark_lanes(connection, {(it.tenant, it.handler) for it in candidates})
            if limited:
                limits.take_tokens(connection, _count(limited, messages))
            lanes = min(lanes, 1 + (most - 1) // len(tenants))  # as many were looked at
            held = list_held(free, turns, tenants, more=lanes)
            self._move(state, candidates, skipped, held, counts, room=room, more=len(tenants) >= most, lanes=lanes)
        marked = marks()
        kept = (
            Message(
                handler=message.handler,
                deliveries=tuple(c for c in message.deliveries if (c.event_id, c.handler) in marked),
                express=message.express,
            )
            for message in messages
        )
        return [message for message in kept if message.deliveries]

    def _read_limits(self, candidates: Sequence[Candidate]) -> list[Allowance]:
        return limits.list_allowances(
            self._connection,
            handlers={candidate.handler for candidate in candidates},
            tenants={candidate.tenant for candidate in candidates},
        )

    def _fill(
        self,
        turns: Sequence[Turn],
        tenants: Mapping[str, DueTenant],
        state: AdmissionState,
        *,
        room: int,
        waiting_express: int,
        is_cut: bool,
    ) -> tuple[list[Message], list[Turn], dict[str, float]]:
        """Fill messages for both queues; return them, what found no room, and the counts of the express queue."""
        ordered = [turn.candidate for turn in turns]
        handlers = {candidate.handler for candidate in ordered}
        lanes = {
            (it.tenant, it.handler)
            for it in ordered
            if waiting_express < MOST_WAITING and not tenants[it.tenant].crowded
        }
        durations = self._queue.durations([*((ANY, handler) for handler in handlers), *lanes])
        known = {
            lane: mean for lane in lanes if (mean := durations.get(lane, durations.get((ANY, lane[1])))) is not None
        }
        quick_room = max(1, self._express_slots) if self._is_busy else MOST_MESSAGES
        counts = run_off(state.express, seconds=state.express_age, slots=self._express_slots)
        express = choose_express(
            ordered,
            tenants,
            known,
            counts,
            waiting=waiting_express,
            messages=quick_room,
            slots=self._express_slots,
            budget=self._budget,
        )
        capacities = {
            handler: capacity(durations.get((ANY, handler)), message_seconds=self._budget) for handler in handlers
        }
        others = [turn for position, turn in enumerate(turns) if position not in express]
        dealt = deal(others, room=room, capacities=capacities, fill=is_cut)
        count_others(
            counts, [it for message in dealt.messages for it in message.deliveries], durations, budget=self._budget
        )
        quick_turns = [turns[position] for position in sorted(express)]
        quick_room = max(quick_room, len({turn.candidate.handler for turn in quick_turns}))
        quick = deal(quick_turns, room=quick_room, capacities=capacities, fill=self._is_busy)
        express_messages = [
            Message(handler=it.handler, deliveries=it.deliveries, express=True) for it in quick.messages
        ]
        return [*express_messages, *dealt.messages], dealt.skipped, counts

    def _move(
        self,
        state: AdmissionState,
        candidates: Sequence[Candidate],
        skipped: Sequence[Turn],
        held: Mapping[str, str],
        counts: Mapping[str, float],
        *,
        room: int,
        more: bool,
        lanes: int,
    ) -> None:
        """Remember where the turns of the tenants go on, and those of the handlers of each.

        The handlers' turns go on where one found no room, or after the last one that was looked at where there may be
        more: those that found room would else be the only ones that are ever looked at while they have work.
        """
        if not room:  # crowded tenants were not looked at
            deliveries.move_admission(self._connection, after=state.after, express=counts)
            return
        names = {candidate.place: candidate.tenant for candidate in candidates}
        handlers = {(candidate.place, candidate.lane): candidate.handler for candidate in candidates}
        place = last_served(((turn.number, turn.place) for turn in skipped), last=max(names), more=more)
        deliveries.move_admission(self._connection, after=names.get(place, state.after), express=counts)
        last_lanes: dict[int, int] = {}
        for each, lane in handlers:
            last_lanes[each] = max(lane, last_lanes.get(each, 0))
        moved = {names[each]: handlers[each, last] for each, last in last_lanes.items() if last >= lanes} | dict(held)
        by_place: dict[int, list[tuple[int, int]]] = {}
        for turn in skipped:
            by_place.setdefault(turn.place, []).append((turn.row, turn.lane))
        for each, rows in by_place.items():
            last = last_lanes[each]
            moved.pop(names[each], None)
            if last > 1 and (lane := last_served(rows, last=last, more=last >= lanes)):
                moved[names[each]] = handlers[each, lane]
        deliveries.move_turns(self._connection, moved)


def _is_cut(candidates: Sequence[Candidate], *, most: int) -> bool:
    """Return whether as many of some lane were looked at as it may have, so that others of it wait."""
    lanes = Counter((it.place, it.lane) for it in candidates)
    return max(lanes.values()) > (most - 1) // len(lanes)


def _allowances(tenants: Mapping[str, DueTenant], limited: Iterable[Allowance]) -> dict[tuple[str, str], int]:
    """Return what caps, pauses and rates still admit."""
    allowances = {(name, ANY): it.allowance for name, it in tenants.items() if it.allowance is not None}
    for limit in limited:
        lane = (limit.tenant, limit.handler)
        bounds = [it for it in (limit.in_flight_left, limit.tokens, allowances.get(lane)) if it is not None]
        allowances[lane] = max(0, int(min(bounds)))
    return allowances


def _count(limited: Iterable[Allowance], messages: Iterable[Message]) -> list[tuple[Allowance, int]]:
    """Count the deliveries that fall under each limit."""
    chosen = [candidate for message in messages for candidate in message.deliveries]
    return [
        (limit, sum(it.handler == limit.handler and limit.tenant in {ANY, it.tenant} for it in chosen))
        for limit in limited
    ]


def capacity(mean: float | None, *, message_seconds: float) -> int:
    """Return how many deliveries of a handler fit one message, by its recent mean duration in seconds."""
    return max(1, min(MOST_PER_MESSAGE, int(message_seconds / max(mean or ASSUMED_SECONDS, 1e-6))))
