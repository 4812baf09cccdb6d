"""The documents that the relay answers with, as typed values."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

OPEN = "accepted"


@dataclass(frozen=True, kw_only=True, slots=True)
class Answer:
    """The target's answer.

    Args:
        status: the HTTP status of the target.
        headers: each name with the list of its values.
        body: a JSON value, a text, or bytes; None when the answer had no body.
        truncated: the answer was longer than the relay keeps.
    """

    status: int
    headers: Mapping[str, list[str]] = field(default_factory=dict)
    body: Any = None
    truncated: bool = False

    @classmethod
    def from_document(cls, document: Mapping[str, Any]) -> Answer:
        """Read the `answer` of a status; in a list that has only the HTTP status."""
        body = document.get("body")
        if "bodyBase64" in document:
            body = base64.b64decode(document["bodyBase64"])
        return cls(
            status=document["status"],
            headers=document.get("headers", {}),
            body=body,
            truncated=bool(document.get("truncated")),
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class RequestStatus:
    """What became of a request so far.

    Args:
        id: of the request, its Idempotency-Key.
        status: `accepted` while it is open, then `completed`, `failed`, `dead`, `cancelled` or
            `unknown`.
        answer: of the target, once it has answered for good.
        document: everything that the relay told, under the names of its OpenAPI document.
    """

    id: str
    status: str
    answer: Answer | None = None
    document: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def from_document(cls, document: Mapping[str, Any]) -> RequestStatus:
        answer = document.get("answer")
        return cls(
            id=document["id"],
            status=document["status"],
            answer=None if answer is None else Answer.from_document(answer),
            document=document,
        )

    @property
    def is_open(self) -> bool:
        """Whether an answer may still come."""
        return self.status == OPEN

    @property
    def why(self) -> str:
        """Say in one line why it ended, or what the last error was; empty when all is well."""
        if self.status == "failed" and self.answer is not None:
            return f"the target answered {self.answer.status}"
        reason = self.document.get("reason") or {}
        told = reason.get("detail") or reason.get("code") or self.document.get("lastError") or ""
        return told if isinstance(told, str) else json.dumps(told)


@dataclass(frozen=True, kw_only=True, slots=True)
class Page:
    """One page of a list.

    Args:
        requests: the newest first.
        total: how many there are on all pages.
        cursor: of the next page; None on the last one.
    """

    requests: tuple[RequestStatus, ...]
    total: int
    cursor: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Batch:
    """How far `Relay.retry_all` has come.

    Args:
        retried: how many were sent again so far.
        skipped: how many cannot be.
        left: about how many come after these.
        cursor: where to go on; None at the end.
    """

    retried: int
    skipped: int
    left: int
    cursor: str | None = None
