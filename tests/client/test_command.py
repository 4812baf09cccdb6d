"""The `relay` command against the whole local stack: what it prints, and its exit codes."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from relay_client import Relay as Client
from relay_client.watching import endings
from tests.support.processes import REPOSITORY, free_port, python, running, wait_until
from tests.support.stack import Relay, quick_settings, started


@pytest.fixture(scope="module")
def relay(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Relay]:
    settings = quick_settings(tmp_path_factory.mktemp("manifests") / "knative")
    with started(tmp_path_factory.mktemp("broker"), settings=settings) as relay:
        yield relay


def environment(relay: Relay) -> dict[str, str]:
    return {
        "PYTHONPATH": str(REPOSITORY / "client"),
        "RELAY_URL": f"http://localhost:{relay.ports['GATEWAY']}",
        "LANG": "C.UTF-8",
    }


def run(
    relay: Relay, *arguments: str, stdin: str = "", url: str | None = None
) -> subprocess.CompletedProcess[str]:
    env = environment(relay) | ({} if url is None else {"RELAY_URL": url})
    command = python("-m", "relay_client", *arguments)
    return subprocess.run(command, env=env, input=stdin, capture_output=True, text=True, timeout=60)


def envelope(relay: Relay, api: str) -> str:
    url = f"http://localhost:{relay.ports['SAMPLE_API']}"
    return json.dumps({"targetURL": url, "targetAPI": api})


def dead(relay: Relay, *keys: str, times: int = 6) -> None:
    """Have requests die whose target is back after so many calls."""
    for key in keys:
        api = f"/misbehave/fail-times/{times}/{key}"
        assert run(relay, "send", "-", "--key", key, stdin=envelope(relay, api)).returncode == 0
    client = Client(environment(relay)["RELAY_URL"])
    for key in keys:
        wait_until(lambda k=key: client.get(k).status == "dead", 30, f"{key} to be dead")  # type: ignore[misc]


def test_send_and_get(relay: Relay, tmp_path: Path) -> None:
    """A file's call, made and waited for: a table and the answer, or JSON."""
    file = tmp_path / "call.json"
    file.write_text(envelope(relay, "/misbehave/slow/0.1"))

    sent = run(relay, "send", str(file), "--wait", "20", "--key", "sent")
    got = run(relay, "--json", "get", "sent")

    assert (sent.returncode, got.returncode) == (0, 0), sent.stderr + got.stderr
    head, row, *body = sent.stdout.splitlines()
    assert head.split() == ["ID", "STATE", "TARGET", "ATTEMPTS", "SINCE", "WHY"]
    authority = f"localhost:{relay.ports['SAMPLE_API']}"
    assert row.split()[:4] == ["sent", "completed", authority, "1"]
    assert json.loads("\n".join(body))["path"] == "/misbehave/slow/0.1"
    document = json.loads(got.stdout)
    assert (document["id"], document["answer"]["status"]) == ("sent", 200)


@pytest.mark.parametrize(
    ("arguments", "stdin", "code", "told"),
    [
        (["send", "-"], "{", 2, "is not JSON"),
        (["send", "/nowhere.json"], "", 2, "No such file"),
        (["retry"], "", 2, "give one ID, or --all"),
        (["--url", "localhost:8080", "list"], "", 2, "must begin with http"),
        (["send", "-"], '{"target": 1}', 3, "relay: 400: target is no field of the envelope"),
        (["get", "never-heard-of"], "", 3, "relay: 404: there is no request with this id"),
        (["list", "--since", "yesterday"], "", 3, "relay: 400: since in the query must be a time"),
        (["cancel", "never-heard-of"], "", 3, "relay: 404"),
    ],
)
def test_an_error_is_one_line_and_a_code(
    relay: Relay, arguments: list[str], stdin: str, code: int, told: str
) -> None:
    """2 is the caller's own, 3 the relay's refusal; nothing is a traceback."""
    ended = run(relay, *arguments, stdin=stdin)

    assert ended.returncode == code
    assert told in ended.stderr
    assert "Traceback" not in ended.stderr


def test_a_relay_that_is_away_is_code_4(relay: Relay) -> None:
    """It is tried again, aloud, for as long as patience lasts."""
    url = f"http://127.0.0.1:{free_port()}"

    ended = run(relay, "--patience", "1.5", "list", url=url)

    assert ended.returncode == 4
    first, last = ended.stderr.splitlines()
    away = "relay: the relay cannot be reached: is its address right, and is it running?"
    assert (first, last) == (f"{away}; again in 1 s", away)


def test_what_ended_badly_is_code_1_and_what_is_open_5(relay: Relay) -> None:
    """A script can tell them apart without reading."""
    no = run(relay, "send", "-", "--wait", "20", stdin=envelope(relay, "/misbehave/status/404"))
    slow = envelope(relay, "/misbehave/slow/4")
    still_open = run(relay, "send", "-", "--wait", "1", "--key", "slow", stdin=slow)

    assert no.returncode == 1
    assert "the target answered 404" in no.stdout
    assert still_open.returncode == 5
    assert "relay: the request slow is still open after 1 s" in still_open.stderr
    assert still_open.stdout.splitlines()[1].split()[:2] == ["slow", "accepted"]
    late = run(relay, "cancel", "slow")
    assert late.returncode == 3
    assert "its target has been called" in late.stderr
    assert run(relay, "get", "slow", "--wait", "20").returncode == 0


def test_the_dead_are_found_and_sent_again(relay: Relay) -> None:
    """One by its id, all others by their target; the list is empty then."""
    dead(relay, "ash-1", "ash-2", "ash-3")
    target = f"localhost:{relay.ports['SAMPLE_API']}"

    found = run(relay, "list", "--status", "dead", "--target", target)
    one = run(relay, "retry", "ash-2")
    more = run(relay, "retry", "--all", "--target", target)

    assert [line.split()[0] for line in found.stdout.splitlines()] == [
        *("ID", "ash-3", "ash-2", "ash-1")
    ]
    assert "the target answered 503" in found.stdout
    assert found.stderr == "3 dead\n"
    assert one.stdout.splitlines()[1].split()[:2] == ["ash-2", "accepted"]
    assert (more.returncode, more.stdout) == (0, "2 sent again\n")
    for key in ("ash-1", "ash-2", "ash-3"):
        assert run(relay, "get", key, "--wait", "20").returncode == 0
    assert run(relay, "--json", "list", "--target", target).stdout == ""
    assert run(relay, "--json", "retry", "--all").stdout == (
        '{"retried": 0, "skipped": 0, "cursor": null}\n'
    )


def test_watch_shows_each_end_once(relay: Relay) -> None:
    """What ended before is not shown; what ends from now on is, in its order."""
    sent = ["before"]
    run(relay, "send", "-", "--wait", "20", "--key", "before", stdin=envelope(relay, "/tasks"))
    command = python("-u", "-m", "relay_client", "--json", "watch")

    def end_one() -> None:
        sent.append(f"watched-{len(sent)}")
        body = envelope(relay, "/tasks")
        assert (
            run(relay, "send", "-", "--wait", "20", "--key", sent[-1], stdin=body).returncode == 0
        )

    with running(command, env=environment(relay), cwd=REPOSITORY) as watching:

        def is_watching() -> bool:
            end_one()
            return bool(watching.output)

        wait_until(is_watching, 30, "the first that is shown")
        for _ in range(3):
            end_one()
        wait_until(lambda: f'"{sent[-1]}"' in watching.output, 20, "the last one")
        shown = [json.loads(line)["id"] for line in watching.output.splitlines()]

    assert shown == sent[-len(shown) :]
    assert "before" not in shown


def test_help_tells_the_codes(relay: Relay) -> None:
    """They are where people look first."""
    assert "5 still open" in " ".join(run(relay, "--help").stdout.split())


def test_endings_follow_from_the_start(relay: Relay) -> None:
    """The library's own iterator, with a filter by target that fits nothing."""
    client = Client(environment(relay)["RELAY_URL"])

    assert list(endings(client, ("completed",), target="elsewhere.test", for_s=0.1)) == []
