"""The manifests of knative/: accepted by the published models, and wired to what is there."""

from __future__ import annotations

import copy
import re
import warnings
from ipaddress import ip_address, ip_network
from itertools import pairwise
from pathlib import Path
from typing import Any

import kubernetes_validate  # type: ignore[import-untyped]
import pydantic
import pytest
import yaml

from knative.sample_api_configmap import render
from relay.addresses import LOCKED, PRIVATE, SPECIAL, Reach, reach_of
from relay.events import CALLBACK, COMPLETED, DEAD, FAILED
from relay.retries import LONGEST_PAUSE_S, MAX_RETRY_AFTER_S
from relay.settings import MAX_TIERS, Settings
from tests.support.processes import REPOSITORY

with warnings.catch_warnings():
    # A field of one of the models, unused here, shadows one of its parent's.
    warnings.simplefilter("ignore", UserWarning)
    from cloudcoil.models.knative_eventing.eventing.v1 import Broker, Trigger
    from cloudcoil.models.knative_eventing.sources.v1 import SinkBinding
    from cloudcoil.models.knative_serving.serving.v1 import Service
    from cloudcoil.models.prometheus_operator.v1 import PodMonitor, PrometheusRule

KNATIVE = REPOSITORY / "knative"
KAFKA = KNATIVE / "kafka"
NETWORK_POLICY = KNATIVE / "network-policy"
FILES = sorted({*KNATIVE.rglob("*.yaml")} - {KNATIVE / "monitoring" / "alerts_test.yaml"})

KNATIVE_MODELS: dict[tuple[str, str], type[pydantic.BaseModel]] = {
    ("eventing.knative.dev/v1", "Broker"): Broker,
    ("eventing.knative.dev/v1", "Trigger"): Trigger,
    ("sources.knative.dev/v1", "SinkBinding"): SinkBinding,
    ("serving.knative.dev/v1", "Service"): Service,
    ("monitoring.coreos.com/v1", "PodMonitor"): PodMonitor,
    ("monitoring.coreos.com/v1", "PrometheusRule"): PrometheusRule,
}
KUBERNETES_VERSION = "1.33"

Resource = dict[str, Any]


def read(file: Path) -> Resource:
    """Read a manifest; a second document in the file is an error."""
    document = yaml.safe_load(file.read_text(encoding="utf-8"))
    assert isinstance(document, dict)
    return document


def file_id(file: Path) -> str:
    return str(file.relative_to(KNATIVE))


def resources(folder: Path, kind: str) -> dict[str, Resource]:
    """Find the resources of a kind in a folder, by name."""
    documents = [read(file) for file in sorted(folder.glob("*.yaml"))]
    return {each["metadata"]["name"]: each for each in documents if each["kind"] == kind}


def ksvc_names() -> set[str]:
    """Name the Knative Services that func.yaml files and manifests make."""
    functions = (REPOSITORY / "functions").glob("*/func.yaml")
    deployed = {read(file)["name"] for file in functions}
    manifests = {
        name
        for name, each in resources(KNATIVE, "Service").items()
        if each["apiVersion"] == "serving.knative.dev/v1"
    }
    return deployed | manifests


def references(value: object) -> list[Resource]:
    """Find every `ref`, `subject` and `config` at any depth."""
    if isinstance(value, list):
        return [found for each in value for found in references(each)]
    if not isinstance(value, dict):
        return []
    own = [value[key] for key in ("ref", "subject", "config") if isinstance(value.get(key), dict)]
    return own + [found for each in value.values() for found in references(each)]


def types_of(trigger: Resource) -> set[str]:
    """Name the event types that a Trigger lets through."""
    spec = trigger["spec"]
    if "filter" in spec:
        return {spec["filter"]["attributes"]["type"]}
    (condition,) = spec["filters"]
    return {each["exact"]["type"] for each in condition["any"]}


@pytest.mark.parametrize("file", FILES, ids=file_id)
def test_one_resource_with_its_number(file: Path) -> None:
    """A file holds one resource, and its name begins with the number that orders it."""
    assert re.match(r"[0-9]{3}-[a-z0-9-]+\.yaml$", file.name)
    assert read(file)["metadata"]["name"]


def test_no_pod_has_a_token() -> None:
    """Nothing here talks to the Kubernetes API, so nothing may be stolen that could."""
    accounts = resources(KNATIVE, "ServiceAccount")
    functions = [read(file) for file in (REPOSITORY / "functions").glob("*/func.yaml")]
    specs = [read(file).get("spec", {}) for file in FILES]
    pods = [spec["template"]["spec"] for spec in specs if "template" in spec]

    assert len(functions) == 2
    for function in functions:
        account = accounts[function["deploy"]["serviceAccountName"]]
        assert account["automountServiceAccountToken"] is False
    assert pods
    assert all(pod["automountServiceAccountToken"] is False for pod in pods)


@pytest.mark.parametrize("file", FILES, ids=file_id)
def test_models_accept(file: Path) -> None:
    """Every field is one that the published Knative model, or Kubernetes' schema, has."""
    resource = read(file)
    model = KNATIVE_MODELS.get((resource["apiVersion"], resource["kind"]))

    if model is None:
        kubernetes_validate.validate(resource, KUBERNETES_VERSION, strict=True)
        return
    parsed = model.model_validate(copy.deepcopy(resource))

    # Fields that came to Knative later than the models; the Trigger's schema has the first, and
    # lets the second, an experimental one, through unnamed.
    for name in ("timeout", "retryAfterMax"):
        resource["spec"].get("delivery", {}).pop(name, None)
    # A model ignores what it does not know, so what comes back shows a misspelt field.
    assert parsed.model_dump(by_alias=True, exclude_unset=True, mode="json") == resource


@pytest.mark.parametrize("file", FILES, ids=file_id)
def test_namespace_is_the_operators(file: Path) -> None:
    """No manifest names a namespace, so `kubectl -n` and the context choose one for all."""
    resource = read(file)

    for named in (resource["metadata"], *references(resource.get("spec"))):
        assert "namespace" not in named


@pytest.mark.parametrize("file", FILES, ids=file_id)
def test_references_resolve(file: Path) -> None:
    """What a manifest refers to is made by another, or by a func.yaml."""
    brokers = {"default"}
    config_maps = set(resources(KAFKA, "ConfigMap"))
    known = {
        ("serving.knative.dev/v1", "Service"): ksvc_names(),
        ("eventing.knative.dev/v1", "Broker"): brokers,
        ("v1", "ConfigMap"): config_maps,
    }

    for reference in references(read(file).get("spec", {})):
        assert reference["name"] in known[reference["apiVersion"], reference["kind"]]


def test_triggers_are_of_the_broker() -> None:
    """Every Trigger's Broker exists, in memory and on Kafka alike."""
    triggers = resources(KNATIVE, "Trigger").values()

    used = {trigger["spec"]["broker"] for trigger in triggers}

    assert used == set(resources(KNATIVE, "Broker")) == set(resources(KAFKA, "Broker"))


def test_requests_go_to_receive() -> None:
    """The request Trigger filters on the type that Send publishes unless told otherwise."""
    trigger = resources(KNATIVE, "Trigger")["receive"]

    assert types_of(trigger) == {Settings().event_type}
    assert trigger["spec"]["subscriber"]["ref"]["name"] == "receive-cloudevent-service"


def test_each_tier_has_a_trigger() -> None:
    """What Receive publishes to be tried again comes back to it; its comment says how long."""
    delays_s = Settings().retry_delays_s
    tiers = {
        name: trigger
        for name, trigger in resources(KNATIVE, "Trigger").items()
        if name.startswith("receive-retry")
    }

    assert list(tiers) == [f"receive-retry{number}" for number in range(1, MAX_TIERS + 1)]
    assert len(delays_s) == MAX_TIERS
    receive = resources(KNATIVE, "Trigger")["receive"]["spec"]
    for number, (name, trigger) in enumerate(tiers.items(), 1):
        assert types_of(trigger) == {f"{Settings().event_type}.retry{number}"}
        for same in ("subscriber", "delivery"):
            assert trigger["spec"][same] == receive[same]
        text = (KNATIVE / f"30{number}-{name}-trigger.yaml").read_text(encoding="utf-8")
        assert f"Requests that wait {delays_s[number - 1]:g} s before" in text


def test_receive_answers_within_the_timeout() -> None:
    """A delivery may wait in its tier, and then its call may take all the time there is."""
    for name, trigger in resources(KNATIVE, "Trigger").items():
        delivery = trigger["spec"]["delivery"]
        assert delivery["timeout"] == "PT60S"
        if name.startswith("receive"):
            assert LONGEST_PAUSE_S + Settings().target_timeout_s < 60
            assert delivery["retryAfterMax"] == f"PT{MAX_RETRY_AFTER_S / 60:g}M"
            assert delivery["retry"] > 0
    for folder in (KNATIVE, KAFKA):
        (broker,) = resources(folder, "Broker").values()
        assert broker["spec"]["delivery"]["timeout"] == "PT60S"


def test_results_go_to_send() -> None:
    """Results and callbacks go to Send, and nothing else does: no request comes back to it."""
    trigger = resources(KNATIVE, "Trigger")["results"]

    assert types_of(trigger) == {
        f"{Settings().event_type}.{suffix}" for suffix in (COMPLETED, FAILED, DEAD, CALLBACK)
    }
    assert trigger["spec"]["subscriber"]["ref"]["name"] == "send-serving"
    assert trigger["spec"]["subscriber"]["uri"] == "/event/callback"


@pytest.mark.parametrize("folder", [KNATIVE, KAFKA], ids=["in-memory", "kafka"])
def test_undeliverable_events_go_to_send(folder: Path) -> None:
    """What cannot be delivered reaches Send's dead letter sink, after some retries."""
    (broker,) = resources(folder, "Broker").values()
    receive = resources(KNATIVE, "Trigger")["receive"]

    for delivery in (broker["spec"]["delivery"], receive["spec"]["delivery"]):
        assert delivery["deadLetterSink"]["ref"]["name"] == "send-serving"
        assert delivery["deadLetterSink"]["uri"] == "/event/dead-letter"
        assert (delivery["retry"], delivery["backoffPolicy"], delivery["backoffDelay"]) == (
            5,
            "exponential",
            "PT1S",
        )


def test_results_outlast_an_hour_without_the_state() -> None:
    """Send answers 503 meanwhile; the last delivery of all goes to its dead letter sink."""
    delivery = resources(KNATIVE, "Trigger")["results"]["spec"]["delivery"]

    assert (delivery["backoffPolicy"], delivery["backoffDelay"]) == ("exponential", "PT1S")
    assert sum(2**retry for retry in range(delivery["retry"])) > 3600
    assert delivery["deadLetterSink"]["ref"]["name"] == "send-serving"
    assert delivery["deadLetterSink"]["uri"] == "/event/dead-letter"


def test_the_state_is_part_of_the_system() -> None:
    """Both functions name it, it finds its pods, and what it says it has is on a volume."""
    state = resources(KNATIVE, "StatefulSet")["relay-state"]
    service = read(KNATIVE / "220-state-service.yaml")
    pod = state["spec"]["template"]
    (container,) = pod["spec"]["containers"]
    (port,) = service["spec"]["ports"]
    options = [*container["command"], *container["args"]]
    given = dict(pairwise(options))

    for file in (REPOSITORY / "functions").glob("*/func.yaml"):
        env = {each["name"]: each["value"] for each in read(file)["run"]["envs"]}
        assert env["STATE_URL"] == f"redis://{service['metadata']['name']}:{port['port']}/0"
    assert service["spec"]["selector"].items() <= pod["metadata"]["labels"].items()
    assert port["targetPort"] == container["ports"][0]["name"]
    assert (given["--appendonly"], given["--appendfsync"]) == ("yes", "always")
    assert given["--maxmemory-policy"] == "noeviction"
    assert container["volumeMounts"][0]["mountPath"] == given["--dir"]
    (claim,) = state["spec"]["volumeClaimTemplates"]
    assert claim["metadata"]["name"] == container["volumeMounts"][0]["name"]


def test_display_dead_letters_itself() -> None:
    """A display that is down dead-letters nothing to Send, which would report requests dead."""
    spec = resources(KNATIVE, "Trigger")["event-display"]["spec"]

    assert spec["delivery"]["deadLetterSink"]["ref"] == spec["subscriber"]["ref"]


def test_sample_api_is_wired() -> None:
    """The Service finds the Deployment's pods, which run the ConfigMap's file on its port."""
    deployment = resources(KNATIVE, "Deployment")["sample-api"]
    service = read(KNATIVE / "520-sample-api-service.yaml")
    config_map = resources(KNATIVE, "ConfigMap")["sample-api"]
    pod = deployment["spec"]["template"]
    (container,) = pod["spec"]["containers"]
    (port,) = service["spec"]["ports"]

    assert service["spec"]["selector"].items() <= pod["metadata"]["labels"].items()
    assert pod["spec"]["volumes"][0]["configMap"]["name"] == config_map["metadata"]["name"]
    assert f"{container['volumeMounts'][0]['mountPath']}/sample_api.py" in container["command"]
    assert set(config_map["data"]) == {"sample_api.py"}
    assert port["targetPort"] == container["ports"][0]["name"]
    assert port["port"] == port["nodePort"] == container["ports"][0]["containerPort"] == 30000
    assert container["command"][-2:] == ["--port", "30000"]


def test_sample_api_is_the_file() -> None:
    """The ConfigMap carries local/sample_api.py, byte for byte."""
    source = (REPOSITORY / "local" / "sample_api.py").read_text(encoding="utf-8")
    manifest = (KNATIVE / "500-sample-api-configmap.yaml").read_text(encoding="utf-8")

    assert manifest == render(source)
    assert yaml.safe_load(manifest)["data"]["sample_api.py"] == source


@pytest.mark.parametrize("source", ["", "x = 1", "x = 1\n\n", " x = 1\n", "\nx = 1\n"], ids=repr)
def test_unfaithful_block_is_refused(source: str) -> None:
    """A text that YAML's literal block would change is refused."""
    with pytest.raises(
        ValueError, match=r"^must start with its first word and end with one newline$"
    ):
        render(source)


@pytest.mark.parametrize("kind", ["ksvc", "deployment", "statefulset"])
def test_pods_are_confined(kind: str) -> None:
    """Our pods run as nobody, write nowhere but to their volumes, hold no token and are bounded."""
    resource = {
        "ksvc": read(KNATIVE / "400-event-display-service.yaml"),
        "deployment": read(KNATIVE / "510-sample-api-deployment.yaml"),
        "statefulset": read(KNATIVE / "230-state.yaml"),
    }[kind]
    pod = resource["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    security = {**pod.get("securityContext", {}), **container["securityContext"]}

    assert pod["automountServiceAccountToken"] is False
    assert security["runAsNonRoot"] is True
    assert security["runAsUser"] > 0
    assert security["readOnlyRootFilesystem"] is True
    assert security["allowPrivilegeEscalation"] is False
    assert security["capabilities"] == {"drop": ["ALL"]}
    assert security["seccompProfile"] == {"type": "RuntimeDefault"}
    assert {"cpu", "memory"} == set(container["resources"]["limits"])
    assert "readinessProbe" in container


def test_kafka_survives_the_loss_of_a_node() -> None:
    """An acknowledged event is on more than one node, and one node may be missing."""
    data = resources(KAFKA, "ConfigMap")["relay-kafka-broker"]["data"]
    in_sync = int(data["default.topic.config.min.insync.replicas"])

    assert 1 < in_sync < int(data["default.topic.replication.factor"])
    assert data["default.topic.config.unclean.leader.election.enable"] == "false"


def test_the_network_policy_judges_as_the_relay_does() -> None:
    """Around every border of either list, what is let out is what the relay calls public."""
    rules = resources(NETWORK_POLICY, "NetworkPolicy")["relay-egress"]["spec"]["egress"]
    (public,) = (rule for rule in rules if "ports" not in rule)
    blocks = [
        (ip_network(peer["ipBlock"]["cidr"]), [*map(ip_network, peer["ipBlock"]["except"])])
        for peer in public["to"]
    ]
    borders = {block for cidr, excepted in blocks for block in (cidr, *excepted)}
    # No interface of that module, but a border that only it has must be looked at too.
    borders |= {
        *LOCKED,
        *PRIVATE,
        *SPECIAL,
        ip_network("127.0.0.0/8"),
    }
    addresses = {
        ip_address(int(block[place]) + step)
        for block in borders
        for place, step in ((0, -1), (0, 0), (-1, 0), (-1, 1))
        if 0 <= int(block[place]) + step < 2**block.max_prefixlen
    }

    for address in addresses:
        let_out = any(
            address in cidr and not any(address in each for each in excepted)
            for cidr, excepted in blocks
        )
        assert let_out == (reach_of(address) is Reach.PUBLIC), address


def test_network_policies_find_their_pods() -> None:
    """The functions that are closed are those that func deploys, and what opens is there."""
    policies = resources(NETWORK_POLICY, "NetworkPolicy")
    functions = {read(file)["name"] for file in (REPOSITORY / "functions").glob("*/func.yaml")}
    (closed,) = policies["relay-egress"]["spec"]["podSelector"]["matchExpressions"]
    opened = {
        name: policies[name]["spec"]["egress"][0]["to"][0]["podSelector"]["matchLabels"]
        for name in ("relay-egress-sample-api", "relay-egress-state")
    }

    assert (closed["key"], closed["operator"]) == ("serving.knative.dev/service", "In")
    assert set(closed["values"]) == functions
    (let_in,) = policies["relay-state-ingress"]["spec"]["ingress"][0]["from"]
    assert let_in["podSelector"]["matchExpressions"] == [closed]
    for name in opened:
        assert policies[name]["spec"]["podSelector"]["matchExpressions"] == [closed]
    for policy, workload in (
        ("relay-egress-sample-api", resources(KNATIVE, "Deployment")["sample-api"]),
        ("relay-egress-state", resources(KNATIVE, "StatefulSet")["relay-state"]),
    ):
        pod = workload["spec"]["template"]
        (port,) = policies[policy]["spec"]["egress"][0]["ports"]
        assert opened[policy].items() <= pod["metadata"]["labels"].items()
        assert port["port"] == pod["spec"]["containers"][0]["ports"][0]["containerPort"]
