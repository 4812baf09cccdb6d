"""Make untrusted text harmless for a terminal."""

from __future__ import annotations


def printable(text: str) -> str:
    """Escape what could move the cursor, hide text or reorder it, line feeds too; tabs stay."""
    return "".join(c if c.isprintable() or c == "\t" else _escape(c) for c in text)


def _escape(character: str) -> str:
    return character.encode("unicode_escape", "surrogatepass").decode("ascii")
