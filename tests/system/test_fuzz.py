"""What reads from strangers, under input that was right before it was broken."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Callable
from typing import ParamSpec, TypeVar

from hypothesis import given, settings
from hypothesis import strategies as st

from relay.envelope import Envelope
from relay.events import STRUCTURED
from relay.problems import InvalidRequest
from relay.receive import Receive, refusal
from relay.settings import Settings
from tests.support.processes import REPOSITORY

P = ParamSpec("P")
T = TypeVar("T")

RECEIVE = Receive(Settings.from_env({}))

SCHEMA = json.loads((REPOSITORY / "schemas/envelope.schema.json").read_text(encoding="utf-8"))
ENVELOPES = [
    *(file.read_bytes() for file in sorted((REPOSITORY / "examples").iterdir())),
    *(json.dumps(example).encode() for example in SCHEMA["examples"]),
    json.dumps(
        {
            "targetURL": "http://[::1]:8080/base",
            "targetAPI": "?q=%C3%A9",
            "headers": {"Host": "a.test", "X-Number": -1.5e-3},
            "body": ["\u0000", "é", None, True],
            "callback": {"url": "https://a.test/done?job=7", "headers": {"X-A": "1"}},
        }
    ).encode(),
]
ATTRIBUTES = {
    "specversion": "1.0",
    "id": "order-17",
    "source": "/orders",
    "type": "dev.knative.samples.t2",
    "time": "2026-11-23T22:21:46.916Z",
    "datacontenttype": "application/json",
    "relayhops": "1",
    "traceparent": "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
}

# What parsers trip over.
TRIPS = (
    *(b'"', b"\\", b"{", b"}", b"[", b"]", b":", b",", b"#", b"?", b"/", b"%", b"@", b"\0"),
    *(b"\r\n", b" ", b"\xff", b"\xef\xbb\xbf", b"\\u0000", b"\\ud800", b"\xc3\xa9", b"%2e%2e"),
    *(b"NaN", b"-Infinity", b"1e999", b"-0", b"9" * 400, b"null", b"true", b"[" * 200, b'{"":'),
)


@st.composite
def broken(draw: st.DrawFn, valid: list[bytes]) -> bytes:
    """Cut, double or replace a few pieces of something valid; or none of them."""
    text = draw(st.sampled_from(valid))
    for _ in range(draw(st.integers(0, 3))):
        start = draw(st.integers(0, len(text)))
        end = draw(st.integers(start, min(len(text), start + 20)))
        put = st.sampled_from([b"", text[start:end] * 2, *TRIPS]) | st.binary(max_size=4)
        text = text[:start] + draw(put) + text[end:]
    return text


def broken_text(valid: str) -> st.SearchStrategy[str]:
    """Break a header's value, in the characters that a server hands on."""
    return broken([valid.encode()]).map(lambda raw: raw.decode("latin-1"))


IN_JSON = [json.dumps({**ATTRIBUTES, "data": json.loads(raw)}).encode() for raw in ENVELOPES]
IN_BASE64 = [
    json.dumps({**ATTRIBUTES, "data_base64": base64.b64encode(raw).decode()}).encode()
    for raw in ENVELOPES
]
BINARY = st.tuples(
    st.fixed_dictionaries(
        {"content-type": broken_text("application/json")},
        optional={f"ce-{name}": broken_text(value) for name, value in ATTRIBUTES.items()},
    ),
    broken(ENVELOPES),
)
STRUCTURED_OR_BATCH = st.tuples(
    st.fixed_dictionaries(
        {
            "content-type": st.sampled_from([STRUCTURED, "application/cloudevents-batch+json"])
            | broken_text(STRUCTURED)
        },
        optional={"ce-specversion": st.just("1.0"), "traceparent": broken_text("00-")},
    ),
    broken([*IN_JSON, *IN_BASE64, b"[%s]" % IN_JSON[0]]),
)


@settings(max_examples=400)
@given(broken(ENVELOPES))
def test_a_broken_envelope_is_named_or_legal(raw: bytes) -> None:
    """An envelope is refused by the name of a field, or fit to be sent; there is no third."""
    read = result(Envelope.from_json, raw)

    if isinstance(read, InvalidRequest):
        assert read.detail.startswith(read.field)
    else:
        assert_legal(read)


@settings(max_examples=500)
@given(BINARY | STRUCTURED_OR_BATCH)
def test_a_broken_event_is_refused_or_asks_for_a_legal_call(
    message: tuple[dict[str, str], bytes],
) -> None:
    """An event is refused in few bytes, or it and its envelope are fit to be sent."""
    read = result(RECEIVE.read, *message)

    if isinstance(read, InvalidRequest):
        assert sum(map(len, refusal(read).body)) <= 768
    else:
        assert_legal(read.envelope, ("Idempotency-Key", read.event.id))


def result(read: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T | InvalidRequest:
    try:
        return read(*args, **kwargs)
    except InvalidRequest as exc:
        return exc


def assert_legal(envelope: Envelope, *relays_own: tuple[str, str]) -> None:
    """Check what would stand on the wire: a URL of visible ASCII, headers of one line each."""
    assert re.fullmatch(r"https?://[!-~]+/[!-~]*", envelope.target.url)
    for name, value in envelope.sent_headers(relays_own):
        assert re.fullmatch(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+", name)
        assert re.fullmatch(r"[\t -~\xa0-\xff]*", value)
