"""Knative manifests: what is read, what falls back to what, and how mistakes are named."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import timedelta
from pathlib import Path

import pytest
import yaml

from local.manifests import (
    DEFAULT_DELIVERY,
    DeliverySpec,
    Destination,
    ManifestError,
    Manifests,
    Reference,
    load,
)
from tests.support.processes import REPOSITORY

SUBSCRIBER = {"ref": {"apiVersion": "serving.knative.dev/v1", "kind": "Service", "name": "s"}}
SINK = {"ref": {"kind": "Service", "name": "dead"}, "uri": "/letters"}
DEAD = Destination(ref=Reference(kind="Service", name="dead"), uri="/letters")

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

    assert [broker.key for broker in manifests.brokers] == ["default/default"]
    assert {"receive-cloudevent-service", "send-serving", "event-display"} <= {
        trigger.spec.subscriber.ref.name
        for trigger in manifests.triggers
        if trigger.spec.subscriber.ref is not None
    }
    (binding,) = manifests.sink_bindings
    assert binding.spec.subject.name == "send-serving"
    assert binding.spec.sink == Destination(ref=Reference(kind="Broker", name="default"))


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

    assert (binding.key, binding.spec.subject.name) == ("n/b", "send")
    assert binding.spec.sink == Destination(ref=Reference(kind="Broker", name="default"))
    assert binding.spec.ce_overrides == {"extensions": {"tenant": "a"}}


BROKER_DELIVERY = {"retry": 3, "timeout": "PT2S", "deadLetterSink": SINK}


@pytest.mark.parametrize(
    ("trigger", "broker", "expected"),
    [
        pytest.param(None, None, DEFAULT_DELIVERY, id="none"),
        pytest.param(
            None,
            BROKER_DELIVERY,
            DeliverySpec(retry=3, timeout=timedelta(seconds=2), dead_letter_sink=DEAD),
            id="the Broker's",
        ),
        pytest.param(
            {"retry": 1, "backoffPolicy": "linear", "backoffDelay": "PT0.5S"},
            BROKER_DELIVERY,
            DeliverySpec(
                retry=1,
                backoff_policy="linear",
                backoff_delay=timedelta(seconds=0.5),
                dead_letter_sink=DEAD,
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
            DeliverySpec(retry_after_max=timedelta(), timeout=timedelta()),
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
    assert trigger.spec.delivery is not None

    assert [trigger.spec.delivery.backoff_s(failures) for failures in range(3)] == waits_s
    assert trigger.spec.delivery.backoff_s(10**6) >= 0.0


@pytest.mark.parametrize(
    ("delay", "wait_s"), [("PT0.05S", 0.0), ("PT0.25S", 0.2), ("PT0.3S", 0.3), ("PT1.19S", 1.1)]
)
def test_backoff_is_cut_to_tenths(delay: str, wait_s: float, load_specs: Load) -> None:
    """Knative knows no finer durations."""
    delivery = {"backoffDelay": delay, "backoffPolicy": "exponential"}
    (trigger,) = load_specs({"delivery": delivery}).triggers
    assert trigger.spec.delivery is not None

    assert trigger.spec.delivery.backoff_s(0) == wait_s


@pytest.mark.parametrize(
    ("text", "timeout_s"),
    [
        ("PT0.2S", 0.2),
        ("PT1S", 1.0),
        ("PT1.5M", 90.0),
        ("P1DT2H3M4S", 93784.0),
        ("PT0S", None),
    ],
)
def test_durations(text: str, timeout_s: float | None, load_specs: Load) -> None:
    """ISO 8601 durations with fractions, up to days; a timeout of zero is none."""
    (trigger,) = load_specs({"delivery": {"timeout": text}}).triggers
    assert trigger.spec.delivery is not None

    assert trigger.spec.delivery.timeout_s == timeout_s


@pytest.mark.parametrize("text", ["", "P", "PT", "1S", "PT1", "P1S", "PT-1S", "2s", "P1DT"])
def test_what_is_not_a_duration(text: str, load_specs: Load) -> None:
    """Anything else is refused."""
    with pytest.raises(ManifestError, match=r"spec\.delivery\.timeout: Invalid ISO8601 duration$"):
        load_specs({"delivery": {"timeout": text}})


@pytest.mark.parametrize("text", ["P1Y", "P2M", "P1W"])
def test_units_without_a_fixed_length_are_refused(text: str, load_specs: Load) -> None:
    """Years and months have none; weeks do not mix with other units."""
    with pytest.raises(ManifestError, match=r": Only units 'D', 'H', 'M', and 'S' are supported"):
        load_specs({"delivery": {"timeout": text}})


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

    assert trigger.spec.wants(EVENT) is matches


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
        pytest.param(
            {"ref": {"kind": "Broker", "name": "b"}},
            "http://127.0.0.1:2/default/b",
            id="broker of the same namespace",
        ),
        pytest.param({"uri": "https://host/x"}, "https://host/x", id="absolute"),
    ],
)
def test_destinations_resolve(
    destination: Mapping[str, object], url: str, load_specs: Load
) -> None:
    """References become the service's URL, and `uri` is resolved against it."""
    (trigger,) = load_specs({"subscriber": destination}).triggers

    resolved = trigger.spec.subscriber.resolve(
        {"s": "http://127.0.0.1:1"}, "http://127.0.0.1:2", namespace="default"
    )
    assert resolved == url


@pytest.mark.parametrize(
    ("spec", "problem"),
    [
        ({"broker": ""}, "spec.broker: Expected `str` of length >= 1"),
        ({"broker": None}, "spec: Object missing required field `broker`"),
        ({"subscriber": {}}, "spec.subscriber: Expected a ref, or an absolute http(s) uri"),
        ({"subscriber": "x"}, "spec.subscriber: Expected `object`, got `str`"),
        (
            {"subscriber": {"ref": {"kind": "Channel", "name": "c"}}},
            "spec.subscriber.ref.kind: Expected `str` matching regex '^(Service|Broker)$'",
        ),
        (
            {"subscriber": {"ref": {"kind": "Service"}}},
            "spec.subscriber.ref: Object missing required field `name`",
        ),
        ({"delivery": {"retry": -1}}, "spec.delivery.retry: Expected `int` >= 0"),
        ({"delivery": {"retry": "2"}}, "spec.delivery.retry: Expected `int`, got `str`"),
        ({"delivery": {"retry": True}}, "spec.delivery.retry: Expected `int`, got `bool`"),
        (
            {"delivery": {"backoffPolicy": "fast"}},
            "spec.delivery.backoffPolicy: Expected `str` matching regex '^(linear|exponential)$'",
        ),
        (
            {"delivery": {"backoffDelay": "2s"}},
            "spec.delivery.backoffDelay: Invalid ISO8601 duration",
        ),
        (
            {"delivery": {"timeout": 2}},
            "spec.delivery.timeout: Expected `duration | null`, got `int`",
        ),
        ({"delivery": {"timeout": "-PT1S"}}, "spec.delivery: Expected no negative duration"),
        (
            {"filter": {"attributes": {"type": 1}}},
            "spec.filter.attributes[...]: Expected `str`, got `int`",
        ),
        (
            {"filters": [{"exact": {"a": "b"}, "prefix": {"a": "b"}}]},
            "spec.filters[0]: Expected exactly one of exact, prefix, suffix, any, all and not",
        ),
        (
            {"filters": [{"any": []}]},
            "spec.filters[0].any: Expected `array` of length >= 1",
        ),
        (
            {"filters": [{"not": {"cesql": "type = 'a'"}}]},
            "spec.filters[0].not: Object contains unknown field `cesql`",
        ),
    ],
)
def test_mistakes_name_file_resource_and_field(
    spec: Mapping[str, object], problem: str, load_specs: Load, tmp_path: Path
) -> None:
    """The message says where the mistake is and what would be right."""
    with pytest.raises(ManifestError) as caught:
        load_specs(spec)

    assert str(caught.value) == f"{tmp_path}/a.yaml: Trigger t: {problem}"


def test_a_trigger_of_an_unknown_broker_is_named(load_specs: Load, tmp_path: Path) -> None:
    """Its Broker must be in the folder."""
    with pytest.raises(ManifestError) as caught:
        load_specs({"broker": "other"})

    assert str(caught.value) == (
        f"{tmp_path}: Trigger default/t: spec.broker must name a Broker of this folder, not 'other'"
    )


def test_a_name_is_given_once(tmp_path: Path) -> None:
    """Two resources of a kind with one name are a mistake."""
    broker = "apiVersion: eventing.knative.dev/v1\nkind: Broker\nmetadata: {name: b}\n"
    for name in ("a.yaml", "b.yaml"):
        (tmp_path / name).write_text(broker, encoding="utf-8")

    with pytest.raises(ManifestError) as caught:
        load(tmp_path)

    assert str(caught.value) == (
        f"{tmp_path}/b.yaml: Broker b: metadata.name: Expected a name that is given once"
    )


def test_a_file_that_is_no_yaml_is_named(tmp_path: Path) -> None:
    """A syntax error names the file."""
    (tmp_path / "a.yaml").write_text("{", encoding="utf-8")

    with pytest.raises(ManifestError, match=rf"^{tmp_path}/a\.yaml: must be YAML: "):
        load(tmp_path)
