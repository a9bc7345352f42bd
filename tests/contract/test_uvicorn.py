"""What `ingress.connections` relies on in uvicorn and httptools beyond their documented interfaces."""

from __future__ import annotations

import inspect

import httptools
import pytest
from uvicorn import Config
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from ingress.connections import Connection

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
    HttpToolsProtocol: ["parser", "app_state", "timeout_keep_alive", "timeout_keep_alive_task", "loop", "connections"],
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
