"""What can go wrong between a caller and the relay."""

from __future__ import annotations


class RelayError(Exception):
    """The base of all errors of this package."""


class Refused(RelayError):
    """The relay refused the call; the same call would be refused again.

    Args:
        status: the HTTP status, from 300 to 501.
        detail: what is wrong and what would be right, from the problem document (RFC 9457).
        field: the wrong field, if the relay named one.
    """

    def __init__(self, status: int, detail: str, field: str | None = None) -> None:
        super().__init__(f"{status}: {detail}")
        self.status = status
        self.detail = detail
        self.field = field


class Unavailable(RelayError):
    """The relay could not be reached, or was not able to answer, each time it was tried.

    Args:
        detail: the last failure.
        key: of a call that may have been accepted; under it, it can be submitted again.
    """

    def __init__(self, detail: str, key: str | None = None) -> None:
        again = "" if key is None else f"; submit it again with the key {key}, which is safe"
        super().__init__(detail + again)
        self.detail = detail
        self.key = key


class NotFinished(RelayError):
    """A request is still open.

    Args:
        id: of the request.
        timeout_s: how long the caller waited, in seconds.
    """

    def __init__(self, id: str, timeout_s: float) -> None:
        super().__init__(f"the request {id} is still open after {timeout_s:g} s")
        self.id = id
        self.timeout_s = timeout_s
