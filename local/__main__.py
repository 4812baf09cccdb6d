"""The whole relay on one machine: `python -m local`."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import quote

from local import manifests
from local.console import Console
from local.functions import Function, FunctionError, function_environment
from local.ports import HOST, PortError, Ports
from local.process import REPOSITORY, clean_environment
from local.stack import Part, Stack


def main() -> int:
    """Run the stack until Ctrl-C, and return the exit code."""
    os.umask(0o077)  # what the parts keep holds credentials
    sys.stdout.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    try:
        ports = Ports.from_env(os.environ)
        ports.check_free()
        stages = plan(os.environ, ports)
    except (PortError, FunctionError, manifests.ManifestError, OSError) as exc:
        print(exc, file=sys.stderr)
        return 1
    return Stack(stages, Console.on(sys.stdout, os.environ)).run(_welcome(ports))


def plan(env: Mapping[str, str], ports: Ports) -> list[list[Part]]:
    """Return what to run, in the order of the start: the called before their callers.

    Args:
        env: The user's environment. `BROKER_DATA_DIR` is where the Broker keeps its events and the
            functions what becomes of requests, `BROKER_LIKE` whose dispatcher it follows
            (`in-memory` or `kafka`), `MANIFESTS` a folder that replaces knative/; the relay's own
            settings are passed on to the functions.

    Raises:
        FunctionError, ManifestError, OSError: A func.yaml or a manifest cannot be read.
    """
    folder = Path(env.get("MANIFESTS") or REPOSITORY / "knative")
    data_dir = Path(env.get("BROKER_DATA_DIR") or REPOSITORY / ".local").absolute()
    data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    if not env.get("BROKER_DATA_DIR"):
        data_dir.chmod(0o700)  # it may be from a time when it was open to all
    declared = manifests.load(folder)
    send = Function(REPOSITORY / "functions" / "send")
    receive = Function(REPOSITORY / "functions" / "receive")
    sample_api = f"localhost:{ports.sample_api}"

    def program(name: str, port: int, ready_path: str, *arguments: str, **extra: str) -> Part:
        return Part(
            name=name,
            command=[sys.executable, *arguments, "--port", str(port)],
            cwd=REPOSITORY,
            env=clean_environment(env) | extra,
            ready_url=_url(port) + ready_path,
        )

    def serving(
        name: str, port: int, function: Function, source: str = "main.py", **extra: str
    ) -> Part:
        return Part(
            name=name,
            command=function.command(sys.executable, HOST, port, source),
            cwd=function.source_folder,
            env=function_environment(
                function,
                env,
                declared,
                broker_url=_url(ports.broker),
                sample_api=sample_api,
                state_url=f"sqlite://{quote(str(data_dir))}/state.sqlite3",
            )
            | extra,
            ready_url=_url(port) + "/health/readiness",
        )

    watched = str(REPOSITORY / "local" / "display" / "send.py")
    display = program(
        *("event-display", ports.display, "/healthz", "-m", "local.display"),
        *("--broker", _url(ports.broker), "--send", f"http://localhost:{ports.gateway}"),
        *("--sample-api", sample_api),
        # Not as an argument: anybody on the machine can read a command.
        API_TOKEN=env.get("API_TOKEN", ""),
    )
    broker = program(
        *("broker", ports.broker, "/healthz", "-m", "local.broker"),
        *("--manifests", str(folder), "--data", str(data_dir)),
        *("--like", env.get("BROKER_LIKE") or "in-memory"),
        *("--service", f"{send.name}={_url(ports.gateway)}"),
        *("--service", f"{receive.name}={_url(ports.receive)}"),
        *("--service", f"event-display={_url(ports.display)}"),
    )
    return [
        [
            program("sample-api", ports.sample_api, "/", "local/sample_api.py"),
            display,
            # As deployed, but that the page is told of /sync.
            serving("send", ports.gateway, send, watched, DISPLAY_URL=_url(ports.display)),
            serving("receive", ports.receive, receive),
        ],
        [broker],
    ]


def _url(port: int) -> str:
    return f"http://{HOST}:{port}"


def _welcome(ports: Ports) -> str:
    def curl(method: str, path: str, example: str) -> str:
        return (
            f"curl -v http://localhost:{ports.gateway}{path} -X {method}"
            f' -H "Content-Type: application/json" -d @examples/{example}'
        )

    note = ""
    usual = Ports()
    if (ports.gateway, ports.sample_api) != (usual.gateway, usual.sample_api):
        note = (
            f"\n  The examples name ports {usual.gateway} and {usual.sample_api};"
            f" put {ports.gateway} and {ports.sample_api} there.\n"
        )
    return f"""
The relay is ready.

  page        http://localhost:{ports.display}/   every request, as it travels
  Send        http://localhost:{ports.gateway}   functions/send; any Host will do
  Receive     http://localhost:{ports.receive}   functions/receive
  Broker      http://localhost:{ports.broker}/default/default   with the Triggers of knative/
  sample API  http://localhost:{ports.sample_api}   a target; GET / lists what it can do

Open the page, or call the relay from another shell. This call returns the sample API's answer:

  {curl("GET", "/sync", "get_sync_tasks.json")}

This one is answered at once; the callback shows up here as an event:

  {curl("POST", "/async", "post_async_tasks.json")}
{note}
Ctrl-C stops everything.

"""


if __name__ == "__main__":
    sys.exit(main())
