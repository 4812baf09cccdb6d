"""Tell what became of requests, and publish a dead one again."""

from __future__ import annotations

from urllib.parse import parse_qs, quote

from relay import logs
from relay.auth import Signatures
from relay.broker import Broker
from relay.events import JSON
from relay.http import Request, Response
from relay.jsons import dumps
from relay.problems import Conflict, InvalidRequest, NotFound, RelayError
from relay.records import ACCEPTED, DEAD, Record, Records

# How soon it is worth asking again about a request that is open.
_ASK_AGAIN_S = 1


def status_url(request_id: str) -> str:
    """Return where a request's status is found, relative to the service."""
    return f"/async/{quote(request_id, safe='')}"


def status_answer(status: int, record: Record, *headers: tuple[str, str]) -> Response:
    """Answer with what is known; while a request is open, say when to ask again."""
    url = status_url(record.id)
    document = record.document() | {"statusURL": url}
    if record.status == ACCEPTED:
        headers += (("Retry-After", str(_ASK_AGAIN_S)),)
    if status == 202:
        headers += (("Location", url),)
    body = dumps(document)
    return Response.whole(status, body, content_type=JSON, headers=headers)


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
        requests = [
            record.document() | {"statusURL": status_url(record.id)}
            for record in self._records.newest_dead()
        ]
        body = dumps({"requests": requests})
        return Response.whole(200, body, content_type=JSON)

    def read(self, request: Request) -> Response:
        """Answer `GET /async/{id}`."""
        return status_answer(200, self._known(_id_in(request.path)))

    def retry(self, request: Request) -> Response:
        """Answer `POST /async/{id}/retry`: publish the event of a dead request under its id."""
        request_id = _id_in(request.path)
        record = self._known(request_id)
        event = self._records.exhume(record) if record.status == DEAD else None
        if event is None:
            raise Conflict(f"{request_id} is not dead; only a dead request can be sent again")
        try:
            self._broker.publish(self._signatures.stamp(event))
        except RelayError:
            self._records.rebury(request_id)
            raise
        return status_answer(202, self._known(request_id))

    def _known(self, request_id: str) -> Record:
        logs.note(id=request_id)
        record = self._records.read(request_id)
        if record is None:
            raise NotFound("there is no request with this id, or it was too long ago")
        return record


def _id_in(path: str) -> str:
    return path.split("/")[2]
