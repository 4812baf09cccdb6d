"""Spans for OpenTelemetry, sent by OTLP over HTTP; imported only where that is on.

One trace leads from the caller through all that follows from its call:

    POST /async           SERVER     a request to Send
    send TYPE             PRODUCER   the publication of its event, which carries the trace on, by
                                     CloudEvents' extension for distributed tracing
    process TYPE          CONSUMER   a delivery to Receive, each attempt one
    POST                  CLIENT     the call of the target

Where spans go, how many are sampled and what the service is called, the SDK reads from the
environment (OTEL_…). A span has no header, body, path or query, since these may be secret.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Final

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import SERVICE_NAME, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import Span, SpanKind, Status, StatusCode, set_span_in_context
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from relay import logs
from relay.operations import CALL, PUBLICATION, REQUEST, Fact, Operation

_CONTEXT: Final = TraceContextTextMapPropagator()
_NAMES: Final = {
    "method": "http.request.method",
    "route": "http.route",
    "status": "http.response.status_code",
    "scheme": "url.scheme",
    "host": "server.address",
    "port": "server.port",
}


class Traces:
    """The watcher that makes spans.

    Args:
        service: what it is called where the environment does not say.
    """

    def __init__(self, service: str) -> None:
        self._service = service

    def get_ready(self) -> None:
        resource = Resource.create()
        if str(resource.attributes[SERVICE_NAME]).startswith("unknown_service"):
            resource = resource.merge(Resource({SERVICE_NAME: self._service}))
        provider = TracerProvider(resource=resource)
        provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
        self._tracer = provider.get_tracer("relay")

    def began(self, operation: Operation) -> None:
        """Do nothing: its trace is not known yet."""

    def joined(self, operation: Operation) -> None:
        kind, facts = operation.kind, operation.facts
        known: dict[str, Fact] = {}
        if kind == CALL:
            name, span_kind = str(facts["method"]), SpanKind.CLIENT
        elif kind == PUBLICATION:
            name, span_kind = f"send {facts['type']}", SpanKind.PRODUCER
            known = _message("send", facts)
        elif kind == REQUEST and "type" in facts:
            name, span_kind = f"process {facts['type']}", SpanKind.CONSUMER
            known = _message("process", facts)
        elif kind == REQUEST:
            name, span_kind = str(facts["method"]), SpanKind.SERVER
        else:
            return
        ago_ns = int((time.perf_counter() - operation.started_s) * 1e9)
        span = self._tracer.start_span(
            name,
            _CONTEXT.extract(dict(operation.trace)),
            kind=span_kind,
            attributes=known,
            start_time=time.time_ns() - ago_ns,
        )
        operation.span = span
        carried: dict[str, str] = {}
        _CONTEXT.inject(carried, set_span_in_context(span))
        rest = (item for item in operation.trace if item[0] not in _CONTEXT.fields)
        operation.trace = (*carried.items(), *rest)

    def ended(self, operation: Operation) -> None:
        span, facts = operation.span, operation.facts
        if not isinstance(span, Span):
            return
        if span.is_recording():
            if operation.kind == REQUEST and "type" not in facts:
                span.update_name(f"{facts['method']} {facts.get('route', '')}".rstrip())
            span.set_attributes(_attributes(operation))
            error = _error_type(operation)
            if error is not None:
                span.set_attribute("error.type", error)
                span.set_status(Status(StatusCode.ERROR))
        span.end()


def _attributes(operation: Operation) -> dict[str, Fact]:
    kind, facts = operation.kind, operation.facts
    if "type" in facts:
        return {_NAMES["status"]: facts["status"]} if "status" in facts else {}
    named = {name: facts[fact] for fact, name in _NAMES.items() if fact in facts}
    attempt = int(logs.noted("attempt") or 0)
    if kind == CALL and attempt > 1:
        named["http.request.resend_count"] = attempt - 1
    return named


def _message(what: str, facts: Mapping[str, Fact]) -> dict[str, Fact]:
    return {
        "messaging.system": "knative",
        "messaging.operation.name": what,
        "messaging.operation.type": what,
        "messaging.destination.name": facts["type"],
        "messaging.message.id": facts["id"],
        "cloudevents.event_id": facts["id"],
        "cloudevents.event_type": facts["type"],
    }


def _error_type(operation: Operation) -> str | None:
    """Name the error: a caller's mistake is an error of the client span, not of the server's."""
    if operation.error is not None:
        return type(operation.error).__name__
    status = int(operation.facts.get("status", 0))
    is_server = operation.kind == REQUEST and "type" not in operation.facts
    return str(status) if status >= (500 if is_server else 400) else None
