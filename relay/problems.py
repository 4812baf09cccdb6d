"""Everything that can go wrong in the relay, as one tree of errors and the status of each.

    RelayError
    ├── InvalidRequest     400  a field, header or body is wrong; `field` names it
    ├── Unauthorized       401  a token or a signature is missing or wrong
    ├── Forbidden          403  an event without its MAC, or the page of another site
    ├── TargetNotAllowed   403  the egress policy refuses the target
    ├── NotFound           404  the route or request does not exist
    ├── MethodNotAllowed   405  the route does not answer this method
    ├── Conflict           409  the request is in another state than the call needs
    ├── TooLarge           413  a body, or the event made of it, is larger than the setting allows
    ├── UnsupportedMediaType 415  a body is in a coding other than gzip and deflate
    ├── KeyReused          422  the Idempotency-Key is that of another request
    ├── TargetFailed       502  the target's answer is broken
    │   └── TargetUnreachable   nothing was sent: no address, no connection
    ├── TargetAvoided      503  the target is not called now, and so does not delay others
    ├── TooBusy            503  as many bodies are held as may be at once
    ├── BrokerUnavailable  503  the Broker did not take the event
    ├── StateUnavailable   503  the store cannot be read or written
    ├── DeadlineExceeded   504  the time for a call ran out
    ├── CallerLeft         499  the caller no longer waits for the answer
    └── LoopDetected       508  the relay called itself too many times

They are not `OSError`s, which HTTP libraries take for network faults and wrap.
"""

from __future__ import annotations

from http import HTTPStatus


class RelayError(Exception):
    """Carry what the caller is told.

    Args:
        detail: what is wrong and what would be right, in one line, without anything secret.
        headers: extra headers of the answer, such as `Allow`.
        members: extension members of the problem document (RFC 9457 section 3.2).
    """

    status: int = HTTPStatus.INTERNAL_SERVER_ERROR

    def __init__(
        self,
        detail: str,
        *,
        headers: tuple[tuple[str, str], ...] = (),
        **members: str | int | float,
    ) -> None:
        super().__init__(detail)
        self.detail = detail
        self.headers = headers
        self.members = members


class InvalidRequest(RelayError):
    """Name the wrong field; the detail begins with its path, as in `headers.X-A must be …`."""

    status = HTTPStatus.BAD_REQUEST

    def __init__(self, field: str, reason: str) -> None:
        super().__init__(f"{field} {reason}", field=field)
        self.field = field


class Unauthorized(RelayError):
    """Say what would be accepted.

    Args:
        scheme: for `WWW-Authenticate`, which every 401 has (RFC 9110 section 15.5.2).
    """

    status = HTTPStatus.UNAUTHORIZED

    def __init__(self, detail: str, *, scheme: str) -> None:
        super().__init__(detail, headers=(("WWW-Authenticate", scheme),))


class Forbidden(RelayError):
    status = HTTPStatus.FORBIDDEN


class TargetNotAllowed(RelayError):
    status = HTTPStatus.FORBIDDEN


class NotFound(RelayError):
    status = HTTPStatus.NOT_FOUND


class MethodNotAllowed(RelayError):
    status = HTTPStatus.METHOD_NOT_ALLOWED

    def __init__(self, method: str, path: str, allowed: tuple[str, ...]) -> None:
        allow = ", ".join(allowed)
        super().__init__(
            f"{path} does not answer {method}; it answers {allow}", headers=(("Allow", allow),)
        )


class Conflict(RelayError):
    status = HTTPStatus.CONFLICT


class TooLarge(RelayError):
    status = HTTPStatus.REQUEST_ENTITY_TOO_LARGE


class UnsupportedMediaType(RelayError):
    """Say which codings would be taken (RFC 9110 section 15.5.16).

    Args:
        codings: for `Accept-Encoding`.
    """

    status = HTTPStatus.UNSUPPORTED_MEDIA_TYPE

    def __init__(self, detail: str, *, codings: tuple[str, ...]) -> None:
        super().__init__(detail, headers=(("Accept-Encoding", ", ".join(codings)),))


class KeyReused(RelayError):
    status = HTTPStatus.UNPROCESSABLE_ENTITY


class TargetFailed(RelayError):
    status = HTTPStatus.BAD_GATEWAY


class TargetUnreachable(TargetFailed):
    pass


class TargetAvoided(RelayError):
    status = HTTPStatus.SERVICE_UNAVAILABLE


class TooBusy(RelayError):
    status = HTTPStatus.SERVICE_UNAVAILABLE


class BrokerUnavailable(RelayError):
    status = HTTPStatus.SERVICE_UNAVAILABLE


class StateUnavailable(RelayError):
    status = HTTPStatus.SERVICE_UNAVAILABLE


class DeadlineExceeded(RelayError):
    status = HTTPStatus.GATEWAY_TIMEOUT


class CallerLeft(RelayError):
    status = 499  # nginx's, not a standard's: only the log has it

    def __init__(self) -> None:
        super().__init__("the caller left before there was an answer")


class LoopDetected(RelayError):
    status = HTTPStatus.LOOP_DETECTED
