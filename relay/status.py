"""Tell what became of a request, cancel it, or publish it again."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Final
from urllib.parse import quote

from relay import logs
from relay.auth import Signatures
from relay.broker import Broker
from relay.events import DEAD, JSON, RESULTS
from relay.forwarded import base_url
from relay.headers import Headers, Preferences
from relay.http import Request, Response
from relay.jsons import Object, Raw, dumps
from relay.lifecycle import ACCEPTED, UNKNOWN
from relay.logs import rfc3339
from relay.problems import Conflict, NotFound
from relay.records import Known, Records, callback_id
from relay.settings import Settings
from relay.store import CANCELLED
from relay.waiting import Waiting

# How soon it is worth asking again about a request that is open.
_ASK_AGAIN_S: Final = 1

_ADVICE: Final = (
    "nobody knows whether this request is on its way; send it again with the same Idempotency-Key"
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Accepted:
    """A request that the Broker has.

    Args:
        known: None when the store was unavailable, and so nothing is noted.
    """

    id: str
    known: Known | None


def accepted_answer(
    accepted: Accepted, base: str, headers: Headers = (), **members: str
) -> Response:
    """Answer the caller of a request that the Broker has, now or from an earlier call.

    Args:
        base: see `describe`.
        members: to be told besides.
    """
    url = _status_url(base, accepted.id)
    known = accepted.known
    status = ACCEPTED if known is None or known.status == UNKNOWN else known.status
    document: dict[str, object] = {"id": accepted.id, "status": status, "statusURL": url, **members}
    if known is None:
        document["recorded"] = False
    return _answer(202, status, document, (*headers, ("Location", url)))


def describe(known: Known, base: str, *, is_listed: bool = False) -> dict[str, object]:
    """Return what a caller is told; nothing of the request itself, which holds secrets.

    Args:
        base: what the paths of the relay begin with; empty to leave them relative.
        is_listed: it is one of many, of whose answers only the status is told.
    """
    record = known.record
    document: dict[str, object] = {"id": record.id, "status": known.status}
    if record.target is not None:
        document["target"] = record.target
    if record.accepted_ms is not None:
        document["acceptedAt"] = rfc3339(record.accepted_ms / 1000)
    if record.attempts:
        document["attempts"] = record.attempts
    if record.error is not None:
        document["lastError"] = record.error
    if record.next_attempt_ms is not None and known.status == ACCEPTED:
        document["nextAttemptAt"] = rfc3339(record.next_attempt_ms / 1000)
    if known.status in (*RESULTS, DEAD, CANCELLED) and record.finished_ms is not None:
        document["finishedAt"] = rfc3339(record.finished_ms / 1000)
    if known.answer is not None:
        document["answer"] = Raw(known.answer)
    elif known.status in RESULTS and is_listed:
        document["answer"] = {"status": record.answer_status}
    elif known.status in RESULTS:
        document["answerDropped"] = True
    if known.status == DEAD and record.reason is not None:
        document["reason"] = json.loads(record.reason)
    if known.callbacks:
        document["callbacks"] = [Raw(callback) for callback in known.callbacks]
    if known.callbacks_left_out:
        document["callbacksLeftOut"] = known.callbacks_left_out
    document["expiresAt"] = rfc3339(record.expires_ms / 1000)
    document["statusURL"] = _status_url(base, record.id)
    if known.status == UNKNOWN:
        document["advice"] = _ADVICE
    return document


class Status:
    """Answer questions about one request.

    Args:
        settings: `state_url` counts.
        records: where it is read.
        broker: where it is published again.
        signatures: give it a MAC; the key of the one it had may be gone.
        waiting: the places of those who wait for its end.
    """

    def __init__(
        self,
        settings: Settings,
        records: Records,
        broker: Broker,
        signatures: Signatures,
        waiting: Waiting,
    ) -> None:
        self._is_shared = settings.state_url != "memory://"
        self._records = records
        self._broker = broker
        self._signatures = signatures
        self._waiting = waiting

    def read(self, request: Request) -> Response:
        """Answer `GET /async/{id}`, with `Prefer: wait=N` when the request is no longer open."""
        request_id = _id_in(request.path)
        wait_s = Preferences.from_header(request.headers.get("prefer")).wait_s
        told: dict[str, str] = {}
        headers: Headers = ()
        if wait_s is None:
            known = self._records.read(request_id)
        else:
            with self._waiting.place() as has_place:
                known = self._records.wait(request_id, wait_s if has_place else 0, request.caller)
            if has_place:
                headers = (("Preference-Applied", f"wait={wait_s}"),)
            elif known is not None and known.status == ACCEPTED:
                told = self._waiting.told()
        if known is None:
            raise _no_such()
        base = base_url(request.headers)
        document = describe(known, base) | self._callback(known, base) | told
        return _answer(200, known.status, document, headers)

    def cancel(self, request: Request) -> Response:
        """Answer `DELETE /async/{id}`."""
        request_id = _id_in(request.path)
        known = self._records.read(request_id)
        if known is not None and not self._is_shared:
            raise Conflict(
                "nothing can be cancelled: Receive looks into the state before it calls, and"
                " STATE_URL=memory:// is none that it shares"
            )
        known = known and self._records.cancel(request_id)
        if known is None:
            raise _no_such()
        return _answer(200, known.status, describe(known, base_url(request.headers)), ())

    def retry(self, request: Request) -> Response:
        """Answer `POST /async/{id}/retry`."""
        request_id = _id_in(request.path)
        known = self.publish_again(request_id)
        return accepted_answer(Accepted(id=request_id, known=known), base_url(request.headers))

    def publish_again(self, request_id: str) -> Known:
        """Publish the event of a request that is over, under its id.

        Raises:
            NotFound: there is no such request.
            Conflict: see `Records.retry`.
            BrokerUnavailable, DeadlineExceeded, StateUnavailable: it stays as it is.
        """
        retried = self._records.retry(request_id)
        if retried is None:
            raise _no_such()
        known, event = retried
        with self._records.publishing(known.record):
            callback = Object.within(event.data).members.get("callback")
            self._broker.publish(self._signatures.stamp(event, callback))
        return known

    def _callback(self, known: Known, base: str) -> dict[str, object]:
        """Tell what became of the caller's own callback, which is a request, too."""
        record = known.record
        if known.status not in (*RESULTS, DEAD):
            return {}
        callback = self._records.read(callback_id(record.id, known.status, record.round))
        return {} if callback is None else {"callback": describe(callback, base, is_listed=True)}


def _answer(
    status: int, status_of_request: str, document: dict[str, object], headers: Headers
) -> Response:
    """Answer with what is known; while a request is open, say when to ask again."""
    if status_of_request == ACCEPTED:
        headers += (("Retry-After", str(_ASK_AGAIN_S)),)
    return Response.whole(status, dumps(document), content_type=JSON, headers=headers)


def _no_such() -> NotFound:
    return NotFound("there is no request with this id, or it was too long ago")


def _status_url(base: str, request_id: str) -> str:
    return f"{base}/async/{quote(request_id, safe='')}"


def _id_in(path: str) -> str:
    request_id = path.split("/")[2]
    logs.note(id=request_id)
    return request_id
