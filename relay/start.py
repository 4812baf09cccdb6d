"""Become the server of a function, in place of the process that func's scaffolding starts."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import NoReturn


def serve(package: Path) -> NoReturn:
    """Become `python -m functions_framework`, serving main.py of the package.

    Replacing the process, rather than starting another, keeps its pid: the SIGTERM that ends a pod
    reaches the server, which finishes what it is doing.

    Args:
        package: the folder of main.py and of `_vendor`, which has the requirements.
    """
    env = server_env(os.environ, package)
    os.execve(sys.executable, [sys.executable, "-m", "functions_framework"], env)  # noqa: S606


def server_env(env: Mapping[str, str], package: Path) -> dict[str, str]:
    """Return the environment of functions-framework, which reads its settings from there.

    FUNCTION_TARGET comes from func.yaml. PORT, which Knative sets, wins over LISTEN_ADDRESS, which
    `func run` sets: a comma-separated list of host:port, of which one can be served.
    """
    # Ahead of func-python's own cloudevents, which functions-framework does not take.
    vendor = str(package / "_vendor")
    path = env.get("PYTHONPATH")
    server_env = {
        **env,
        "FUNCTION_SOURCE": str(package / "main.py"),
        "PYTHONPATH": f"{vendor}{os.pathsep}{path}" if path else vendor,
    }
    host, _, port = env.get("LISTEN_ADDRESS", "").split(",")[0].rpartition(":")
    if port:
        server_env.setdefault("HOST", host)
        server_env.setdefault("PORT", port)
    return server_env
