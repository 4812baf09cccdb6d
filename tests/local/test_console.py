"""The console shows log lines as people like to read them, and lets nothing hostile through."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import subprocess

import pytest

from local.console import readable
from tests.support.processes import REPOSITORY, python

REQUEST = {
    "time": "2026-11-23T23:59:01.123Z",
    "severity": "INFO",
    "message": "POST /sync 200",
    "method": "POST",
    "route": "/sync",
    "target": "localhost:30000",
    "target_status": 200,
    "status": 200,
    "duration_ms": 5.3,
}
DELIVERY = {
    "time": "2026-11-23T23:59:01.123Z",
    "severity": "INFO",
    "message": "dev.knative.samples.t2 to default/receive: 503, retry in 1 s",
    "trigger": "default/receive",
    "id": "order-7",
    "type": "dev.knative.samples.t2",
    "attempt": 1,
    "to": "subscriber",
    "result": "503",
    "duration_ms": 52.0,
    "next": "retry in 1 s",
}
DEFECT = {
    "time": "2026-11-23T23:59:01.123Z",
    "severity": "ERROR",
    "message": "GET / 500: the relay failed",
    "status": 500,
    "stack_trace": "Traceback:\n  one\x1b[2J\nKeyError: 1",
}

# Shows the line that it is given as a part of the stack would.
CONSOLE = """
import os, sys
from local.console import Console
console = Console.on(sys.stdout, os.environ)
console.add("send", 7)
console.write_lines("send", [sys.argv[1]])
"""


@pytest.mark.parametrize(
    ("fields", "plain"),
    [
        (
            REQUEST,
            [
                "23:59:01.123Z  INFO     POST /sync 200  5.3 ms"
                "  target=localhost:30000 target_status=200"
            ],
        ),
        (
            DELIVERY,
            [
                "23:59:01.123Z  INFO     dev.knative.samples.t2 to default/receive: 503,"
                " retry in 1 s  52.0 ms  id=order-7 attempt=1"
            ],
        ),
        (
            DEFECT,
            [
                "23:59:01.123Z  ERROR    GET / 500: the relay failed",
                "  Traceback:",
                "    one\\x1b[2J",
                "  KeyError: 1",
            ],
        ),
    ],
    ids=["request", "delivery", "defect"],
)
def test_a_log_line_without_colours(fields: dict[str, object], plain: list[str]) -> None:
    """Time of day, severity, what happened, how long it took, then what else is known."""
    assert readable(json.dumps(fields), is_colored=False) == plain


@pytest.mark.parametrize(
    ("fields", "colored"),
    [
        (
            REQUEST,
            "23:59:01.123Z  \x1b[32mINFO   \x1b[0m  POST /sync \x1b[32m200\x1b[0m  5.3 ms"
            "  \x1b[2mtarget=localhost:30000 target_status=200\x1b[0m",
        ),
        (
            DELIVERY,
            "23:59:01.123Z  \x1b[32mINFO   \x1b[0m  dev.knative.samples.t2 to default/receive:"
            " \x1b[31m503\x1b[0m, retry in 1 s  52.0 ms  \x1b[2mid=order-7 attempt=1\x1b[0m",
        ),
        (
            DEFECT,
            "23:59:01.123Z  \x1b[31mERROR  \x1b[0m  GET / \x1b[31m500\x1b[0m: the relay failed",
        ),
    ],
    ids=["request", "delivery", "defect"],
)
def test_a_log_line_with_colours(fields: dict[str, object], colored: str) -> None:
    """Severity and status have the colours that people expect; what else is known stands back."""
    assert readable(json.dumps(fields), is_colored=True)[0] == colored


@pytest.mark.parametrize(
    "line",
    [
        "gunicorn: a plain line",
        "Traceback (most recent call last):",
        '{"time": "half a line',
        "{" * 100_000,
        '{"no": "log line"}',
        json.dumps({**REQUEST, "severity": "LOUD"}),
        json.dumps({**REQUEST, "severity": ["INFO"]}),
        json.dumps({**REQUEST, "message": {}}),
    ],
    ids=["text", "traceback", "cut", "deep", "other", "severity", "list", "object"],
)
def test_any_other_line_stays_as_it_is(line: str) -> None:
    """What is no log line of the relay is shown all the same."""
    assert readable(line, is_colored=True) == [line]


@pytest.mark.parametrize("name", ["time", "message", "id", "stack_trace", "\x1b]0;name\x07"])
def test_a_hostile_value_cannot_control_the_terminal(name: str) -> None:
    """Escapes, line feeds and what reorders text are shown, not obeyed."""
    line = json.dumps({**REQUEST, name: "T\x1b[2J\r\u009b31m\u202e\nforged"})

    shown = readable(line, is_colored=False)

    assert all(text.isprintable() for text in shown)
    assert not any(text.startswith("forged") for text in shown)


def test_a_hostile_line_cannot_control_the_terminal() -> None:
    """The same for a line that is no JSON."""
    assert readable('{"\x1b[2J\r', is_colored=True) == ['{"\\x1b[2J\\r']


def on_a_terminal(env: dict[str, str]) -> str:
    """Show the line of a request on a pseudo-terminal."""
    ours, theirs = pty.openpty()
    subprocess.run(
        python("-c", CONSOLE, json.dumps(REQUEST)),
        cwd=REPOSITORY,
        env={**os.environ, **env},
        stdout=theirs,
        check=True,
    )
    os.close(theirs)
    written = b""
    with contextlib.suppress(OSError):  # Linux's way of saying that the other end is closed
        while piece := os.read(ours, 65536):
            written += piece
    os.close(ours)
    return written.decode()


def test_a_terminal_shows_colours() -> None:
    """As `./dev up` shows them."""
    assert "POST /sync \x1b[32m200\x1b[0m" in on_a_terminal({})


def test_no_color_is_respected() -> None:
    """NO_COLOR keeps even a terminal plain (https://no-color.org)."""
    assert on_a_terminal({"NO_COLOR": "1"}) == (
        "send    | 23:59:01.123Z  INFO     POST /sync 200  5.3 ms"
        "  target=localhost:30000 target_status=200\r\n"
    )


def test_a_file_has_no_colours() -> None:
    """What is no terminal gets plain lines."""
    done = subprocess.run(
        python("-c", CONSOLE, json.dumps(REQUEST)),
        cwd=REPOSITORY,
        capture_output=True,
        check=True,
    )

    assert b"\x1b" not in done.stdout
    assert done.stdout.startswith(b"send    | 23:59:01.123Z  INFO     POST /sync 200")
