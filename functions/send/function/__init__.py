"""What func's scaffolding starts: `new()` hands the process over to functions-framework."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import NoReturn

_PACKAGE = Path(__file__).parent


def new() -> NoReturn:
    """Become `python -m functions_framework`, serving main.py beside this file.

    func-python calls this before it binds a socket. Replacing the process, rather than starting
    another, keeps its pid: the SIGTERM that ends a pod reaches the server, which finishes what it
    is doing. Only here is `_vendor` importable; it shadows func-python's own cloudevents.
    """
    env = _server_env(os.environ)
    os.execve(sys.executable, [sys.executable, "-m", "functions_framework"], env)  # noqa: S606


def _server_env(env: Mapping[str, str]) -> dict[str, str]:
    """Return the environment of functions-framework, which reads its settings from there.

    FUNCTION_TARGET comes from func.yaml. PORT, which Knative sets, wins over LISTEN_ADDRESS, which
    `func run` sets: a comma-separated list of host:port, of which one can be served.
    """
    vendor = str(_PACKAGE / "_vendor")
    path = env.get("PYTHONPATH")
    server_env = {
        **env,
        "FUNCTION_SOURCE": str(_PACKAGE / "main.py"),
        "PYTHONPATH": f"{vendor}{os.pathsep}{path}" if path else vendor,
    }
    host, _, port = env.get("LISTEN_ADDRESS", "").split(",")[0].rpartition(":")
    if port:
        server_env.setdefault("HOST", host)
        server_env.setdefault("PORT", port)
    return server_env
