"""The commands of docs/operate.md, run as they stand; what they print is what it shows."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from tests.support.processes import REPOSITORY, python, wait_until
from tests.support.stack import Relay, quick_settings, started

GUIDE = (REPOSITORY / "docs" / "operate.md").read_text(encoding="utf-8")
RULES = yaml.safe_load((REPOSITORY / "knative/monitoring/110-alerts.yaml").read_text())["spec"]
TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")

needs_curl = pytest.mark.skipif(shutil.which("curl") is None, reason="needs curl")


@pytest.fixture
def relay(tmp_path: Path) -> Iterator[Relay]:
    with started(tmp_path / ".local", settings=quick_settings(tmp_path / "knative")) as relay:
        yield relay


def steps(title: str) -> list[tuple[str, list[str]]]:
    """Read the commands of a section, each with the lines that it prints."""
    section = GUIDE.partition(f"\n## {title}\n")[2].partition("\n## ")[0]
    found: list[tuple[str, list[str]]] = []
    for line in re.findall(r"(?m)^    (.+)$", section):
        if line.startswith("$ "):
            found.append((line[2:], []))
        elif found:
            found[-1][1].append(line)
    return found


def run(relay: Relay, command: str, folder: Path) -> list[str]:
    """Run a command of the guide, with the ports of this stack; what it prints, line by line."""
    bin_folder = folder / "bin"
    bin_folder.mkdir(exist_ok=True)
    program = bin_folder / "relay"
    program.write_text(f'#!/bin/sh\nexec {" ".join(python("-m", "relay_client"))} "$@"\n')
    program.chmod(0o755)
    env = {
        "PATH": f"{bin_folder}:/usr/local/bin:/usr/bin:/bin",
        "PYTHONPATH": str(REPOSITORY / "client"),
        "RELAY_URL": relay.here("http://localhost:8080"),
        "LANG": "C.UTF-8",
    }
    ended = subprocess.run(
        ["bash", "-c", relay.here(command)],
        cwd=folder,
        env=env,
        capture_output=True,
        text=True,
        timeout=60,
    )
    return shown_lines(ended.stdout.replace(f":{relay.ports['SAMPLE_API']}", ":30000"))


def shown_lines(text: str) -> list[str]:
    """Leave out what differs from run to run: times, and which of several died first."""
    return sorted(TIME.sub("TIME", line) for line in text.splitlines())


@needs_curl
def test_a_target_that_fails_is_seen_and_mended(relay: Relay, tmp_path: Path) -> None:
    """From the alert to the last request, each command prints what is shown."""
    walk = steps("A target fails, from the alert to the last request")
    assert len(walk) == 8
    for command, lines in walk:
        expected = shown_lines("\n".join(lines))
        if command.startswith(("for", "relay retry")):
            assert run(relay, command, tmp_path) == expected
        else:
            wait_until(
                lambda c=command, e=expected: run(relay, c, tmp_path) == e,  # type: ignore[misc]
                30,
                f"{command} to print {expected}",
            )
        if command.startswith("curl"):
            is_dead = "relay_dead_requests 3.0" in expected
            text = relay.call("GET", "/metrics").body.decode()
            assert fires("RelayRequestsDead", text, tmp_path) == is_dead


def fires(alert: str, metrics: str, folder: Path) -> bool:
    """Have Prometheus' own tool tell whether the expression of an alert is true of metrics."""
    program = shutil.which("promtool")
    assert program is not None, "needs promtool: apt-get install --no-install-recommends prometheus"
    (expression,) = (
        rule["expr"]
        for group in RULES["groups"]
        for rule in group["rules"]
        if rule["alert"] == alert
    )
    assert f"`{expression}`" in GUIDE
    series = [
        {"series": f'{name}{{namespace="default"}}', "values": f"{value}x5"}
        for name, value in re.findall(r"(?m)^(relay_\w+) (\S+)$", metrics)
    ]
    asked = {"expr": expression, "eval_time": "1m", "exp_samples": []}
    case = {"interval": "1m", "input_series": series, "promql_expr_test": [asked]}
    (folder / "asked.yaml").write_text(yaml.safe_dump({"rule_files": [], "tests": [case]}))
    ran = subprocess.run(
        [program, "test", "rules", "asked.yaml"], cwd=folder, capture_output=True, text=True
    )
    # No sample is expected, so that the tool fails where there is one.
    if ran.returncode:
        assert "got:" in ran.stdout + ran.stderr
    return ran.returncode != 0


def test_a_backup_brings_the_dead_back(tmp_path: Path) -> None:
    """The command of the guide, on a running stack, and its restore on another."""
    ((command, _),) = steps("Backup and restore")
    settings = quick_settings(tmp_path / "knative")
    call = '{"targetURL": "http://localhost:30000", "targetAPI": "/misbehave/status/503"}'
    with started(tmp_path / ".local", settings=settings) as relay:
        run(relay, f"echo '{call}' | relay send - --key lost", tmp_path)
        wait_until(lambda: "lost" in str(run(relay, "relay list", tmp_path)), 30, "it to be dead")
        assert run(relay, command.replace("python3", python()[0]), tmp_path) == []

    (tmp_path / "new").mkdir()
    shutil.copy(tmp_path / "state.backup", tmp_path / "new" / "state.sqlite3")
    with started(tmp_path / "new", settings=settings) as relay:
        assert "lost" in str(run(relay, "relay list", tmp_path))
        assert "accepted" in str(run(relay, "relay retry lost", tmp_path))


def test_the_guide_names_what_there_is() -> None:
    """Its links within itself lead to a title, and each metric that it names is in its table."""
    titles = {
        re.sub(r"[^a-z0-9 -]", "", title.lower()).replace(" ", "-")
        for title in re.findall(r"(?m)^#+ (.+)$", GUIDE)
    }

    assert set(re.findall(r"\]\(#([^)]+)\)", GUIDE)) <= titles
    named = set(re.findall(r"`((?:relay|http|db|messaging)_\w+)`", GUIDE))
    table = GUIDE.partition("\n## Metrics\n")[2].partition("\n## Alerts\n")[0]
    described = set(re.findall(r"`((?:relay|http|db|messaging)_\w+)`", table))
    series = {name.removesuffix("_count").removesuffix("_bucket") for name in named}
    assert series <= described
