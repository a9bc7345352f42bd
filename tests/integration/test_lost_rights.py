"""A right of Redis or Postgres that is taken from a running worker: one clear line, and it goes on with it back."""

from __future__ import annotations

import os
import sys
import uuid
from contextlib import contextmanager
from typing import TYPE_CHECKING

import psycopg
import pytest

from shared import wire
from shared.wire import Names
from tests.ingress_process import Valkey, own_valkey, wait_for
from tests.integration.test_redis_users import LINES, url
from tests.launching import spawn
from tests.roles import Roles, parted_roles

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from redis import Redis

    from deploy.local.service import Server

NAMES = Names("webhooks:")
ROUNDS = 4


@pytest.fixture(scope="module")
def roles(postgres_server: Server) -> Iterator[Roles]:
    with parted_roles(postgres_server.url, schema="") as it:
        yield it


@pytest.fixture(scope="module")
def valkey() -> Iterator[Valkey]:
    with own_valkey() as it, it.client() as admin:
        for user, rules in LINES.items():
            admin.execute_command("ACL", "SETUSER", user, *rules)
        yield it


@contextmanager
def ingest_worker(roles: Roles, valkey: Valkey, folder: Path) -> Iterator[Path]:
    """Run a worker with the rights of its duty; its log."""
    environ = os.environ | {"DATABASE_URL": roles.application, "REDIS_URL": url(valkey, "webhook-ingest")}
    environ |= {"REDIS_PREFIX": NAMES.prefix, "HEARTBEAT_DIR": str(folder), "LOG_FORMAT": "text"}
    command = [sys.executable, "-m", "celery", "-A", "workers.app", "worker", "-Q", "ingest", "-c", "1"]
    command += ["--without-gossip", "--without-mingle"]
    log = folder / "log"
    worker = spawn(command, log=log, environ=environ)
    try:
        wait_for(lambda: "ready." in log.read_text(), seconds=30)
        yield log
        assert worker.poll() is None
    finally:
        worker.terminate()
        worker.wait(30)


def add(admin: Redis) -> None:
    """Add an entry that is stored as rejected, and ring."""
    admin.xadd(NAMES.inbox, {"v": "none", "n": uuid.uuid4().bytes})
    ring(admin)


def ring(admin: Redis) -> None:
    admin.delete(NAMES.bell)
    keys, arguments = wire.ring_arguments(NAMES)
    admin.eval(wire.RING, len(keys), *keys, *arguments)


def errors(log: Path) -> list[str]:
    """Return what was logged since the worker was ready, but for the drains that it begins without a doorbell."""
    lines = log.read_text().partition("ready.")[2].splitlines()[1:]
    return [line for line in lines if line.strip() and " INFO " not in line and "standing still" not in line]


@pytest.mark.parametrize("right", ["brpop", "xreadgroup"])
def test_a_right_of_redis_is_named_in_one_line_and_the_worker_goes_on_when_it_is_back(
    right: str, roles: Roles, valkey: Valkey, tmp_path: Path
) -> None:
    with valkey.client() as admin, ingest_worker(roles, valkey, tmp_path) as log:
        admin.execute_command("ACL", "SETUSER", "webhook-ingest", f"-{right}")
        try:
            for _ in range(ROUNDS):
                add(admin)
                if right != "brpop":
                    wait_for(lambda: not admin.exists(NAMES.ingest_queue, NAMES.unacked), seconds=20)
            wait_for(lambda: bool(errors(log)), seconds=20)
        finally:
            admin.execute_command("ACL", "SETUSER", "webhook-ingest", f"+{right}")
        wait_for(lambda: not admin.xlen(NAMES.inbox), seconds=60)
        (line,) = errors(log)
    key = NAMES.ingest_queue if right == "brpop" else NAMES.inbox
    assert f"the user of REDIS_URL may not run {right.upper()} {key}" in line
    assert "give it the rights that deploy/REDIS_USERS.md lists for its duty" in line


def test_a_right_of_postgres_is_named_in_one_line_and_the_worker_goes_on_when_it_is_back(
    roles: Roles, valkey: Valkey, tmp_path: Path
) -> None:
    name = roles.name("application")
    with (
        valkey.client() as admin,
        psycopg.connect(roles.owner, autocommit=True) as owner,
        ingest_worker(roles, valkey, tmp_path) as log,
    ):
        owner.execute(f"REVOKE INSERT ON receipts FROM {name}")
        try:
            for _ in range(ROUNDS):
                add(admin)
                wait_for(lambda: not admin.exists(NAMES.ingest_queue, NAMES.unacked), seconds=20)
            wait_for(lambda: bool(errors(log)), seconds=20)
        finally:
            owner.execute(f"GRANT INSERT ON receipts TO {name}")
        ring(admin)
        wait_for(lambda: not admin.xlen(NAMES.inbox), seconds=60)
        (line,) = errors(log)
    assert f"the role {name} of DATABASE_URL lacks a right (permission denied for table receipts)" in line
    assert f"`pipeline grants --application {name}`" in line
