"""The machine that was measured on, without anything that names it."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
import subprocess
from datetime import datetime, timezone
from pathlib import Path

from bench.processes import Cores
from bench.servers import has_nginx

_PACKAGES = ("functions-framework", "gunicorn", "Flask", "requests", "urllib3", "cloudevents")


def describe(cores: Cores) -> dict[str, str]:
    """Say what decides on the figures."""
    cpu = re.search(r"model name\s*: (.+)", Path("/proc/cpuinfo").read_text())
    wrk = subprocess.run(["wrk", "-v"], capture_output=True, text=True, check=False).stdout
    described = {
        "date": datetime.now(timezone.utc).date().isoformat(),
        "CPU": cpu[1] if cpu else platform.machine(),
        "cores": f"{os.cpu_count()}: {len(cores.server)} for the server,"
        f" {len(cores.others)} for load and target"
        + (", the same one" if cores.server == cores.others else ""),
        "kernel": f"Linux {platform.release()}",
        "Python": platform.python_version(),
        "wrk": " ".join(wrk.split()[1:2]),
        "target": f"nginx {_nginx_version()}" if has_nginx() else "asyncio (no nginx here)",
    }
    return described | {name: importlib.metadata.version(name) for name in _PACKAGES}


def _nginx_version() -> str:
    printed = subprocess.run(["nginx", "-v"], capture_output=True, text=True, check=False).stderr
    return printed.strip().rpartition("/")[2]
