"""The whole relay on one machine: `python -m local`."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Mapping
from pathlib import Path

from local import manifests
from local.browsers import LOOPBACK_NAMES
from local.functions import Function, FunctionError, clean_environment, function_environment
from local.ports import PortError, Ports
from local.process import Console, Part
from local.serving import HOST
from local.stack import Stack

REPOSITORY = Path(__file__).resolve().parent.parent
MANIFESTS = REPOSITORY / "knative"
SEND_HOST = "send-serving.default.example.com"


def main() -> int:
    """Run the stack until Ctrl-C, and return the exit code."""
    sys.stdout.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    console = Console.on(sys.stdout, os.environ)
    try:
        ports = Ports.from_env(os.environ)
        ports.check_free()
        stages = plan(os.environ, ports)
    except (PortError, FunctionError, manifests.ManifestError, OSError) as exc:
        print(exc, file=sys.stderr)
        return 1
    return asyncio.run(Stack(stages, console).run(_welcome(ports)))


def plan(env: Mapping[str, str], ports: Ports) -> list[list[Part]]:
    """Say what to run, in the order of the start: called before calling.

    Args:
        env: The user's environment. `BROKER_DATA_DIR` is where the Broker keeps its events,
            `BROKER_LIKE` whose dispatcher it follows (`in-memory` or `kafka`), `MANIFESTS` a folder
            in the place of knative/; the settings of the relay are passed on to the functions.
        ports: Where each part listens.

    Raises:
        FunctionError, ManifestError, OSError: What is to be run cannot be read.
    """
    folder = Path(env.get("MANIFESTS") or MANIFESTS)
    declared = manifests.load(folder)
    send = Function.load(REPOSITORY / "functions" / "send")
    receive = Function.load(REPOSITORY / "functions" / "receive")
    data_dir = Path(env.get("BROKER_DATA_DIR") or REPOSITORY / ".local").absolute()
    data_dir.mkdir(parents=True, exist_ok=True)

    def program(name: str, port: int, ready_path: str, *arguments: str) -> Part:
        return Part(
            name=name,
            command=[sys.executable, *arguments, "--port", str(port)],
            cwd=REPOSITORY,
            env=clean_environment(env)
            | (
                {"API_TOKEN": env["API_TOKEN"]}
                if name == "event-display" and env.get("API_TOKEN")
                else {}
            ),
            ready_url=_url(port) + ready_path,
            ready_headers={"Host": SEND_HOST} if name == "gateway" else {},
        )

    def function(name: str, port: int, declaration: Function) -> Part:
        return Part(
            name=name,
            command=declaration.command(sys.executable, HOST, port),
            cwd=declaration.source_folder,
            env=function_environment(
                declaration,
                env,
                declared,
                broker_url=_url(ports.broker),
                sample_api=f"localhost:{ports.sample_api}",
            ),
            ready_url=_url(port) + "/health/readiness",
        )

    services = {
        send.name: ports.send,
        receive.name: ports.receive,
        "event-display": ports.display,
    }
    broker_arguments = ["--manifests", str(folder), "--data", str(data_dir)]
    if env.get("BROKER_LIKE"):
        broker_arguments += ["--like", env["BROKER_LIKE"]]
    for name, port in services.items():
        broker_arguments += ["--service", f"{name}={_url(port)}"]
    hosts = {SEND_HOST: ports.send, **dict.fromkeys(LOOPBACK_NAMES, ports.display)}
    routes = [word for host, port in hosts.items() for word in ("--route", f"{host}={_url(port)}")]
    display_arguments = [
        *("--broker", _url(ports.broker), "--gateway", f"http://localhost:{ports.gateway}"),
        *("--send-host", SEND_HOST, "--sample-api", f"localhost:{ports.sample_api}"),
    ]
    return [
        [
            program("sample-api", ports.sample_api, "/", "local/sample_api.py"),
            program(
                *("event-display", ports.display, "/healthz"),
                *("-m", "local.display", *display_arguments),
            ),
            function("send", ports.send, send),
            function("receive", ports.receive, receive),
        ],
        [program("broker", ports.broker, "/healthz", "-m", "local.broker", *broker_arguments)],
        [
            program(
                *("gateway", ports.gateway, "/health/readiness"),
                *("-m", "local.gateway", *routes),
            )
        ],
    ]


def _url(port: int) -> str:
    return f"http://{HOST}:{port}"


def _welcome(ports: Ports) -> str:
    def curl(method: str, path: str, example: str) -> str:
        return (
            f"curl -v http://localhost:{ports.gateway}{path} -X {method}"
            f' -H "Host: {SEND_HOST}" -H "Content-Type: application/json" -d @examples/{example}'
        )

    default = Ports()
    moved = (ports.gateway, ports.sample_api) != (default.gateway, default.sample_api)
    note = (
        f"\n  The examples name ports {default.gateway} and {default.sample_api}:"
        f" {ports.gateway} and {ports.sample_api} must take their place in them.\n"
    )
    return f"""
The relay is ready.

  page           http://localhost:{ports.gateway}/   every request, as it travels
  gateway        http://localhost:{ports.gateway}   to Send by Host: {SEND_HOST}
  Broker         http://localhost:{ports.broker}/default/default   Triggers of knative/
  Send           http://localhost:{ports.send}   functions/send
  Receive        http://localhost:{ports.receive}   functions/receive
  event display  http://localhost:{ports.display}   prints every event here
  sample API     http://localhost:{ports.sample_api}   a target; GET / lists what it can do

Open the page, or call it from another shell. The answer of the sample API, through the relay:

  {curl("GET", "/sync", "get_sync_tasks.json")}

A call that is answered at once, and whose callback shows up here as an event:

  {curl("POST", "/async", "post_async_tasks.json")}
{note if moved else ""}
Ctrl-C stops everything.

"""


if __name__ == "__main__":
    sys.exit(main())
