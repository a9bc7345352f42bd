"""One trace for each event, from the request to the spans of its handlers, as a collector receives it."""

from __future__ import annotations

import shutil
import tempfile
import threading
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Self
from uuid import UUID

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

from tests.moveris import other
from tests.system.ledger import delivery, wait_until_settled
from tests.system.stack import Stack
from tests.system.waiting import until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import TracebackType

TENANTS = ("traced", "traced-too")
CALLER = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
FIRST = "POST /webhooks/{provider}/{tenant}"
OF_AN_EVENT = Counter(
    {FIRST: 1, "append to inbox": 1, "store event": 1, "queue traced.plain": 2, "queue traced.coroutine": 1}
    | {"traced.plain": 2, "ask the other side": 2, "traced.coroutine": 1, "ask from a task": 1}
)


class Collector:
    """Receives spans by OTLP over HTTP, as a collector does."""

    def __init__(self) -> None:
        self.spans: list[tuple[str, Span]] = []
        """The service and each of its spans, in the order of arrival."""
        collector = self

        class Receive(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                assert self.path == "/v1/traces"
                for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
                    (service,) = (it.value.string_value for it in resource.resource.attributes if it.key == SERVICE)
                    collector.spans += [(service, span) for scope in resource.scope_spans for span in scope.spans]
                self.send_response(200)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - of http.server
                """Print nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Receive)
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.stop()

    def stop(self) -> None:
        """Be away from now on."""
        self._server.shutdown()
        self._server.server_close()

    def trace(self, event_id: str) -> list[Span]:
        """Return the spans of an event's trace."""
        return [span for _, span in self.spans if span.trace_id == UUID(event_id).bytes]

    def wait_for_trace(self, event_id: str, names: Counter[str]) -> dict[str, list[Span]]:
        """Wait for all spans of an event; return them by name."""

        def look() -> bool:
            return Counter(span.name for span in self.trace(event_id)) >= names

        until(look, seconds=20, what=f"the spans of {event_id}")
        spans = self.trace(event_id)
        assert Counter(span.name for span in spans) == names
        return {name: [span for span in spans if span.name == name] for name in names}

    def linked(self, span: Span) -> Callable[[], Span | None]:
        """Return what looks for the span that the only link of a span names."""
        (link,) = span.links
        return lambda: next((it for _, it in self.spans if it.span_id == link.span_id), None)


SERVICE = "service.name"


@pytest.fixture(scope="module")
def collector() -> Iterator[Collector]:
    with Collector() as it:
        yield it


@pytest.fixture(scope="module")
def traced(collector: Collector) -> Iterator[Stack]:
    home = Path(tempfile.mkdtemp(prefix="pipeline-traced-", dir="/tmp"))
    home.chmod(0o755)
    settings = {"OTEL_EXPORTER_OTLP_ENDPOINT": collector.url, "OTEL_BSP_SCHEDULE_DELAY": "100", "INGRESS_WORKERS": "2"}
    try:
        with Stack(home, handlers=("traced",), environ=settings) as it:
            it.add_tenants(*TENANTS)
            yield it
    finally:
        shutil.rmtree(home, ignore_errors=True)


@pytest.mark.long
def test_an_event_is_one_trace_from_the_request_to_the_spans_of_its_handlers(
    traced: Stack, collector: Collector
) -> None:
    answer = traced.endpoint("traced").post(other("traced.one"), headers={"traceparent": CALLER})
    event_id = answer.json()["id"]
    spans = collector.wait_for_trace(event_id, OF_AN_EVENT)
    (first,) = spans[FIRST]
    assert first.span_id == UUID(event_id).bytes[8:]
    assert not first.parent_span_id
    assert [link.trace_id.hex() for link in first.links] == [CALLER.split("-")[1]], "a hint, and no more"
    for name in OF_AN_EVENT.keys() - {FIRST, "ask the other side", "ask from a task"}:
        assert {span.parent_span_id for span in spans[name]} == {first.span_id}, name
    assert {span.parent_span_id for span in spans["ask the other side"]} == {it.span_id for it in spans["traced.plain"]}
    assert spans["ask from a task"][0].parent_span_id == spans["traced.coroutine"][0].span_id
    services = {service for service, span in collector.spans if span.trace_id == UUID(event_id).bytes}
    assert services == {"webhook-ingress", "webhook-worker"}


def test_a_failed_attempt_is_a_span_with_its_error_beside_that_of_the_next(traced: Stack, collector: Collector) -> None:
    event_id = traced.endpoint("traced").deliver(other("traced.one"))
    failed, succeeded = sorted(
        collector.wait_for_trace(event_id, OF_AN_EVENT)["traced.plain"], key=lambda it: it.start_time_unix_nano
    )
    assert failed.status.code == Status.STATUS_CODE_ERROR
    assert failed.status.message == "LookupError: no such user"
    (raised,) = failed.events
    stacktrace = {it.key: it.value.string_value for it in raised.attributes}["exception.stacktrace"]
    assert 'raise LookupError("no such user")' in stacktrace
    assert succeeded.status.code == Status.STATUS_CODE_UNSET
    assert failed.end_time_unix_nano <= succeeded.start_time_unix_nano


def test_events_of_one_batch_have_traces_of_their_own_that_link_to_it(traced: Stack, collector: Collector) -> None:
    ids = [traced.endpoint(TENANTS[number % 2]).deliver(other("traced.one")) for number in range(20)]
    for event_id in ids:
        spans = collector.wait_for_trace(event_id, OF_AN_EVENT)
        for name, batch in (("store event", "store events"), ("queue traced.plain", "admit deliveries")):
            for span in spans[name]:
                linked = until(collector.linked(span), seconds=5, what=f"the span of {batch}")
                assert linked.name == batch
                assert linked.trace_id != span.trace_id


def test_a_collector_that_is_away_holds_nothing_up(traced: Stack, collector: Collector) -> None:
    collector.stop()
    endpoint = traced.endpoint("traced")
    ids = [endpoint.deliver(other("traced.one")) for _ in range(20)]
    wait_until_settled(traced, ids, seconds=20)
    delivery(traced, ids[0], "traced.coroutine", "succeeded", seconds=1)
