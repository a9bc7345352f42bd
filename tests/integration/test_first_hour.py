"""The first hour of an installation on Debian's PostgreSQL and Redis, under 200 events a second all the time.

Version 0.1 runs as one role of Postgres and one user of Redis, beside another Celery app on the same Redis database. It
is upgraded, given roles of least privilege, Sentinels, a prefix and users with few rights. Then the primary of Postgres
is killed, and the primary of Redis. No event is lost, and none is handled twice. `-s` shows the log with its times.
"""

from __future__ import annotations

import os
import pwd
import queue
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, Self

import httpx
import psycopg
import pytest
from celery import Celery

from tests.integration.test_redis_users import LINES
from tests.launching import ROOT, free_port, spawn
from tests.moveris import completed
from tests.redis_failover import MASTER, PASSWORD, REDIS, Node, Watched, watched
from tests.system.ledger import EFFECTS, effects_of_more_than_one_run, wait_until_settled
from tests.system.provider import sign
from tests.system.site import INGRESSES, WORKERS, Site
from tests.system.test_upgrade import PREVIOUS, has_history, unpack
from tests.system.waiting import until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import TracebackType

    from redis import Redis

RATE: Final = 200
SENDERS: Final = 16
FOUND: Final = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"))
BIN: Final = FOUND[-1].parent if FOUND else Path()
PREFIX: Final = "webhooks:"
ROLES: Final = ("webhook_owner", "webhook", "acme")
DUTIES: Final = {
    **dict.fromkeys(INGRESSES, "webhook-ingress"),
    **{name: f"webhook-{name}" for name in WORKERS},
}
"""The user of Redis of each process."""
THEIRS: Final = """
import os
import time
from celery import Celery
from redis.sentinel import Sentinel

app = Celery("theirs", broker=os.environ["BROKER"])
app.conf.broker_transport_options = {"master_name": os.environ["MASTER"]}
app.conf.update(task_default_queue="theirs", task_acks_late=True, broker_connection_retry_on_startup=True)
hosts = [it.rpartition("@")[2].partition("/")[0].split(":") for it in os.environ["BROKER"].split(";")]
sentinel = Sentinel([(host, int(port)) for host, port in hosts])

@app.task(name="theirs.note")
def note(number, seconds):
    client = sentinel.master_for(os.environ["MASTER"], password=os.environ["PASSWORD"])
    client.rpush("theirs:ran", number)
    time.sleep(seconds)
    client.rpush("theirs:done", number)
"""

pytestmark = [
    pytest.mark.long,
    pytest.mark.timeout(900),
    pytest.mark.skipif(not (BIN.name and REDIS), reason="needs Debian's postgresql and redis-server"),
    pytest.mark.skipif(os.geteuid() != 0, reason="Debian's Postgres is run as its own user, which only root can"),
    pytest.mark.skipif(not has_history(), reason=f"needs a clone with the commit {PREVIOUS[:9]}, version 0.1"),
]


class Log:
    """Lines with the seconds since the first."""

    def __init__(self) -> None:
        self._began = time.monotonic()

    def say(self, text: str) -> None:
        print(f"{time.monotonic() - self._began:6.1f} s  {text}", flush=True)  # noqa: T201 - shown by -s


class Postgres:
    """A primary of Debian's PostgreSQL and the replica that it waits for.

    Attributes:
        ports: of both.
    """

    def __init__(self, home: Path, stack: ExitStack) -> None:
        self._user = pwd.getpwnam("postgres").pw_uid
        self._home = home
        self.ports = (free_port(), free_port())
        self._folders = (home / "first", home / "second")
        home.mkdir()
        os.chown(home, self._user, -1)
        password = home / "password"
        password.write_text("test")
        password.chmod(0o644)
        self._run("initdb", "-D", self._folders[0], "-U", "postgres", "-A", "scram-sha-256", "--pwfile", password)
        self.primary = self._start(0, stack)
        self._run("pg_basebackup", "-d", self.url(0), "-D", self._folders[1], "-R", "-c", "fast", "-X", "stream")
        self.replica = self._start(1, stack)
        with psycopg.connect(self.url(0), autocommit=True) as admin:
            follows = "SELECT FROM pg_stat_replication WHERE state = 'streaming'"
            until(lambda: admin.execute(follows).fetchall(), seconds=20, what="the replica")
            admin.execute("ALTER SYSTEM SET synchronous_standby_names = '*'")  # not at the replica, which has its own
            admin.execute("SELECT pg_reload_conf()")
            is_sync = "SELECT FROM pg_stat_replication WHERE sync_state = 'sync'"
            until(lambda: admin.execute(is_sync).fetchall(), seconds=20, what="a synchronous replica")

    def url(self, number: int) -> str:
        """Return the URL of one server, for its superuser."""
        return f"postgresql://postgres:test@127.0.0.1:{self.ports[number]}/postgres"

    def both(self, role: str) -> str:
        """Return the URL of whichever is the primary, for a role."""
        hosts = ",".join(f"127.0.0.1:{port}" for port in self.ports)
        return f"postgresql://{role}:test@{hosts}/app?target_session_attrs=read-write"

    def fail_over(self) -> None:
        """Kill the primary as a crash does, and promote the replica."""
        self.primary.kill()
        self.primary.wait()
        with psycopg.connect(self.url(1), autocommit=True) as admin:
            admin.execute("SELECT pg_promote()")

    def _start(self, number: int, stack: ExitStack) -> subprocess.Popen[bytes]:
        settings = [f"port={self.ports[number]}", "listen_addresses=127.0.0.1", "unix_socket_directories="]
        argv = [str(BIN / "postgres"), "-D", str(self._folders[number]), *(f"-c{it}" for it in settings)]
        process = spawn(argv, log=self._home / f"{number}.log", user=self._user)
        stack.callback(process.wait)
        stack.callback(process.kill)

        def answers() -> bool:
            assert process.poll() is None, (self._home / f"{number}.log").read_text()
            with suppress(psycopg.OperationalError), psycopg.connect(self.url(number), connect_timeout=2):
                return True
            return False

        until(answers, seconds=60, what="Postgres")
        return process

    def _run(self, program: str, *arguments: str | Path) -> None:
        command = [str(BIN / program), *map(str, arguments)]
        subprocess.run(command, user=self._user, cwd="/", check=True, capture_output=True)


class Provider:
    """Posts events at a rate to two ingresses in turn; one that is refused comes again until it is acknowledged.

    Attributes:
        acknowledged: ids, by the moment of the answer.
        refused: how often none of the two took an event.
    """

    def __init__(self, site: Site) -> None:
        self._site = site
        self._due: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self._is_over = threading.Event()
        self._threads = [threading.Thread(target=self._send, args=[number]) for number in range(SENDERS)]
        self._clock = threading.Thread(target=self._tick)
        self.acknowledged: dict[str, float] = {}
        self.sent = 0
        self.refused = 0

    def __enter__(self) -> Self:
        for thread in (*self._threads, self._clock):
            thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.stop()

    def stop(self) -> None:
        """Send no new events, and return when all are acknowledged."""
        self._is_over.set()
        self._clock.join()
        for _ in self._threads:
            self._due.put(None)
        for thread in self._threads:
            thread.join()

    def wait_for_more(self, seconds: float) -> None:
        """Wait until as many events were acknowledged as are due in so many seconds."""
        aim = len(self.acknowledged) + RATE * seconds
        until(lambda: len(self.acknowledged) >= aim, seconds=60 + 3 * seconds, what="acknowledged events")

    def first_after(self, moment: float) -> float:
        """Return when the first event was acknowledged that cannot have been under way at that moment."""
        return min((at for at in self.acknowledged.copy().values() if at > moment + 0.2), default=0.0)

    def _tick(self) -> None:
        due = time.monotonic()
        while not self._is_over.wait(max(0.0, due - time.monotonic())):
            due += 1 / RATE
            self.sent += 1
            self._due.put(completed())

    def _send(self, number: int) -> None:
        with httpx.Client(timeout=5) as client:
            while (body := self._due.get()) is not None:
                headers = dict(sign(self._site.secret, body))
                number += 1
                urls = [self._site.urls[number % 2], self._site.urls[1 - number % 2]]
                while not any(self._post(client, url, body, headers) for url in urls):
                    self.refused += 1
                    time.sleep(0.2)

    def _post(self, client: httpx.Client, url: str, body: bytes, headers: dict[str, str]) -> bool:
        with suppress(httpx.TransportError):
            answer = client.post(url, content=body, headers=headers)
            if answer.status_code == httpx.codes.OK:
                self.acknowledged[answer.json()["id"]] = time.monotonic()
                return True
        return False


class Neighbour:
    """Another team's Celery app on the same Redis database, which gets a task a second."""

    def __init__(self, home: Path, servers: Watched, stack: ExitStack) -> None:
        broker = ";".join(f"sentinel://:{PASSWORD}@127.0.0.1:{it.port}/0" for it in servers.sentinels)
        (home / "theirs.py").write_text(THEIRS)
        environ = {**os.environ, "BROKER": broker, "MASTER": MASTER, "PASSWORD": PASSWORD, "PYTHONPATH": str(home)}
        command = [sys.executable, "-m", "celery", "-A", "theirs", "worker", "-c", "2", "-n", "theirs@%h"]
        self.process = spawn(command, log=home / "theirs.log", environ=environ)
        stack.callback(self.process.wait)
        stack.callback(self.process.kill)
        self._app = stack.enter_context(Celery("sender", broker=broker, set_as_current=False))
        self._app.conf.broker_transport_options = {"master_name": MASTER}
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self.sent = 0
        self._thread.start()
        stack.callback(self.stop)

    def send(self, seconds: float = 0.0) -> int:
        """Send a task that takes so long; return its number."""
        self.sent += 1
        self._app.send_task("theirs.note", [self.sent, seconds], queue="theirs", ignore_result=True)
        return self.sent

    def stop(self) -> None:
        """Send no more."""
        self._is_over.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._is_over.wait(1.0):
            self.send()


@contextmanager
def folder() -> Iterator[Path]:
    home = Path(tempfile.mkdtemp(prefix="first-hour-", dir="/tmp"))
    home.chmod(0o755)
    try:
        yield home
    finally:
        shutil.rmtree(home, ignore_errors=True)


def create_database(servers: Postgres) -> None:
    """Make the roles and the database; the tables of the team are for whoever runs handlers, before and after."""
    with psycopg.connect(servers.url(0), autocommit=True) as admin:
        for role in ROLES:
            admin.execute(f"CREATE ROLE {role} LOGIN PASSWORD 'test'".encode())
        admin.execute("CREATE DATABASE app OWNER webhook_owner")
    with psycopg.connect(servers.both("postgres"), autocommit=True) as admin:
        admin.execute(EFFECTS.encode())
        admin.execute("GRANT INSERT ON effects, effects_once TO webhook_owner, acme")


def set_users(node: Node) -> None:
    """Give a server the users of deploy/REDIS_USERS.md, as its file of ACL would."""
    with node.client() as client:
        for user, rules in LINES.items():
            more = ["+wait"] if user == "webhook-ingress" else []
            known = [it for it in rules if it != "+client|setinfo"]  # Redis 7.0 does not know it
            client.execute_command("ACL", "SETUSER", user, *known, *more)


def their_names(client: Redis) -> set[str]:
    return {str(it) for it in client.scan_iter() if not str(it).startswith(PREFIX)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Hour:
    """Everything that runs, and the steps of the hour in their order."""

    log: Log
    postgres: Postgres
    servers: Watched
    neighbour: Neighbour
    site: Site
    provider: Provider

    def say(self, what: str) -> None:
        """Log how many events were acknowledged and refused up to here, and how many deliveries are open."""
        (row,) = self.site.query("SELECT count(*) AS n FROM deliveries")
        counts = f"{len(self.provider.acknowledged)} acknowledged, {self.provider.refused} refused, {row['n']} open"
        self.log.say(f"{what}: {counts}")

    def upgrade(self) -> None:
        """From version 0.1 to this one."""
        self.provider.wait_for_more(10)
        self.say("version 0.1 beside another Celery app")
        self.site.pipeline("migrate", "--phase", "pre")
        self._restart()
        self.site.pipeline("migrate", "--phase", "post")
        self.say("version 0.2")

    def part(self) -> None:
        """Three roles of Postgres, Sentinels with a replica that is waited for, and a prefix of names."""
        grants = self.site.pipeline("grants", "--application", "webhook", "--handlers", "acme")
        with psycopg.connect(self.postgres.both("webhook_owner"), autocommit=True) as owner:
            owner.execute(grants.encode())
        self.site.configure(DATABASE_URL=self.postgres.both("webhook"), REDIS_URL=self.servers.url)
        self.site.configure(REDIS_PREFIX=PREFIX, INBOX_WAIT_REPLICAS="1")
        self.site.configure("housekeeping", DATABASE_URL=self.postgres.both("webhook_owner"))
        self.site.configure("handlers", HANDLER_DATABASE_URL=self.postgres.both("acme"))
        self.site.deploy_workers(ROOT)
        with ThreadPoolExecutor() as pool:
            renamed = pool.submit(self.site.pipeline, "rename", "--quiet", "5s")
            self.site.deploy_ingresses(ROOT)
            assert "they are gone" in renamed.result()
        self.say("three roles, Sentinels, a prefix")

    def restrict(self) -> None:
        """Users of Redis with few rights."""
        for node in self.servers.nodes:
            set_users(node)
        for process, user in DUTIES.items():
            self.site.configure(process, REDIS_URL=self.servers.url.replace("//:", f"//{user}:"))
        self._restart()
        self.say("users of Redis with few rights")

    def fail_over_postgres(self) -> None:
        """Kill its primary; the other app has a task of 40 seconds meanwhile."""
        task = self.neighbour.send(seconds=40)
        self.provider.wait_for_more(5)
        moment = time.monotonic()
        self.postgres.fail_over()
        took = self._seconds_until_handled(moment)
        assert took < 15
        self.say(f"Postgres' primary killed, handled again after {took:.1f} s")
        with self.servers.primary().client() as client:
            until(lambda: str(task) in client.lrange("theirs:done", 0, -1), seconds=90, what="their long task")
            self.neighbour.stop()
            until(lambda: client.llen("theirs:done") == self.neighbour.sent, seconds=20, what="their tasks")
            assert sorted(map(int, client.lrange("theirs:ran", 0, -1))) == list(range(1, self.neighbour.sent + 1))
            others = ("theirs", "_kombu.binding", "unacked")
            assert [it for it in their_names(client) if not it.startswith(others)] == []
        self.say(f"the other app: {self.neighbour.sent} tasks, each ran once, one of them for 40 s")

    def fail_over_redis(self) -> None:
        """Kill its primary, which comes back as a replica."""
        moment = time.monotonic()
        first = self.servers.primary()
        first.kill()
        until(lambda: self.servers.primary() is not first, seconds=30, what="another primary")
        first.start("--replicaof", "127.0.0.1", str(self.servers.primary().port))
        set_users(first)
        until(lambda: self.provider.first_after(moment), seconds=60, what="acknowledged events")
        took = self.provider.first_after(moment) - moment
        handled = self._seconds_until_handled(moment)
        assert took < 10
        self.say(f"Redis' primary killed, acknowledged again after {took:.1f} s, handled after {handled:.1f} s")
        self.provider.wait_for_more(10)

    def _restart(self) -> None:
        """Restart everything with the settings of now: workers beside the former, then one ingress after the other."""
        self.site.deploy_workers(ROOT)
        self.site.deploy_ingresses(ROOT)

    def _seconds_until_handled(self, since: float) -> float:
        """Return the seconds from a moment until a delivery that begins now has succeeded."""
        (row,) = self.site.query("SELECT now() AS now")
        fresh = "SELECT FROM effects WHERE at > %s LIMIT 1"
        until(lambda: self.site.query(fresh, [row["now"]]), seconds=60, what="effects", every=0.05)
        return time.monotonic() - since


def begin(home: Path, stack: ExitStack) -> Hour:
    """Start the servers, the other app, and an installation of version 0.1 that gets events."""
    log = Log()
    postgres = Postgres(home / "postgres", stack)
    create_database(postgres)
    options = ("appendfsync always",)
    servers = stack.enter_context(watched(program=REDIS, options=options, down_after_milliseconds=1000))
    log.say(f"PostgreSQL of {BIN} with a synchronous replica, Redis with a replica and three Sentinels")
    neighbour = Neighbour(home, servers, stack)
    previous = unpack(home / "version-0.1")
    redis_url = f"redis://:{PASSWORD}@127.0.0.1:{servers.primary().port}/0"
    as_owner = {"DATABASE_URL": postgres.both("webhook_owner")}
    site = stack.enter_context(Site(home, database_url=postgres.both("postgres"), redis_url=redis_url, **as_owner))
    site.slots = 6
    site.pipeline("migrate", tree=previous)
    for process in (*WORKERS, *INGRESSES):
        site.start(process, previous)
    site.add_tenant()
    provider = stack.enter_context(Provider(site))
    return Hour(log=log, postgres=postgres, servers=servers, neighbour=neighbour, site=site, provider=provider)


def test_an_hour_of_upgrade_roles_neighbours_and_failovers_loses_nothing_and_handles_nothing_twice() -> None:
    with folder() as home, ExitStack() as stack:
        hour = begin(home, stack)
        site, provider = hour.site, hour.provider
        hour.upgrade()
        hour.part()
        hour.restrict()
        hour.fail_over_postgres()
        assert provider.refused == 0
        hour.fail_over_redis()
        provider.stop()
        acknowledged = list(provider.acknowledged)
        settled = wait_until_settled(site, acknowledged, seconds=60)
        events, effects = len(site.query("SELECT FROM events")), len(site.query("SELECT FROM effects"))
        twice = effects_of_more_than_one_run(site)
        hour.say(
            f"{provider.sent} events sent, {events} stored, {settled.missing} missing, {effects} effects of two "
            f"handlers, {len(twice)} of them twice, {settled.failed} failed"
        )
        assert len(acknowledged) == provider.sent == events
        assert (settled.missing, settled.undelivered, settled.failed) == (0, 0, 0)
        assert effects == 2 * events
        assert twice == []
        assert hour.neighbour.process.poll() is None
