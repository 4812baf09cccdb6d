"""Print 500-sample-api-configmap.yaml, the manifest that carries local/sample_api.py."""

from __future__ import annotations

import textwrap
from pathlib import Path

_HEADER = """\
# Written by `./dev vendor` from local/sample_api.py; edit that.
apiVersion: v1
kind: ConfigMap
metadata:
  name: sample-api
data:
  sample_api.py: |
"""


def render(source: str) -> str:
    """Return the manifest, in which the file is a literal block.

    Args:
        source: the text of local/sample_api.py.

    Raises:
        ValueError: a literal block would not give the text back unchanged.
    """
    if not source.endswith("\n") or source.endswith("\n\n") or source.startswith((" ", "\n")):
        raise ValueError("must start with its first word and end with one newline")
    return _HEADER + textwrap.indent(source, "    ")


if __name__ == "__main__":
    sample_api = Path(__file__).parents[1] / "local" / "sample_api.py"
    print(render(sample_api.read_text(encoding="utf-8")), end="")
