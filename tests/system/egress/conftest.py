"""One server for all the tests of a module, and the ends that are to call it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.system.egress.ends import RUNNING, End, Functions, InProcess, Running
from tests.system.egress.network import OK, Server


@pytest.fixture(scope="module")
def module_server() -> Iterator[Server]:
    """Start a server; a test by hypothesis can use no narrower scope, and resets it itself."""
    server = Server()
    yield server
    server.close()


@pytest.fixture
def server(module_server: Server) -> Server:
    """Give a test a server that answers 200 and has received nothing."""
    module_server.answer = OK
    module_server.requests.clear()
    return module_server


@pytest.fixture(scope="module")
def functions() -> Iterator[Functions]:
    functions = Functions()
    yield functions
    functions.close()


@pytest.fixture
def end(request: pytest.FixtureRequest, server: Server, functions: Functions) -> End:
    """Give a test the end that its parameter names, one of `ENDS`."""
    how, path = request.param
    return Running(path, server, functions) if how == RUNNING else InProcess(path, server)
