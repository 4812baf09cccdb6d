"""Tell what became of requests, and publish a dead one again."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Final
from urllib.parse import parse_qs, quote

from relay import logs
from relay.auth import Signatures
from relay.broker import Broker
from relay.envelope import callback_in
from relay.events import DEAD, JSON, RESULTS
from relay.http import Request, Response
from relay.jsons import Raw, dumps
from relay.lifecycle import ACCEPTED, UNKNOWN
from relay.problems import InvalidRequest, NotFound
from relay.records import Known, Records, rfc3339

# How soon it is worth asking again about a request that is open.
_ASK_AGAIN_S: Final = 1

_ADVICE: Final = (
    "nobody knows whether this request is on its way; send it again with the same Idempotency-Key"
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Accepted:
    """A request that the Broker has.

    Args:
        known: None when the store was away, so that nothing of it is noted.
    """

    id: str
    known: Known | None


def status_url(request_id: str) -> str:
    """Return where a request's status is found, relative to the service."""
    return f"/async/{quote(request_id, safe='')}"


def accepted_answer(accepted: Accepted, *headers: tuple[str, str]) -> Response:
    """Answer the caller of a request that the Broker has, now or from an earlier call."""
    url = status_url(accepted.id)
    known = accepted.known
    status = ACCEPTED if known is None or known.status == UNKNOWN else known.status
    document: dict[str, object] = {"id": accepted.id, "status": status, "statusURL": url}
    if known is None:
        document["recorded"] = False
    headers += (("Location", url),)
    return _answer(202, status, document, headers)


def describe(known: Known) -> dict[str, object]:
    """Return what a caller is told; nothing of the request itself, which holds secrets."""
    record = known.record
    document: dict[str, object] = {"id": record.id, "status": known.status}
    if record.accepted_ms is not None:
        document["acceptedAt"] = rfc3339(record.accepted_ms)
    if record.attempts:
        document["attempts"] = record.attempts
    if record.error is not None:
        document["lastError"] = record.error
    if record.next_attempt_ms is not None and known.status == ACCEPTED:
        document["nextAttemptAt"] = rfc3339(record.next_attempt_ms)
    if known.status in (*RESULTS, DEAD) and record.finished_ms is not None:
        document["finishedAt"] = rfc3339(record.finished_ms)
    if known.answer is not None:
        document["answer"] = Raw(known.answer)
    elif known.status in RESULTS:
        document["answerDropped"] = True
    if known.status == DEAD and record.reason is not None:
        document["reason"] = json.loads(record.reason)
    if known.callbacks:
        document["callbacks"] = [Raw(callback) for callback in known.callbacks]
    if known.callbacks_left_out:
        document["callbacksLeftOut"] = known.callbacks_left_out
    document["expiresAt"] = rfc3339(record.expires_ms)
    document["statusURL"] = status_url(record.id)
    if known.status == UNKNOWN:
        document["advice"] = _ADVICE
    return document


class Status:
    """Answer questions about requests.

    Args:
        records: where it is read.
        broker: where a dead request is published again.
        signatures: give it a MAC; the key of the one it had may be gone.
    """

    def __init__(self, records: Records, broker: Broker, signatures: Signatures) -> None:
        self._records = records
        self._broker = broker
        self._signatures = signatures

    def list(self, request: Request) -> Response:
        """Answer `GET /async?status=dead` with the newest of them."""
        if parse_qs(request.query).get("status") != [DEAD]:
            raise InvalidRequest("status", "in the query must be dead; no other list is kept")
        requests = [describe(known) for known in self._records.newest_dead()]
        body = dumps({"requests": requests})
        return Response.whole(200, body, content_type=JSON)

    def read(self, request: Request) -> Response:
        """Answer `GET /async/{id}`."""
        request_id = _id_in(request.path)
        known = self._records.read(request_id)
        if known is None:
            raise _no_such()
        return _answer(200, known.status, describe(known), ())

    def retry(self, request: Request) -> Response:
        """Answer `POST /async/{id}/retry`: publish the event of a dead request under its id."""
        request_id = _id_in(request.path)
        retried = self._records.retry(request_id)
        if retried is None:
            raise _no_such()
        known, event = retried
        with self._records.publishing(known.record):
            self._broker.publish(self._signatures.stamp(event, callback_in(event.data)))
        return accepted_answer(Accepted(id=request_id, known=known))


def _answer(
    status: int,
    status_of_request: str,
    document: dict[str, object],
    headers: tuple[tuple[str, str], ...],
) -> Response:
    """Answer with what is known; while a request is open, say when to ask again."""
    if status_of_request == ACCEPTED:
        headers += (("Retry-After", str(_ASK_AGAIN_S)),)
    body = dumps(document)
    return Response.whole(status, body, content_type=JSON, headers=headers)


def _no_such() -> NotFound:
    return NotFound("there is no request with this id, or it was too long ago")


def _id_in(path: str) -> str:
    request_id = path.split("/")[2]
    logs.note(id=request_id)
    return request_id
