"""The terminal that all parts of the stack share; their JSON log lines in a form for people."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Mapping
from contextlib import suppress
from typing import TextIO

from local.terminal import printable

_RED, _GREEN, _YELLOW, _CYAN, _DIM = "31", "32", "33", "36", "2"
_SEVERITIES = {"DEBUG": _DIM, "INFO": _GREEN, "WARNING": _YELLOW, "ERROR": _RED, "CRITICAL": _RED}
_STATUS = re.compile(r"[2-5][0-9]{2}\b", re.ASCII)
_PART_COLORS = (36, 33, 32, 35, 34, 31)
# By the first digit.
_STATUSES = {"2": _GREEN, "3": _CYAN, "4": _YELLOW, "5": _RED}
_STACK_TRACE = "stack_trace"
# These have their own places in the line; the message of a request or a delivery says the others.
_PLACED = frozenset({"time", "severity", "message", "duration_ms"})
_IN_MESSAGE = frozenset({"method", "route", "type", "status", "trigger", "to", "result", "next"})


class Console:
    """Writes each line after the name of its part, coloured on a TTY."""

    def __init__(self, stream: TextIO, *, is_colored: bool) -> None:
        self._stream = stream
        self._is_colored = is_colored
        self._prefixes: dict[str, str] = {}
        self._lock = threading.Lock()

    @classmethod
    def on(cls, stream: TextIO, env: Mapping[str, str]) -> Console:
        """Write to a stream, coloured where that is a terminal and NO_COLOR is not set."""
        return cls(stream, is_colored=stream.isatty() and not env.get("NO_COLOR"))

    def add(self, name: str, width: int) -> None:
        """Choose how the lines of a part begin."""
        prefix = f"{name:<{width}} |"
        if self._is_colored:
            color = _PART_COLORS[len(self._prefixes) % len(_PART_COLORS)]
            prefix = f"\x1b[{color}m{prefix}\x1b[0m"
        self._prefixes[name] = prefix

    def write_lines(self, name: str, lines: list[str]) -> None:
        """Write lines of a part, together."""
        prefix = self._prefixes[name]
        shown = (text for line in lines for text in readable(line, is_colored=self._is_colored))
        self.write("".join(f"{prefix} {text}\n" for text in shown))

    def write(self, text: str) -> None:
        # The reader may be gone, at a closed terminal or the end of a pipe; the parts must be
        # stopped all the same.
        with self._lock, suppress(OSError):
            self._stream.write(text)
            self._stream.flush()


def readable(line: str, *, is_colored: bool) -> list[str]:
    """Render a line that a part has printed; a traceback makes it several.

    JSON as `relay.logs` writes it is laid out; any other line stays as it is. What could control
    the terminal is escaped in both.
    """
    read = _read(line)
    if read is None:
        return [printable(line)]
    trace = read.pop(_STACK_TRACE, "").splitlines()
    fields = {printable(name): printable(value) for name, value in read.items()}

    def colored(text: str, color: str) -> str:
        return f"\x1b[{color}m{text}\x1b[0m" if is_colored else text

    message = fields["message"]
    status = _STATUS.match(fields.get("status") or fields.get("result", ""))
    if status is not None:
        shown = colored(status[0], _STATUSES[status[0][0]])
        message = message.replace(f" {status[0]}", f" {shown}", 1)
    time_of_day = fields["time"].partition("T")[2]
    severity = colored(f"{fields['severity']:<7}", _SEVERITIES[fields["severity"]])
    parts = [time_of_day, severity, message]
    if "duration_ms" in fields:
        parts.append(f"{fields['duration_ms']} ms")
    others = [
        f"{name}={value}"
        for name, value in fields.items()
        if name not in _PLACED and name not in _IN_MESSAGE
    ]
    if others:
        parts.append(colored(" ".join(others), _DIM))
    return ["  ".join(parts), *(f"  {printable(each)}" for each in trace)]


def _read(line: str) -> dict[str, str] | None:
    """Read the fields of a log line as text; None for any other line."""
    if not line.startswith("{"):
        return None
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if any(isinstance(each, dict | list) for each in value.values()):
        return None
    fields = {
        name: each if isinstance(each, str) else json.dumps(each) for name, each in value.items()
    }
    is_ours = {"time", "message"} <= fields.keys() and fields.get("severity") in _SEVERITIES
    return fields if is_ours else None
