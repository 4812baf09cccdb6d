"""The sample API echoes, calls back and misbehaves as its docstring says."""

from __future__ import annotations

import base64
import http.client
import json
import signal
import socket
from collections.abc import Iterator
from typing import cast

import pytest

from tests.support.calls import call
from tests.support.processes import free_port, is_listening, python, running, wait_until

Calls = list[dict[str, object]]


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    """Run the sample API, and give its URL."""
    port = free_port()
    command = python("local/sample_api.py", "--port", str(port))
    with running(command, ready_output=f"sample API on http://127.0.0.1:{port}"):
        yield f"http://127.0.0.1:{port}"


@pytest.fixture
def api(server: str) -> str:
    """Give the URL of the sample API, which remembers nothing of earlier tests."""
    assert call("DELETE", f"{server}/calls").status == 204
    return server


def calls(api: str, query: str = "") -> Calls:
    """Fetch the calls that the sample API remembers."""
    return cast(Calls, json.loads(call("GET", f"{api}/calls{query}").body))


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/sync_tasks/abc"),
        ("POST", "/sync_tasks/abc"),
        ("POST", "/tasks"),
        ("PATCH", "/test"),
        ("GET", "/test?a=1&a=2"),
    ],
)
def test_echoes_the_call(api: str, method: str, path: str) -> None:
    """A task answers with the method, path, headers and body that it received."""
    answer = call(
        method, api + path, '{"type": "10"}', {"X-Header": "value", "Host": "localhost:1"}
    )

    echo = answer.json()
    assert answer.status == 200
    assert echo.pop("time")
    assert echo == {
        "method": method,
        "path": path,
        "headers": {"Host": "localhost:1", "X-Header": "value", "Content-Length": "14"},
        "body": '{"type": "10"}',
    }


def test_echoes_bytes_as_base64(api: str) -> None:
    """A body that is not UTF-8 is echoed as base64."""
    echo = call("POST", f"{api}/tasks", b"\xff\x00").json()

    assert echo["bodyBase64"] == base64.b64encode(b"\xff\x00").decode()
    assert "body" not in echo


def test_asks_for_the_length_of_a_chunked_body(api: str) -> None:
    """A chunked body is refused unread, and the connection closed."""
    connection = http.client.HTTPConnection(api.removeprefix("http://"), timeout=10)
    connection.request("POST", "/tasks", iter([b"first"]), encode_chunked=True, headers={})
    response = connection.getresponse()
    response.read()
    connection.close()

    assert (response.status, response.getheader("Connection")) == (411, "close")


@pytest.mark.parametrize(
    ("method", "path", "status", "error"),
    [
        ("GET", "/nope", 404, "no route /nope; GET / lists them"),
        ("PUT", "/tasks", 405, "/tasks takes POST"),
        ("GET", "/misbehave/slow/long", 400, "seconds must be a number, such as 2.5"),
        ("GET", "/misbehave/status/99", 400, "status must be from 200 to 599"),
        ("GET", "/misbehave/fail-times/x/a", 400, "n must be a whole number, at most 999999"),
    ],
)
def test_explains_a_refusal(api: str, method: str, path: str, status: int, error: str) -> None:
    """What cannot be done is refused with the reason."""
    answer = call(method, api + path)

    assert (answer.status, answer.json()) == (status, {"error": error})


def test_names_the_methods_of_a_route(api: str) -> None:
    """A 405 comes with Allow (RFC 9110 section 15.5.6)."""
    answer = call("DELETE", f"{api}/sync_tasks/abc")

    assert answer.all("Allow") == ["GET, POST"]


def test_calls_back_with_the_host_given(api: str) -> None:
    """A callback task is accepted at once, then POSTs to the URI with that Host."""
    task = json.dumps({"callback_uri": f"{api}/test?id=7", "host": "localhost:7"})

    answer = call("POST", f"{api}/callback_tasks", task, {"Idempotency-Key": "k"})

    assert answer.status == 202
    (callback,) = wait_until(lambda: calls(api, "?path=/test"), 10, "the callback")
    assert (callback["method"], callback["path"]) == ("POST", "/test?id=7")
    assert cast(dict[str, str], callback["headers"])["Host"] == "localhost:7"
    assert callback["body"] == '{"status": "completed", "idempotencyKey": "k"}'


def test_calls_back_again_after_a_failure(api: str) -> None:
    """A callback that fails is sent again."""
    task = json.dumps({"callback_uri": f"{api}/misbehave/fail-times/1/back"})

    call("POST", f"{api}/callback_tasks", task)

    wait_until(lambda: len(calls(api, "?path=/misbehave/fail-times/1/back")) == 2, 10, "a retry")


@pytest.mark.parametrize(
    ("body", "error"),
    [
        ("", "the body must be a JSON object with callback_uri and host"),
        ("[]", "the body must be a JSON object with callback_uri and host"),
        ("{}", "callback_uri must be an http(s) URL"),
        ('{"callback_uri": 5}', "callback_uri must be an http(s) URL"),
        ('{"callback_uri": "ftp://a/"}', "callback_uri must be an http(s) URL"),
        ('{"callback_uri": "http:///x"}', "callback_uri must be an http(s) URL"),
        ('{"callback_uri": "http://a:b/"}', "callback_uri must be an http(s) URL"),
        ('{"callback_uri": "http://a/\\r\\nX: y"}', "callback_uri must be an http(s) URL"),
        (
            '{"callback_uri": "http://a/", "host": "a\\r\\nX: y"}',
            "host must be a host name, optionally with a port",
        ),
    ],
)
def test_names_the_field_of_a_bad_callback_task(api: str, body: str, error: str) -> None:
    """A callback task that cannot be done is a 400 that names the field."""
    answer = call("POST", f"{api}/callback_tasks", body)

    assert (answer.status, answer.json()) == (400, {"error": error})


def test_remembers_calls_by_path_and_key(api: str) -> None:
    """The calls are listed oldest first, and can be filtered by path and Idempotency-Key."""
    call("POST", f"{api}/tasks", "1", {"idempotency-key": "a"})
    call("POST", f"{api}/tasks?x", "2", {"Idempotency-Key": "b"})
    call("POST", f"{api}/test", "3", {"Idempotency-Key": "a"})

    assert [each["body"] for each in calls(api)] == ["1", "2", "3"]
    assert [each["body"] for each in calls(api, "?path=/tasks")] == ["1", "2"]
    assert [each["body"] for each in calls(api, "?key=a")] == ["1", "3"]


def test_remembers_only_the_last_thousand_calls(api: str) -> None:
    """The memory of calls is bounded."""
    connection = http.client.HTTPConnection(api.removeprefix("http://"), timeout=10)
    for number in range(1001):
        connection.request("POST", "/tasks", str(number))
        connection.getresponse().read()
    connection.close()

    remembered = calls(api)
    assert len(remembered) == 1000
    assert remembered[0]["body"] == "1"


def test_fails_as_often_as_asked(api: str) -> None:
    """A named call fails n times, then works; each name counts for itself."""
    url = f"{api}/misbehave/fail-times/2"

    answers = [call("POST", f"{url}/a?status=429&retry-after=3") for _ in range(3)]

    assert [answer.status for answer in answers] == [429, 429, 200]
    assert [answer.all("Retry-After") for answer in answers] == [["3"], ["3"], []]
    assert call("POST", f"{url}/b").status == 503


def test_answers_with_the_status_asked_for(api: str) -> None:
    """Any status can be had, the bodyless ones without a body."""
    teapot = call("GET", f"{api}/misbehave/status/418")
    empty = call("GET", f"{api}/misbehave/status/204")

    assert (teapot.status, teapot.json()["method"]) == (418, "GET")
    assert (empty.status, empty.body, empty.all("Content-Length")) == (204, b"", [])


def test_repeats_a_header(api: str) -> None:
    """Three cookies are three headers."""
    assert len(call("GET", f"{api}/misbehave/cookies").all("Set-Cookie")) == 3


def test_closes_on_a_body_that_is_too_large(api: str) -> None:
    """A body beyond the bound is refused unread."""
    with socket.create_connection(("127.0.0.1", int(api.rpartition(":")[2])), timeout=10) as client:
        client.sendall(
            b"POST /tasks HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99999999\r\n\r\n"
        )
        with client.makefile("rb") as stream:
            answer = stream.read()

    assert answer.startswith(b"HTTP/1.1 413 ")
    assert b"a body may have 16777216 bytes" in answer


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_stops_at_once(number: signal.Signals) -> None:
    """A signal ends it with exit code 0, also while a call is slow."""
    port = free_port()
    command = python("local/sample_api.py", "--port", str(port))
    with (
        running(command, ready_output="sample API on") as process,
        socket.create_connection(("127.0.0.1", port)) as client,
    ):
        client.sendall(b"GET /misbehave/slow/60 HTTP/1.1\r\nHost: localhost\r\n\r\n")
        process.send_signal(number)
        exit_code = process.wait()

    assert exit_code == 0
    assert not is_listening(port)


def test_logs_no_control_characters() -> None:
    """What a caller sends cannot control the terminal."""
    port = free_port()
    command = python("local/sample_api.py", "--port", str(port))
    with (
        running(command, ready_output="sample API on") as process,
        socket.create_connection(("127.0.0.1", port)) as client,
    ):
        client.sendall(b"GET /\x1b[2J HTTP/1.1\r\nHost: localhost\r\n\r\n")
        process.wait_for_output("[2J 404")

    assert "GET /\\x1b[2J 404" in process.output
