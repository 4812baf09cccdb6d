"""Everything that can go wrong in the relay, as one tree of errors and their RFC 9457 answers.

    RelayError
    ├── InvalidRequest     400  a field, header or body is wrong; `field` names it
    ├── Unauthorized       401  a token or a signature is missing or wrong
    ├── Forbidden          403  an event says that it is the relay's own, and is not
    ├── TargetNotAllowed   403  the egress policy refuses the target
    ├── NotFound           404  no such route
    ├── MethodNotAllowed   405  the route has no such method
    ├── Conflict           409  the request is not in the state that the call needs
    ├── TooLarge           413  a body is larger than the setting allows
    ├── TargetFailed       502  the target's answer is broken
    │   └── TargetUnreachable   nothing was sent: no address, no connection
    ├── BrokerUnavailable  503  the Broker did not take the event
    ├── StateUnavailable   503  the state of requests cannot be read or kept
    ├── DeadlineExceeded   504  the time for a call ran out
    └── LoopDetected       508  the relay called itself too many times

None of them is an `OSError`: urllib3 would take it for a network fault and wrap it.
"""

from __future__ import annotations

import json
from http import HTTPStatus
from typing import Final

from relay.messages import Response

PROBLEM_JSON = "application/problem+json"


class RelayError(Exception):
    """Carry what the caller is told.

    Args:
        detail: what is wrong and what would be right, in one line. It must hold nothing secret.
        headers: extra headers of the answer, such as `Allow`.
        members: extension members of the problem document (RFC 9457 section 3.2).
    """

    status = HTTPStatus.INTERNAL_SERVER_ERROR

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
    """Say which field is wrong; the detail begins with its path, as in `headers.X-A must be …`."""

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


class TargetFailed(RelayError):
    status = HTTPStatus.BAD_GATEWAY


class TargetUnreachable(TargetFailed):
    pass


class BrokerUnavailable(RelayError):
    status = HTTPStatus.SERVICE_UNAVAILABLE


class StateUnavailable(RelayError):
    status = HTTPStatus.SERVICE_UNAVAILABLE


class DeadlineExceeded(RelayError):
    status = HTTPStatus.GATEWAY_TIMEOUT


class LoopDetected(RelayError):
    status = HTTPStatus.LOOP_DETECTED


# Before 3.13 Python has the phrase of the RFC that 9110 replaced.
_RENAMED: Final = {413: "Content Too Large"}


def problem(
    status: int,
    detail: str,
    *,
    headers: tuple[tuple[str, str], ...] = (),
    members: dict[str, str | int | float] | None = None,
) -> Response:
    """Render a problem document (RFC 9457 section 3.1; its type is `about:blank`).

    Args:
        status: the HTTP status, whose phrase in RFC 9110 becomes the title.
        detail: what is wrong with this one request.
        headers: extra headers of the answer.
        members: extension members.
    """
    document = {
        "type": "about:blank",
        "title": _RENAMED.get(status) or HTTPStatus(status).phrase,
        "status": int(status),
        "detail": detail,
        **(members or {}),
    }
    body = json.dumps(document, ensure_ascii=False).encode("utf-8", "backslashreplace")
    return Response.whole(status, body, content_type=PROBLEM_JSON, headers=headers)


def problem_of(error: RelayError) -> Response:
    """Render the answer that belongs to an error."""
    return problem(error.status, error.detail, headers=error.headers, members=error.members)
