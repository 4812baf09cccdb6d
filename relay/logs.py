"""Log one line of JSON for each request or delivery, and one for each event worth noting.

The lines go through Python's `logging`. Their fields have the names that Cloud Logging and
OpenTelemetry use. No line holds a header, a body, a query or the path of a target, since any of
these may be secret.
"""

from __future__ import annotations

import json
import logging
import os
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import datetime, timezone

from relay.operations import REQUEST, Carried, Fact, Operation
from relay.problems import RelayError

# The longest text from outside that a field holds. containerd splits a line at 16 KiB, and one
# character may take twelve bytes.
_MAX_CHARACTERS = 256
_STDERR = 2

log = logging.getLogger("relay")


@dataclass(kw_only=True, slots=True)
class _Line:
    """The line of a request or delivery that is still being handled."""

    request: Operation
    level: int
    detail: str = ""
    error: BaseException | None = None


# A thread serves one request at a time, from its first byte to the last of its answer.
_current: ContextVar[_Line | None] = ContextVar("line", default=None)


def begin(method: str, *, level: int = logging.INFO, kind: str = REQUEST) -> None:
    """Begin a request: until `finish`, each line that this thread logs carries the noted fields.

    Args:
        method: of the request.
        level: of its line, unless `explain` raises it.
        kind: see `Operation`.
    """
    request = Operation(kind, {"method": method})
    _current.set(_Line(request=request, level=level))
    request.begin()


def join(trace: Carried) -> Carried:
    """Make the current request part of a trace; return the headers that go along from here."""
    line = _current.get()
    return trace if line is None else line.request.join(trace)


def noted(name: str) -> Fact | None:
    """Return a field of the current request."""
    line = _current.get()
    return None if line is None else line.request.facts.get(name)


def note(**fields: Fact | None) -> None:
    """Note fields for the lines of the current request; a field that is None is left out."""
    line = _current.get()
    if line is None:
        return
    for name, value in fields.items():
        if isinstance(value, str):
            line.request.facts[name] = value[:_MAX_CHARACTERS]
        elif value is not None:
            line.request.facts[name] = value


def explain(detail: str, level: int, *, error: BaseException | None = None) -> None:
    """Say why the current request ends as it does.

    Args:
        detail: the reason in one line, without anything secret.
        level: the lowest level of the request's line.
        error: a defect of the relay, whose traceback goes into the line.
    """
    line = _current.get()
    if line is None:
        return
    line.detail = detail
    line.level = max(line.level, level)
    line.error = error or line.error


def refused(error: RelayError) -> None:
    """Say why the current request is refused; a caller's mistake does not warn the operator."""
    explain(error.detail, logging.INFO if error.status < 500 else logging.WARNING)


def finish(status: int) -> None:
    """Write the line of the current request, once its answer has been sent."""
    line = _current.get()
    if line is None:
        return
    fields = line.request.facts
    fields["status"] = status
    line.request.error = line.error
    line.request.end()
    if log.isEnabledFor(line.level):
        what = fields.get("type") or f"{fields['method']} {fields.get('route', '')}".rstrip()
        why = f": {line.detail[:_MAX_CHARACTERS]}" if line.detail else ""
        fields["duration_ms"] = round(line.request.duration_s * 1000, 1)
        error = line.error
        # log.log would look up the calling line of code, which costs as much as all the rest.
        record = log.makeRecord(
            *(log.name, line.level, __file__, 0, f"{what} {status}{why}", ()),
            exc_info=None if error is None else (type(error), error, error.__traceback__),
        )
        log.handle(record)
    _current.set(None)


class JSONHandler(logging.Handler):
    """Write each record to stderr as one line of JSON, in one system call and without a lock.

    The kernel keeps such writes apart, and waiting for a lock costs a thread switch.
    """

    def handle(self, record: logging.LogRecord) -> bool:
        """Write the record, without the lock and filters of other handlers."""
        self.emit(record)
        return True

    def emit(self, record: logging.LogRecord) -> None:
        """Write the record; a failure must not end the request that is being logged."""
        try:
            rest = (self.format(record) + "\n").encode("ascii")
            while rest:
                rest = rest[os.write(_STDERR, rest) :]
        except Exception:
            self.handleError(record)

    def format(self, record: logging.LogRecord) -> str:
        """Format the record with the fields of the current request and `extra={"fields": …}`."""
        fields: dict[str, Fact] = {
            "time": rfc3339(record.created),
            "severity": record.levelname,
            "message": record.getMessage(),
        }
        line = _current.get()
        if line is not None:
            fields |= line.request.facts
        fields |= getattr(record, "fields", {})
        if record.exc_info:
            fields["stack_trace"] = logging.Formatter().formatException(record.exc_info)
        return json.dumps(fields)  # in visible ASCII: all else is escaped


def rfc3339(time_s: float) -> str:
    """Write a moment, in seconds since 1970, in UTC as RFC 3339 does, to the millisecond."""
    moment = datetime.fromtimestamp(time_s, timezone.utc)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
