"""A target's answer as JSON can carry it, in result events and in what callers are told."""

from __future__ import annotations

import base64
import json
from http import HTTPStatus
from typing import cast

from relay import jsons
from relay.connections import Answer
from relay.headers import end_to_end, find
from relay.http import Response
from relay.jsons import is_json, json_type
from relay.problems import InvalidRequest

_FRAMING = ("content-length",)


def result_of(answer: Answer, limit_bytes: int, *, or_less: bool) -> dict[str, object]:
    """Read a target's answer into the data of a result event.

    Args:
        answer: its body is read, and its connection given back.
        limit_bytes: how much of the body is kept.
        or_less: if it breaks off, keep what arrived, instead of raising.

    Returns:
        `status`, `headers` (name to the list of its values), and the body as in `readable`; if that
        is not all of it, `truncated` is true, and `truncatedReason` says why.

    Raises:
        TargetFailed, DeadlineExceeded: the answer is broken, and `or_less` is false.
    """
    raw, reason = answer.read(limit_bytes, or_less=or_less)
    headers: dict[str, list[str]] = {}
    for name, value in answer.headers:
        headers.setdefault(name, []).append(value)
    result: dict[str, object] = {"status": answer.status, "headers": headers}
    if reason is not None:
        result |= {"truncated": True, "truncatedReason": reason}
    content_type = find(answer.headers, "Content-Type") or ""
    return result | readable(raw, content_type, truncated=reason is not None)


def parse_result(raw: bytes) -> dict[str, object]:
    """Read the data of a result event, which without `CALLBACK_SECRET` anybody may have sent.

    Raises:
        InvalidRequest: it is nothing that `result_of` makes.
    """
    try:
        result = jsons.loads(raw)
    except jsons.JSONError as exc:
        raise InvalidRequest("data", str(exc)) from exc
    if not isinstance(result, dict):
        raise InvalidRequest("data", f"must be a result, not {json_type(result)}")
    status = result.get("status")
    if not isinstance(status, int) or not HTTPStatus.OK <= status < 600:
        raise InvalidRequest("data.status", "must be a number from 200 to 599")
    headers = result.get("headers")
    if not isinstance(headers, dict) or not all(map(_is_list_of_text, headers.values())):
        raise InvalidRequest("data.headers", "must be an object of lists of strings")
    if "bodyBase64" in result:
        try:
            jsons.decode_base64(result["bodyBase64"])
        except jsons.JSONError as exc:
            raise InvalidRequest("data.bodyBase64", str(exc)) from exc
    return result


def _is_list_of_text(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(item, str) for item in value)


def readable(raw: bytes, content_type: str, *, truncated: bool = False) -> dict[str, object]:
    """Write bytes into JSON so that people can read them and nothing is lost.

    Returns:
        JSON as the value of `body`, text as a string in `body`, anything else as `bodyBase64`,
        also what calls itself JSON and is not; nothing for no bytes.
    """
    if not raw:
        return {}
    try:
        if is_json(content_type) and not truncated:
            return {"body": jsons.loads(raw)}
        # A cut may go through the middle of a character; what is before it is still text.
        return {"body": _text_before_cut(raw) if truncated else raw.decode("utf-8")}
    except ValueError:
        return {"bodyBase64": base64.b64encode(raw).decode("ascii")}


def _text_before_cut(raw: bytes) -> str:
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as exc:
        if exc.reason != "unexpected end of data":
            raise
        return raw[: exc.start].decode("utf-8")


def as_response(result: dict[str, object]) -> Response:
    """Give a caller the target's answer out of a result, as /sync would have given it.

    JSON is written anew, so it may differ in white space.
    """
    listed = cast("dict[str, list[str]]", result["headers"])
    headers = tuple(
        (name, value)
        for name, value in end_to_end(
            (name, each) for name, values in listed.items() for each in values
        )
        if name.lower() not in _FRAMING
    )
    body = b""
    if "bodyBase64" in result:
        body = base64.b64decode(cast("str", result["bodyBase64"]))
    elif "body" in result:
        value = result["body"]
        if isinstance(value, str) and not is_json(find(headers, "Content-Type") or ""):
            body = value.encode("utf-8", "replace")  # JSON may hold a lone surrogate
        else:
            body = json.dumps(value, separators=(",", ":")).encode("ascii")
    length = (("Content-Length", str(len(body))),)
    return Response(status=cast("int", result["status"]), headers=headers + length, body=(body,))
