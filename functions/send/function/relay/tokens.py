"""Let in who carries one of `API_TOKEN`."""

from __future__ import annotations

import hmac
from collections.abc import Mapping

from relay.problems import Unauthorized


def check_token(headers: Mapping[str, str], tokens: tuple[str, ...]) -> None:
    """Compare a request's Bearer token (RFC 6750 section 2.1) with those that are let in.

    Args:
        headers: by lower-case name.
        tokens: when there are none, everybody is let in.

    Raises:
        Unauthorized: it is none of them, or there is none.
    """
    scheme, _, given = headers.get("authorization", "").partition(" ")
    candidate = given.strip(" ").encode("utf-8", "surrogatepass")
    # A list, not a generator: how long it takes must not tell which token it was.
    equal = [hmac.compare_digest(token.encode("ascii"), candidate) for token in tokens]
    if tokens and not (any(equal) and scheme.lower() == "bearer"):
        raise Unauthorized("Authorization must be Bearer and a token of API_TOKEN", scheme="Bearer")
