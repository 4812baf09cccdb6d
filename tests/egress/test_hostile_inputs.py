"""The hostile inputs that are kept beside the repository do what they say, at both ends."""

from __future__ import annotations

import ipaddress
import json
from pathlib import Path
from typing import cast
from urllib.parse import urlsplit

import pytest
from _pytest.mark import ParameterSet

from relay.settings import Settings
from tests.egress.ends import CALLING_ENDS, ENDS, End
from tests.egress.network import Server, network

FILE = Path(__file__).resolve().parents[3] / "shared/hostile_inputs.json"

Case = dict[str, object]

# Of several addresses the public one is called; to refuse the whole name would be right too.
EITHER = "deny|connect-public"


def cases(*outcomes: str) -> list[ParameterSet]:
    """Read the cases with these outcomes; without the file there is one that is skipped."""
    if not FILE.exists():
        reason = "there is no shared/hostile_inputs.json beside the repository"
        return [pytest.param({}, {}, marks=pytest.mark.skip(reason), id="none")]
    return [
        pytest.param(case["envelope"], case["expect"], id=case["name"])
        for case in json.loads(FILE.read_text())
        if case["expect"]["outcome"] in outcomes
    ]


def settings_for(expect: Case) -> Settings:
    allowed = ",".join(cast("list[str]", expect.get("allow", [])))
    return Settings.from_env({"ALLOWED_TARGETS": allowed, "K_SERVICE": "send"})


@pytest.mark.parametrize(("envelope", "expect"), cases("reject", "deny"))
@pytest.mark.parametrize("end", ENDS, ids=lambda end: end.__name__)
def test_refused_inputs_open_no_connection(
    end: End, envelope: object, expect: Case, server: Server
) -> None:
    """What is to be refused is refused, with its status, by each end for itself."""
    with network(server, cast("dict[str, list[str]]", expect.get("dns", {}))) as seen:
        response = end(settings_for(expect), envelope)

    assert response.status == expect["http"]
    assert seen.connections == []


@pytest.mark.parametrize(
    ("envelope", "expect"), cases("allow", "allow-same-origin", "passthrough", "fail", EITHER)
)
@pytest.mark.parametrize("end", CALLING_ENDS, ids=lambda end: end.__name__)
def test_other_inputs_go_where_they_say(
    end: End, envelope: dict[str, str], expect: Case, server: Server
) -> None:
    """What may be called is called at a checked address, byte for byte, and never twice."""
    answer = cast("dict[str, object]", expect.get("server", {"status": 200, "headers": {}}))
    fields = cast("dict[str, str]", answer["headers"])
    head = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
    server.answer = (
        f"HTTP/1.1 {answer['status']} X\r\n{head}Content-Length: 0\r\nConnection: close\r\n\r\n"
    ).encode()
    dns = cast("dict[str, list[str]]", expect.get("dns", {}))

    with network(server, dns) as seen:
        response = end(settings_for(expect), envelope)
        body = b"".join(response.body)

    if expect["outcome"] == "fail":
        assert response.status == (expect["http"] if end.__name__ == "sync" else 503)
        assert seen.connections == []
        return
    assert len(seen.connections) == len(server.requests) == 1
    sent = urlsplit(str(expect.get("url", envelope["targetURL"] + envelope["targetAPI"])))
    assert seen.connections[0][1] == (sent.port or 80)
    assert sent.hostname is not None
    found = dns.get(sent.hostname, [sent.hostname])
    if expect["outcome"] == EITHER:
        found = [address for address in found if address != "10.0.0.1"]
    assert seen.connections[0][0] in [str(ipaddress.ip_address(address)) for address in found]
    line = server.requests[0].split(b"\r\n")[0].decode()
    assert line == f"POST {sent.path}{'?' * bool(sent.query)}{sent.query} HTTP/1.1"
    if end.__name__ == "sync":
        assert response.status == answer["status"]
        assert set(fields.items()) <= set(response.headers)
    else:
        assert response.status == 200
        assert json.loads(body)["status"] == answer["status"]
