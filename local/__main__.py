"""The whole relay on one machine: `python -m local`."""

from __future__ import annotations

import fcntl
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import IO
from urllib.parse import quote

from local import manifests
from local.console import Console
from local.functions import Function, FunctionError, function_environment
from local.ports import HOST, PortError, Ports
from local.process import REPOSITORY, clean_environment
from local.stack import Part, Stack
from relay.settings import InvalidSetting, Settings

_DATA_DIR = REPOSITORY / ".local"


def main() -> int:
    """Run the stack until Ctrl-C, and return the exit code."""
    os.umask(0o077)  # what the parts keep holds credentials
    sys.stdout.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    try:
        ports = Ports.from_env(os.environ)
        ports.check_free()
        data_dir = Path(os.environ.get("BROKER_DATA_DIR") or _DATA_DIR).absolute()
        stages = plan(os.environ, ports, data_dir)
        lock = hold(data_dir)
    except (InUse, PortError, InvalidSetting, FunctionError, manifests.ManifestError) as exc:
        print(exc, file=sys.stderr)
        return 1
    except OSError as exc:
        print(f"{exc.filename}: {exc.strerror}", file=sys.stderr)
        return 1
    with lock:
        welcome = _welcome(ports, is_guarded=bool(os.environ.get("API_TOKEN")))
        return Stack(stages, Console.on(sys.stdout, os.environ)).run(welcome)


class InUse(Exception):
    """Another stack keeps its data in the same folder."""


def hold(data_dir: Path) -> IO[str]:
    """Make the folder of the data if need be, and keep other stacks from it until it is closed.

    Raises:
        InUse: Another stack runs there.
        OSError: It cannot be made or written.
    """
    data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    if data_dir == _DATA_DIR:
        data_dir.chmod(0o700)  # it may be from a time when it was open to all
    lock = (data_dir / "stack.lock").open("w")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as exc:
        lock.close()
        raise InUse(
            f"another stack keeps its data in {data_dir}: stop it,"
            " or set BROKER_DATA_DIR to another folder"
        ) from exc
    return lock


def plan(env: Mapping[str, str], ports: Ports, data_dir: Path) -> list[list[Part]]:
    """Return what to run, in the order of the start: the called before their callers.

    Args:
        env: The user's environment. `BROKER_LIKE` says whose dispatcher the Broker follows
            (`in-memory` or `kafka`), `MANIFESTS` is a folder that replaces knative/; the
            relay's own settings are passed on to the functions.
        data_dir: Where the Broker keeps its events and the functions what becomes of requests.

    Raises:
        FunctionError, ManifestError, OSError: A func.yaml or a manifest cannot be read.
        InvalidSetting: The functions would not start with a setting of the user's.
    """
    folder = Path(env.get("MANIFESTS") or REPOSITORY / "knative")
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
        function_env = function_environment(
            function,
            env,
            declared,
            broker_url=_url(ports.broker),
            sample_api=sample_api,
            state_url=f"sqlite://{quote(str(data_dir))}/state.sqlite3",
        )
        Settings.from_env(function_env)  # here a bad one is one line
        return Part(
            name=name,
            command=function.command(sys.executable, HOST, port, source),
            cwd=function.source_folder,
            env=function_env | extra,
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


def _welcome(ports: Ports, *, is_guarded: bool) -> str:
    usual = Ports()

    def curl(method: str, path: str, example: str) -> str:
        """Write a call of an example, with the ports of this stack in the place of the usual."""
        moved = [
            f" -e s,localhost:{was},localhost:{now},"
            for was, now in ((usual.gateway, ports.gateway), (usual.sample_api, ports.sample_api))
            if was != now
        ]
        file = f"examples/{example}"
        before, body = (f"sed{''.join(moved)} {file} | ", "-") if moved else ("", file)
        token = ' -H "Authorization: Bearer ${API_TOKEN%% *}"' if is_guarded else ""
        return (
            f"{before}curl -v http://localhost:{ports.gateway}{path} -X {method}"
            f' -H "Content-Type: application/json"{token} -d @{body}'
        )

    note = "\nGive that shell API_TOKEN too; the calls need it.\n" if is_guarded else ""
    return f"""
The relay is ready.

  page        http://localhost:{ports.display}/   every request, as it travels
  Send        http://localhost:{ports.gateway}   functions/send
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
