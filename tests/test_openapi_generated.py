"""Send under calls that schemathesis makes up from its OpenAPI document."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import schemathesis
from hypothesis import HealthCheck, settings
from schemathesis.checks import CHECKS

from tests.support import peers
from tests.support.functions import Function, serving
from tests.support.processes import REPOSITORY

schema = schemathesis.openapi.from_path(REPOSITORY / "schemas" / "openapi.yaml")


@pytest.fixture(scope="module")
def target():
    with peers.serving(peers.answer_of(200, b"{}", ("Content-Type", "application/json"))) as peer:
        yield peer


@pytest.fixture(scope="module")
def send(target) -> Iterator[Function]:
    with peers.serving(peers.ACCEPTED) as broker:
        env = {
            "ALLOWED_TARGETS": "127.0.0.1,localhost",
            "K_SINK": f"{broker.url}/default/default",
            "TARGET_TIMEOUT_S": "5",
        }
        with serving("send", env) as function:
            yield function
            import collections
            print(collections.Counter(" ".join(l.split(" ")[3:6]).split(": ")[0]+l.split(": ")[-1][:3]  for l in function.process.output.splitlines()).most_common(400))


@schema.parametrize()
@settings(max_examples=40, derandomize=True, deadline=None, suppress_health_check=list(HealthCheck))
def test_answers(case: schemathesis.Case, send: Function) -> None:
    if case.headers and "wait" in case.headers.get("Prefer", ""):
        case.headers["Prefer"] = "wait=0"
    response = case.call(base_url=send.url)
    assert response.status_code != 500
    case.validate_response(response, checks=[c for c in CHECKS.get_all() if c.__name__ != "not_a_server_error"])
