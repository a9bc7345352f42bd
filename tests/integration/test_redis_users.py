"""Every duty with exactly the rights that deploy/REDIS_USERS.md gives its user, and with one right less."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from redis import Redis

from deploy.doctor.deployment import redis_rights
from shared import rights
from shared.redis_client import open_client
from shared.redis_url import redis_url
from shared.registry import Cipher
from shared.wire import Names
from tests.conftest import SECRETS_KEY
from tests.ingress_process import SECRET, Valkey, answers, own_valkey, serving, wait_for
from tests.launching import ROOT, free_port, spawn
from tests.moveris import completed
from tests.redis_failover import cluster
from workers.store import tenants

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from workers.store.connect import Connection

NAMES = Names("webhooks:")
DOCUMENT = (ROOT / "deploy" / "REDIS_USERS.md").read_text()
FOUND = re.findall(r"^user (\S+) (.*)$", DOCUMENT, re.MULTILINE)
LINES = {name: rules.replace("PASSWORD", "test").split() for name, rules in FOUND}
OF_THE_CONNECTION = {"+client|setinfo", "+select", "+config|get"}
"""Redis' clients ask for these and go on without."""
NEEDS = {
    "webhook-ingress": rights.of_ingress(NAMES),
    "webhook-ingest": rights.of_worker(NAMES, ["ingest"]),
    "webhook-handlers": rights.of_worker(NAMES, ["express", "handlers"]),
    "webhook-housekeeping": rights.of_worker(NAMES, ["housekeeping"]),
    "webhook-console": rights.of_console(NAMES),
}


@dataclass(frozen=True, slots=True)
class Place:
    """Where the duties work.

    Attributes:
        prefix: of names.
        inbox: URL, for the user `USER`.
        broker: URL, likewise; the same where there is one server.
        servers: a client of each server.
        more: settings.
    """

    prefix: str
    inbox: str
    broker: str
    servers: tuple[Redis, ...]
    more: Mapping[str, str] = field(default_factory=dict)

    def environ(self, user: str) -> dict[str, str]:
        """Return the settings of a process that is this user everywhere."""
        inbox, broker = (it.replace("USER", user) for it in (self.inbox, self.broker))
        urls = {"REDIS_URL": inbox} if inbox == broker else {"INBOX_URL": inbox, "BROKER_URL": broker}
        return {**urls, "REDIS_PREFIX": self.prefix, **self.more}


@pytest.fixture
def valkey() -> Iterator[Valkey]:
    with own_valkey() as it, it.client() as admin:
        set_users(admin, LINES)
        yield it


def set_users(admin: Redis, lines: Mapping[str, list[str]]) -> None:
    for user, rules in lines.items():
        admin.execute_command("ACL", "SETUSER", user, *rules)


def url(valkey: Valkey, user: str) -> str:
    return valkey.url.replace("//:test@", f"//{user}:test@")


OF_INBOX = ("inbox", "registry", "ingress:", "identity")
"""What names at the inbox begin with, after the prefix."""


def names_at(rules: list[str], *, is_inbox: bool) -> list[str]:
    """Return rules with the names of one of two Redis only, as the document has them below its lines."""
    found = []
    for rule in rules:
        _, sign, name = rule.partition("~webhooks:")
        if not sign or name == "*":
            found.append(rule)
        elif is_inbox:
            found += [rule] * (name.startswith(OF_INBOX) and name != "inbox:bell")
        elif name.startswith(OF_INBOX) and name != "identity":
            found += ["~webhooks:inbox:bell"] * (name in {"inbox:*", "inbox:bell"})
        else:
            found.append(rule)
    return found


@contextmanager
def one_server() -> Iterator[Place]:
    with own_valkey() as valkey, valkey.client() as admin:
        set_users(admin, LINES)
        yield Place(NAMES.prefix, url(valkey, "USER"), url(valkey, "USER"), (admin,))


@contextmanager
def two_servers() -> Iterator[Place]:
    with own_valkey() as inbox, own_valkey() as broker, inbox.client() as one, broker.client() as other:
        set_users(one, {user: names_at(rules, is_inbox=True) for user, rules in LINES.items()})
        set_users(other, {user: names_at(rules, is_inbox=False) for user, rules in LINES.items()})
        yield Place(NAMES.prefix, url(inbox, "USER"), url(broker, "USER"), (one, other))


@contextmanager
def cluster_and_broker() -> Iterator[Place]:
    with cluster() as inbox, own_valkey() as broker, broker.client() as other, ExitStack() as stack:
        lines = {
            user: [
                *(it.replace("webhooks:", "{webhooks}:") for it in rules if it != "+select"),
                *("+cluster|slots", "+select"),
                *(["+wait"] if user == "webhook-ingress" else []),
            ]
            for user, rules in LINES.items()
        }
        nodes = [stack.enter_context(it.client()) for it in inbox.nodes]
        for server in (*nodes, other):
            set_users(server, lines)
        cluster_url = inbox.url.replace("//:test@", "//USER:test@")
        more = {"INBOX_WAIT_REPLICAS": "1"}
        yield Place("{webhooks}:", cluster_url, url(broker, "USER"), (*nodes, other), more)


PLACES = [
    one_server,
    pytest.param(two_servers, marks=pytest.mark.long),
    pytest.param(cluster_and_broker, marks=pytest.mark.long),
]


@pytest.mark.timeout(240)
@pytest.mark.parametrize("make_place", PLACES)
def test_every_duty_does_its_work_with_exactly_its_rights(
    make_place: Callable[[], AbstractContextManager[Place]], database_url: str, connection: Connection, tmp_path: Path
) -> None:
    tenants.add_tenant(connection, "acme")
    ciphertext = Cipher([SECRETS_KEY]).encrypt(SECRET)
    tenants.add_endpoint(
        connection, tenant="acme", provider="moveris", scheme="moveris", label="first", ciphertext=ciphertext
    )
    environ = os.environ | {"DATABASE_URL": database_url, "INBOX_DURABILITY": "any"}
    environ |= {"HANDLERS": "workers.handlers.example"}
    environ |= {"FLOWER_PORT": str(free_port()), "FLOWER_USER": "test", "FLOWER_PASSWORD": "test"}
    environ |= {"EXPORTER_PORT": str(free_port()), "EXPORTER_SECONDS": "1"}
    environ |= {"CONSOLE_PORT": str(free_port())}
    celery = [sys.executable, "-m", "celery", "-A", "workers.app"]
    worker = [*celery, "worker", "--concurrency=1", "--task-events", "--without-gossip", "--without-mingle"]
    commands = {
        "webhook-ingest": [*worker, "-Q", "ingest", "-n", "ingest@%h"],
        "webhook-handlers": [*worker, "-Q", "express,handlers", "-n", "handlers@%h"],
        "webhook-housekeeping": [*worker, "-Q", "housekeeping", "-n", "housekeeping@%h"],
        "webhook-beat": [*celery, "beat"],
        "webhook-flower": [sys.executable, "-m", "deploy.flower"],
        "webhook-exporter": [sys.executable, "-m", "deploy.exporter"],
        "webhook-console": [sys.executable, "-m", "deploy.console"],
    }

    def handled() -> int:
        (row,) = connection.execute("SELECT count(*) AS n FROM deliveries_done WHERE state = 'succeeded'")
        return int(row["n"])

    with make_place() as place, ExitStack() as stack:
        names = Names(place.prefix)

        def pipeline(*arguments: str) -> str:
            own = environ | place.environ("webhook-pipeline") | {"SECRETS_KEY": SECRETS_KEY}
            program = str(Path(sys.executable).with_name("pipeline"))
            return subprocess.run([program, *arguments], env=own, capture_output=True, text=True, check=False).stdout

        running = []
        for user, command in commands.items():
            process = spawn(command, log=tmp_path / f"{user}.log", environ=environ | place.environ(user))
            stack.callback(process.wait)
            stack.callback(process.kill)
            running.append(process)
        ingress = stack.enter_context(serving("", **place.environ("webhook-ingress")))
        for _ in range(20):
            assert ingress.post(completed()).status_code == 200
        pipeline("tenants", "limit", "acme", "--rate", "1000/s", "--burst", "1", "--inbox", "1MB")
        wait_for(lambda: "version" in httpx.get(f"{ingress.url}/readyz").text, seconds=10)
        assert ingress.post(completed()).status_code == 200, "counted"
        user_of_tests = place.environ("webhook-pipeline")
        of_inbox = user_of_tests.get("INBOX_URL") or user_of_tests["REDIS_URL"]
        with open_client(redis_url(of_inbox), seconds=5, prefix=place.prefix) as client:
            client.xadd(names.overflow, {"v": "0"})
            wait_for(lambda: handled() >= 21 and not client.xlen(names.overflow), seconds=60)
        flower = f"http://test:test@127.0.0.1:{environ['FLOWER_PORT']}"
        wait_for(lambda: "handlers@" in httpx.get(f"{flower}/api/workers?refresh=1", timeout=20).text, seconds=30)
        assert httpx.get(f"{flower}/broker").status_code == httpx.codes.OK
        exporter = f"http://127.0.0.1:{environ['EXPORTER_PORT']}/metrics"
        wait_for(lambda: "pipeline_redis_answers 1.0" in httpx.get(exporter).text, seconds=20)
        assert set(httpx.get(exporter.replace("/metrics", "/wanted")).json()) == {"express", "handlers", "ingest"}
        use_console(f"http://127.0.0.1:{environ['CONSOLE_PORT']}")
        assert "no worker answers" not in pipeline("doctor")
        assert "published" in pipeline("stats")
        assert "Redis belongs to" in pipeline("adopt")
        for process in running:
            process.terminate()
        for process in running:
            process.wait(60)
        refused: list[Any] = [it for server in place.servers for it in _acl_log(server)]
    assert [(it["username"], it["reason"], it["object"]) for it in map(_as_texts, refused)] == []


def use_console(url: str) -> None:
    """Look at what the console reads from Redis, and let it publish the registry."""
    with httpx.Client(base_url=url, trust_env=False) as browser:

        def shows(path: str) -> bool:
            page = browser.get(path)  # Redis may be too slow for it on a busy machine, but not for long
            return page.status_code == httpx.codes.OK and "Redis does not answer" not in page.text

        wait_for(lambda: "may run all that the console does" in browser.get("/doctor").text, seconds=30)
        for path in ("/", "/handlers", "/refused"):
            wait_for(partial(shows, path), seconds=20)
        form = browser.get("/do/tenant-limit", params={"tenant": "acme"}).text
        (token,) = set(re.findall(r'name="token" value="([0-9a-f]{64})"', form))
        values = {"token": token, "tenant": "acme", "rate": "2000/s", "back": "/doctor"}
        done = browser.post("/do/tenant-limit", data=values, headers={"Origin": url}, follow_redirects=True)
        assert "the limits of acme are set" in done.text


def _acl_log(server: Redis) -> Any:
    return server.execute_command("ACL", "LOG")


def _as_texts(entry: Any) -> dict[str, Any]:
    pairs = entry.items() if isinstance(entry, dict) else zip(entry[::2], entry[1::2], strict=True)
    return {_text(name): _text(value) for name, value in pairs}


def _text(value: Any) -> Any:
    return value.decode() if isinstance(value, bytes) else value


def refusal(client: Redis, user: str) -> str:
    try:
        rights.require(client, NEEDS[user], variable="REDIS_URL")
    except rights.MissingRightsError as error:
        return str(error)
    return ""


@pytest.mark.parametrize("user", NEEDS)
def test_every_right_that_is_taken_away_is_named(valkey: Valkey, user: str) -> None:
    rules = LINES[user]
    with valkey.client() as admin, Redis.from_url(url(valkey, user)) as client:
        rights.require(client, NEEDS[user], variable="REDIS_URL")
        unnoticed = []
        for rule in rules:
            if rule[0] not in "+~%&" or rule in OF_THE_CONNECTION:
                continue
            admin.execute_command("ACL", "SETUSER", user, "reset", *(it for it in rules if it != rule))
            client.connection_pool.disconnect()
            said = refusal(client, user)
            name = rule.lstrip("+").replace("|", " ").upper() if rule[0] == "+" else "may not run"
            if not re.search(rf"\b{re.escape(name)}\b", said):
                unnoticed.append((rule, said))
    assert unnoticed == []


def test_the_doctor_finds_nothing_missing_with_the_user_of_commands(valkey: Valkey) -> None:
    with Redis.from_url(url(valkey, "webhook-pipeline")) as client:
        assert redis_rights(client, rights.of_commands(NAMES), "they do").state == "ok"
    with Redis.from_url(url(valkey, "webhook-exporter")) as client:
        assert redis_rights(client, rights.of_commands(NAMES), "they do").state == "wrong"


def test_a_worker_that_lacks_a_right_ends_with_one_line_that_names_it(valkey: Valkey, database_url: str) -> None:
    with valkey.client() as admin:
        admin.execute_command("ACL", "SETUSER", "webhook-ingest", "-xack")
    environ = {"DATABASE_URL": database_url, "REDIS_URL": url(valkey, "webhook-ingest"), "REDIS_PREFIX": NAMES.prefix}
    ended = subprocess.run(
        [sys.executable, "-m", "celery", "-A", "workers.app", "worker", "-Q", "ingest", "-c", "1"],
        env=os.environ | environ,
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
    assert ended.returncode == 1
    assert ended.stderr == (
        "workers: the user of REDIS_URL may not run XACK webhooks:inbox, XACK webhooks:inbox:overflow: "
        "give it the rights that deploy/REDIS_USERS.md lists for its duty\n"
    )


def test_an_ingress_that_lacks_a_right_says_which_and_is_ready_once_it_has_it(valkey: Valkey) -> None:
    with (
        valkey.client() as admin,
        serving(url(valkey, "webhook-ingress"), wait_until="/livez", REDIS_PREFIX=NAMES.prefix) as ingress,
    ):
        admin.hset(NAMES.registry, "version", 1)
        wait_for(lambda: answers(ingress, "/readyz"), seconds=10)
        admin.execute_command("ACL", "SETUSER", "webhook-ingress", "-hget", "-xadd")
        wait_for(lambda: "missing_rights" in httpx.get(f"{ingress.url}/readyz").text, seconds=5)
        line = "the user of REDIS_URL may not run XADD webhooks:inbox, XADD webhooks:inbox:overflow, HGET webhooks:"
        assert ingress.log.read_text().count(line) == 1
        admin.execute_command("ACL", "SETUSER", "webhook-ingress", "+hget", "+xadd")
        wait_for(lambda: answers(ingress, "/readyz"), seconds=5)
