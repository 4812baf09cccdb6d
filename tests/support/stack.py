"""The whole relay on this machine, as `./dev up` runs it, for tests to call."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import cast

from tests.support.calls import Answer, call
from tests.support.processes import (
    REPOSITORY,
    Process,
    free_port,
    python,
    running,
    wait_until,
)

PARTS = ("GATEWAY", "BROKER", "RECEIVE", "DISPLAY", "SAMPLE_API")
HEADERS = {"Content-Type": "application/json"}


class Relay:
    """The running stack, as a caller and the owner of the target see it."""

    def __init__(self, process: Process, ports: dict[str, int]) -> None:
        self.process = process
        self.ports = ports

    def call(
        self,
        method: str,
        path: str,
        body: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        """Call the relay as the README does."""
        url = f"http://localhost:{self.ports['GATEWAY']}{path}"
        return call(method, url, body, {**HEADERS, **(headers or {})})

    def example(self, name: str) -> str:
        """Read the body of an example, with the ports of this stack in the place of the usual."""
        text = (REPOSITORY / "examples" / name).read_text(encoding="utf-8")
        assert ":30000" in text
        return self.here(text)

    def here(self, text: str) -> str:
        """Put the ports of this stack in the place of the usual ones."""
        text = text.replace("localhost:30000", f"localhost:{self.ports['SAMPLE_API']}")
        return text.replace("localhost:8080", f"localhost:{self.ports['GATEWAY']}")

    def calls_to_target(self, path: str, key: object) -> list[dict[str, object]]:
        """List the calls to a path of the sample API that carried this Idempotency-Key."""
        url = f"http://localhost:{self.ports['SAMPLE_API']}/calls?path={path}&key={key}"
        return cast(list[dict[str, object]], json.loads(call("GET", url).body))

    def displayed(self) -> list[str]:
        """List the events that the event display has printed, each without the names of parts."""
        prefix = "event-display | "
        lines = self.process.output.splitlines(keepends=True)
        text = "".join(line.removeprefix(prefix) for line in lines if line.startswith(prefix))
        return text.split("☁️  cloudevents.Event\n")[1:]

    def wait_for_event(self, *parts: str) -> str:
        """Wait until an event is displayed in which all these lines stand."""

        def shown() -> list[str]:
            return [event for event in self.displayed() if all(part in event for part in parts)]

        return wait_until(shown, 20, f"an event with {parts}")[0]


def quick_settings(folder: Path) -> dict[str, str]:
    """Have everything retried in no time, with a copy of the manifests in a folder."""
    folder.mkdir()
    for file in (REPOSITORY / "knative").glob("*.yaml"):
        text = file.read_text(encoding="utf-8").replace("PT1S", "PT0S")
        (folder / file.name).write_text(text, encoding="utf-8")
    return {"MANIFESTS": str(folder), "RETRY_DELAYS_S": "0.02,0.04,0.08,0.16,0.32"}


@contextmanager
def started(
    data_dir: Path,
    *,
    ports: Mapping[str, int] | None = None,
    settings: Mapping[str, str] | None = None,
) -> Iterator[Relay]:
    """Run `python -m local`, as `./dev up` does.

    Args:
        data_dir: where the Broker keeps its events.
        ports: by the names of `PARTS`; free ones when not given.
        settings: of the relay and the stack.
    """
    ports = ports or {part: free_port() for part in PARTS}
    env = {f"{part}_PORT": str(port) for part, port in ports.items()}
    env |= {"BROKER_DATA_DIR": str(data_dir), **(settings or {})}
    command = python("-m", "local")
    with running(
        command, env=env, ready_output="Ctrl-C stops everything.", timeout_s=60
    ) as process:
        yield Relay(process, dict(ports))
