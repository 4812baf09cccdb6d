"""The relay's log lines, JSON for machines, as people like to read them."""

from __future__ import annotations

import json
import re

from local.terminal import printable

_RED, _GREEN, _YELLOW, _CYAN, _DIM = "31", "32", "33", "36", "2"
_SEVERITIES = {
    "DEBUG": _DIM,
    "INFO": _GREEN,
    "WARNING": _YELLOW,
    "ERROR": _RED,
    "CRITICAL": _RED,
}
_STATUS = re.compile(r"[2-5][0-9]{2}\b", re.ASCII)
# By the first digit.
_STATUSES = {"2": _GREEN, "3": _CYAN, "4": _YELLOW, "5": _RED}
_STACK_TRACE = "stack_trace"
# What has its own place in the line, and what the message of a request or a delivery says already.
_PLACED = frozenset({"time", "severity", "message", "duration_ms"})
_IN_MESSAGE = frozenset({"method", "route", "type", "status", "trigger", "to", "result", "next"})


def readable(line: str, *, is_colored: bool) -> list[str]:
    """Render a line that a part has printed.

    Args:
        line: JSON as `relay.logs` writes it, or anything else, which stays as it is. What could
            control the terminal is escaped in both.
        is_colored: the terminal is to show colours.

    Returns:
        One line, and those of a traceback.
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
    """Read the fields of a log line as text; None when it is no log line."""
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
