"""What both functions answer around the relay, as functions-framework serves them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import pytest

from tests.support import peers
from tests.support.calls import Answer, call
from tests.support.functions import Function, serving
from tests.support.processes import REPOSITORY, free_port, python, running

PROBES = ("/health/liveness", "/health/readiness")
NAMES = ("send", "receive")


@pytest.fixture(scope="module")
def functions() -> Iterator[Mapping[str, Function]]:
    with serving("send", {}) as send, serving("receive", {}) as receive:
        yield {"send": send, "receive": receive}


def problem_of(answer: Answer) -> dict[str, object]:
    """Read a problem document, of the answer's own status."""
    assert answer.all("Content-Type") == ["application/problem+json"]
    problem = answer.json()
    assert problem["status"] == answer.status
    return problem


@pytest.mark.parametrize("path", PROBES)
@pytest.mark.parametrize("name", NAMES)
def test_probes_are_answered(functions: Mapping[str, Function], name: str, path: str) -> None:
    """The function itself would be invoked, or refuse what is not an event."""
    url = functions[name].url + path

    answers = {method: call(method, url) for method in ("GET", "HEAD")}

    assert [answer.status for answer in answers.values()] == [200, 200]
    assert [answer.body for answer in answers.values()] == [b"ok\n", b""]


@pytest.mark.parametrize("path", PROBES)
@pytest.mark.parametrize("name", NAMES)
def test_a_probe_is_no_call(functions: Mapping[str, Function], name: str, path: str) -> None:
    """Other methods do not reach the function."""
    answer = call("POST", functions[name].url + path, "{}")

    assert answer.status == 405
    assert answer.all("Allow") == ["GET, HEAD"]
    assert problem_of(answer)["detail"] == f"{path} does not answer POST; it answers GET, HEAD"


def test_a_second_slash_is_no_redirect(functions: Mapping[str, Function]) -> None:
    """No ingress takes it for the path with one."""
    answer = call("POST", f"{functions['send'].url}//sync", "{}")

    assert answer.status == 404
    assert problem_of(answer)["detail"] == (
        "there is no '//sync'; did you mean /sync? GET / lists what there is"
    )


def test_what_the_framework_keeps_for_itself_is_a_problem(
    functions: Mapping[str, Function],
) -> None:
    """It would answer some paths without the function, in HTML."""
    answer = call("GET", f"{functions['send'].url}/robots.txt")

    assert answer.status == 404
    assert problem_of(answer)["detail"] == ("there is no '/robots.txt'; GET / lists what there is")


def test_an_answer_has_the_headers_it_was_given(functions: Mapping[str, Function]) -> None:
    """None but the server's own are added, and no type is guessed."""
    answer = call("GET", f"{functions['send'].url}/envelope.schema.json")

    names = [name for name, _ in answer.headers if name not in ("Server", "Date", "Connection")]
    assert names == ["Content-Type", "Content-Length", "Cache-Control"]


def test_other_servers_serve_it_as_well() -> None:
    """functions-framework --debug uses one for developers, whose input ends with the connection."""
    hi = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi"
    url = f"http://127.0.0.1:{free_port()}"
    command = python(
        *("-m", "functions_framework", "--debug", "--target", "send"),
        *("--source", str(REPOSITORY / "functions/send/function/main.py")),
        *("--host", "127.0.0.1", "--port", url.rpartition(":")[2]),
    )
    env = {"PYTHONPATH": str(REPOSITORY), "ALLOWED_TARGETS": "localhost"}

    with peers.serving(hi) as target, running(command, env=env, ready_url=f"{url}{PROBES[0]}"):
        envelope = f'{{"targetURL": "http://localhost:{target.port}", "body": 1}}'
        answers = [call(method, f"{url}/sync", envelope) for method in ("POST", "HEAD")]

    assert [(answer.status, answer.body) for answer in answers] == [(200, b"hi"), (200, b"")]
