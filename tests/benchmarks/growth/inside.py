"""The workers' steps run inside the harness, one process, no Celery between: what each event costs by itself."""

from __future__ import annotations

import sys
import uuid
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tests.names import NAMES
from workers import registration
from workers.dispatch.admission import Message, admit
from workers.dispatch.express import MOST_WAITING
from workers.dispatch.handler_loop import HandlerLoop
from workers.dispatch.running import MessageRun
from workers.ingest.drain import drain
from workers.ingest.inbox_reader import InboxReader
from workers.store.catalogue import Catalogue, announce
from workers.store.connect import PostgresConnection
from workers.store.session import HandlerSession

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from tests.benchmarks.ground import Place

SLOTS = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class DrainBounds:
    """Settings of a drain."""

    drain_batch: int = 500
    drain_seconds: float = 3.0
    reclaim_seconds: float = 10.0
    dedup_days: int = 30


class Sent:
    """A queue of handler tasks that is always empty when admission looks."""

    def __init__(self) -> None:
        self.messages: list[Message] = []

    def lengths(self) -> tuple[int, int]:
        """Return no waiting message in `handlers`, and no room in `express`."""
        return 0, MOST_WAITING

    def durations(self, lanes: Collection[tuple[str, str]]) -> Mapping[tuple[str, str], float]:
        """Return that handlers are quick."""
        return dict.fromkeys(lanes, 0.0001)

    def send(self, *messages: Message) -> None:
        self.messages += messages


class Inside:
    """The workers of one place."""

    def __init__(self, place: Place, module: str = "nothing") -> None:
        name = f"tests.benchmarks.handlers.{module}"
        registration._registered.clear()  # of the place before: in one process they would all be asked
        sys.modules.pop(name, None)
        self.handlers = registration.load([name])
        self.postgres = PostgresConnection(place.database_url, name="benchmark worker")
        announce(self.postgres.connection, [*self.handlers], code_version=self.handlers.code_version)
        self._catalogue = Catalogue()
        self._place = place
        self._session = HandlerSession(place.database_url)
        self._loop = HandlerLoop()

    def drain(self, seconds: float = 3.0) -> int:
        """Store what waits in the inbox, for so long; return how many entries were read."""
        reader = InboxReader(self._place.redis, names=NAMES, consumer=uuid.uuid4().hex)
        bounds = DrainBounds(drain_seconds=seconds)
        return drain(
            reader, self.postgres.connection, identity="benchmark", catalogue=self._catalogue, settings=bounds
        ).read

    def admit(self, *, slots: int = SLOTS) -> list[Message]:
        """Fill an empty queue of so many slots once."""
        sent = Sent()
        admit(self.postgres.connection, sent, slots=slots, message_seconds=1.0)
        return sent.messages

    def run(self, messages: list[Message]) -> int:
        """Run messages; return how many deliveries succeeded."""
        done = 0
        for message in messages:
            handler = self.handlers.get(message.handler)
            assert handler
            run = MessageRun(
                handler, postgres=self.postgres, session=self._session, loop=self._loop, message_seconds=60.0
            )
            run.run(message.event_ids)
            done += run.succeeded
        return done
