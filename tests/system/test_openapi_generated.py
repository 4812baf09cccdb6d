"""Send under calls that schemathesis makes up from its OpenAPI document, right and wrong ones."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, settings
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import positive_data_acceptance

from relay.urls import MAX_URL_LENGTH
from tests.support import peers
from tests.support.functions import Function, serving
from tests.support.peers import Peer
from tests.support.processes import REPOSITORY

Case = schemathesis.Case[schemathesis.APIOperation[Any, Any, Any, Any]]

SEND = schemathesis.openapi.from_path(REPOSITORY / "schemas" / "openapi.yaml")
# Others stand for these: the document says the same of them, and the routes are the same.
TWINS = ["syncPut", "syncPatch", "syncDelete", "acceptEvent"]

# A target's 5xx is handed on, and the relay's own are answers too, all but the 500, which is looked
# for below. And a schema cannot say all that is asked of an envelope.
NOT_CHECKED: list[schemathesis.CheckFunction] = [not_a_server_error, positive_data_acceptance]


@pytest.fixture(scope="module")
def target() -> Iterator[Peer]:
    with peers.serving(peers.answer_of(200, b"{}", ("Content-Type", "application/json"))) as peer:
        yield peer


@pytest.fixture(scope="module")
def send(target: Peer) -> Iterator[Function]:
    with peers.serving(peers.ACCEPTED) as broker:
        env = {
            "ALLOWED_TARGETS": "127.0.0.1,localhost",
            "ALLOWED_TARGETS_ONLY": "true",  # no address that is made up is ever called
            "K_SINK": f"{broker.url}/default/default",
        }
        with serving("send", env) as function:
            yield function


@SEND.exclude(operation_id=TWINS).parametrize()
@settings(
    max_examples=20,
    derandomize=True,
    deadline=None,
    suppress_health_check=[HealthCheck.filter_too_much, HealthCheck.too_slow],
)
def test_answers_are_as_described(case: Case, send: Function, target: Peer) -> None:
    """Never a 500; status, Content-Type, headers and body are in the document.

    What breaks the document's schemas is refused, and so are methods that it has not.
    """
    lead_to(target, case)

    response = case.call(base_url=send.url)

    assert response.status_code != 500
    case.validate_response(response, excluded_checks=NOT_CHECKED)


def lead_to(target: Peer, case: Case) -> None:
    """Make a call that can succeed do so, and none wait for a result that nobody will bring."""
    if "Prefer" in case.headers:
        case.headers["Prefer"] = re.sub("(?i)wait.*", "wait=0", case.headers["Prefer"])
    if isinstance(case.body, dict):
        url = case.body.get("targetURL")
        # One that is too long was made wrong on purpose.
        if (
            isinstance(url, str)
            and len(url) <= MAX_URL_LENGTH
            and re.match("https?://", url, re.I)
            and len(url) % 4
        ):
            case.body["targetURL"] = target.url
