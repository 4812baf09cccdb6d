"""The Prefer header (RFC 7240), as far as the relay knows its preferences."""

from __future__ import annotations

import re
from dataclasses import dataclass

# Longer than this nobody should hold a connection open; /async is there for it.
MAX_WAIT_S = 120

_PREFERENCE = re.compile(r"\s*([A-Za-z-]+)\s*(?:=\s*\"?([^\";,]*)\"?\s*)?(?:;[^,]*)?")


@dataclass(frozen=True, kw_only=True, slots=True)
class Preferences:
    """What a caller would like.

    Args:
        wait_s: answer within this time if there is an answer (section 4.3); None for no wish.
        respond_async: answer 202 rather than wait for the answer (section 4.1).
    """

    wait_s: int | None = None
    respond_async: bool = False

    @classmethod
    def from_header(cls, value: str | None) -> Preferences:
        """Read the header; what is not understood is ignored, and of two the first counts."""
        preferences: dict[str, str] = {}
        for part in (value or "").split(","):
            match = _PREFERENCE.fullmatch(part)
            if match is not None:
                preferences.setdefault(match[1].lower(), (match[2] or "").strip())
        wait = preferences.get("wait", "")
        return cls(
            wait_s=min(int(wait), MAX_WAIT_S) if re.fullmatch(r"[0-9]{1,6}", wait) else None,
            respond_async="respond-async" in preferences,
        )
