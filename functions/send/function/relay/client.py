"""The one HTTP client of the relay: every call it makes passes the egress policy and a deadline.

It is `requests`, by way of an adapter of our own. There is no session: no redirect is followed, no
cookie, proxy or netrc from the environment is used, and nothing is decoded.
"""

from __future__ import annotations

import contextlib
import http.client
from collections.abc import Generator
from http import HTTPStatus
from typing import cast

import requests

from relay.connections import Adapter, Call, Exchange, calls
from relay.deadlines import Deadline
from relay.egress import Policy
from relay.headers import Headers, end_to_end
from relay.problems import DeadlineExceeded, TargetFailed, TargetUnreachable
from relay.sockets import permitted
from relay.urls import Target

READ_BYTES = 64 * 1024
USER_AGENT = "knative-relay"
_LENGTH = "content-length"
_NO_CONTENT = (HTTPStatus.NO_CONTENT, HTTPStatus.NOT_MODIFIED)


class Answer:
    """The answer to one call, its body not yet read.

    Args:
        status: the HTTP status.
        headers: as they came, without the hop-by-hop ones; repeated ones repeated.
    """

    def __init__(self, raw: Exchange, deadline: Deadline) -> None:
        self.status: int = raw.status
        self.headers: Headers = (
            *(item for item in end_to_end(raw.fields) if item[0].lower() != _LENGTH),
            *_framing(raw),
        )
        self._raw = raw
        self._deadline = deadline
        self._first: bytes | None = None

    def begin(self) -> None:
        """Wait for the first piece of the body; until then, a failure can be told by a status.

        Raises:
            TargetFailed, DeadlineExceeded: as for the pieces that follow.
        """
        try:
            self._first = self._piece()
        except BaseException:
            self.close()
            raise

    def __iter__(self) -> Generator[bytes, None, None]:
        """Read the body in pieces as they arrive, exactly as it was sent.

        Raises:
            TargetFailed: the body broke off.
            DeadlineExceeded: the deadline came first.
        """
        try:
            piece = self._piece() if self._first is None else self._first
            while piece:
                yield piece
                piece = self._piece()
        finally:
            self.close()

    def _piece(self) -> bytes:
        try:
            piece = self._raw.read1(READ_BYTES)
        except (http.client.HTTPException, OSError) as exc:
            raise _failure(exc, self._deadline) from exc
        if not piece:
            self._deadline.check()
        return piece

    def read(self, limit_bytes: int) -> tuple[bytes, bool]:
        """Read the body up to a limit.

        Returns:
            the bytes, and whether there was more.
        """
        body = bytearray()
        with contextlib.closing(iter(self)) as pieces:
            for piece in pieces:
                body += piece
                if len(body) > limit_bytes:
                    return bytes(body[:limit_bytes]), True
        return bytes(body), False

    def close(self) -> None:
        """Let go of the connection: closed, if the body was not read."""
        self._deadline.done()
        self._raw.close()


class Client:
    """Call targets under one egress policy.

    Args:
        policy: where calls may go.
        connect_timeout_s: for the look-up and the connection, of each call's time.
        pool_size: how many connections to one origin are kept open.
        peer: what errors call the other side.
        ca_certs: PEM certificates to trust besides the usual ones.
    """

    def __init__(
        self,
        policy: Policy,
        *,
        connect_timeout_s: float,
        pool_size: int,
        peer: str = "target",
        ca_certs: str | None = None,
    ) -> None:
        self._policy = policy
        self._connect_timeout_s = connect_timeout_s
        self._peer = peer
        self._adapter = Adapter(pool_size=pool_size, ca_certs=ca_certs)

    def check(self, target: Target) -> None:
        """Refuse a target that a call made now would be refused; make no call.

        A name that cannot be looked up passes: it may be there when the call is made.

        Raises:
            TargetNotAllowed: the policy refuses every address of the target.
        """
        budget = Deadline(self._connect_timeout_s, self._peer)
        with contextlib.suppress(TargetUnreachable):
            permitted(target.origin, self._policy, budget)

    def call(
        self,
        target: Target,
        *,
        method: str,
        headers: Headers = (),
        content: bytes | None = None,
        timeout_s: float,
    ) -> Answer:
        """Make one call and wait for the answer's headers.

        Args:
            timeout_s: for everything, the body of the answer included.

        Raises:
            TargetNotAllowed: the policy refuses every address of the target.
            TargetFailed: the target is not reachable, or what it sends is not HTTP.
            DeadlineExceeded: the time was up first.
        """
        request = requests.PreparedRequest()
        request.method = method
        request.url = target.url
        # A plain dict will do: names are unique by here, and only `send_request` reads them.
        request.headers = _complete(headers, target, method, content)  # type: ignore[assignment]
        request.body = content
        peer = f"the {self._peer} {target.origin.authority}"
        deadline = Deadline(timeout_s, peer)
        connect_timeout_s = min(self._connect_timeout_s, timeout_s)
        calls.current = Call(target, self._policy, deadline, connect_timeout_s)
        try:
            exchange = cast("Exchange", self._adapter.send(request))
            deadline.check()
        except (requests.RequestException, http.client.HTTPException) as exc:
            deadline.done()
            raise _failure(exc, deadline) from exc
        except BaseException:
            deadline.done()
            raise
        answer = Answer(exchange, deadline)
        if answer.status < HTTPStatus.OK:  # http.client passes over 100 alone
            answer.close()
            raise TargetFailed(f"{peer} sent only the interim answer {answer.status}")
        return answer


def _complete(
    headers: Headers, target: Target, method: str, content: bytes | None
) -> dict[str, str]:
    """Add what every request needs and this one has not."""
    added = [
        ("Host", target.origin.authority),
        ("User-Agent", USER_AGENT),
        ("Accept-Encoding", "identity"),
    ]
    # A body that could be there and is not is said to be none (RFC 9110 section 8.6).
    if content is not None or method in ("POST", "PUT", "PATCH"):
        added.append(("Content-Length", str(len(content or b""))))
    given = {name.lower() for name, _ in headers}
    return dict((*(field for field in added if field[0].lower() not in given), *headers))


def _framing(raw: Exchange) -> Headers:
    """Say the length of the body as it was understood; what was sent may be ambiguous."""
    if raw.length is None or raw.status in _NO_CONTENT:
        return ()
    return (("Content-Length", str(raw.length)),)


def _failure(exc: Exception, deadline: Deadline) -> TargetFailed | DeadlineExceeded:
    """Say in one line what broke; the exception's own text may quote the peer."""
    if deadline.expired:
        return deadline.error()
    if isinstance(exc, requests.exceptions.SSLError):
        return TargetFailed(f"{deadline.peer} has no TLS, or no certificate that is trusted")
    return TargetFailed(f"{deadline.peer} broke off its answer, or it is not HTTP")
