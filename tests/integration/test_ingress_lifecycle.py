"""Start, several processes, metrics, and a stop that loses nothing."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
import subprocess
import sys
import uuid
from typing import TYPE_CHECKING

import httpx
import psutil
import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.ingress_process import (
    PATH,
    SECRET,
    Process,
    Valkey,
    answers,
    endpoint,
    environment,
    inbox,
    own_valkey,
    publish,
    read_answer,
    request,
    serving,
    wait_for,
)
from tests.launching import free_port

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="module")
def valkey() -> Iterator[Valkey]:
    with own_valkey(maxmemory="512mb") as it:
        publish(it.url, 1, endpoint())
        yield it


ENOUGH = 2000
"""Acknowledged events after which the server is stopped."""


class Load:
    """Clients that post one event after the other until the server refuses connections."""

    def __init__(self, port: int) -> None:
        self._port = port
        self.acknowledged: list[uuid.UUID] = []
        self.failures: list[str] = []
        self.is_flowing = asyncio.Event()

    async def run(self, clients: int) -> None:
        await asyncio.gather(*(self._post_until_refused(number) for number in range(clients)))

    async def _post_until_refused(self, client: int) -> None:
        count = 0
        while True:
            try:
                reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
            except ConnectionError:
                return
            is_new = True
            with contextlib.closing(writer):
                while True:
                    count += 1
                    writer.write(request(b"%d from %d" % (count, client)))
                    try:
                        head = await reader.readuntil(b"\r\n\r\n")
                    except (asyncio.IncompleteReadError, ConnectionError):
                        if not is_new:  # a new one that was never accepted is a refused one
                            self.failures.append(f"client {client}: no answer to request {count}")
                        break
                    is_new = False
                    body = await reader.readexactly(int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0]))
                    if head.startswith(b"HTTP/1.1 200"):
                        self.acknowledged.append(uuid.UUID(body[7:43].decode()))
                        if len(self.acknowledged) == ENOUGH:
                            self.is_flowing.set()
                    else:
                        self.failures.append(head.decode())
                    if b"connection: close" in head.lower():
                        break


@pytest.mark.parametrize("workers", [1, 2])
def test_sigterm_under_load_fails_no_request_and_loses_no_acknowledged_event(valkey: Valkey, workers: int) -> None:
    with serving(valkey.url, INGRESS_WORKERS=str(workers)) as ingress:
        load = Load(ingress.port)

        async def stop_in_the_middle() -> None:
            clients = asyncio.create_task(load.run(32))
            await load.is_flowing.wait()
            ingress.popen.terminate()
            await asyncio.wait_for(clients, 20)

        asyncio.run(stop_in_the_middle())
        assert ingress.popen.wait(10) == 0
    assert not load.failures
    assert set(load.acknowledged) <= {entry.id for entry in inbox(valkey.url)}


def test_a_stop_waits_for_a_body_that_is_on_its_way(valkey: Valkey) -> None:
    with serving(valkey.url) as ingress, ingress.connect() as connection:
        whole = request(b"the rest comes after SIGTERM")
        connection.sendall(whole[:-5])
        assert answers(ingress, "/livez")
        ingress.popen.terminate()
        wait_for(lambda: "Shutting down" in ingress.log.read_text(), seconds=5)
        connection.sendall(whole[-5:])
        assert read_answer(connection).startswith(b"HTTP/1.1 200")
        assert ingress.popen.wait(10) == 0
    assert inbox(valkey.url)[-1].body == b"the rest comes after SIGTERM"


@pytest.mark.parametrize("workers", [1, 2])
def test_ctrl_c_reaches_the_whole_group_and_cuts_off_only_bodies_that_never_end(valkey: Valkey, workers: int) -> None:
    with (
        serving(valkey.url, INGRESS_WORKERS=str(workers), INGRESS_BODY_TIMEOUT="60") as ingress,
        ingress.connect() as endless,
    ):
        endless.sendall(request(b"never complete")[:-1])
        assert answers(ingress, "/livez")
        started = "Application startup complete"  # a worker that still imports is interrupted in the middle of that
        wait_for(lambda: ingress.log.read_text().count(started) == workers, seconds=20)
        for process in (*psutil.Process(ingress.popen.pid).children(), ingress.popen):
            process.send_signal(signal.SIGINT)
        assert ingress.popen.wait(12) == 0
    assert not [entry for entry in inbox(valkey.url) if entry.body.startswith(b"never")]


def test_two_processes_on_one_inbox_give_every_event_an_id_of_its_own(valkey: Valkey) -> None:
    before = len(inbox(valkey.url))
    with serving(valkey.url) as first, serving(valkey.url) as second:
        ids = {ingress.post(b"twice").json()["id"] for _ in range(5) for ingress in (first, second)}
    assert len(ids) == 10
    assert len(inbox(valkey.url)) == before + 10


def figures(port: int) -> dict[str, float]:
    text = httpx.get(f"http://127.0.0.1:{port}/metrics").text
    return {
        sample.name + "".join(f"[{value}]" for value in sample.labels.values()): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_metrics_are_told_on_a_port_of_their_own(valkey: Valkey) -> None:
    port = free_port()
    with serving(valkey.url, INGRESS_METRICS_PORT=str(port)) as ingress:
        for _ in range(3):
            ingress.post()
        ingress.post(headers={})
        for path, secret in ((PATH, b"another one"), ("/webhooks/moveris/nobody", SECRET)):
            for extra in ("", "expect: 100-continue\r\n"):  # refused on either way, each is counted once
                ingress.talk(request(b"{}", path=path, secret=secret, extra=f"{extra}connection: close\r\n"))
            with ingress.connect() as connection:
                connection.sendall(request(b"{}", path=path, secret=secret))
                assert read_answer(connection).startswith(b"HTTP/1.1 40")
        told = figures(port)
        assert told["ingress_requests_total[accepted]"] == 3
        assert told["ingress_requests_total[missing_signature]"] == 1
        assert told["ingress_requests_total[invalid_signature]"] == 3
        assert told["ingress_requests_total[unknown_endpoint]"] == 3
        assert told["ingress_flush_entries_sum"] == 3
        assert told["ingress_flush_seconds_count"] == 3
        assert (told["ingress_waiting_bytes"], told["ingress_redis_answers"]) == (0, 1)
        assert told["ingress_registry_version"] == 1
        wait_for(lambda: figures(port)["ingress_inbox_length"] >= 3, seconds=2)


def test_metrics_are_told_as_soon_as_a_predecessor_leaves_their_port(valkey: Valkey) -> None:
    with (
        socket.create_server(("127.0.0.1", port := free_port())) as predecessor,
        serving(valkey.url, INGRESS_METRICS_PORT=str(port)) as ingress,
    ):
        assert "no port for metrics" in ingress.log.read_text()
        predecessor.close()
        wait_for(lambda: f"metrics on port {port}" in ingress.log.read_text(), seconds=10)
        assert figures(port)["ingress_redis_answers"] == 1


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        ({"SECRETS_KEY": "short"}, "SECRETS_KEY is wrong"),
        ({"SECRETS_KEY": ""}, "SECRETS_KEY is not set"),
        ({"REDIS_URL": "http://x"}, "REDIS_URL is wrong"),
        ({"INGRESS_PORT": "99999"}, "INGRESS_PORT is wrong"),
        ({"INBOX_TIMEOUT": "1"}, "INBOX_TIMEOUT is wrong"),
        ({"INBOX_HIGH_WATER": "75"}, "INBOX_HIGH_WATER is wrong"),
        ({"LOG_LEVEL": "loud"}, "LOG_LEVEL is wrong"),
    ],
)
def test_a_wrong_setting_is_one_line_and_exit_code_2(settings: dict[str, str], line: str) -> None:
    finished = subprocess.run(
        [sys.executable, "-m", "ingress"],
        env=environment("redis://127.0.0.1:1/0", settings),
        capture_output=True,
        text=True,
        check=False,
        timeout=20,
    )
    assert finished.returncode == 2
    assert line in finished.stderr
    assert len(finished.stderr.splitlines()) == 1


def test_a_port_in_use_is_one_line_and_exit_code_2(valkey: Valkey) -> None:
    with serving(valkey.url) as ingress:
        second = subprocess.run(
            [sys.executable, "-m", "ingress"],
            env=environment(valkey.url, {"INGRESS_PORT": str(ingress.port)}),
            capture_output=True,
            text=True,
            check=False,
            timeout=20,
        )
    assert second.returncode == 2
    assert second.stderr == (
        f"ingress: cannot listen on 127.0.0.1 port {ingress.port}: Address already in use;"
        " stop what uses it, or set INGRESS_PORT\n"
    )


UVICORN = [sys.executable, "-m", "uvicorn", "ingress.asgi:app", "--workers", "2"]


def test_plain_uvicorn_runs_it_with_every_limit(valkey: Valkey) -> None:
    port = free_port()
    command = [*UVICORN, "--http", "ingress.connections:Connection", "--port", str(port)]
    with subprocess.Popen(command, env=environment(valkey.url, {}), stderr=subprocess.DEVNULL) as popen:
        try:
            ingress = Process(port=port, popen=popen, log=__file__)  # type: ignore[arg-type]
            wait_for(lambda: answers(ingress, "/readyz"), seconds=20)
            assert ingress.post().status_code == 200
            many = "".join(f"x-{number}: 1\r\n" for number in range(300))
            assert ingress.talk(request(b"{}", extra=many)).startswith(b"HTTP/1.1 431")
        finally:
            popen.terminate()
    assert popen.returncode == 0


def test_plain_uvicorn_without_our_connections_does_not_start(valkey: Valkey) -> None:
    command = [*UVICORN, "--port", str(free_port())]
    ended = subprocess.run(
        command, env=environment(valkey.url, {}), capture_output=True, text=True, timeout=60, check=False
    )
    assert (
        "ingress: start uvicorn with --http ingress.connections:Connection, or run python -m ingress\n" in ended.stderr
    )
    assert "Traceback" not in ended.stderr
