"""What travels with a call.

Its trace context (W3C Trace Context), baggage (W3C Baggage), the id that an ingress gave it, and
its count of hops.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from relay.headers import Headers
from relay.problems import LoopDetected

# A synchronous loop holds one thread a hop, so this must stay well below THREADS.
MAX_HOPS = 3

# W3C Trace Context, section 3.2: neither id is all zero, version ff is invalid, and version 00 ends
# after 55 characters.
_TRACEPARENT = re.compile(
    r"(?!ff|00.{54})[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}"
    r"(?:-[\x21-\x7e]*)?"
)
_TRACESTATE = re.compile(r"[\x20-\x7e]{1,512}")
# W3C Baggage, section 3.3.2, asks for so many bytes; Envoy and Knative know X-Request-Id.
_BAGGAGE = re.compile(r"[\x20-\x7e]{1,8192}")
_REQUEST_ID = re.compile(r"[\x21-\x7e]{1,128}")

# By the names of the headers; as the attributes of an event they have no hyphens, and the first two
# are those of CloudEvents' extension for distributed tracing.
PASSED_ON = ("traceparent", "tracestate", "baggage", "x-request-id")


def trace_context(traceparent: str | None, tracestate: str | None) -> Headers:
    """Keep a W3C trace context that is well-formed; drop any other, as that standard asks."""
    if traceparent is None or not _TRACEPARENT.fullmatch(traceparent):
        return ()
    if tracestate is None or not _TRACESTATE.fullmatch(tracestate):
        return (("traceparent", traceparent),)
    return (("traceparent", traceparent), ("tracestate", tracestate))


def context_of(headers: Mapping[str, str]) -> Headers:
    """Keep of a request what is well-formed of `PASSED_ON`.

    Args:
        headers: by lower-case name.
    """
    context = trace_context(headers.get("traceparent"), headers.get("tracestate"))
    baggage, request_id = headers.get("baggage"), headers.get("x-request-id")
    if baggage and _BAGGAGE.fullmatch(baggage):
        context += (("baggage", baggage),)
    if request_id and _REQUEST_ID.fullmatch(request_id):
        context += (("x-request-id", request_id),)
    return context


def as_attributes(context: Headers) -> dict[str, str]:
    """Write a context as extension attributes of an event."""
    return {name.replace("-", ""): value for name, value in context}


def context_in(attributes: Mapping[str, str]) -> Headers:
    """Read the context that an event carries."""
    if request_id := attributes.get("xrequestid"):
        attributes = {**attributes, "x-request-id": request_id}
    return context_of(attributes)


def trace_id(traceparent: str | None) -> str | None:
    """Read the id of the trace out of a well-formed traceparent; None for any other."""
    if traceparent is None or not _TRACEPARENT.fullmatch(traceparent):
        return None
    return traceparent.split("-")[1]


def hops_of(value: str | None) -> int:
    """Read the hop counter; one that is not a number counts as 0."""
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
