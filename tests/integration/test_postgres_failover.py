"""A switchover of Postgres under load, with every session alive: all goes on at the new primary by itself."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import tempfile
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import psycopg
import pytest

from deploy.local.servers import prepare_postgres
from tests.conftest import running
from tests.integration.test_redis_failover import Switch
from tests.launching import free_port
from tests.system.ledger import EFFECTS, account, effects, effects_of_more_than_one_run
from tests.system.provider import Load
from tests.system.stack import Stack
from tests.system.waiting import until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from deploy.local.service import Server

SERVICES = ("ingest", "handlers", "express", "housekeeping", "beat", "ingress")
RATE = 40
OPTIONS = ("fsync=off", "full_page_writes=off")


@pytest.fixture
def homes() -> Iterator[tuple[Path, Path, Path]]:
    """Folders of the stack and of two servers, that any user may walk to."""
    home = Path(tempfile.mkdtemp(prefix="pipeline-failover-", dir="/tmp"))
    home.chmod(0o755)
    folders = home / "stack", home / "first", home / "second"
    for folder in folders:
        folder.mkdir(mode=0o755)
    yield folders
    shutil.rmtree(home, ignore_errors=True)


def make_replica(primary: Server, home: Path) -> Server:
    """Copy a running server into a folder; return the server that follows it until it is promoted."""
    data = home / "postgres"
    data.mkdir(mode=0o700)
    user = pwd.getpwnam("nobody").pw_uid if os.geteuid() == 0 else None
    if user is not None:
        os.chown(data, user, -1)
    command = Path(primary.argv[0]).with_name("pg_basebackup")
    subprocess.run(
        [str(command), "-d", primary.url, "-D", str(data), "-R", "-c", "fast", "-X", "stream"],
        check=True, user=user, cwd="/",
    )  # fmt: skip
    return prepare_postgres(home, port=free_port(), password="test", options=OPTIONS)


def port_of(server: Server) -> int:
    port = urlsplit(server.url).port
    assert port is not None
    return port


def demote(server: Server) -> str:
    """Make a server read-only, as orchestration does before it promotes another; return where its log ends."""
    with psycopg.connect(server.url, autocommit=True) as admin:
        admin.execute("ALTER SYSTEM SET default_transaction_read_only = on")
        admin.execute("SELECT pg_reload_conf()")
        writing = "SELECT FROM pg_stat_activity WHERE backend_xid IS NOT NULL"
        until(lambda: not admin.execute(writing).fetchall(), seconds=15, what="the end of what was being written")
        (end,) = admin.execute("SELECT pg_current_wal_lsn()::text").fetchall()
        return str(end[0])


def promote(server: Server, at: str) -> None:
    """Make a replica the primary when it has everything up to a place in the log."""
    with psycopg.connect(server.url, autocommit=True) as admin:
        has_all = "SELECT FROM (SELECT) AS one WHERE pg_last_wal_replay_lsn() >= %s::pg_lsn"
        until(lambda: admin.execute(has_all, [at]).fetchall(), seconds=15, what="the replica's catching up")
        admin.execute("SELECT pg_promote()")


def processes(stack: Stack) -> dict[str, set[int]]:
    """Return the processes of each service."""
    return {name: {stack.main(name).pid, *(child.pid for child in stack.children(name))} for name in SERVICES}


@pytest.mark.timeout(240)
def test_when_postgres_is_switched_over_with_sessions_alive_all_is_handled_soon_after_by_the_same_processes(
    homes: tuple[Path, Path, Path],
) -> None:
    home, first, second = homes
    old = prepare_postgres(first, port=free_port(), password="test", options=OPTIONS)
    with running(old, first):
        new = make_replica(old, second)
        with running(new, second), closing(Switch(port_of(old))) as switch:
            url = old.url.replace(str(port_of(old)), str(switch.port))
            settings = {"DATABASE_URL": url, "INGRESS_WORKERS": "1", "HANDLER_WORKERS": "2", "INGEST_WORKERS": "1"}
            with Stack(home, handlers=("effects",), environ=settings) as stack:
                stack.query(EFFECTS)
                stack.add_tenants("anyone")
                with Load(stack.endpoint("anyone"), rate=RATE, event="effect.anyone") as load:
                    until(lambda: effects(stack, load.acknowledged), seconds=30, what="the first effects")
                    until(lambda: len(load.acknowledged) >= 2 * RATE, seconds=30, what="the load")
                    before = processes(stack)
                    at = demote(old)
                    promote(new, at)
                    switch.target = port_of(new)
                    count = len(load.acknowledged)
                    until(lambda: len(load.acknowledged) >= count + 3 * RATE, seconds=30, what="load after the switch")
                ids = load.acknowledged
                assert {answer.status for answer in load.answers} == {200}
                until(lambda: account(stack, ids).is_settled, seconds=15, what="the end of all deliveries")
                assert account(stack, ids).failed == 0
                assert len(effects(stack, ids)) == len(ids)
                assert effects_of_more_than_one_run(stack) == []
                assert processes(stack) == before, "something was started anew"
