"""Knative manifests: what is read, what falls back to what, and how mistakes are named."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import yaml

from local.manifests import (
    DEFAULT_DELIVERY,
    DeliverySpec,
    Destination,
    ManifestError,
    Manifests,
    load,
)
from local.resources import parse_duration
from tests.support.processes import REPOSITORY

SUBSCRIBER = {"ref": {"apiVersion": "serving.knative.dev/v1", "kind": "Service", "name": "s"}}
SINK = {"ref": {"kind": "Service", "name": "dead"}, "uri": "/letters"}
DEAD = Destination(kind="Service", namespace="default", name="dead", uri="/letters")

Load = Callable[..., Manifests]


@pytest.fixture
def load_specs(tmp_path: Path) -> Load:
    """Load one Broker and one Trigger with these specs."""

    def load_specs(
        trigger: Mapping[str, object], broker: Mapping[str, object] | None = None
    ) -> Manifests:
        spec = {"broker": "default", "subscriber": SUBSCRIBER, **trigger}
        documents = [
            {"kind": "Broker", "metadata": {"name": "default"}, "spec": broker or {}},
            {"kind": "Trigger", "metadata": {"name": "t"}, "spec": spec},
        ]
        for document in documents:
            document["apiVersion"] = "eventing.knative.dev/v1"
        (tmp_path / "a.yaml").write_text(yaml.safe_dump_all(documents), encoding="utf-8")
        return load(tmp_path)

    return load_specs


def test_the_manifests_of_this_project_load() -> None:
    """knative/ holds one Broker, Triggers of it, and Send's SinkBinding."""
    manifests = load(REPOSITORY / "knative")

    assert [(broker.namespace, broker.name) for broker in manifests.brokers] == [
        ("default", "default")
    ]
    assert {"receive-cloudevent-service", "send-serving", "event-display"} <= {
        trigger.subscriber.name for trigger in manifests.triggers
    }
    (binding,) = manifests.sink_bindings
    assert binding.subject_name == "send-serving"
    assert (binding.sink.kind, binding.sink.name) == ("Broker", "default")


def test_other_kinds_and_subfolders_are_ignored(tmp_path: Path) -> None:
    """Only eventing resources directly in the folder count."""
    (tmp_path / "a.yaml").write_text("apiVersion: v1\nkind: Service\n", encoding="utf-8")
    (tmp_path / "b.yaml").write_text("---\n---\n- list\n", encoding="utf-8")
    (tmp_path / "kafka").mkdir()
    (tmp_path / "kafka" / "broker.yaml").write_text("{", encoding="utf-8")

    assert load(tmp_path) == Manifests(brokers=(), triggers=(), sink_bindings=())


def test_a_sink_binding_is_read(tmp_path: Path) -> None:
    """Subject, sink and the extensions of ceOverrides."""
    (tmp_path / "a.yaml").write_text(
        """\
apiVersion: sources.knative.dev/v1
kind: SinkBinding
metadata: {name: b, namespace: n}
spec:
  subject: {apiVersion: serving.knative.dev/v1, kind: Service, name: send}
  sink: {ref: {apiVersion: eventing.knative.dev/v1, kind: Broker, name: default}}
  ceOverrides: {extensions: {tenant: a}}
""",
        encoding="utf-8",
    )

    (binding,) = load(tmp_path).sink_bindings

    assert (binding.namespace, binding.name, binding.subject_name) == ("n", "b", "send")
    assert binding.sink == Destination(kind="Broker", namespace="n", name="default", uri="")
    assert binding.ce_overrides == {"tenant": "a"}


BROKER_DELIVERY = {"retry": 3, "timeout": "PT2S", "deadLetterSink": SINK}


@pytest.mark.parametrize(
    ("trigger", "broker", "expected"),
    [
        pytest.param(None, None, DEFAULT_DELIVERY, id="none"),
        pytest.param(
            None,
            BROKER_DELIVERY,
            DeliverySpec(retry=3, timeout_s=2.0, dead_letter_sink=DEAD),
            id="the Broker's",
        ),
        pytest.param(
            {"retry": 1, "backoffPolicy": "linear", "backoffDelay": "PT0.5S"},
            BROKER_DELIVERY,
            DeliverySpec(
                retry=1, backoff_policy="linear", backoff_delay_s=0.5, dead_letter_sink=DEAD
            ),
            id="the Trigger's, with the Broker's sink",
        ),
        pytest.param(
            {"deadLetterSink": SINK}, None, DeliverySpec(dead_letter_sink=DEAD), id="just a sink"
        ),
        pytest.param({"retry": 1}, None, DeliverySpec(retry=1), id="no sink anywhere"),
        pytest.param(
            {"retryAfterMax": "PT0S", "timeout": "PT0S"},
            None,
            DeliverySpec(retry_after_max_s=0.0),
            id="zeros",
        ),
    ],
)
def test_a_triggers_delivery_replaces_the_brokers(
    load_specs: Load,
    trigger: Mapping[str, object] | None,
    broker: Mapping[str, object] | None,
    expected: DeliverySpec,
) -> None:
    """Wholesale, but for a missing dead letter sink; with neither, Knative's default holds."""
    manifests = load_specs(
        {"delivery": trigger} if trigger else {}, {"delivery": broker} if broker else {}
    )

    assert manifests.delivery_for(manifests.triggers[0]) == expected


@pytest.mark.parametrize(
    ("policy", "waits_s"),
    [("exponential", [0.5, 1.0, 2.0]), ("linear", [0.0, 0.5, 1.0]), (None, [0.0, 0.0, 0.0])],
)
def test_backoff(policy: str | None, waits_s: list[float], load_specs: Load) -> None:
    """Exponential is delay times 2^n, linear delay times n, both from n = 0."""
    delivery = {"backoffDelay": "PT0.5S", **({"backoffPolicy": policy} if policy else {})}
    (trigger,) = load_specs({"delivery": delivery}).triggers
    assert trigger.delivery is not None

    assert [trigger.delivery.backoff_s(failures) for failures in range(3)] == waits_s
    assert trigger.delivery.backoff_s(10**6) >= 0.0


@pytest.mark.parametrize(
    ("delay", "wait_s"), [("PT0.05S", 0.0), ("PT0.25S", 0.2), ("PT0.3S", 0.3), ("PT1.19S", 1.1)]
)
def test_backoff_is_cut_to_tenths(delay: str, wait_s: float, load_specs: Load) -> None:
    """Knative knows no finer durations."""
    delivery = {"backoffDelay": delay, "backoffPolicy": "exponential"}
    (trigger,) = load_specs({"delivery": delivery}).triggers
    assert trigger.delivery is not None

    assert trigger.delivery.backoff_s(0) == wait_s


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("PT0.2S", 0.2),
        ("PT1S", 1.0),
        ("PT1,5M", 90.0),
        ("P1DT2H3M4S", 93784.0),
        ("P2W", 1209600.0),
        ("PT0S", 0.0),
    ],
)
def test_durations(text: str, seconds: float) -> None:
    """ISO 8601 durations with fractions, up to weeks."""
    assert parse_duration(text) == pytest.approx(seconds)


@pytest.mark.parametrize("text", ["", "P", "PT", "1S", "PT1", "P1S", "PT-1S", "P1Y", "2s", "P1DT"])
def test_what_is_no_duration(text: str) -> None:
    """Anything else is refused, years and months too, which have no fixed length."""
    with pytest.raises(ValueError, match=r"^must be an ISO 8601 duration such as PT0\.2S$"):
        parse_duration(text)


EVENT = {"specversion": "1.0", "type": "a.b.c", "source": "/s", "ext": "x"}


@pytest.mark.parametrize(
    ("spec", "matches"),
    [
        pytest.param({}, True, id="no filter"),
        pytest.param({"filter": {"attributes": {"type": "a.b.c"}}}, True, id="attributes"),
        pytest.param({"filter": {"attributes": {"type": "a.b"}}}, False, id="attributes, other"),
        pytest.param({"filter": {"attributes": {"ext": "x"}}}, True, id="extension"),
        pytest.param({"filter": {"attributes": {"ext": ""}}}, True, id="any value"),
        pytest.param({"filter": {"attributes": {"none": ""}}}, False, id="any value, absent"),
        pytest.param({"filters": [{"exact": {"type": "a.b.c"}}]}, True, id="exact"),
        pytest.param({"filters": [{"exact": {"ext": ""}}]}, False, id="exact is no wildcard"),
        pytest.param({"filters": [{"prefix": {"type": "a."}}]}, True, id="prefix"),
        pytest.param({"filters": [{"suffix": {"type": ".c"}}]}, True, id="suffix"),
        pytest.param({"filters": [{"suffix": {"none": ""}}]}, False, id="suffix, absent"),
        pytest.param(
            {"filters": [{"prefix": {"type": "a."}}, {"exact": {"ext": "y"}}]}, False, id="list"
        ),
        pytest.param(
            {"filters": [{"any": [{"exact": {"ext": "y"}}, {"exact": {"ext": "x"}}]}]},
            True,
            id="any",
        ),
        pytest.param(
            {"filters": [{"all": [{"exact": {"ext": "y"}}, {"exact": {"ext": "x"}}]}]},
            False,
            id="all",
        ),
        pytest.param({"filters": [{"not": {"exact": {"ext": "y"}}}]}, True, id="not"),
        pytest.param(
            {"filter": {"attributes": {"type": "z"}}, "filters": [{"exact": {"ext": "x"}}]},
            True,
            id="filters replace filter",
        ),
    ],
)
def test_filters(spec: Mapping[str, object], matches: bool, load_specs: Load) -> None:
    """`filter.attributes` and the dialects of `filters` over attributes and extensions."""
    (trigger,) = load_specs(spec).triggers

    assert trigger.filter.matches(EVENT) is matches


@pytest.mark.parametrize(
    ("destination", "url"),
    [
        pytest.param(SUBSCRIBER, "http://127.0.0.1:1", id="service"),
        pytest.param({**SUBSCRIBER, "uri": "/a?b=c"}, "http://127.0.0.1:1/a?b=c", id="with path"),
        pytest.param(
            {"ref": {"kind": "Broker", "name": "b", "namespace": "n"}},
            "http://127.0.0.1:2/n/b",
            id="broker",
        ),
        pytest.param({"uri": "https://host/x"}, "https://host/x", id="absolute"),
    ],
)
def test_destinations_resolve(
    destination: Mapping[str, object], url: str, load_specs: Load
) -> None:
    """References become the service's URL, and `uri` is resolved against it."""
    (trigger,) = load_specs({"subscriber": destination}).triggers

    assert trigger.subscriber.resolve({"s": "http://127.0.0.1:1"}, "http://127.0.0.1:2") == url


@pytest.mark.parametrize(
    ("spec", "problem"),
    [
        ({"broker": ""}, "spec.broker must be given"),
        ({"broker": "other"}, "spec.broker must name a Broker in {folder}"),
        ({"subscriber": {}}, "spec.subscriber must have a ref, or an absolute http(s) uri"),
        ({"subscriber": "x"}, "spec.subscriber must be an object"),
        (
            {"subscriber": {"ref": {"kind": "Channel", "name": "c"}}},
            "spec.subscriber.ref.kind must be Service or Broker, not 'Channel'",
        ),
        (
            {"subscriber": {"ref": {"kind": "Service"}}},
            "spec.subscriber.ref.name must be given",
        ),
        ({"delivery": {"retry": -1}}, "spec.delivery.retry must be an integer of at least 0"),
        ({"delivery": {"retry": "2"}}, "spec.delivery.retry must be an integer of at least 0"),
        (
            {"delivery": {"backoffPolicy": "fast"}},
            "spec.delivery.backoffPolicy must be linear or exponential",
        ),
        (
            {"delivery": {"backoffDelay": "2s"}},
            "spec.delivery.backoffDelay must be an ISO 8601 duration such as PT0.2S, not '2s'",
        ),
        ({"delivery": {"timeout": 2}}, "spec.delivery.timeout must be a string"),
        (
            {"filter": {"attributes": {"type": 1}}},
            "spec.filter.attributes must be an object of attribute names to strings",
        ),
        (
            {"filters": [{"exact": {"a": "b"}, "prefix": {"a": "b"}}]},
            "spec.filters[0] must be an object with exactly one dialect",
        ),
        (
            {"filters": [{"any": []}]},
            "spec.filters[0].any must be a list of at least one filter",
        ),
        (
            {"filters": [{"not": {"cesql": "type = 'a'"}}]},
            "spec.filters[0].not.cesql is not a dialect that the local Broker reads;"
            " it reads exact, prefix, suffix, any, all, not",
        ),
    ],
)
def test_mistakes_name_file_resource_and_field(
    spec: Mapping[str, object], problem: str, load_specs: Load, tmp_path: Path
) -> None:
    """The message says where the mistake is and what would be right."""
    with pytest.raises(ManifestError) as caught:
        load_specs(spec)

    expected = problem.format(folder=tmp_path)
    assert str(caught.value) == f"{tmp_path}/a.yaml: Trigger default/t: {expected}"


def test_a_name_is_given_once(tmp_path: Path) -> None:
    """Two resources of a kind with one name are a mistake."""
    broker = "apiVersion: eventing.knative.dev/v1\nkind: Broker\nmetadata: {name: b}\n"
    for name in ("a.yaml", "b.yaml"):
        (tmp_path / name).write_text(broker, encoding="utf-8")

    with pytest.raises(ManifestError) as caught:
        load(tmp_path)

    assert str(caught.value) == (
        f"{tmp_path}/b.yaml: Broker default/b: metadata.name must be given to one resource only"
    )


def test_a_file_that_is_no_yaml_is_named(tmp_path: Path) -> None:
    """A syntax error names the file."""
    (tmp_path / "a.yaml").write_text("{", encoding="utf-8")

    with pytest.raises(ManifestError, match=rf"^{tmp_path}/a\.yaml: must be YAML: "):
        load(tmp_path)
