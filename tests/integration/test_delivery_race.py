"""The life of deliveries when workers, sweepers and people race: threads on the same few rows of a real Postgres."""

from __future__ import annotations

import random
import threading
import time
from collections import Counter
from typing import TYPE_CHECKING

from tests.integration.open_work import NAMES, Key, Queue, announce_handlers, look, outcome_of
from workers.dispatch.admission import Message, admit
from workers.housekeeping import sweeper
from workers.store import deliveries, manual
from workers.store.connect import Connection, connect
from workers.store.manual import Selection

if TYPE_CHECKING:
    from collections.abc import Callable

    import pytest

    from tests.integration.conftest import AddDeliveries

RACING = 40


class Race:
    """Workers, sweepers and people at the same time on the same few deliveries, each with its own connection."""

    def __init__(self, database_url: str, seed: int) -> None:
        self._database_url = database_url
        self._seed = seed
        self._over = threading.Event()
        self._lock = threading.Lock()
        self._messages: list[Message] = []
        self.claimed: Counter[tuple[Key, int]] = Counter()
        self.counted: Counter[tuple[Key, int]] = Counter()
        self.succeeded: set[tuple[Key, int]] = set()
        self.faults: list[BaseException] = []

    def run(self, *, seconds: float, claims: int) -> None:
        """Race for so long, and until there were more claims than that."""
        roles: list[Callable[[Connection, random.Random], None]] = [
            *([self._work] * 4),
            *([self._sweep] * 2),
            *([self._admit] * 2),
            self._intervene,
            self._watch,
        ]
        threads = [
            threading.Thread(target=self._repeat, args=[role, self._seed + number]) for number, role in enumerate(roles)
        ]
        for thread in threads:
            thread.start()
        self._over.wait(seconds)
        patience = time.monotonic() + 60  # a slow machine takes longer for as many
        while len(self.claimed) <= claims and time.monotonic() < patience and not self._over.wait(0.1):
            pass
        self._over.set()
        for thread in threads:
            thread.join()

    def _repeat(self, role: Callable[[Connection, random.Random], None], seed: int) -> None:
        chance = random.Random(seed)  # noqa: S311 - a seed that can be given again is what is wanted
        try:
            with connect(self._database_url, name="race") as connection:
                while not self._over.is_set():
                    role(connection, chance)
        except BaseException as fault:  # noqa: BLE001 - told by the main thread
            self.faults.append(fault)
            self._over.set()

    def _admit(self, connection: Connection, chance: random.Random) -> None:
        queue = Queue()
        admit(connection, queue, slots=chance.randint(1, 3), message_seconds=0.2, wait=chance.random() < 0.5)
        with self._lock:  # every message twice, and now and then none
            self._messages += queue.sent * chance.choice([0, 1, 2, 2])
        self._over.wait(0.002)

    def _work(self, connection: Connection, chance: random.Random) -> None:
        with self._lock:
            message = self._messages.pop(chance.randrange(len(self._messages))) if self._messages else None
        if message is None:
            self._over.wait(0.001)
            return
        lease = chance.choice([0.005, 0.02, 5.0])
        claimed, _ = deliveries.claim(connection, message.handler, message.event_ids, worker="w", lease=lease)
        if not claimed:
            return
        with self._lock:
            self.claimed.update(((one.event_id, message.handler), one.fence) for one in claimed)
        time.sleep(chance.random() * 0.02)  # the handler
        kept = [one for one in claimed if chance.random() < 0.9]
        deliveries.hand_back(connection, message.handler, [one for one in claimed if one not in kept])
        outcomes = [outcome_of(one, chance.choice(["succeeded", *["again", "dead"] * 5])) for one in kept]
        if outcomes and chance.random() < 0.9:  # else the worker is killed here
            sent = {outcome.claimed.event_id: outcome for outcome in outcomes}
            for event_id in deliveries.record(connection, message.handler, outcomes):
                claim = (event_id, message.handler), sent[event_id].claimed.fence
                with self._lock:
                    self.counted[claim] += 1
                    if sent[event_id].state == "succeeded":
                        self.succeeded.add(claim)

    def _sweep(self, connection: Connection, chance: random.Random) -> None:
        sweeper.expire_leases(connection)
        if chance.random() < 0.3:
            connection.execute(
                "UPDATE deliveries SET lease_until = now() WHERE (event_id, handler) IN (SELECT event_id, handler"
                " FROM deliveries WHERE state = 'queued' ORDER BY event_id FOR UPDATE SKIP LOCKED)"
            )
            sweeper.return_queued(connection, list_named=list)
        self._over.wait(0.003)

    def _intervene(self, connection: Connection, chance: random.Random) -> None:
        if chance.random() < 0.3:
            next(manual.cancel(connection, Selection(handler=chance.choice(NAMES))), None)
        for state in ("dead", "cancelled"):
            list(manual.retry(connection, Selection(), state=state))
        self._over.wait(0.02)

    def _watch(self, connection: Connection, chance: random.Random) -> None:
        del chance
        query = "SELECT count(*) AS rows, count(DISTINCT (event_id, handler)) AS keys FROM all_deliveries"
        (row,) = connection.execute(query)
        assert row == {"rows": RACING, "keys": RACING}


def list_attempts(connection: Connection) -> set[tuple[Key, int]]:
    """Return what the tables hold as failed, by the fence that the row had at that moment."""
    rows = connection.execute("SELECT event_id, handler, fence FROM attempts")
    return {((row["event_id"], row["handler"]), row["fence"]) for row in rows}


def test_workers_that_race_count_every_attempt_once(
    connection: Connection, database_url: str, add_deliveries: AddDeliveries, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(deliveries, "MOST_WALKED", -(10**9))  # every admission marks the lanes
    for name in NAMES:
        add_deliveries(RACING // len(NAMES), handler=name)
    announce_handlers(connection)
    race = Race(database_url, seed=7)
    race.run(seconds=4.0, claims=200)
    assert not race.faults, race.faults
    assert len(race.claimed) > 200
    assert set(race.claimed.values()) == {1}, "two claims had the same fence"
    assert set(race.counted.values()) == {1}, "an outcome counted twice"
    assert set(race.counted) <= set(race.claimed)
    assert race.counted.keys() - race.succeeded <= list_attempts(connection), "an outcome counted for another claim"
    found = look(connection)
    assert len(found) == RACING
    hidden = "SELECT FROM deliveries JOIN lane_marks USING (tenant, handler) WHERE ready AND position < low"
    assert not connection.execute(hidden).fetchall()
    assert all(found[key].fence == fence for key, fence in race.succeeded), "a success counted for another claim"
    for key, fence in race.claimed:
        assert found[key].fence >= fence
