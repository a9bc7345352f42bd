"""Every kind of URL that names a Redis: a socket in the file system, TLS, a password, a database."""

from __future__ import annotations

import asyncio
import ssl
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import pytest
import redis
from celery import Celery
from kombu.exceptions import OperationalError

from shared.redis_url import redis_url
from tests.certificates import make_certificate
from tests.ingress_process import (
    Process,
    Valkey,
    answers,
    endpoint,
    inbox,
    own_valkey,
    publish,
    serving,
    wait_for,
)
from tests.names import NAMES
from workers.broker import broker_options, broker_url

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


class Terminator:
    """Speaks TLS with clients and plainly with Redis.

    Attributes:
        port: where clients connect, by 127.0.0.1 or localhost.
        authority: file of the certificate, which signs itself.
    """

    def __init__(self, redis_port: int, folder: Path) -> None:
        self._redis_port = redis_port
        certificate = make_certificate(folder)
        self.authority, self._key = certificate.authority, certificate.key
        self._clients: set[asyncio.StreamWriter] = set()
        self._listens = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._live()))
        self._thread.start()
        assert self._listens.wait(10)

    def cut(self) -> int:
        """Cut all connections; return how many there were."""

        async def abort() -> int:
            for client in (cut := list(self._clients)):
                client.transport.abort()
            return len(cut)

        return asyncio.run_coroutine_threadsafe(abort(), self._loop).result(10)

    def stop(self) -> None:
        self._loop.call_soon_threadsafe(self._is_over.set)
        self._thread.join()

    async def _live(self) -> None:
        self._loop, self._is_over = asyncio.get_running_loop(), asyncio.Event()
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(self.authority, self._key)
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0, ssl=context)
        self.port: int = server.sockets[0].getsockname()[1]
        self._listens.set()
        await self._is_over.wait()
        server.close()
        for client in self._clients:
            client.transport.abort()

    async def _serve(self, client: asyncio.StreamReader, to_client: asyncio.StreamWriter) -> None:
        self._clients.add(to_client)
        try:
            answers_of, to_redis = await asyncio.open_connection("127.0.0.1", self._redis_port)
            await asyncio.gather(_pass(client, to_redis), _pass(answers_of, to_client))
        except OSError:
            to_client.transport.abort()
        finally:
            self._clients.discard(to_client)


async def _pass(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
    with suppress(OSError):
        while chunk := await source.read(65_536):
            target.write(chunk)
            await target.drain()
    target.transport.abort()


@pytest.fixture(scope="module")
def valkey() -> Iterator[Valkey]:
    with own_valkey(maxmemory="512mb") as it:
        publish(database(it, 3), 1, endpoint())
        yield it


@pytest.fixture(scope="module")
def terminator(valkey: Valkey, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Terminator]:
    port = urlsplit(valkey.url).port
    assert port
    it = Terminator(port, tmp_path_factory.mktemp("tls"))
    yield it
    it.stop()


def database(valkey: Valkey, number: int) -> str:
    """Return the plain URL of a database."""
    return f"{valkey.url.rpartition('/')[0]}/{number}"


@pytest.fixture(scope="module", params=["unix", "rediss"])
def url(request: pytest.FixtureRequest, valkey: Valkey, terminator: Terminator) -> str:
    """Database 3 of the one Valkey."""
    if request.param == "unix":
        return f"unix://:test@{valkey.socket}?db=3"
    return f"rediss://:test@localhost:{terminator.port}/3?ssl_ca_certs={terminator.authority}"


@pytest.fixture(scope="module")
def ingress(url: str) -> Iterator[Process]:
    with serving(url) as process:
        yield process


def test_events_reach_the_database_that_the_url_names(ingress: Process, valkey: Valkey) -> None:
    bodies = [b"small", b"x" * 1_000_000, *(b"%d" % number for number in range(200))]
    with ThreadPoolExecutor(16) as threads:
        assert {answer.status_code for answer in threads.map(ingress.post, bodies)} == {200}
    assert {entry.body for entry in inbox(database(valkey, 3))} >= set(bodies)
    with valkey.client() as client:
        assert not client.exists(NAMES.inbox), "database 0 is somebody else's"


def test_a_redis_that_goes_and_comes_back_needs_no_restart(ingress: Process, valkey: Valkey) -> None:
    assert ingress.post().status_code == 200
    valkey.stop()
    assert ingress.post().status_code == 503
    valkey.start()
    wait_for(lambda: ingress.post().status_code == 200, seconds=5)


def test_connections_that_are_cut_below_tls_are_made_again(terminator: Terminator, valkey: Valkey) -> None:
    with serving(f"rediss://:test@127.0.0.1:{terminator.port}/3?ssl_ca_certs={terminator.authority}") as ingress:
        assert ingress.post(b"before").status_code == 200
        assert terminator.cut()
        wait_for(lambda: ingress.post(b"after").status_code == 200, seconds=5)
    assert {b"before", b"after"} <= {entry.body for entry in inbox(database(valkey, 3))}


def put(url: str, queue: str, **options: object) -> None:
    """Send a message as Celery does."""
    with (
        Celery("probe", broker=broker_url(url), set_as_current=False) as app,
        app.connection_for_write(connect_timeout=5, transport_options=options) as connection,
    ):
        connection.ensure_connection(max_retries=1, interval_start=0)
        with connection.SimpleQueue(queue) as simple:
            simple.put("message")


def test_celery_reaches_the_same_database(url: str, valkey: Valkey) -> None:
    put(url, f"probe {url}")
    with redis.Redis.from_url(database(valkey, 3)) as client:
        assert client.llen(f"probe {url}") == 1


def test_the_options_of_a_url_are_taken_by_the_ingress_by_redis_py_and_by_celery(valkey: Valkey) -> None:
    options = "client_name=ours&health_check_interval=30&socket_keepalive=1&socket_timeout=3&max_connections=9"
    url = redis_url(f"{database(valkey, 0).rpartition('/')[0]}/?db=3&{options}")
    with serving(url) as ingress:
        assert ingress.post(b"with options").status_code == 200
    assert b"with options" in {entry.body for entry in inbox(url)}
    with redis.Redis.from_url(url) as client:
        assert client.client_getname() == "ours"
        put(url, "probe with options", **broker_options(url, ""))
        assert client.llen("probe with options") == 1


def test_celery_trusts_no_certificate_that_nobody_vouches_for(terminator: Terminator) -> None:
    with pytest.raises(OperationalError, match="certificate verify failed"):
        put(f"rediss://:test@localhost:{terminator.port}/3", "never")


def require_unready(url: str, *, saying: str) -> None:
    """Run an ingress that must not become ready, and must say why."""
    with serving(url, wait_until="/livez") as ingress:
        wait_for(lambda: saying in ingress.log.read_text(), seconds=10)
        assert not answers(ingress, "/readyz")
        assert ingress.post().status_code == 503
        assert answers(ingress, "/livez")


def test_a_certificate_that_nobody_vouches_for_is_not_trusted(terminator: Terminator) -> None:
    require_unready(f"rediss://:test@localhost:{terminator.port}/3", saying="certificate verify failed")


def test_a_wrong_password_is_told(valkey: Valkey) -> None:
    require_unready(f"unix://:wrong@{valkey.socket}?db=3", saying="invalid username-password pair")
