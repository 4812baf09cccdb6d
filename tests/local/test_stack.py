"""The supervisor shows what its parts print, and never leaves one of them behind."""

from __future__ import annotations

import json
import signal
import socket
from contextlib import AbstractContextManager

import pytest

from tests.support.calls import call
from tests.support.processes import Process, free_port, is_listening, python, running, wait_until

# Runs a stack of [name, port, command...] lists, one stage each.
STACK = """
import json, os, sys
from pathlib import Path
from local.console import Console
from local.stack import Part, Stack

stages = [
    [
        Part(
            name=name,
            command=[sys.executable, *command],
            cwd=Path.cwd(),
            env={**os.environ, "PYTHONUNBUFFERED": "1"},
            ready_url=f"http://127.0.0.1:{port}/",
        )
    ]
    for name, port, *command in json.loads(sys.argv[1])
]
sys.exit(Stack(stages, Console(sys.stdout, is_colored=False)).run("Welcome.\\n"))
"""

# Serves through a process of its own, and does not listen to SIGTERM.
STUBBORN = """
import signal, subprocess, sys
signal.signal(signal.SIGTERM, signal.SIG_IGN)
subprocess.run([sys.executable, "local/sample_api.py", "--port", sys.argv[1]])
"""

# Answers, and dies of a call to /die.
MORTAL = """
import http.server, os, sys
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()
        if self.path == "/die":
            print("something \\x1b[2J happened", flush=True)
            os._exit(3)
    def log_message(self, *args):
        pass
http.server.HTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
"""

Spec = list[str]


def sample_api(name: str, port: int) -> Spec:
    """Make a part that behaves well."""
    return [name, str(port), "local/sample_api.py", "--port", str(port)]


def script(name: str, port: int, code: str) -> Spec:
    """Make a part of a script that is given its port."""
    return [name, str(port), "-c", code, str(port)]


def stack(*parts: Spec, ready: str | None = "Welcome.") -> AbstractContextManager[Process]:
    """Run a stack of these parts until it is ready."""
    return running(python("-c", STACK, json.dumps(parts)), ready_output=ready, timeout_s=30)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_stops_everything_on_a_signal(number: signal.Signals) -> None:
    """Ctrl-C ends all parts, in order, and is no failure."""
    first, second = free_port(), free_port()
    with stack(sample_api("first", first), sample_api("second", second)) as process:
        process.send_signal(number)
        exit_code = process.wait()

    assert exit_code == 0
    assert process.output == (
        f"first  | sample API on http://127.0.0.1:{first}\n"
        f"second | sample API on http://127.0.0.1:{second}\n"
        "Welcome.\n"
        "\nStopping; Ctrl-C again to hurry.\n"
        "Stopped.\n"
    )
    assert not is_listening(first)
    assert not is_listening(second)


def test_stops_everything_when_a_part_ends() -> None:
    """A part that dies takes the rest along; its last lines, made harmless, come at the end."""
    other, mortal = free_port(), free_port()
    with stack(sample_api("other", other), script("mortal", mortal, MORTAL)) as process:
        call("GET", f"http://127.0.0.1:{mortal}/die")
        exit_code = process.wait()

    assert exit_code == 1
    assert process.output.endswith(
        "Welcome.\n"
        "mortal | something \\x1b[2J happened\n"
        "mortal ended (exit status 3); its last lines:\n"
        "    something \\x1b[2J happened\n"
    )
    assert not is_listening(other)


def test_stops_everything_when_a_part_does_not_start() -> None:
    """A part that dies before it is ready ends the start."""
    other, port = free_port(), free_port()
    broken = script("broken", port, "raise SystemExit('no such file')")
    with stack(sample_api("other", other), broken, ready=None) as process:
        exit_code = process.wait(30)

    assert exit_code == 1
    assert "Welcome." not in process.output
    assert process.output.endswith(
        "broken ended (exit status 1); its last lines:\n    no such file\n"
    )
    assert not is_listening(other)


def test_a_second_signal_kills_what_does_not_stop() -> None:
    """A part that ignores SIGTERM, and what it started, do not survive a second Ctrl-C."""
    port = free_port()
    with stack(script("stubborn", port, STUBBORN)) as process:
        process.send_signal(signal.SIGINT)
        process.wait_for_output("Ctrl-C again to hurry")
        process.send_signal(signal.SIGINT)
        exit_code = process.wait(7)

    assert exit_code == 0
    assert not is_listening(port)


def test_leaves_nothing_behind_when_it_is_killed() -> None:
    """Even when the supervisor cannot do anything any more, its parts end."""
    well_behaved, stubborn = free_port(), free_port()
    parts = [sample_api("sample", well_behaved), script("stubborn", stubborn, STUBBORN)]
    with stack(*parts) as process:
        process.send_signal(signal.SIGKILL)
        wait_until(lambda: not is_listening(well_behaved), 10, "the end of the first part")
        wait_until(lambda: not is_listening(stubborn), 10, "the end of the second part")


def test_names_a_taken_port_before_anything_starts() -> None:
    """A taken port is one line, with the setting that moves it."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        settings = ("GATEWAY", "BROKER", "RECEIVE", "SAMPLE_API")
        env = {f"{name}_PORT": str(free_port()) for name in settings} | {"DISPLAY_PORT": port}
        with running(python("-m", "local"), env=env) as process:
            exit_code = process.wait()

    assert exit_code == 1
    assert process.output == (
        f"port {port} cannot be used (Address already in use): stop what listens there, such as"
        " another stack, or set DISPLAY_PORT to another port\n"
    )
