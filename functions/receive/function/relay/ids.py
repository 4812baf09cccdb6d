"""The ids of requests, each an `Idempotency-Key`, an event's id and a part of a path in one."""

from __future__ import annotations

import re
import uuid

from relay.problems import InvalidRequest

# Fit for an event's id, a header and a path segment alike; with or without the quotes of
# draft-ietf-httpapi-idempotency-key-header.
_ID = re.compile(r'("?)([A-Za-z0-9._~:+=@-]{1,128})\1', re.ASCII)


def parse_id(text: str, *, field: str) -> str:
    """Check an id that a caller chose.

    Args:
        text: the id, maybe in double quotes.
        field: what it is called where the caller wrote it, for errors.

    Raises:
        InvalidRequest: it has other characters, or too many.
    """
    match = _ID.fullmatch(text)
    if match is None:
        raise InvalidRequest(field, "must be 1 to 128 letters, digits or . _ ~ : + = @ -")
    return match[2]


def new_id() -> str:
    """Make an id for a request whose caller chose none."""
    return str(uuid.uuid4())
