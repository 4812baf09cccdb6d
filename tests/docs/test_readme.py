"""The README's commands, run as they stand; what they print is what the README shows."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.processes import REPOSITORY, wait_until
from tests.support.stack import Relay, quick_settings, started

# What comes after needs a cluster.
README = (REPOSITORY / "README.md").read_text(encoding="utf-8").partition("\n## Deploy\n")[0]
ID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
COMMAND = re.compile(r"(?m)^    (curl (?:.*\\\n)*.*)$")


@pytest.fixture
def relay(tmp_path: Path) -> Iterator[Relay]:
    settings = quick_settings(tmp_path / "manifests")
    with started(tmp_path / "broker", settings=settings) as relay:
        yield relay


def printed(text: str) -> list[dict[str, object]]:
    """Read the JSON objects that were printed, each beginning a line."""
    decoder = json.JSONDecoder()
    return [
        decoder.raw_decode(text, match.end() - 1)[0]
        for match in re.finditer(r"(?m)^(?:    )?\{", text)
    ]


def shape(value: object) -> object:
    """Leave of a JSON value what is the same in every run."""
    if isinstance(value, dict):
        return {name: shape(item) for name, item in value.items()}
    return value if value in ("accepted", "completed", "dead") else type(value).__name__


@pytest.mark.skipif(shutil.which("curl") is None, reason="needs curl: apt-get install curl")
def test_the_commands_print_what_is_shown(relay: Relay, tmp_path: Path) -> None:
    """Each curl of the first sections, in their order, against a fresh stack."""
    (tmp_path / "examples").mkdir()
    for file in (REPOSITORY / "examples").iterdir():
        (tmp_path / "examples" / file.name).write_text(relay.example(file.name), encoding="utf-8")
    made = ID.search(README)
    assert made is not None
    ids = {made[0]: made[0]}

    def run(command: str) -> dict[str, object]:
        for shown_id, real_id in ids.items():
            command = command.replace(shown_id, real_id)
        output = subprocess.run(
            ["bash", "-c", relay.here(command)],
            cwd=tmp_path,
            check=True,
            capture_output=True,
            text=True,
        )
        (document,) = printed(output.stdout)
        return document

    commands = COMMAND.findall(README)
    polled = next(place for place, command in enumerate(commands) if made[0] in command)
    commands.insert(polled, commands[polled])  # shown while the request is open, and when done
    shown = printed(COMMAND.sub("", README))
    assert len(commands) == len(shown) == 9
    for command, expected in zip(commands, shown, strict=True):
        if "-X POST" in command:
            document = run(command)
            assert shape(document) == shape(expected), command
            if expected.get("id") == made[0]:
                ids[made[0]] = str(document["id"])
        else:
            what = f"{command} to print {shape(expected)}"
            wait_until(
                lambda c=command, e=expected: shape(run(c)) == shape(e),  # type: ignore[misc]
                20,
                what,
            )
