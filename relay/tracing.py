"""What travels with a call: its trace context (W3C Trace Context) and its count of hops."""

from __future__ import annotations

import re

from relay.headers import Headers
from relay.problems import LoopDetected

# A synchronous loop holds one thread a hop, so this must stay well below THREADS.
MAX_HOPS = 3

# W3C Trace Context, section 3.2: neither id is all zero, version ff is none, and version 00 ends
# after 55 characters.
_TRACEPARENT = re.compile(
    r"(?!ff|00.{54})[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}"
    r"(?:-[\x21-\x7e]*)?"
)
_TRACESTATE = re.compile(r"[\x20-\x7e]{1,512}")


def trace_context(traceparent: str | None, tracestate: str | None) -> Headers:
    """Keep a W3C trace context that is well-formed; drop any other, as that standard asks."""
    if traceparent is None or not _TRACEPARENT.fullmatch(traceparent):
        return ()
    if tracestate is None or not _TRACESTATE.fullmatch(tracestate):
        return (("traceparent", traceparent),)
    return (("traceparent", traceparent), ("tracestate", tracestate))


def trace_id(traceparent: str | None) -> str | None:
    """Read the id of the trace out of a well-formed traceparent; None for any other."""
    if traceparent is None or not _TRACEPARENT.fullmatch(traceparent):
        return None
    return traceparent.split("-")[1]


def hops_of(value: str | None) -> int:
    """Read the hop counter; one that is no number counts as none."""
    return int(value) if value and re.fullmatch(r"[0-9]{1,3}", value, re.ASCII) else 0


def next_hop(received: str | None) -> int:
    """Count this pass through the relay.

    Args:
        received: the counter as it came, in the `Relay-Hops` header or the `relayhops` extension.

    Raises:
        LoopDetected: the call has passed a relay `MAX_HOPS` times already.
    """
    hops = hops_of(received) + 1
    if hops > MAX_HOPS:
        raise LoopDetected(f"the call has passed a relay {MAX_HOPS} times; the relay calls itself")
    return hops
