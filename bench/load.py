"""The load: wrk, which spends some microseconds of CPU on a request, on cores of its own."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict

from bench.processes import BenchError, Cores, run_bound
from local.ports import HOST
from local.process import clean_environment

_SCRIPT = Path(__file__).with_name("wrk.lua")
_TIMEOUT_S = 20


class _Summary(TypedDict):
    """What wrk.lua prints."""

    requests: int
    duration_us: int
    bytes: int
    p50_us: int
    p99_us: int
    refused: int
    failed: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Request:
    """The request that is sent again and again.

    Attributes:
        numbered_header: Gets a value of its own in each request, as the id of an event needs.
    """

    method: str = "POST"
    headers: Mapping[str, str]
    body: bytes
    numbered_header: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Load:
    """What became of the requests of one round; all of them were answered with a 2xx or 3xx."""

    requests: int
    duration_s: float
    received_bytes: int
    p50_ms: float
    p99_ms: float

    @property
    def rate(self) -> float:
        """Requests a second."""
        return self.requests / self.duration_s


def check_tools() -> None:
    """Check that wrk is there.

    Raises:
        BenchError: It is not; says how to get it.
    """
    if shutil.which("wrk") is None:
        raise BenchError(
            "the benchmark needs wrk; Debian and Ubuntu: apt-get install wrk nginx-light"
            " (nginx is measured beside the relay when it is there)"
        )


def run(cores: Cores, url: str, request: Request, *, connections: int, seconds: int) -> Load:
    """Send requests for some seconds, each connection the next one when it has its answer.

    Raises:
        BenchError: A request was not answered, or not with a 2xx or 3xx.
    """
    with tempfile.NamedTemporaryFile(prefix="bench-body-") as body:
        body.write(request.body)
        body.flush()
        command = [
            *("wrk", "--threads", "1", "--connections", str(connections)),
            *("--duration", f"{seconds}s", "--timeout", f"{_TIMEOUT_S}s"),
            *("--script", str(_SCRIPT)),
        ]
        for name, value in request.headers.items():
            command += ["--header", f"{name}: {value}"]
        env = {
            **clean_environment(os.environ),
            "BENCH_METHOD": request.method,
            "BENCH_BODY_FILE": body.name,
        }
        if request.numbered_header is not None:
            # Another prefix each time, so that no two runs make the same value.
            env["BENCH_NUMBERED_HEADER"] = request.numbered_header
            env["BENCH_NUMBER_PREFIX"] = f"{Path(body.name).name}-"
        output = run_bound([*command, url], cores.others, env, seconds + 2 * _TIMEOUT_S)
    summary: _Summary = json.loads(output.splitlines()[-1])
    if summary["refused"] or summary["failed"] or not summary["requests"]:
        raise BenchError(
            f"{url}: of {summary['requests']} requests {summary['refused']} were refused"
            f" and {summary['failed']} not answered"
        )
    return Load(
        requests=summary["requests"],
        duration_s=summary["duration_us"] / 1e6,
        received_bytes=summary["bytes"],
        p50_ms=summary["p50_us"] / 1000,
        p99_ms=summary["p99_us"] / 1000,
    )


async def call(port: int, path: str, request: Request, *, timeout_s: float) -> tuple[int, float]:
    """Send a request on a connection of its own; return the status and the seconds it took.

    Raises:
        OSError: There is no answer.
        asyncio.TimeoutError: It is not complete in time.
    """
    started_s = time.monotonic()
    reader, writer = await asyncio.open_connection(HOST, port)
    lines = [
        f"{request.method} {path} HTTP/1.1",
        f"Host: {HOST}:{port}",
        f"Content-Length: {len(request.body)}",
        "Connection: close",
        *(f"{name}: {value}" for name, value in request.headers.items()),
    ]
    try:
        writer.write("\r\n".join([*lines, "", ""]).encode() + request.body)
        answer = await asyncio.wait_for(reader.read(), timeout_s)
    finally:
        writer.close()
    if not answer:
        raise OSError("no answer")
    return int(answer.split(b" ", 2)[1]), time.monotonic() - started_s
