"""Alerts and dashboard of knative/monitoring/: they say what they should, of metrics there are."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from relay.settings import Settings
from tests.support import peers
from tests.support.calls import call
from tests.support.functions import serving
from tests.support.processes import REPOSITORY, wait_until

MONITORING = REPOSITORY / "knative" / "monitoring"
DASHBOARD = json.loads((MONITORING / "dashboard.json").read_text(encoding="utf-8"))
RULES = yaml.safe_load((MONITORING / "110-alerts.yaml").read_text(encoding="utf-8"))["spec"]
ALERTS = [rule for group in RULES["groups"] for rule in group["rules"]]
# Of the Kafka Exporter, which measures from outside: a dispatcher that is down tells nothing.
KAFKA_LAG = "kafka_consumergroup_lag"


def expressions() -> Iterator[Any]:
    """List every query of the alerts and of the dashboard."""
    for rule in ALERTS:
        yield pytest.param(rule["expr"], id=rule["alert"])
    for panel in DASHBOARD["panels"]:
        for target in panel["targets"]:
            yield pytest.param(target["expr"], id=f"{panel['title']} {target['refId']}")
    for variable in DASHBOARD["templating"]["list"]:
        if variable["type"] == "query":
            yield pytest.param(variable["query"]["query"], id=f"${variable['name']}")


def promtool() -> str:
    program = shutil.which("promtool")
    assert program is not None, "needs promtool: apt-get install --no-install-recommends prometheus"
    return program


@pytest.fixture(scope="module")
def told() -> dict[str, set[str]]:
    """Ask Send for its metrics after something of each kind: the labels of each by its name."""
    with peers.serving() as target, peers.serving(peers.ACCEPTED) as broker:
        env = {"ALLOWED_TARGETS": "127.0.0.1", "K_SINK": broker.url}
        with serving("send", env) as send:
            envelope = json.dumps({"targetURL": target.url})
            for path in ("/sync", "/async"):
                call("POST", send.url + path, envelope)
            own = {"ce-source": Settings().event_source, "ce-type": Settings().event_type}
            lost = {"ce-specversion": "1.0", "ce-id": "a", **own}
            dead = call("POST", f"{send.url}/event/dead-letter", envelope, lost)
            assert dead.status == 202
            text = wait_until(lambda: _with_outcomes(send.url), 10, "the outcome to be counted")
    labels: dict[str, set[str]] = {KAFKA_LAG: {"consumergroup", "topic", "partition"}}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            labels.setdefault(sample.name, set()).update(sample.labels)
    return labels


def _with_outcomes(url: str) -> str:
    """Ask for the metrics: a request counts when its caller has had the answer."""
    text = call("GET", f"{url}/metrics").body.decode()
    return text if "relay_outcomes_total{" in text else ""


@pytest.mark.parametrize("expression", list(expressions()))
def test_every_query_names_a_metric_that_exists(expression: str, told: dict[str, set[str]]) -> None:
    """And labels that it has, or that Prometheus gives it."""
    names = set(re.findall(r"\b(?:relay|http|messaging|db|kafka)_\w+(?=[{\[) ]|,|$)", expression))
    metrics, others = names & told.keys(), names - told.keys()

    assert metrics
    labels = set().union(*(told[name] for name in metrics)) | {"namespace", "pod"}
    matched = set(re.findall(r"(\w+)\s*(?:=~|!=|=)\"", expression))
    grouped = re.findall(r"by \(([^)]*)\)", expression)
    used = matched.union(*(set(each.replace(",", " ").split()) for each in grouped))
    assert others <= labels, f"no such metric: {others - labels}"
    assert used <= labels, f"no such label: {used - labels}"


def test_alerts_become_true_when_they_should(tmp_path: Path) -> None:
    """Prometheus' own tool takes the rules, and their tests in alerts_test.yaml pass."""
    (tmp_path / "rules.yaml").write_text(yaml.safe_dump(RULES), encoding="utf-8")
    shutil.copy(MONITORING / "alerts_test.yaml", tmp_path)

    for command in (["check", "rules", "rules.yaml"], ["test", "rules", "alerts_test.yaml"]):
        ran = subprocess.run(
            [promtool(), *command], cwd=tmp_path, capture_output=True, text=True, check=False
        )
        assert ran.returncode == 0, ran.stdout + ran.stderr


def test_an_alert_becomes_true_of_what_the_functions_tell(tmp_path: Path) -> None:
    """A request that is really dead, as Send tells of it, sets off the alert for dead requests."""
    with serving("send", {"ALLOWED_TARGETS": "127.0.0.1"}) as send:
        own = {"ce-source": Settings().event_source, "ce-type": Settings().event_type}
        lost = {"ce-specversion": "1.0", "ce-id": "a", **own}
        envelope = '{"targetURL": "http://127.0.0.1:9"}'
        call("POST", f"{send.url}/event/dead-letter", envelope, lost)
        text = call("GET", f"{send.url}/metrics").body.decode()
    series = [
        {"series": f'{sample.name}{{namespace="shop"}}', "values": f"{sample.value}x5"}
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if not sample.labels
    ]
    case = {
        "interval": "1m",
        "input_series": series,
        "promql_expr_test": [
            {
                "expr": f'count by (alertname) (ALERTS{{alertname="{alert["alert"]}"}})',
                "eval_time": "5m",
                "exp_samples": [
                    {"labels": f'{{alertname="{alert["alert"]}"}}', "value": 1}
                    for _ in range(alert["alert"] == "RelayRequestsDead")
                ],
            }
            for alert in ALERTS
        ],
    }
    test = {"rule_files": ["rules.yaml"], "evaluation_interval": "1m", "tests": [case]}
    (tmp_path / "rules.yaml").write_text(yaml.safe_dump(RULES), encoding="utf-8")
    (tmp_path / "test.yaml").write_text(yaml.safe_dump(test), encoding="utf-8")

    ran = subprocess.run(
        [promtool(), "test", "rules", "test.yaml"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )

    assert ran.returncode == 0, ran.stdout + ran.stderr


def test_every_alert_is_tested_and_explained() -> None:
    """What wakes somebody up has a test that makes it true, and a line that says what to do."""
    tests = yaml.safe_load((MONITORING / "alerts_test.yaml").read_text(encoding="utf-8"))["tests"]
    fires = {
        case["alertname"]
        for test in tests
        for case in test["alert_rule_test"]
        if case["exp_alerts"]
    }
    guide = (REPOSITORY / "docs" / "operate.md").read_text(encoding="utf-8")
    explained = set(re.findall(r"^\| `(Relay\w+)`", guide, re.M))

    assert fires == {rule["alert"] for rule in ALERTS} == explained
