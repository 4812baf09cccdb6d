"""Events, requests and answers in full, for the page to fetch one when it is asked for."""

from __future__ import annotations

import json
from collections import OrderedDict
from contextlib import suppress
from typing import Final

from local.display.direct import Message
from local.display.event_form import render
from local.display.masking import masked
from local.terminal import printable
from relay.events import Event

MAX_BYTES: Final = 64 * 1024 * 1024

Content = Event | Message


class Contents:
    """The newest contents, bounded in bytes; each belongs to a request, by its number."""

    def __init__(self, max_bytes: int = MAX_BYTES) -> None:
        self._max_bytes = max_bytes
        self._bytes = 0
        self._count = 0
        self._kept: OrderedDict[int, tuple[int, Content]] = OrderedDict()

    def keep(self, request: int, content: Content) -> int:
        """Keep a content of a request and return its number; the oldest make room for it."""
        self._count += 1
        self._kept[self._count] = request, content
        self._bytes += len(body_of(content))
        while self._bytes > self._max_bytes:
            _, (_, oldest) = self._kept.popitem(last=False)
            self._bytes -= len(body_of(oldest))
        return self._count

    def get(self, number: int | None, request: int) -> Content | None:
        """Return a content of a request; None when it is no longer kept."""
        owner, content = self._kept.get(number or 0, (0, None))
        return content if owner == request else None

    def drop(self, numbers: list[int]) -> None:
        """Forget contents whose request is forgotten."""
        for number in numbers:
            if number in self._kept:
                self._bytes -= len(body_of(self._kept.pop(number)[1]))

    def search(self, text: str) -> set[int]:
        """Return the numbers of the requests in whose bodies a text stands, in any case."""
        wanted = text.lower().encode()
        return {request for request, each in self._kept.values() if wanted in body_of(each).lower()}


def document(content: Content, *, with_secrets: bool) -> dict[str, object]:
    """Return a content as the page shows it."""
    clean = masked(content)
    shown = content if with_secrets else clean
    text = render(shown) if isinstance(shown, Event) else _message(shown)
    return {"text": text, "has_secrets": clean is not content}


def body_of(content: Content) -> bytes:
    return content.data if isinstance(content, Event) else content.body


def _message(message: Message) -> str:
    head = [message.start_line, *(f"{name}: {value}" for name, value in message.headers)]
    try:
        body = message.body.decode()
    except UnicodeDecodeError:
        body = f"({len(message.body)} bytes that are no text)"
    with suppress(ValueError, RecursionError):
        body = json.dumps(json.loads(body), indent=2, ensure_ascii=False)
    cut = ["… (only the beginning is kept)"] if message.is_cut else []
    return "\n".join(printable(line) for line in [*head, "", *body.split("\n"), *cut])
