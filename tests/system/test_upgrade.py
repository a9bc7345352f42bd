"""Under load from version 0.1 to this one, and back: one process after the other, on one database and one Redis."""

from __future__ import annotations

import subprocess
import tarfile
import threading
import time
import uuid
from io import BytesIO
from typing import TYPE_CHECKING, Final, Self

import httpx
import psycopg
import pytest
from redis import Redis

from tests.launching import ROOT
from tests.moveris import completed
from tests.system.ledger import EFFECTS, effects_of_more_than_one_run, wait_until_settled
from tests.system.provider import sign
from tests.system.site import INGRESSES, WORKERS, Site
from tests.system.waiting import until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path
    from types import TracebackType

    from deploy.local.service import Server

PREVIOUS: Final = "7e99f6b656dcace91c368c8fc5f7c22aa40dfcb7"
"""The last commit of version 0.1."""
RATE: Final = 80
"""Events a second."""


def has_history() -> bool:
    """Say whether this is a clone that has the commit."""
    command = ["git", "cat-file", "-e", f"{PREVIOUS}^{{tree}}"]
    return subprocess.run(command, cwd=ROOT, capture_output=True, check=False).returncode == 0


pytestmark = [
    pytest.mark.long,
    pytest.mark.timeout(400),
    pytest.mark.skipif(not has_history(), reason=f"needs a clone with the commit {PREVIOUS[:9]}, version 0.1"),
]


def unpack(tree: Path) -> Path:
    """Write the tree of version 0.1 into a folder, and return it."""
    packed = subprocess.run(["git", "archive", PREVIOUS], cwd=ROOT, capture_output=True, check=True).stdout
    with tarfile.open(fileobj=BytesIO(packed)) as archive:
        archive.extractall(tree, filter="data")
    return tree


@pytest.fixture(scope="module")
def previous(servers_home: Path) -> Path:
    """The tree of version 0.1."""
    return unpack(servers_home / "version-0.1")


class Load:
    """Posts events to two ingresses in turn; one that does not take an event has it sent to the other, once."""

    def __init__(self, site: Site) -> None:
        self._site = site
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._run, args=[number], daemon=True) for number in range(4)]
        self.acknowledged: list[str] = []
        self.failed: list[str] = []

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _run(self, number: int) -> None:
        pause = len(self._threads) / RATE
        due = time.monotonic()
        with httpx.Client(timeout=5.0) as client:
            while not self._stop.wait(max(0.0, due - time.monotonic())):
                due += pause
                number += 1
                self._send(client, number)

    def _send(self, client: httpx.Client, number: int) -> None:
        body, answers = completed(), []
        for url in (self._site.urls[number % 2], self._site.urls[1 - number % 2]):
            try:
                answer = client.post(url, content=body, headers=sign(self._site.secret, body))
            except httpx.TransportError as error:
                answers.append(repr(error))
                continue
            if answer.status_code == 200:
                self.acknowledged.append(answer.json()["id"])
                return
            answers.append(f"{answer.status_code} {answer.text}")
        self.failed.append("; ".join(answers))


@pytest.fixture
def site(previous: Path, postgres_server: Server, redis_url: str, servers_home: Path) -> Iterator[Site]:
    """An installation of version 0.1 that serves."""
    name = f"upgrade_{uuid.uuid4().hex}"
    home = servers_home / name
    home.mkdir()
    with psycopg.connect(postgres_server.url, autocommit=True) as admin:
        admin.execute(f"CREATE DATABASE {name}")
        url = postgres_server.url.removesuffix("/postgres") + f"/{name}"
        try:
            with Site(home, database_url=url, redis_url=redis_url) as it:
                it.pipeline("migrate", "--phase", "pre", tree=previous)
                it.query(EFFECTS)
                for process in (*WORKERS, *INGRESSES):
                    it.start(process, previous)
                it.add_tenant()
                yield it
        finally:
            admin.execute(f"DROP DATABASE {name} WITH (FORCE)")


def settle(site: Site, load: Load) -> None:
    """See that no request failed, and that every event is stored and was handled once by each of two handlers."""
    assert load.failed == []
    settled = wait_until_settled(site, load.acknowledged, seconds=40)
    events = len(site.query("SELECT FROM events"))
    assert events > 10 * RATE
    assert (settled.missing, settled.undelivered, settled.failed) == (0, 0, 0)
    assert len(site.query("SELECT FROM effects")) == 2 * events
    assert effects_of_more_than_one_run(site) == []
    assert site.query("SELECT FROM events WHERE state = 'rejected'") == []


def test_an_upgrade_under_load_fails_no_request_and_loses_and_doubles_nothing(site: Site) -> None:
    with Load(site) as load:
        site.pipeline("migrate", "--phase", "pre")
        site.deploy_workers(ROOT)
        site.deploy_ingresses(ROOT)
        site.pipeline("migrate", "--phase", "post")
        before = len(load.acknowledged)
        until(lambda: len(load.acknowledged) > before + 2 * RATE, seconds=20, what="events after the upgrade")
    settle(site, load)


def test_an_upgrade_is_taken_back_under_load_and_loses_and_doubles_nothing(
    site: Site, previous: Path, redis_url: str
) -> None:
    with Load(site) as load:
        site.pipeline("migrate", "--phase", "pre")
        site.deploy_workers(ROOT)
        site.deploy_ingresses(ROOT)
        site.deploy_ingresses(previous)
        with Redis.from_url(redis_url) as client:
            until(lambda: client.xlen("inbox:overflow") == 0, seconds=20, what="an empty inbox:overflow")
        site.deploy_workers(previous)
        before = len(load.acknowledged)
        until(lambda: len(load.acknowledged) > before + 2 * RATE, seconds=20, what="events after the way back")
    settle(site, load)
