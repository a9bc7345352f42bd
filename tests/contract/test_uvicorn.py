"""What `ingress.connections` relies on in uvicorn and httptools beyond their documented interfaces."""

from __future__ import annotations

import asyncio
import gc
import inspect
import socket
import weakref
from typing import TYPE_CHECKING, Final

import httptools
import pytest
from uvicorn import Config
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle
from uvicorn.server import ServerState

from ingress.connections import Connection
from ingress.settings import IngressSettings
from shared.settings import load
from tests.conftest import SECRETS_KEY

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Receive, Scope, Send

OVERRIDDEN = {
    "connection_made": ["self", "transport"],
    "connection_lost": ["self", "exc"],
    "data_received": ["self", "data"],
    "on_message_begin": ["self"],
    "on_header": ["self", "name", "value"],
    "on_headers_complete": ["self"],
    "on_body": ["self", "body"],
    "on_message_complete": ["self"],
    "on_response_complete": ["self"],
    "send_400_response": ["self", "msg"],
    "shutdown": ["self"],
}
USED = {
    HttpToolsProtocol: [
        "parser",
        "app_state",
        "timeout_keep_alive",
        "timeout_keep_alive_task",
        "loop",
        "connections",
        "pipeline",
    ],
    RequestResponseCycle: ["disconnected", "message_event", "keep_alive", "response_started"],
}


@pytest.mark.parametrize("name", OVERRIDDEN)
def test_each_method_that_is_extended_is_there_and_called_by_uvicorn_or_its_parser(name: str) -> None:
    assert list(inspect.signature(getattr(HttpToolsProtocol, name)).parameters) == OVERRIDDEN[name]
    source = inspect.getsource(getattr(Connection, name))
    assert f"super().{name}" in source or name == "send_400_response"


@pytest.mark.parametrize("kind", USED, ids=lambda kind: kind.__name__)
def test_each_attribute_that_is_used_is_set_by_uvicorn(kind: type) -> None:
    source = inspect.getsource(vars(kind)["__init__"])
    assert [name for name in USED[kind] if f"self.{name}" not in source] == []


def test_an_answered_request_is_told_to_the_connection() -> None:
    assert "on_response=self.on_response_complete" in inspect.getsource(HttpToolsProtocol.on_headers_complete)


class Callbacks:
    def __init__(self) -> None:
        self.calls: list[str] = []
        self.parser = httptools.HttpRequestParser(self)

    def on_message_begin(self) -> None:
        self.calls.append("begin")

    def on_headers_complete(self) -> None:
        self.calls.append("upgrade" if self.parser.should_upgrade() else "headers")

    def on_body(self, body: bytes) -> None:
        self.calls.append(body.decode())

    def on_message_complete(self) -> None:
        self.calls.append("complete")


def test_the_parser_stops_behind_the_head_of_an_upgrade_and_goes_on_with_another_message() -> None:
    callbacks = Callbacks()
    head = b"POST / HTTP/1.1\r\nupgrade: h2c\r\nconnection: upgrade\r\ncontent-length: 4\r\n\r\n"
    with pytest.raises(httptools.HttpParserUpgrade) as upgrade:
        callbacks.parser.feed_data(head + b"body")
    assert upgrade.value.args == (len(head),)
    callbacks.parser.feed_data(b"POST / HTTP/1.1\r\nconnection: upgrade\r\ncontent-length: 4\r\n\r\nbody")
    assert callbacks.calls == ["begin", "upgrade", "complete", "begin", "headers", "body", "complete"]


def test_uvicorn_imports_the_connections_before_the_application() -> None:
    source = inspect.getsource(Config.load)
    assert source.index("self.http_protocol_class = import_from_string") < source.index("self.load_app()")


SOCKET: Final = socket.socket()
"""Of no connection; options may be set on it."""


class Transport(asyncio.Transport):
    """Keeps what is written, and knows whether it reads."""

    def __init__(self) -> None:
        super().__init__({"socket": SOCKET})
        self.written = b""
        self.is_reading_now = True

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.written += bytes(data)

    def pause_reading(self) -> None:
        self.is_reading_now = False

    def resume_reading(self) -> None:
        self.is_reading_now = True

    def is_closing(self) -> bool:
        return False

    def close(self) -> None:
        self.is_reading_now = False


def make_connection(app: ASGIApp, loop: asyncio.AbstractEventLoop) -> Connection:
    config = Config(app, ws="none", log_config=None, lifespan="off")
    config.load()
    settings = load(IngressSettings, {"REDIS_URL": "redis://unused:1/0", "SECRETS_KEY": SECRETS_KEY})
    return Connection(config, ServerState(), {"settings": settings}, loop)


def test_a_connection_that_is_lost_while_requests_wait_is_freed_without_the_garbage_collector() -> None:
    async def app(_: Scope, receive: Receive, send: Send) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        await send({"type": "http.response.start", "status": 200, "headers": []})

    async def serve() -> weakref.ref[Connection]:
        connection = make_connection(app, asyncio.get_running_loop())
        connection.connection_made(Transport())
        connection.data_received(b"POST / HTTP/1.1\r\ncontent-length: 4\r\n\r\nbody" * 3 + b"POST / HTTP/1.1\r\n")
        tasks = connection.server_state.tasks
        await asyncio.sleep(0)
        connection.connection_lost(None)
        while tasks:
            await asyncio.wait(tasks)
        return weakref.ref(connection)

    gc.disable()
    try:
        assert asyncio.run(serve())() is None
    finally:
        gc.enable()


def test_nothing_is_read_while_requests_wait_for_earlier_answers() -> None:
    states = []

    async def app(_: Scope, receive: Receive, send: Send) -> None:
        await receive()  # uvicorn reads on here, and after each answer
        states.append((len(connection.pipeline), transport.is_reading_now))
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"0")]})
        await send({"type": "http.response.body"})

    async def serve() -> None:
        connection.connection_made(transport)
        connection.data_received(b"POST / HTTP/1.1\r\ncontent-length: 4\r\n\r\nbody" * 3)
        while connection.server_state.tasks:
            await asyncio.wait(connection.server_state.tasks)
        connection.connection_lost(None)

    with asyncio.Runner() as runner:
        connection = make_connection(app, runner.get_loop())
        transport = Transport()
        runner.run(serve())
    assert states == [(2, False), (1, False), (0, True)]
    assert transport.written.count(b"HTTP/1.1 200") == 3
