"""A target's answer as JSON can carry it, in result events and in what callers are told."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from http import HTTPStatus
from typing import Final, TypeGuard

from relay.bodies import from_readable, readable
from relay.events import written_bytes
from relay.headers import Headers, end_to_end, find
from relay.http import Response
from relay.jsons import BOM, MAX_DEPTH, JSONError, Number, Object, Raw, decode_base64, dumps
from relay.problems import InvalidRequest

# A delivered callback, and the event that brings it, are nested around an answer.
_DEEPEST: Final = MAX_DEPTH - 8
# They say of a body that which it was as the target sent it.
_DESCRIBING: Final = frozenset({"etag", "content-digest", "repr-digest", "digest", "content-md5"})


@dataclass(frozen=True, kw_only=True, slots=True)
class Result:
    """What a target has answered.

    Args:
        status: the HTTP status.
        headers: end to end; each byte of a value is a character.
        body: as it was sent, as far as it is kept.
        reason: why something of it is missing; None when it is whole.
        body_bytes: how long the body was, when it was cut here; else Content-Length may say it.
        headers_bytes: how long the headers were, when some are missing.
    """

    status: int
    headers: Headers
    body: bytes = b""
    reason: str | None = None
    body_bytes: int | None = None
    headers_bytes: int | None = None

    @classmethod
    def from_json(cls, raw: bytes) -> Result:
        """Read the data of a result event, without what stands beside the answer."""
        return parse_result(Object.from_json(raw, "data"))[0]

    def to_json(self, limit_bytes: int) -> bytes:
        """Write the data of a result event, shortened until it fits: the body, then the headers."""
        written = self._written(self._readable(self.body))
        if len(written) <= limit_bytes:
            return written
        reason = f"the event would be larger than its limit by {len(written) - limit_bytes} bytes"
        known_bytes = len(self.body) if self.reason is None else self.body_bytes
        short = replace(self, body=b"", reason=reason, body_bytes=known_bytes)
        room = limit_bytes - len(short._written())
        if room >= 0:
            return short._written(self._body_within(room))
        bare = replace(short, headers=(), headers_bytes=written_bytes(self.headers))
        room = limit_bytes - len(bare._written())
        return replace(bare, headers=_headers_within(self.headers, room))._written()

    def _written(self, body: dict[str, object] | None = None) -> bytes:
        document: dict[str, object] = {"status": self.status, **_headers_document(self.headers)}
        if self.reason is not None:
            document |= {"truncated": True, "truncatedReason": self.reason}
        if self.body_bytes is not None:
            document["originalBodyBytes"] = self.body_bytes
        if self.headers_bytes is not None:
            document["originalHeadersBytes"] = self.headers_bytes
        return b"%b,%b" % (dumps(document)[:-1], dumps(body)[1:]) if body else dumps(document)

    def _readable(self, body: bytes, *, is_cut: bool = False) -> dict[str, object]:
        return readable(
            body,
            find(self.headers, "Content-Type") or "",
            is_whole=self.reason is None and not is_cut,
            is_exact=True,
            max_depth=_DEEPEST,
        )

    def _body_within(self, room: int) -> dict[str, object]:
        """Cut the body so that what it adds to a document has at most `room` bytes."""
        size = len(self.body)
        while size > 0:
            body = self._readable(self.body[:size], is_cut=True)
            written = len(dumps(body))
            if written <= room:
                return body
            size = min(size - 1, size * room // written)
        return {}

    def to_response(self) -> Response:
        """Give a caller the target's answer as /sync would have given it.

        Headers that describe the target's body are left out if this is not that body.
        """
        length = find(self.headers, "Content-Length")
        changed = self.reason is not None or length not in (None, str(len(self.body)))
        dropped = {"content-length", *(_DESCRIBING if changed else ())}
        headers = tuple(
            (name, value) for name, value in end_to_end(self.headers) if name.lower() not in dropped
        )
        framing = (("Content-Length", str(len(self.body))),)
        return Response(status=self.status, headers=headers + framing, body=(self.body,))


def parse_result(data: Object) -> tuple[Result, bytes, object]:
    """Read the data of a result event, which without a secret anybody may have sent.

    Returns:
        the answer; its JSON; and the callback that stands beside it, for `parse_callback`, or None.

    Raises:
        InvalidRequest: it is nothing that `with_callback` writes.
    """
    members = data.members
    status = _size_from(members, "status") or 0
    if not HTTPStatus.OK <= status < 600:
        raise InvalidRequest("data.status", "must be a number from 200 to 599")
    headers = _headers_from(members.get("headers"), members.get("latin1Headers", []))
    reason = str(members.get("truncatedReason", "")) if members.get("truncated") else None
    result = Result(
        status=status,
        headers=headers,
        body=_body_from(data, find(headers, "Content-Type") or "", is_whole=reason is None),
        reason=reason,
        body_bytes=_size_from(members, "originalBodyBytes"),
        headers_bytes=_size_from(members, "originalHeadersBytes"),
    )
    if "callback" not in members:
        return result, data.raw.removeprefix(BOM).strip(), None
    texts = {name: Raw(text.encode("utf-8")) for name, text in data.texts.items()}
    del texts["callback"]
    return result, dumps(texts), members["callback"]


def with_callback(answer: bytes, callback: str | None, limit_bytes: int) -> bytes:
    """Write the data of a result event whose request asks for a callback, which is never cut.

    Args:
        answer: as `Result.to_json` has written it.
        callback: JSON.
    """
    beside = b"" if callback is None else b',"callback":' + callback.encode("utf-8")
    if len(answer) + len(beside) > limit_bytes:
        answer = Result.from_json(answer).to_json(limit_bytes - len(beside))
    return answer[:-1] + beside + b"}"


def _headers_document(headers: Headers) -> dict[str, object]:
    """Write headers as text, by UTF-8, or by Latin-1 those of the names in `latin1Headers`."""
    listed: dict[str, list[str]] = {}
    for name, value in headers:
        listed.setdefault(name, []).append(value)
    latin1 = []
    for name, values in listed.items():
        try:
            listed[name] = [value.encode("latin-1").decode("utf-8") for value in values]
        except UnicodeDecodeError:
            latin1.append(name)
    return {"headers": listed} | ({"latin1Headers": latin1} if latin1 else {})


def _headers_from(listed: object, latin1: object) -> Headers:
    if not isinstance(listed, dict) or not all(map(_is_list_of_text, listed.values())):
        raise InvalidRequest("data.headers", "must be an object of lists of strings")
    if not _is_list_of_text(latin1):
        raise InvalidRequest("data.latin1Headers", "must be a list of strings")
    names = frozenset(latin1)
    try:
        return tuple(
            (name, value.encode("latin-1" if name in names else "utf-8").decode("latin-1"))
            for name, values in listed.items()
            for value in values
        )
    except UnicodeEncodeError as exc:
        raise InvalidRequest("data.headers", "must be text that a header can hold") from exc


def _headers_within(headers: Headers, room: int) -> Headers:
    """Keep as many headers as fit into a document, the short ones first."""
    kept = set()
    for place in sorted(range(len(headers)), key=lambda place: len(headers[place][1])):
        # Each by itself takes no less than it does among others.
        room -= len(dumps(_headers_document((headers[place],))))
        if room < 0:
            break
        kept.add(place)
    return tuple(header for place, header in enumerate(headers) if place in kept)


def _body_from(data: Object, content_type: str, *, is_whole: bool) -> bytes:
    members = data.members
    if "bodyBase64" in members:
        try:
            return decode_base64(members["bodyBase64"])
        except JSONError as exc:
            raise InvalidRequest("data.bodyBase64", str(exc)) from exc
    if "body" not in members:
        return b""
    try:
        return from_readable(members["body"], data.texts["body"], content_type, is_whole=is_whole)
    except ValueError as exc:
        raise InvalidRequest("data.body", "must be text that its Content-Type can hold") from exc


def _size_from(members: Mapping[str, object], name: str) -> int | None:
    size = members.get(name)
    return int(size.text) if isinstance(size, Number) and size.text.isdigit() else None


def _is_list_of_text(value: object) -> TypeGuard[list[str]]:
    return isinstance(value, list) and all(isinstance(item, str) for item in value)
