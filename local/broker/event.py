"""CloudEvents as Knative's Broker reads and writes them.

Its rules differ from the relay's own in what they take (upper case in names, a name twice, a
fraction as an extension), in what they change (a time becomes UTC, a URI is written anew) and in
what they refuse (a time, a URI or a Content-Type that Go cannot parse). All else goes out as it
came: nothing is percent-decoded, and a value is the bytes of its header.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from local.broker.attributes import check
from local.broker.structured import read_structured
from relay.events import BATCH, SPEC_VERSIONS, STRUCTURED, Event, Rules, text_of
from relay.headers import media_type

RawHeaders = Iterable[tuple[bytes, bytes]]


def fields(raw: RawHeaders) -> dict[str, str]:
    """Return the first value of each header by its lower-case name; a character is a byte."""
    headers: dict[str, str] = {}
    for name, value in raw:
        headers.setdefault(name.decode("latin-1").lower(), value.decode("latin-1").strip(" \t"))
    return headers


def is_event(headers: Mapping[str, str]) -> bool:
    """Tell whether a message says that it is an event; to Knative a reply that does not is none."""
    if media_type(headers.get("content-type", "")) in (STRUCTURED, BATCH):
        return True
    return headers.get("ce-specversion") in SPEC_VERSIONS


def to_headers(event: Event) -> dict[str, str]:
    """Return the headers of the event in binary mode; the body is its data.

    A value is to be written as UTF-8 with `surrogateescape`.
    """
    return {
        "content-type" if name == "datacontenttype" else f"ce-{name}": value
        for name, value in event.attributes.items()
    }


def readable(value: str) -> str:
    """Return an attribute for people: bytes that are not UTF-8 are taken for Latin-1."""
    return text_of(value.encode("utf-8", "surrogateescape"))


def _header(raw: bytes) -> str:
    return raw.decode("utf-8", "surrogateescape")


KNATIVE = Rules(header=_header, structured=read_structured, check=check)
