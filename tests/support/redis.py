"""A real Redis for the tests, where the machine has one."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.processes import free_port, is_listening, running, wait_until


@contextmanager
def redis_server(
    folder: Path, port: int | None = None, *, password: str | None = None
) -> Iterator[str]:
    """Start redis-server and give its URL, without the password; skip where there is no such."""
    program = shutil.which("redis-server")
    if program is None:
        pytest.skip("needs redis-server: apt-get install redis-server")
    port = port or free_port()
    command = [program, "--port", str(port), "--bind", "127.0.0.1", "--save", ""]
    if password is not None:
        command += ["--requirepass", password]
    with running([*command, "--dir", str(folder)]):
        wait_until(lambda: is_listening(port), 10, "redis-server")
        yield f"redis://127.0.0.1:{port}"
