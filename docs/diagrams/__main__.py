"""The command: `python -m docs.diagrams` writes code.dot, and an SVG beside each .dot file."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

from docs.diagrams.imports import DiagramError, code_dot
from docs.diagrams.svg import picture

HERE = Path(__file__).parent


def main() -> None:
    """Write them, or say what is missing."""
    graphviz = shutil.which("dot")
    if graphviz is None:
        sys.exit("./dev diagrams needs Graphviz's dot; Debian and Ubuntu: apt-get install graphviz")
    try:
        code = code_dot(HERE.parents[1])
    except DiagramError as exc:
        sys.exit(str(exc))
    (HERE / "code.dot").write_text(code, encoding="utf-8")
    for source in sorted(HERE.glob("*.dot")):
        dot = source.read_text(encoding="utf-8")
        drawn = subprocess.run(  # noqa: S603
            [graphviz, "-Tsvg"], input=dot, capture_output=True, check=True, encoding="utf-8"
        ).stdout
        source.with_suffix(".svg").write_text(picture(dot, drawn), encoding="utf-8")


if __name__ == "__main__":
    main()
