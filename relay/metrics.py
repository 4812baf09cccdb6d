"""What Prometheus is told at `GET /metrics`, of all worker processes of a pod together.

Names and attributes are those of OpenTelemetry's semantic conventions (HTTP, messaging, database
client) as Prometheus writes them; `relay_…` is what these do not know. The operator decides how
many values a label has, not callers: a target that no entry of ALLOWED_TARGETS covers is `other`.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import ipaddress
import os
import re
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Final

from relay import logs, operations
from relay.addresses import reach_of
from relay.egress import AllowedTarget
from relay.envelope import METHODS
from relay.http import STATUSES
from relay.operations import CALL, PUBLICATION, REQUEST, STORE, Operation
from relay.problems import DeadlineExceeded, RelayError, StateUnavailable, TargetFailed
from relay.settings import Settings
from relay.store import Census

if TYPE_CHECKING:
    from prometheus_client.core import Metric

# OpenTelemetry's advice for durations of HTTP and messaging, and of databases, in seconds.
_HTTP_S: Final = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0)
_DATABASE_S: Final = (0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 10.0)
_MOST_ATTEMPTS: Final = 10
_READ_INTERVAL_S: Final = 1.0
_RETRY = re.compile(r"\.retry[0-9]$")
# prometheus_client looks for it when it is imported.
_SHARED: Final = "PROMETHEUS_MULTIPROC_DIR"


class Metrics:
    """The watcher that counts.

    Args:
        settings: `allowed_targets`, `state_url`, `threads` and `workers` count.
        census: counts the requests that are in the store; None where another function does.
    """

    def __init__(self, settings: Settings, census: Callable[[], Census] | None) -> None:
        self._settings = settings
        self._is_shared = settings.workers > 1
        if self._is_shared:
            _share()
        self._store_collector = None if census is None else _StoreCollector(census)
        self._read_at_s = 0.0
        self._database = "redis" if settings.state_url.startswith("redis") else "sqlite"
        self._address = functools.lru_cache(1024)(
            functools.partial(address_label, settings.allowed_targets)
        )

    def get_ready(self) -> None:
        import prometheus_client as prometheus

        prometheus.disable_created_metrics()  # type: ignore[no-untyped-call]
        self._registry = prometheus.CollectorRegistry()
        if self._store_collector is not None and not self._is_shared:
            self._registry.register(self._store_collector)

        # Looking a series up costs as much as counting in it, hence the caches.
        def histogram(
            name: str, meaning: str, labels: str, buckets: tuple[float, ...] = _HTTP_S
        ) -> Callable[..., prometheus.Histogram]:
            metric = prometheus.Histogram(
                name, meaning, labels.split(), buckets=buckets, registry=self._registry
            )
            return functools.cache(metric.labels)

        def counter(name: str, meaning: str, labels: str) -> Callable[..., prometheus.Counter]:
            metric = prometheus.Counter(name, meaning, labels.split(), registry=self._registry)
            return functools.cache(metric.labels)

        def gauge(name: str, meaning: str) -> prometheus.Gauge:
            return prometheus.Gauge(
                name, meaning, registry=self._registry, multiprocess_mode="livesum"
            )

        self._active = gauge("http_server_active_requests", "Requests that are being served.")
        threads = gauge("relay_threads", "How many can be (THREADS, times WORKERS).")
        threads.set(self._settings.threads)  # of this worker; they are added up
        self._gauges = [
            (read, gauge(name, meaning)) for name, (meaning, read) in operations.gauges.items()
        ]
        self._requests = histogram(
            "http_server_request_duration_seconds",
            "Requests, to the last byte of the answer.",
            "http_request_method http_route http_response_status_code error_type lane",
        )
        self._calls = histogram(
            "http_client_request_duration_seconds",
            "Calls of targets, to the headers of the answer.",
            "http_request_method server_address http_response_status_code error_type",
        )
        self._attempts = counter(
            "relay_target_calls",
            "Calls of targets, by the class of the status and the number of the attempt.",
            "server_address status_class lane attempt",
        )
        self._publications = histogram(
            "messaging_client_operation_duration_seconds",
            "Publications, and whether the Broker has the event: yes, no or unknown.",
            "messaging_operation_name messaging_system published error_type",
        )
        self._store = histogram(
            "db_client_operation_duration_seconds",
            "Uses of the store.",
            "db_system_name error_type",
            _DATABASE_S,
        )
        self._outcomes = counter("relay_outcomes", "What became of requests.", "outcome")

    def began(self, operation: Operation) -> None:
        if operation.kind == REQUEST:
            self._active.inc()

    def joined(self, operation: Operation) -> None:
        """Do nothing: only what is over counts."""

    def ended(self, operation: Operation) -> None:
        kind, duration_s = operation.kind, operation.duration_s
        if kind == STORE:
            self._store(self._database, _error(operation)).observe(duration_s)
        elif kind == CALL:
            self._count_call(operation)
        elif kind == PUBLICATION:
            published, error = _published(operation.error), _error(operation)
            self._publications("send", "knative", published, error).observe(duration_s)
        elif kind == REQUEST:
            self._active.dec()
            self._count_request(operation)
            if self._is_shared and time.monotonic() > self._read_at_s + _READ_INTERVAL_S:
                self._read_gauges()

    def _read_gauges(self) -> None:
        """Read what is not counted; of other processes a scrape has what they last read."""
        self._read_at_s = time.monotonic()
        for read, gauge in self._gauges:
            gauge.set(read())

    def _count_request(self, operation: Operation) -> None:
        facts = operation.facts
        status, event_type = int(facts["status"]), facts.get("type")
        method = facts["method"] if facts["method"] in METHODS else "_OTHER"
        route = facts.get("route") or ("/" if event_type else "")
        error = _error(operation) or (str(status) if status >= 500 else "")
        lane = ""
        if event_type:
            lane = "retry" if _RETRY.search(str(event_type)) else "first"
        self._requests(method, route, status, error, lane).observe(operation.duration_s)
        if outcome := facts.get("outcome"):
            self._outcomes(outcome).inc()

    def _count_call(self, operation: Operation) -> None:
        facts, status = operation.facts, int(operation.facts.get("status", 0))
        address = self._address(str(facts["host"]), int(facts["port"]))
        # A target may answer any number of three digits.
        status_class = f"{status // 100}xx" if status else ""
        code = str(status) if status in STATUSES else status_class
        error = _error(operation) or (code if status >= 400 else "")
        self._calls(facts["method"], address, code, error).observe(operation.duration_s)
        attempt = int(logs.noted("attempt") or 0)
        lane = "sync" if logs.noted("type") is None else "retry" if attempt > 1 else "first"
        number = str(min(attempt, _MOST_ATTEMPTS)) if attempt else ""
        if isinstance(operation.error, TargetFailed | DeadlineExceeded):
            status_class = "none"
        self._attempts(address, status_class, lane, number).inc()

    def exposition(self, accept: str) -> tuple[bytes, str]:
        """Write all numbers as they are now.

        Args:
            accept: the header of this name.

        Returns:
            the body, and its Content-Type.
        """
        from prometheus_client import CollectorRegistry
        from prometheus_client.exposition import choose_encoder
        from prometheus_client.multiprocess import MultiProcessCollector

        operations.get_ready()
        self._read_gauges()
        registry = self._registry
        if self._is_shared:
            _forget_the_dead()
            registry = CollectorRegistry()
            MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
            if self._store_collector is not None:
                registry.register(self._store_collector)
        encode, content_type = choose_encoder(accept)
        return encode(registry), content_type


class _StoreCollector:
    """Asks the store, which is the same for all processes, when somebody wants to know."""

    def __init__(self, census: Callable[[], Census]) -> None:
        self._census = census

    def collect(self) -> Iterator[Metric]:
        from prometheus_client.core import GaugeMetricFamily as Family

        census = None
        with contextlib.suppress(StateUnavailable):
            census = self._census()
        yield Family("relay_store_up", "1 when the store answers, else 0.", int(census is not None))
        if census is None:
            return
        oldest_ms, now_ms = census.oldest_open_ms, time.time() * 1000
        age_s = 0.0 if oldest_ms is None else max(0.0, (now_ms - oldest_ms) / 1000)
        yield Family("relay_open_requests", "Requests that have no outcome.", census.open)
        yield Family("relay_dead_requests", "Requests that are dead.", census.dead)
        yield Family(
            "relay_oldest_open_request_age_seconds",
            "Since the oldest open request was accepted; 0 when there is none.",
            age_s,
        )


def address_label(allowed: tuple[AllowedTarget, ...], host: str, port: int) -> str:
    """Return the entry of ALLOWED_TARGETS that covers a target, as it is written; else `other`."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        address = None
    for entry in allowed:
        if entry.covers_name(host, port):
            return entry.name or ""
        if address is not None and entry.covers_address(address, port, reach_of(address)):
            return str(entry.network).removesuffix("/32").removesuffix("/128")
    return "other"


def _error(operation: Operation) -> str:
    return "" if operation.error is None else type(operation.error).__name__


def _published(error: BaseException | None) -> str:
    if error is None:
        return "yes"
    return str(error.members.get("published", "no")) if isinstance(error, RelayError) else "no"


def _share() -> None:
    """Have all worker processes, which are forked from this one, count in files of one folder."""
    folder = tempfile.mkdtemp(prefix="relay-metrics-")
    os.environ[_SHARED] = folder
    owner = os.getpid()

    @atexit.register
    def remove() -> None:
        if os.getpid() == owner:
            shutil.rmtree(folder, ignore_errors=True)


def _forget_the_dead() -> None:
    """Leave out the gauges of workers that have ended; what they have counted stays."""
    from prometheus_client.multiprocess import mark_process_dead

    for file in Path(os.environ[_SHARED]).glob("gauge_live*.db"):
        pid = int(file.stem.rpartition("_")[2])
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            mark_process_dead(pid)  # type: ignore[no-untyped-call]
