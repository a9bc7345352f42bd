"""Admission: tops the Celery queue up from Postgres, fairly.

Guarantees: room is dealt round-robin over the lanes (tenant, handler) with due work, beginning behind the one served
last, within each tenant's cap and pause; cost follows what is admitted. Refuses nothing: what finds no room waits.
"""

from __future__ import annotations

from dataclasses import dataclass
from operator import attrgetter
from typing import TYPE_CHECKING, Final, Protocol

from workers.store import deliveries

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from uuid import UUID

    from workers.store.connect import Connection
    from workers.store.deliveries import Candidate

MOST_PER_MESSAGE: Final = 256
"""Deliveries in one message, at the most. A message costs Celery and an admission some milliseconds: measured on two
cores, messages of 256 carry 1.65 times as many events all the way as messages of 64."""
ASSUMED_SECONDS: Final = 0.05
"""Duration assumed of a handler that has never run."""
QUEUED_SECONDS: Final = 2.0
"""After which the sweeper looks whether a message still names a queued delivery; admission has sent it by then, also on
a busy machine. Returning one early is harmless: only queued rows are claimed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """One Celery message: deliveries of one handler."""

    handler: str
    deliveries: tuple[Candidate, ...]

    @property
    def event_ids(self) -> list[UUID]:
        """The events, in order."""
        return [candidate.event_id for candidate in self.deliveries]

    @property
    def argument(self) -> list[str]:
        """What the message says: "tenant/event-id" texts."""
        return [f"{candidate.tenant}/{candidate.event_id}" for candidate in self.deliveries]


class HandlerQueue(Protocol):
    """The Celery queue of handler tasks, as admission sees it."""

    def state(self) -> tuple[int, Mapping[str, float]]:
        """Return the waiting messages and the mean seconds of each handler."""

    def send(self, message: Message) -> None:
        """Send one message; any exception means that it may not have been sent."""


def deal(
    candidates: Sequence[Candidate],
    allowances: Mapping[str, int],
    *,
    room: int,
    capacities: Mapping[str, int],
) -> list[Message]:
    """Deal candidates into at most `room` messages.

    1. Take one of each lane in turn, within the tenant's allowance.
    2. While everything fits, one delivery per message; otherwise as many as spread the load over the room, up to the
       handler's capacity. What runs alone has a message of its own.

    Args:
        candidates: the oldest of each lane, oldest first.
        allowances: deliveries that may still be queued, by tenant; without an entry, any number.
        room: messages that may be sent.
        capacities: deliveries that fit one message, by handler.
    """
    chosen = _take_turns(candidates, allowances)
    share = -(-len(chosen) // room) if room > 0 else 0
    messages: list[list[Candidate]] = []
    filling: dict[str, list[Candidate]] = {}
    for candidate in chosen:
        message = None if candidate.alone else filling.get(candidate.handler)
        if message is None:
            if len(messages) >= room:
                continue
            message = []
            messages.append(message)
            if not candidate.alone:
                filling[candidate.handler] = message
        message.append(candidate)
        if not candidate.alone and len(message) >= min(share, capacities[candidate.handler]):
            del filling[candidate.handler]
    return [Message(handler=message[0].handler, deliveries=tuple(message)) for message in messages]


def _take_turns(candidates: Sequence[Candidate], allowances: Mapping[str, int]) -> list[Candidate]:
    """Order candidates by turn, then by lane; leave out what a pause or a cap does not admit."""
    turns: dict[int, int] = {}
    ranked: list[tuple[int, int, Candidate]] = []
    for candidate in candidates:
        turn = turns[candidate.place] = turns.get(candidate.place, 0) + 1
        ranked.append((turn, candidate.place, candidate))
    ranked.sort(key=lambda entry: entry[:2])
    left = dict(allowances)
    chosen = []
    for _, _, candidate in ranked:
        allowance = left.get(candidate.tenant)
        if allowance is not None:
            if allowance <= 0:
                continue
            left[candidate.tenant] = allowance - 1
        chosen.append(candidate)
    return chosen


def admit(connection: Connection, queue: HandlerQueue, *, slots: int, message_seconds: float, wait: bool = True) -> int:
    """Top the queue up to two messages per slot; return how many deliveries were sent.

    1. Look how much room there is.
    2. Lock admission; only then look at the lanes: caps hold between concurrent admissions.
    3. Deal, mark as queued, remember the lane served last, commit.
    4. Send. What could not be sent is pending again; what was sent twice is claimed once.

    Args:
        connection: outside a transaction.
        queue: where the messages go.
        slots: processes that run handlers.
        message_seconds: time budget of one message.
        wait: behind another admission, which may have looked too early to see what is new; False where the next
            occasion is near.
    """
    length, means = queue.state()
    room = 2 * slots - length
    if room <= 0:
        return 0
    messages = _queue_what_is_due(connection, means, room=room, message_seconds=message_seconds, wait=wait)
    for sent, message in enumerate(messages):
        try:
            queue.send(message)
        except Exception:
            for unsent in messages[sent:]:
                deliveries.unqueue(connection, unsent.handler, unsent.event_ids)
            raise
    return sum(len(message.deliveries) for message in messages)


def _queue_what_is_due(
    connection: Connection, means: Mapping[str, float], *, room: int, message_seconds: float, wait: bool
) -> list[Message]:
    """Do steps 2 and 3 of `admit` in one transaction, of three round trips."""
    most = room * MOST_PER_MESSAGE
    with connection.pipeline(), connection.transaction():
        after = deliveries.lock_admission(connection, wait=wait)
        if after is None:
            return []
        candidates, allowances = deliveries.list_candidates(connection, after=after, most=most)
        if not candidates:
            return []
        capacities = {
            handler: capacity(means.get(handler), message_seconds=message_seconds)
            for handler in {candidate.handler for candidate in candidates}
        }
        dealt = deal(candidates, allowances, room=room, capacities=capacities)
        chosen = [candidate for message in dealt for candidate in message.deliveries]
        marks = deliveries.queue(connection, chosen, wait=QUEUED_SECONDS)
        deliveries.move_admission(connection, max(chosen or candidates, key=attrgetter("place")))
    marked = marks()
    kept = (
        Message(
            handler=message.handler,
            deliveries=tuple(c for c in message.deliveries if (c.event_id, c.handler) in marked),
        )
        for message in dealt
    )
    return [message for message in kept if message.deliveries]


def capacity(mean: float | None, *, message_seconds: float) -> int:
    """Return how many deliveries of a handler fit one message, by its recent mean duration in seconds."""
    return max(1, min(MOST_PER_MESSAGE, int(message_seconds / max(mean or ASSUMED_SECONDS, 1e-6))))
