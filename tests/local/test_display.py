"""The event display prints events as Knative's event_display does, and answers a Broker well."""

from __future__ import annotations

import signal

import pytest

from local.broker.event import KNATIVE
from local.display.event_form import render
from relay.events import Event
from tests.support.calls import call
from tests.support.processes import free_port, python, running

CONTEXT = {"specversion": "1.0", "type": "t", "source": "/s", "id": "1"}


def event(data: bytes, **attributes: str) -> Event:
    """Make an event of the smallest context and these attributes."""
    return Event(attributes={**CONTEXT, **attributes}, data=data)


def test_prints_the_form_of_event_display() -> None:
    """Attributes come in event_display's order, extensions sorted, JSON indented."""
    text = render(
        event(
            b'{"id":2,"label":"\xc3\xa9","list":[]}',
            datacontenttype="application/json; charset=utf-8",
            time="2019-10-18T15:23:20.809775386Z",
            subject="s",
            the="42",
            beats="true",
        )
    )

    assert text == (
        "☁️  cloudevents.Event\n"
        "Validation: valid\n"
        "Context Attributes,\n"
        "  specversion: 1.0\n"
        "  type: t\n"
        "  source: /s\n"
        "  subject: s\n"
        "  id: 1\n"
        "  time: 2019-10-18T15:23:20.809775386Z\n"
        "  datacontenttype: application/json; charset=utf-8\n"
        "Extensions,\n"
        "  beats: true\n"
        "  the: 42\n"
        "Data,\n"
        "  {\n"
        '    "id": 2,\n'
        '    "label": "é",\n'
        '    "list": []\n'
        "  }\n"
    )


@pytest.mark.parametrize(
    ("data", "content_type", "shown"),
    [
        (b"plain", "text/plain", "Data,\n  plain\n"),
        (b"not JSON", "application/json", "Data,\n  not JSON\n"),
        (b"NaN", "application/json", "Data,\n  NaN\n"),
        (b"[" * 10_000, "application/json", "Data,\n  " + "[" * 10_000 + "\n"),
        (
            b'{"a":1.50,"b":[1e3,-0,12345678901234567890123],"\\u003c":"\\/","a":{},"c":[ ]}',
            "application/json",
            'Data,\n  {\n    "a": 1.50,\n    "b": [\n      1e3,\n      -0,\n'
            '      12345678901234567890123\n    ],\n    "\\u003c": "\\/",\n    "a": {},\n'
            '    "c": []\n  }\n',
        ),
        (b'"a,{b}:[c]\\""', "application/json", 'Data,\n  "a,{b}:[c]\\""\n'),
        (b"\xff\x00", "application/json", "Data (binary),\n  /wA=\n"),
        (b"a\n\x1b[2J", "text/plain", "Data,\n  a\n  \\x1b[2J\n"),
        (b'["\\ud800"]', "application/json", 'Data,\n  [\n    "\\ud800"\n  ]\n'),
    ],
    ids=[
        "text",
        "bad JSON",
        "NaN",
        "deep JSON",
        "numbers and escapes",
        "string",
        "binary",
        "terminal control",
        "lone surrogate",
    ],
)
def test_prints_any_data(data: bytes, content_type: str, shown: str) -> None:
    """Data that is not JSON is printed as it is, and cannot control the terminal."""
    text = render(event(data, datacontenttype=content_type))

    assert text.endswith(f"  datacontenttype: {content_type}\n{shown}")


def test_prints_no_data_section_without_data() -> None:
    """An event without data ends with its attributes."""
    assert render(event(b"")).endswith("  id: 1\n")


def test_prints_an_extension_named_data() -> None:
    """An extension may have any name, that of the data too."""
    headers = {**{f"ce-{name}": value for name, value in CONTEXT.items()}, "ce-data": "x"}

    text = render(Event.from_http(headers, b"", KNATIVE))

    assert text.endswith("Extensions,\n  data: x\n")


def test_prints_an_invalid_event_with_the_reason() -> None:
    """What is wrong with an event stands where event_display has it."""
    text = render(event(b"", id=""))

    assert text == (
        "☁️  cloudevents.Event\n"
        "Validation: invalid\n"
        "Validation Error: \n"
        "ce-id must be there and not empty\n"
        "Context Attributes,\n"
        "  specversion: 1.0\n"
        "  type: t\n"
        "  source: /s\n"
        "  id: \n"
    )


def test_escapes_what_could_control_the_terminal() -> None:
    """Attributes cannot move the cursor, begin a line of their own or reorder the text."""
    text = render(event(b"", subject="a\x1b[2J\nb\u202e"))

    assert "  subject: a\\x1b[2J\\nb\\u202e\n" in text


def test_answers_a_broker_with_an_empty_202() -> None:
    """A body in the answer would be a failure to a Broker; what is no event is refused."""
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    binary = {f"ce-{name}": value for name, value in CONTEXT.items()}
    structured = (
        '{"specversion":"1.0","type":"t","source":"/s","id":"2","data":{"a":1},'
        '"datacontenttype":"application/json"}'
    )
    with running(
        python("-m", "local.display", "--port", str(port)), ready_output=f"event display on {url}"
    ) as process:
        answers = [
            call("POST", url, "1", {**binary, "Content-Type": "application/json"}),
            call("POST", url, structured, {"Content-Type": "application/cloudevents+json"}),
            call("POST", url, "{}", {"Content-Type": "application/json"}),
        ]
        healthy = call("GET", f"{url}/healthz")
        process.send_signal(signal.SIGINT)
        exit_code = process.wait()

    assert [(answer.status, answer.body) for answer in answers] == [
        (202, b""),
        (202, b""),
        (400, b""),
    ]
    assert healthy.status == 204
    assert exit_code == 0
    assert process.output.count("☁️  cloudevents.Event\nValidation: valid\n") == 2
    assert "Validation Error: \nce-specversion is missing; send a CloudEvent\n" in process.output
