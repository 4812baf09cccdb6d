"""Make of Graphviz's SVG a picture for documents: named, described, and marked with its source."""

from __future__ import annotations

import hashlib
import html
import re


def picture(dot: str, drawn: str) -> str:
    """Return the SVG that is kept.

    Args:
        dot: the source; lines in it that begin with `// title:` and `// desc:` name and describe
            the picture for those who do not see it.
        drawn: what Graphviz has made of it. What would differ from one version of Graphviz to the
            next, and its names of nodes, are left out.
    """
    drawn = drawn[drawn.index("<svg") :]
    drawn = re.sub(r"<!--.*?-->\n?|<title>.*?</title>\n?", "", drawn, flags=re.DOTALL)
    text = {
        name: html.escape(re.findall(rf"(?m)^// {name}: (.*)$", dot)[0], quote=False)
        for name in ("title", "desc")
    }
    named = '<svg role="img" aria-labelledby="title desc" '
    end = drawn.index(">") + 1
    return "\n".join(
        (
            source_mark(dot),
            drawn[:end].replace("<svg ", named),
            *(f'<{name} id="{name}">{value}</{name}>' for name, value in text.items()),
            drawn[end:].lstrip(),
        )
    )


def source_mark(dot: str) -> str:
    """Return the comment that says which text a picture was made from."""
    return f"<!-- Made by ./dev diagrams; sha256 of its source: {_digest(dot)} -->"


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8")).hexdigest()
