"""Ends the parts of the stack when their supervisor can no longer do so itself.

The supervisor writes the process group of every part that it starts to this program's stdin, a line
each. The end of the input, without a word, says that it has been killed.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys


def main() -> None:
    """Wait for the end of stdin, then kill the process groups."""
    # A Ctrl-C in the terminal, or its end, is the supervisor's to handle.
    for ignored in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(ignored, signal.SIG_IGN)
    for group in [int(line) for line in sys.stdin]:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(group, signal.SIGKILL)


if __name__ == "__main__":
    main()
