"""The commands of the README and the documents, run as they stand; they print what is shown."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.functions import serving
from tests.support.processes import REPOSITORY, wait_until
from tests.support.stack import Relay, quick_settings, started

# A command, after a blank line what it prints: a head or none, and JSON.
SHOWN = re.compile(r"(?m)^    (curl (?:.*\\\n)*.*)\n\n((?:    .*\n|\n(?=    \{))+)")
TIME = re.compile(
    r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d+(?:Z|\+00:00)|\w{3}, \d\d \w{3} \d{4} \d\d:\d\d:\d\d GMT"
)
UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")

pytestmark = pytest.mark.skipif(
    shutil.which("curl") is None, reason="needs curl: apt-get install curl"
)


@pytest.fixture
def relay(tmp_path: Path) -> Iterator[Relay]:
    settings = quick_settings(tmp_path / "manifests")
    with started(tmp_path / "broker", settings=settings) as relay:
        yield relay


def shown_in(document: str) -> list[tuple[str, str]]:
    """Find the commands of a document, each with what it prints."""
    text = (REPOSITORY / document).read_text(encoding="utf-8")
    found = [(command, output.replace("\n    ", "\n")) for command, output in SHOWN.findall(text)]
    assert len(found) == len(re.findall("(?m)^    curl ", text))
    return found


def run(command: str, relay: Relay, folder: Path) -> str:
    """Run a command in a folder that has the examples, all with the ports of this stack."""
    examples = folder / "examples"
    examples.mkdir(exist_ok=True)
    for file in (REPOSITORY / "examples").iterdir():
        (examples / file.name).write_text(relay.example(file.name), encoding="utf-8")
    ran = subprocess.run(
        ["bash", "-c", relay.here(command)], cwd=folder, check=True, capture_output=True, text=True
    )
    return ran.stdout.replace("\r\n", "\n")


def told(output: str) -> tuple[list[str], object]:
    """Read an answer: the lines of its head, and its JSON; times and UUIDs are alike."""
    head, brace, body = UUID.sub("UUID", TIME.sub("TIME", output)).partition("{")
    return [line.strip() for line in head.splitlines() if line.strip()], json.loads(brace + body)


@pytest.mark.parametrize(("document", "count"), [("README.md", 4), ("docs/calls.md", 5)])
def test_the_commands_print_what_is_shown(
    relay: Relay, tmp_path: Path, document: str, count: int
) -> None:
    """Each curl, in its order, against a fresh stack; a status is asked for until it is there."""
    shown = shown_in(document)
    assert len(shown) == count

    for command, output in shown:
        expected = told(relay.here(output))
        if " -d " in command or "-X POST" in command:
            assert told(run(command, relay, tmp_path)) == expected, command
        else:
            wait_until(
                lambda c=command, e=expected: told(run(c, relay, tmp_path)) == e,  # type: ignore[misc]
                20,
                f"{command} to print {expected}",
            )


def test_receive_alone_answers_as_shown(relay: Relay, tmp_path: Path) -> None:
    """An event by hand is answered with an event."""
    ((command, output),) = shown_in("docs/logs.md")
    env = {"ALLOWED_TARGETS": f"localhost:{relay.ports['SAMPLE_API']}"}
    with serving("receive", env) as receive:
        command = command.replace("localhost:8090", f"localhost:{receive.port}")

        assert told(run(command, relay, tmp_path)) == told(relay.here(output))
