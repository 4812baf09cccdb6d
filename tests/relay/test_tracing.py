"""What travels with a call: the trace context and the count of hops."""

from __future__ import annotations

import pytest

from relay.problems import LoopDetected
from relay.tracing import MAX_HOPS, hops_of, next_hop, trace_context, trace_id

TRACEPARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


@pytest.mark.parametrize(
    ("traceparent", "tracestate", "expected"),
    [
        pytest.param(TRACEPARENT, None, (("traceparent", TRACEPARENT),), id="parent"),
        pytest.param(
            TRACEPARENT,
            "a=1,b=2",
            (("traceparent", TRACEPARENT), ("tracestate", "a=1,b=2")),
            id="parent and state",
        ),
        pytest.param(
            "cc" + TRACEPARENT[2:] + "-what-is-to-come",
            None,
            (("traceparent", "cc" + TRACEPARENT[2:] + "-what-is-to-come"),),
            id="later version",
        ),
        pytest.param(TRACEPARENT, "é", (("traceparent", TRACEPARENT),), id="bad state"),
        pytest.param(TRACEPARENT, "a" * 513, (("traceparent", TRACEPARENT),), id="long state"),
        pytest.param(None, "a=1", (), id="state alone"),
        pytest.param(TRACEPARENT + "-more", None, (), id="version 00 with more"),
        pytest.param("ff" + TRACEPARENT[2:], None, (), id="version ff"),
        pytest.param(TRACEPARENT.upper(), None, (), id="upper case"),
        pytest.param(f"00-{'0' * 32}-b7ad6b7169203331-01", None, (), id="no trace id"),
        pytest.param(
            f"00-0af7651916cd43dd8448eb211c80319c-{'0' * 16}-01", None, (), id="no parent id"
        ),
        pytest.param("cc" + TRACEPARENT[2:] + "-\r\nX: 1", None, (), id="newline"),
        pytest.param("cc" + TRACEPARENT[2:] + "-€", None, (), id="not ASCII"),
        pytest.param("", None, (), id="empty"),
    ],
)
def test_only_a_well_formed_trace_context_is_kept(
    traceparent: str | None, tracestate: str | None, expected: tuple[tuple[str, str], ...]
) -> None:
    """A trace context is passed on whole or not at all."""
    assert trace_context(traceparent, tracestate) == expected


@pytest.mark.parametrize(
    ("value", "hops"),
    [(None, 0), ("", 0), ("2", 2), ("002", 2), ("-1", 0), ("1e3", 0), ("٣", 0), ("9999", 0)],
)
def test_hops_are_counted(value: str | None, hops: int) -> None:
    """A counter that is no number counts as none."""
    assert hops_of(value) == hops


def test_each_pass_is_counted() -> None:
    """The first is one; the pass after the last that is allowed is refused."""
    assert next_hop(None) == 1
    assert next_hop(str(MAX_HOPS - 1)) == MAX_HOPS
    with pytest.raises(LoopDetected, match=f"has passed a relay {MAX_HOPS} times"):
        next_hop(str(MAX_HOPS))


@pytest.mark.parametrize(
    ("traceparent", "expected"),
    [
        (TRACEPARENT, "0af7651916cd43dd8448eb211c80319c"),
        (None, None),
        (f"00-{'0' * 32}-00f067aa0ba902b7-01", None),
    ],
    ids=["well-formed", "none", "zero"],
)
def test_the_trace_has_an_id(traceparent: str | None, expected: str | None) -> None:
    """It is the second part of a well-formed traceparent."""
    assert trace_id(traceparent) == expected
