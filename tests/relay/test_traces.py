"""Spans of the real functions, as a collector gets them: one trace from caller to target."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from tests.support import peers
from tests.support.calls import call
from tests.support.peers import Peer, Talk, answer_of
from tests.support.processes import REPOSITORY, free_port, python, wait_until
from tests.support.relayed import TYPE, Relayed, relayed

TRACE_ID = "0af7651916cd43dd8448eb211c80319c"
CALLER = "b7ad6b7169203331"
TRACED = {"traceparent": f"00-{TRACE_ID}-{CALLER}-01", "tracestate": "a=1"}
UNSAMPLED = {"traceparent": f"00-{TRACE_ID}-{CALLER}-00"}
CARRIED = {"baggage": "tenant=a%20b;p=1", "x-request-id": "edge-1"}


@dataclass(frozen=True, slots=True)
class Collector:
    """A real receiver of OTLP over HTTP."""

    peer: Peer

    def services(self) -> set[str]:
        """Name the services that have sent something."""
        requests = [ExportTraceServiceRequest.FromString(each.body) for each in self.peer.requests]
        return {
            each.value.string_value
            for request in requests
            for resource in request.resource_spans
            for each in resource.resource.attributes
            if each.key == "service.name"
        }

    def spans(self) -> list[Span]:
        """List what has come, in the order in which it began."""
        requests = [ExportTraceServiceRequest.FromString(each.body) for each in self.peer.requests]
        spans = [
            span
            for request in requests
            for resource in request.resource_spans
            for scope in resource.scope_spans
            for span in scope.spans
        ]
        return sorted(spans, key=lambda span: span.start_time_unix_nano)

    def wait(self, count: int) -> list[Span]:
        wait_until(lambda: len(self.spans()) >= count, 15, f"{count} spans")
        return self.spans()


@contextmanager
def traced() -> Iterator[tuple[Relayed, Collector]]:
    with peers.serving() as peer:
        env = {"OTEL_EXPORTER_OTLP_ENDPOINT": peer.url, "OTEL_BSP_SCHEDULE_DELAY": "50"}
        with relayed(**env, RETRY_DELAYS_S="0.1,0.1") as system:
            yield system, Collector(peer)


def failing_once() -> Talk:
    """Make a target that is busy at first."""
    answers = [answer_of(503), answer_of(200)]
    return lambda connection: connection.sendall(answers.pop(0))


def attributes(span: Span) -> dict[str, object]:
    return {
        each.key: getattr(each.value, each.value.WhichOneof("value")) for each in span.attributes
    }


def parents(spans: list[Span]) -> dict[str, str]:
    """Write whose child each span is; a span is called by its name and its number among these."""
    names: dict[str, str] = {}
    for span in spans:
        same = sum(name.rpartition(" ")[0] == span.name for name in names.values())
        names[span.span_id.hex()] = f"{span.name} #{same + 1}"
    return {
        names[span.span_id.hex()]: names.get(span.parent_span_id.hex(), span.parent_span_id.hex())
        for span in spans
    }


def test_one_trace_leads_from_the_caller_to_the_target() -> None:
    """Through Send, the event, each attempt of Receive, and back with the result."""
    with traced() as (system, collector):
        system.target.on("/", failing_once())
        headers = TRACED | CARRIED | {"Idempotency-Key": "order-1"}
        call("POST", f"{system.send.url}/async", system.envelope("/"), headers)
        (event,) = system.published()
        system.deliver(event)
        spans = collector.wait(7)
        called = system.target.received("/")

    assert collector.services() == {"send", "receive"}
    assert {span.trace_id.hex() for span in spans} == {TRACE_ID}
    assert parents(spans) == {
        "POST /async #1": CALLER,
        f"send {TYPE} #1": "POST /async #1",
        f"process {TYPE} #1": f"send {TYPE} #1",
        "POST #1": f"process {TYPE} #1",
        f"process {TYPE}.retry1 #1": f"process {TYPE} #1",
        "POST #2": f"process {TYPE}.retry1 #1",
        "POST /event/callback #1": f"process {TYPE}.retry1 #1",
    }
    clients = [span for span in spans if span.kind == Span.SPAN_KIND_CLIENT]
    assert [each.header("traceparent") for each in called] == [
        f"00-{TRACE_ID}-{span.span_id.hex()}-01" for span in clients
    ]
    for each in called:
        assert each.header("tracestate") == "a=1"
        assert {name: each.header(name) for name in CARRIED} == CARRIED


def test_spans_say_what_the_conventions_ask_for() -> None:
    """Names and attributes are those of OpenTelemetry, for HTTP, messaging and CloudEvents."""
    with traced() as (system, collector):
        system.target.on("/", failing_once())
        headers = {"Idempotency-Key": "order-1"}
        call("POST", f"{system.send.url}/async", system.envelope("/"), headers)
        (event,) = system.published()
        system.deliver(event)
        server, producer, first, failed, consumer, client, _ = collector.wait(7)

    kinds = [span.kind for span in (server, producer, consumer, client)]
    assert kinds == [
        Span.SPAN_KIND_SERVER,
        Span.SPAN_KIND_PRODUCER,
        Span.SPAN_KIND_CONSUMER,
        Span.SPAN_KIND_CLIENT,
    ]
    assert attributes(server) == {
        "http.request.method": "POST",
        "http.route": "/async",
        "http.response.status_code": 202,
    }
    message = {
        "messaging.system": "knative",
        "messaging.destination.name": TYPE,
        "messaging.message.id": "order-1",
        "cloudevents.event_id": "order-1",
        "cloudevents.event_type": TYPE,
    }
    sent = {"messaging.operation.name": "send", "messaging.operation.type": "send"}
    assert attributes(producer) == message | sent
    processed = {"messaging.operation.name": "process", "messaging.operation.type": "process"}
    answered = {"http.response.status_code": 200}
    assert attributes(first) == message | processed | answered
    assert attributes(consumer) == processed | answered | {
        "messaging.system": "knative",
        "messaging.destination.name": f"{TYPE}.retry1",
        "messaging.message.id": "order-1.retry1",
        "cloudevents.event_id": "order-1.retry1",
        "cloudevents.event_type": f"{TYPE}.retry1",
    }
    of_call = {
        "http.request.method": "POST",
        "url.scheme": "http",
        "server.address": "127.0.0.1",
        "server.port": system.target.port,
    }
    assert attributes(failed) == of_call | {
        "http.response.status_code": 503,
        "error.type": "503",
    }
    assert attributes(client) == of_call | answered | {"http.request.resend_count": 1}
    assert [span.status.code for span in (server, failed)] == [0, 2]


def test_a_call_at_once_is_traced_to_its_target() -> None:
    """A trace begins where none came; a call that fails says why."""
    with traced() as (system, collector):
        call("POST", f"{system.send.url}/sync", system.envelope("/"))
        closed = f'{{"targetURL": "http://127.0.0.1:{free_port()}"}}'
        call("POST", f"{system.send.url}/sync", closed)
        spans = collector.wait(4)
        (called,) = system.target.received("/")

    assert parents(spans[:2]) == {"POST /sync #1": "", "POST #1": "POST /sync #1"}
    trace_id, span_id = spans[1].trace_id.hex(), spans[1].span_id.hex()
    # The flags: sampled, and that the id is random, which the SDK tells.
    assert called.header("traceparent") == f"00-{trace_id}-{span_id}-03"
    assert spans[2].trace_id != spans[0].trace_id
    assert attributes(spans[3])["error.type"] == "TargetUnreachable"
    assert attributes(spans[2])["error.type"] == "502"


def test_a_span_holds_nothing_secret() -> None:
    """No header, body, path or query, of the request or of the call."""
    with traced() as (system, collector):
        envelope = system.envelope("/s3cret?s3cret", headers={"X-S3cret": "s3cret"}, body="s3cret")
        headers = {"Authorization": "Bearer s3cret", "baggage": "s3cret=s3cret"}
        for path in ("/sync?s3cret", "/async?s3cret", "/s3cret"):
            call("POST", system.send.url + path, envelope, headers)
        for event in system.published():
            system.deliver(event)
        collector.wait(8)
        sent = b"".join(each.body for each in collector.peer.requests)

    assert b"s3cret" not in sent


def test_what_is_not_sampled_is_passed_on() -> None:
    """The caller has decided for the whole trace."""
    with traced() as (system, collector):
        call("POST", f"{system.send.url}/sync", system.envelope("/a"), UNSAMPLED)
        call("POST", f"{system.send.url}/sync", system.envelope("/b"))
        spans = collector.wait(2)
        (called,) = system.target.received("/a")

    assert len(spans) == 2
    parent = called.header("traceparent") or ""
    assert parent.startswith(f"00-{TRACE_ID}-")
    assert parent.endswith("-00")


def test_nothing_waits_for_a_collector_that_is_away() -> None:
    """Traces are lost then, and no request."""
    away = {"OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{free_port()}"}
    with relayed(**away, OTEL_EXPORTER_OTLP_TIMEOUT="1") as system:
        answers = [
            call("POST", f"{system.send.url}/sync", system.envelope("/"), timeout_s=2)
            for _ in range(3)
        ]

    assert [answer.status for answer in answers] == [200, 200, 200]


def test_without_traces_the_context_is_passed_on() -> None:
    """As it came, through the event to the target."""
    with relayed() as system:
        call("POST", f"{system.send.url}/async", system.envelope("/a"), TRACED | CARRIED)
        call("POST", f"{system.send.url}/sync", system.envelope("/b"), TRACED | CARRIED)
        for event in system.published():
            system.deliver(event)
        called = system.target.received("/a") + system.target.received("/b")

    assert len(called) == 2
    for each in called:
        assert {name: each.header(name) for name in TRACED | CARRIED} == TRACED | CARRIED


@pytest.mark.parametrize(("endpoint", "is_loaded"), [("", False), ("http://127.0.0.1:9", True)])
def test_what_is_off_is_not_loaded(endpoint: str, is_loaded: bool) -> None:
    """Its libraries would make each cold start longer."""
    program = (
        "import sys, functions_framework;"
        "functions_framework.create_app('send', 'functions/send/function/main.py');"
        "print(any(name.startswith('opentelemetry') for name in sys.modules))"
    )

    ran = subprocess.run(
        python("-c", program),
        cwd=REPOSITORY,
        env={"PYTHONPATH": str(REPOSITORY), "OTEL_EXPORTER_OTLP_ENDPOINT": endpoint},
        capture_output=True,
        check=True,
        text=True,
    )

    assert ran.stdout == f"{is_loaded}\n"
