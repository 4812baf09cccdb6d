"""Ends the processes of a supervisor that can no longer do so itself.

The supervisor (`local.process`) writes a line to this program's stdin for every process group that
it starts (`+123`), and for every one that it has ended (`-123`). The end of the input says that the
supervisor is gone.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys


def main() -> None:
    """Wait for the end of stdin, then kill the process groups that are left."""
    # The supervisor handles Ctrl-C and the end of the terminal.
    for ignored in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(ignored, signal.SIG_IGN)
    groups: set[int] = set()
    for line in sys.stdin:
        change = groups.add if line.startswith("+") else groups.discard
        change(int(line[1:]))
    for group in groups:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(group, signal.SIGKILL)


if __name__ == "__main__":
    main()
