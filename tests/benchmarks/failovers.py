"""Failovers by Sentinels under load, again and again: how long nothing is acknowledged, and what is lost.

    python -m tests.benchmarks.failovers --failovers 100 --wait 1
    python -m tests.benchmarks.failovers --failovers 20 --wait 0 --behind 0.2

Each time the primary is killed and its replica takes over; the killed one comes back as the replica. Afterwards the ids
of all acknowledged events are compared with the new primary. What is missing is named, and compared with what the
killed primary had on its disk and the new one has not: these must be the same events.
"""

from __future__ import annotations

import argparse
import shutil
import signal
import statistics
import sys
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx

from shared.envelope import decode
from shared.redis_client import open_client
from shared.redis_url import redis_url
from shared.registry import PUBLISH, encode, field_of
from shared.wire import Names
from tests.ingress_process import SECRET, endpoint, moveris, serving, wait_for
from tests.moveris import completed
from tests.redis_failover import Node, Watched, watched

if TYPE_CHECKING:
    from redis import Redis

NAMES = Names("webhooks:")
PATH = "/webhooks/moveris/acme"
SENDERS = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Failover:
    """One of them.

    Attributes:
        away_seconds: from the kill to the next event that was acknowledged.
        acknowledged: events since the failover before.
        lost: ids of those that the new primary has not.
        unreplicated: ids of acknowledged events that the killed one had and the new one has not.
    """

    away_seconds: float
    acknowledged: int
    lost: frozenset[str]
    unreplicated: frozenset[str]


class Load:
    """Posts events at a rate, from a few threads, while it is not paused."""

    def __init__(self, url: str, *, rate: float) -> None:
        self._url = url + PATH
        self._pause = SENDERS / rate
        self._lock = threading.Lock()
        self._may_post = threading.Event()
        self._under_way = 0
        self.acknowledged: dict[str, float] = {}
        self.statuses: dict[int, int] = {}
        for _ in range(SENDERS):
            threading.Thread(target=self._run, daemon=True).start()

    def resume(self) -> None:
        """Post from now on."""
        self._may_post.set()

    def pause(self) -> None:
        """Post nothing more, and wait for what is under way."""
        self._may_post.clear()
        wait_for(lambda: self._under_way == 0, seconds=20)

    def take(self) -> set[str]:
        """Return what was acknowledged since the last time."""
        with self._lock:
            taken, self.acknowledged = set(self.acknowledged), {}
        return taken

    def last_acknowledged(self) -> float:
        """Return when the last event was acknowledged."""
        with self._lock:
            return max(self.acknowledged.values(), default=0.0)

    def _run(self) -> None:
        with httpx.Client(timeout=5) as client:
            while True:
                self._may_post.wait()
                with self._lock:
                    self._under_way += 1
                body = completed()
                answer = client.post(self._url, content=body, headers=dict(moveris.sign(SECRET, body)))
                with self._lock:
                    self._under_way -= 1
                    self.statuses[answer.status_code] = self.statuses.get(answer.status_code, 0) + 1
                    if answer.status_code == httpx.codes.OK:
                        self.acknowledged[answer.json()["id"]] = time.monotonic()
                time.sleep(self._pause)


def ids_in(client: Redis) -> set[str]:
    """Return the ids of the events in both streams."""
    entries: list[Any] = [it for stream in NAMES.streams for it in client.xrange(stream) or ()]
    return {str(decode(fields).id) for _, fields in entries}


def ids_on_disk(node: Node) -> set[str]:
    """Return the ids of the events that a killed server had, from a copy of its files."""
    with tempfile.TemporaryDirectory(prefix="killed-", dir="/tmp") as folder:
        copy = Node(Path(folder) / "copy")
        shutil.copytree(node.home / "valkey" / "appendonlydir", copy.home / "valkey" / "appendonlydir")
        try:
            copy.start()
            with open_client(f"redis://:test@127.0.0.1:{copy.port}/0", seconds=30) as client:
                return ids_in(client)
        finally:
            copy.kill()


def fail_over(servers: Watched, load: Load, *, behind_seconds: float) -> Failover:
    """Kill the primary under load; return what became of the events since the failover before."""
    primary = servers.primary()
    (replica,) = (it for it in servers.nodes if it is not primary)
    assert replica.popen is not None
    load.resume()
    time.sleep(0.5)
    if behind_seconds:
        replica.popen.send_signal(signal.SIGSTOP)
        with primary.client() as client:
            client.execute_command("CLIENT KILL TYPE replica")
        time.sleep(behind_seconds)
    killed_at = time.monotonic()
    primary.kill()
    replica.popen.send_signal(signal.SIGCONT)
    had = ids_on_disk(primary) if behind_seconds else set()
    wait_for(lambda: servers.primary() is replica and replica.info("role") == "master", seconds=60)
    primary.start("--replicaof", "127.0.0.1", str(replica.port))
    wait_for(lambda: load.last_acknowledged() > killed_at + 0.1, seconds=60)
    away = next_after(load, killed_at) - killed_at
    load.pause()
    wait_for(servers.is_whole, seconds=60)
    acknowledged = load.take()
    with open_client(redis_url(servers.url), seconds=30) as client:
        found = ids_in(client)
        for stream in NAMES.streams:
            client.xtrim(stream, 0, approximate=False)
    return Failover(
        away_seconds=away,
        acknowledged=len(acknowledged),
        lost=frozenset(acknowledged - found),
        unreplicated=frozenset((acknowledged & had) - found),
    )


def next_after(load: Load, moment: float) -> float:
    """Return when the first event was acknowledged that cannot have been under way at that moment."""
    return min(at for at in load.acknowledged.copy().values() if at > moment + 0.1)


def main() -> None:
    """Run as many failovers as asked for, and print what they did."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--failovers", type=int, default=100)
    parser.add_argument("--wait", type=int, default=1, help="INBOX_WAIT_REPLICAS")
    parser.add_argument("--behind", type=float, default=0.0, help="seconds for which the replica is cut off before")
    parser.add_argument("--rate", type=float, default=200.0, help="events a second")
    given = parser.parse_args()
    done = []
    with watched(replicas=1, down_after_milliseconds=500) as servers:
        one = endpoint()
        with open_client(redis_url(servers.url), seconds=5) as client:
            fields = (field_of(one.provider, one.tenant), encode(one))
            client.eval(PUBLISH, 1, NAMES.registry, 1, *fields)
        settings = {"REDIS_PREFIX": NAMES.prefix, "INBOX_WAIT_REPLICAS": str(given.wait)}
        with serving(servers.url, **settings) as ingress:
            load = Load(ingress.url, rate=given.rate)
            for number in range(1, given.failovers + 1):
                it = fail_over(servers, load, behind_seconds=given.behind)
                done.append(it)
                print(f"{number:4} {it.away_seconds:5.2f} s, {it.acknowledged} acknowledged, {len(it.lost)} lost")
                for name in sorted(it.lost):
                    print(f"     lost {name}")
                sys.stdout.flush()
            print(f"answers: {dict(sorted(load.statuses.items()))}")
    away = sorted(it.away_seconds for it in done)
    lost = sum(len(it.lost) for it in done)
    print(f"{len(done)} failovers, INBOX_WAIT_REPLICAS={given.wait}, {given.rate:.0f} events/s asked for")
    print(f"acknowledged {sum(it.acknowledged for it in done)}, of them lost {lost}")
    print(f"without an acknowledgement: median {statistics.median(away):.1f} s, longest {away[-1]:.1f} s")
    if given.behind:
        named = all(it.lost == it.unreplicated for it in done)
        print(f"the lost ones are exactly those that the replica had not received: {'yes' if named else 'NO'}")
        sys.exit(not named)
    sys.exit(bool(given.wait and lost))


if __name__ == "__main__":
    main()
