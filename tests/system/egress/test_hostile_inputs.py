"""The hostile inputs that are kept beside the repository do what they say, at both ends."""

from __future__ import annotations

import ipaddress
import json
from pathlib import Path
from typing import cast
from urllib.parse import urlsplit

import pytest
from _pytest.mark import ParameterSet

from tests.system.egress.ends import CALLING_ENDS, ENDS, SYNC, End, name_of
from tests.system.egress.network import DNS, Server

FILE = Path(__file__).resolve().parents[3] / "shared/hostile_inputs.json"

Case = dict[str, object]

# Of several addresses the public one is called; to refuse the whole name would be right too.
EITHER = "deny|connect-public"


def cases(*outcomes: str) -> list[ParameterSet]:
    """Read the cases with these outcomes; without the file there is one that is skipped."""
    if not FILE.exists():
        reason = "there is no shared/hostile_inputs.json beside the repository"
        return [pytest.param({}, {}, marks=pytest.mark.skip(reason), id="none")]
    chosen = [
        case for case in json.loads(FILE.read_text()) if case["expect"]["outcome"] in outcomes
    ]
    # By their settings, so that running functions are started for each only once.
    chosen.sort(key=lambda case: env_for(case["expect"])["ALLOWED_TARGETS"])
    return [pytest.param(case["envelope"], case["expect"], id=case["name"]) for case in chosen]


def env_for(expect: Case) -> dict[str, str]:
    allowed = ",".join(cast("list[str]", expect.get("allow", [])))
    return {"ALLOWED_TARGETS": allowed, "K_SERVICE": "send"}


def dns_for(expect: Case) -> DNS:
    return cast("DNS", expect.get("dns", {}))


@pytest.mark.parametrize("end", ENDS, ids=name_of, indirect=True)
@pytest.mark.parametrize(("envelope", "expect"), cases("reject", "deny"))
def test_refused_inputs_open_no_connection(end: End, envelope: object, expect: Case) -> None:
    """What is to be refused is refused, with its status, by each end for itself."""
    outcome = end.ask(envelope, dns=dns_for(expect), env=env_for(expect))

    assert outcome.answer.status == expect["http"]
    assert outcome.connections == []


@pytest.mark.parametrize("end", CALLING_ENDS, ids=name_of, indirect=True)
@pytest.mark.parametrize(
    ("envelope", "expect"), cases("allow", "allow-same-origin", "passthrough", "fail", EITHER)
)
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

    outcome = end.ask(envelope, dns=dns_for(expect), env=env_for(expect))

    if expect["outcome"] == "fail":
        assert outcome.answer.status == (expect["http"] if end.path == SYNC else 503)
        assert outcome.connections == []
        return
    assert len(outcome.connections) == len(server.requests) == 1
    sent = urlsplit(str(expect.get("url", envelope["targetURL"] + envelope["targetAPI"])))
    assert outcome.connections[0][1] == (sent.port or 80)
    assert sent.hostname is not None
    found = list(map(str, dns_for(expect).get(sent.hostname, [sent.hostname])))
    if expect["outcome"] == EITHER:
        found = [address for address in found if address != "10.0.0.1"]
    assert outcome.connections[0][0] in [str(ipaddress.ip_address(address)) for address in found]
    line = server.requests[0].split(b"\r\n")[0].decode()
    assert line == f"POST {sent.path}{'?' * bool(sent.query)}{sent.query} HTTP/1.1"
    if end.path == SYNC:
        assert outcome.answer.status == answer["status"]
        assert set(fields.items()) <= set(outcome.answer.headers)
    else:
        assert outcome.answer.status == 200
        assert outcome.answer.json()["status"] == answer["status"]
