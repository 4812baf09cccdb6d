"""The functions as they are served: one functions-framework process each."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from tests.support.processes import REPOSITORY, Process, free_port, python, running


@dataclass(frozen=True, kw_only=True, slots=True)
class Function:
    """A function that is being served."""

    name: str
    url: str
    port: int
    process: Process


@contextmanager
def serving(
    name: str,
    env: Mapping[str, str],
    *,
    program: Sequence[str] = ("-m", "functions_framework"),
) -> Iterator[Function]:
    """Serve a function while the block runs.

    Args:
        name: `send` or `receive`.
        env: its settings; without any, 8 threads serve.
        program: what Python runs, with the arguments of functions-framework.
    """
    port = free_port()
    source = REPOSITORY / "functions" / name / "function" / "main.py"
    command = python(
        *(*program, "--source", str(source), "--target", name),
        *("--signature-type", "cloudevent" if name == "receive" else "http"),
        *("--host", "127.0.0.1", "--port", str(port)),
    )
    url = f"http://127.0.0.1:{port}"
    ready = f"{url}/health/readiness"
    with running(
        command, env={"PYTHONPATH": str(REPOSITORY), "THREADS": "8", **env}, ready_url=ready
    ) as process:
        yield Function(name=name, url=url, port=port, process=process)
