"""Spans in the form of OpenTelemetry, sent by OTLP over HTTP; see `shared.traces` for which there are.

Its variables (OTEL_TRACES_SAMPLER, OTEL_BSP_SCHEDULE_DELAY, OTEL_EXPORTER_OTLP_HEADERS, ...) are read by the SDK.
Spans that find the collector away or slow are dropped, and nothing waits for them.
"""

from __future__ import annotations

import threading
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Final, Self

from opentelemetry import context, trace
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import SERVICE_NAME, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.id_generator import RandomIdGenerator
from opentelemetry.sdk.trace.sampling import Decision, Sampler, SamplingResult
from opentelemetry.trace import Link, NonRecordingSpan, SpanContext, SpanKind, Status, StatusCode, TraceFlags
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from shared.traces import Attempt, Traces

if TYPE_CHECKING:
    from collections.abc import Iterable
    from types import TracebackType
    from uuid import UUID

    from opentelemetry.context import Context
    from opentelemetry.util.types import AttributeValue

    from shared.envelope import Envelope
    from shared.traces import Queued, Stored

FLUSH_SECONDS: Final = 1.0
_HALF: Final = (1 << 64) - 1

_root: ContextVar[UUID | None] = ContextVar("root", default=None)
"""The event whose first span is being made."""


class _EventIds(RandomIdGenerator):
    """Makes the ids of an event's first span from its own; those of all others are random."""

    def generate_trace_id(self) -> int:
        event_id = _root.get()
        return event_id.int if event_id else super().generate_trace_id()

    def generate_span_id(self) -> int:
        event_id = _root.get()
        return event_id.int & _HALF if event_id else super().generate_span_id()


class _EventSampler(Sampler):
    """Asks the configured sampler.

    `traceidratio` of the SDK looks at 64 bits of a trace's id. The first two of them are the same in every event's id,
    so it is given the id with its random bits there.
    """

    def __init__(self, configured: Sampler) -> None:
        self._configured = configured

    def should_sample(
        self, parent_context: Context | None, trace_id: int, name: str, *args: Any, **kwargs: Any
    ) -> SamplingResult:
        return self._configured.should_sample(parent_context, trace_id << 8, name, *args, **kwargs)

    def get_description(self) -> str:
        return self._configured.get_description()


class OtlpTraces(Traces):
    """The traces of one process."""

    def __init__(self, endpoint: str, *, service: str) -> None:
        resource = Resource.create()  # of what OTEL_SERVICE_NAME and OTEL_RESOURCE_ATTRIBUTES say
        if str(resource.attributes[SERVICE_NAME]).startswith("unknown_service"):
            resource = resource.merge(Resource({SERVICE_NAME: service}))
        self._sampler = _EventSampler(TracerProvider(shutdown_on_exit=False).sampler)  # of OTEL_TRACES_SAMPLER
        self._provider = TracerProvider(
            sampler=self._sampler, id_generator=_EventIds(), resource=resource, shutdown_on_exit=False
        )
        exporter = OTLPSpanExporter(endpoint=f"{endpoint.rstrip('/')}/v1/traces")
        self._provider.add_span_processor(BatchSpanProcessor(exporter))
        self._tracer = self._provider.get_tracer("webhook-pipeline")
        if isinstance(trace.get_tracer_provider(), trace.ProxyTracerProvider):
            trace.set_tracer_provider(self._provider)  # for the spans of a team's handlers, which may have their own

    def accepted(self, envelope: Envelope, began: int) -> None:
        """Make the first span of an event, and one below it for the way to the inbox."""
        if not self._is_sampled(envelope.id):
            return
        attributes: dict[str, AttributeValue] = {
            "http.request.method": "POST",
            "http.route": "/webhooks/{provider}/{tenant}",
            "http.response.status_code": 200,
            "webhook.provider": envelope.provider,
            "webhook.tenant": envelope.tenant,
            "webhook.secret_label": envelope.secret_label,
        }
        token = _root.set(envelope.id)
        try:
            request = self._tracer.start_span(
                "POST /webhooks/{provider}/{tenant}",
                context.Context(),
                kind=SpanKind.SERVER,
                attributes=attributes,
                links=_links_of_caller(envelope),
                start_time=began,
            )
        finally:
            _root.reset(token)
        received = int(envelope.received_at.timestamp() * 1e6) * 1000
        within = trace.set_span_in_context(request, context.Context())
        self._tracer.start_span("append to inbox", within, kind=SpanKind.PRODUCER, start_time=received).end()
        request.end()

    def stored(self, events: Iterable[Stored], began: int) -> None:
        """Make a span for the batch, and one in the trace of each event that links to it."""
        sampled = [event for event in events if self._is_sampled(event.id)]
        if not sampled:
            return
        batch = self._tracer.start_span("store events", context.Context(), start_time=began)
        for event in sampled:
            about = {"provider": event.provider, "tenant": event.tenant}
            self._end(event.id, "store event", began, kind=SpanKind.CONSUMER, batch=batch, **about)
        batch.set_attribute("events", len(sampled))
        batch.end()

    def queued(self, deliveries: Iterable[Queued], began: int) -> None:
        """Make a span for the admission, and one in the trace of each event that links to it."""
        sampled = [delivery for delivery in deliveries if self._is_sampled(delivery.event_id)]
        if not sampled:
            return
        batch = self._tracer.start_span("admit deliveries", context.Context(), start_time=began)
        for it in sampled:
            about = {"tenant": it.tenant, "handler": it.handler}
            self._end(it.event_id, f"queue {it.handler}", began, kind=SpanKind.PRODUCER, batch=batch, **about)
        batch.set_attribute("deliveries", len(sampled))
        batch.end()

    def attempt(self, event_id: UUID, *, tenant: str, handler: str, number: int) -> Attempt:
        """Begin a span in the trace of the event."""
        attributes: dict[str, str | int] = {
            "webhook.tenant": tenant,
            "webhook.handler": handler,
            "webhook.attempt": number,
        }
        within = self._context_of(event_id)
        return _Attempt(self._tracer.start_span(handler, within, kind=SpanKind.CONSUMER, attributes=attributes))

    def flush(self) -> None:
        """Send what waits; a collector that is away is not waited for."""
        thread = threading.Thread(target=self._provider.force_flush, daemon=True)  # it may wait for a dead collector
        thread.start()
        thread.join(FLUSH_SECONDS)

    def _end(self, event_id: UUID, name: str, began: int, *, kind: SpanKind, batch: trace.Span, **about: str) -> None:
        """Make a span of an event's trace that ends now, with a link to that of its batch."""
        attributes = {f"webhook.{field}": value for field, value in about.items()}
        links = [Link(batch.get_span_context())]
        within = self._context_of(event_id)
        span = self._tracer.start_span(name, within, kind=kind, attributes=attributes, links=links, start_time=began)
        span.end()

    def _is_sampled(self, event_id: UUID) -> bool:
        """Say whether the trace of an event is kept: the same in every process, since its id decides."""
        return self._sampler.should_sample(None, event_id.int, "").decision is Decision.RECORD_AND_SAMPLE

    def _context_of(self, event_id: UUID) -> Context:
        """Return the context of an event's first span, wherever that was made."""
        flags = TraceFlags(TraceFlags.SAMPLED if self._is_sampled(event_id) else TraceFlags.DEFAULT)
        first = SpanContext(event_id.int, event_id.int & _HALF, is_remote=True, trace_flags=flags)
        return trace.set_span_in_context(NonRecordingSpan(first), context.Context())


class _Attempt(Attempt):
    """The span of one attempt."""

    def __init__(self, span: trace.Span) -> None:
        self._span = span

    def __enter__(self) -> Self:
        self._token = context.attach(trace.set_span_in_context(self._span))
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        context.detach(self._token)
        self._span.end()

    def fail(self, error: str, traceback: str, *, outcome: str) -> None:
        kind, _, message = error.partition(": ")
        about = {"exception.type": kind, "exception.message": message, "exception.stacktrace": traceback}
        self._span.add_event("exception", about)
        self._span.set_attribute("webhook.outcome", outcome)
        self._span.set_status(Status(StatusCode.ERROR, error))


def _links_of_caller(envelope: Envelope) -> list[Link]:
    """Return a link to the trace that the request names, if it names one: unsigned, so no more than a hint."""
    carrier = {name.decode("latin-1"): value.decode("latin-1") for name, value in envelope.headers}
    named = trace.get_current_span(TraceContextTextMapPropagator().extract(carrier, context.Context()))
    linked = named.get_span_context()
    return [Link(linked)] if linked.is_valid else []
