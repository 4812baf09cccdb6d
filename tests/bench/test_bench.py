"""The benchmark counts what was used, judges by its limits, and its document cannot drift."""

from __future__ import annotations

import importlib.util
import json
import os
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from bench import document, servers, tables
from bench.accounting import cpu_s, memory_bytes
from bench.processes import BenchError, Cores, Lab, run_bound
from bench.report import PATH, Curve, Figure, Limit, Report
from bench.sampler import GROUPS, RULES, group_of
from local.process import clean_environment
from tests.support.processes import free_port, python, running, wait_until

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads Linux's /proc")

# Uses CPU time and memory in a child, the CPU time in a thread that ends.
_USER = """
import subprocess, sys, threading, time
def burn():
    while time.process_time() < 0.4:
        pass
if sys.argv[1:] == ["child"]:
    thread = threading.Thread(target=burn)
    thread.start()
    thread.join()
    memory = bytearray(b"." * 50_000_000)
    print("used", flush=True)
    time.sleep(60)
else:
    subprocess.run([sys.executable, __file__, "child"])
"""
_ANSWERING = """
import sys
from http.server import HTTPServer, SimpleHTTPRequestHandler
HTTPServer(("127.0.0.1", int(sys.argv[1])), SimpleHTTPRequestHandler).serve_forever()
"""


def report() -> Report:
    """Make a report of one of everything."""
    return Report(
        machine={"CPU": "a processor"},
        rounds=3,
        figures=[
            Figure(
                case="sync",
                name="CPU per request, Send to naive",
                unit="x",
                values=(0.39, 0.123456789, 0.5),
                limit=Limit(at_most=0.4),
            ),
            Figure(
                case="async",
                name="accepted",
                unit="x",
                values=(0.8,),
                limit=Limit(at_least=0.9),
            ),
            Figure(case="sync", name="CPU per request: send", unit="ms", values=(1234.5,)),
        ],
        curves=[
            Curve(
                case="curves",
                title="By connections",
                name="send",
                varied="connections",
                unit="ms",
                points={"1": 1.0, "16": 0.98765},
            )
        ],
    )


def test_counts_what_a_process_and_its_children_have_used(tmp_path: Path) -> None:
    """CPU time of a thread that is gone counts, and so does the memory of a child."""
    script = tmp_path / "user.py"
    script.write_text(_USER)

    with running(python(str(script)), ready_output="used") as process:
        used_s, used_bytes = cpu_s(process.pid), memory_bytes(process.pid)
        process.kill()

    # What the two interpreters need to start comes on top.
    assert 0.38 <= used_s <= 1.5
    assert 60_000_000 <= used_bytes <= 120_000_000


def test_ends_what_it_has_started() -> None:
    """A case that breaks leaves no process behind."""
    port = free_port()

    with pytest.raises(ZeroDivisionError), Lab(Cores.of_this_machine()) as lab:  # noqa: PT012
        server = lab.start("server", python("-c", _ANSWERING, str(port)), port=port)
        _ = 1 / 0

    wait_until(lambda: not Path(f"/proc/{server.pid}").exists(), 5, "the end of the server")
    assert not lab.folder.exists()


def test_says_why_a_server_does_not_start() -> None:
    """The error carries what the server has printed."""
    with Lab(Cores.of_this_machine()) as lab, pytest.raises(BenchError) as error:
        lab.start("server", python("-c", "raise SystemExit('no such thing')"), port=free_port())

    assert str(error.value).startswith("server ended (exit status 1) before an answer of http://")
    assert str(error.value).endswith("; its output:\n    no such thing")


@pytest.mark.parametrize(
    ("limit", "value", "is_kept"),
    [
        (Limit(at_most=0.4), 0.4, True),
        (Limit(at_most=0.4), 0.41, False),
        (Limit(at_least=0.9), 0.9, True),
        (Limit(at_least=0.9), 0.89, False),
    ],
    ids=str,
)
def test_a_limit_is_kept_up_to_its_value(limit: Limit, value: float, is_kept: bool) -> None:
    """The limit itself is within."""
    assert limit.is_kept(value) is is_kept


def test_shows_medians_with_their_spread_and_limit() -> None:
    """The median of the rounds is what is judged."""
    assert tables.figures_text(report().figures) == (
        "case   figure                          median   lowest to highest  limit    met\n"
        "sync   CPU per request, Send to naive  0.39 x   0.123 to 0.5       ≤ 0.4 x  yes\n"
        "async  accepted                        0.8 x    0.8 to 0.8         ≥ 0.9 x  NO\n"
        "sync   CPU per request: send           1234 ms  1234 to 1234\n"
    )


def test_says_what_this_machine_could_not_measure() -> None:
    """A figure without values keeps its row, and misses no limit."""
    figure = replace(report().figures[0], values=())

    assert figure.is_met
    row = tables.figures_text([figure]).splitlines()[1]
    assert " ".join(row.split()) == "sync CPU per request, Send to naive not measured ≤ 0.4 x"


@pytest.mark.parametrize(
    ("module", "group"),
    [
        ("flask.app", "framework"),
        ("relay.records", "store"),
        ("relay.send", RULES),
        ("json.decoder", None),
    ],
)
def test_time_belongs_to_the_group_of_its_module(module: str, group: str | None) -> None:
    """What has no group of its own counts for whoever called it."""
    assert group_of(module) == group


def test_groups_are_of_modules_that_are_there() -> None:
    """A module that is renamed does not slip into another group."""
    named = {name for names in GROUPS.values() for name in names.split()}
    missing = [
        name
        for name in named
        if name.startswith("relay.") and importlib.util.find_spec(name) is None
    ]

    assert missing == []


def test_samples_where_a_request_spends_its_time(tmp_path: Path) -> None:
    """Of hello's time all that is not the kernel's is the framework's."""
    file = tmp_path / "asked.json"
    hello = {"target": "relay", "source": str(servers.RIVALS / "hello.py")}
    asked = {"function": hello, "path": "/", "headers": {}, "body": ""}
    file.write_text(json.dumps(asked))

    printed = run_bound(
        python("-m", "bench.sampler", str(file), "0.5"),
        frozenset(os.sched_getaffinity(0)),
        clean_environment(os.environ),
        timeout_s=30,
    )

    costs_us = json.loads(printed)
    assert costs_us.pop("framework") > 0
    assert costs_us.pop("kernel") >= 0
    assert set(costs_us.values()) == {0}


def test_keeps_a_report(tmp_path: Path) -> None:
    """What is written is read again, with the digits that mean something."""
    path = tmp_path / "bench.json"

    report().write(path)

    kept = Report.read(path)
    assert kept.figures[0].values == (0.39, 0.12346, 0.5)
    assert kept.figures[1:] == report().figures[1:]
    assert kept.curves == report().curves
    assert kept.machine == report().machine


def test_a_run_of_some_cases_keeps_the_others() -> None:
    """Figures of the cases that were run again take the place of the old ones."""
    new = Report(machine={"CPU": "another"}, rounds=5, figures=report().figures[:1], curves=[])

    merged = new.with_others_of(report(), ["sync"])

    assert [each.name for each in merged.figures] == ["accepted", "CPU per request, Send to naive"]
    assert merged.curves == report().curves
    assert merged.machine == new.machine


def test_a_table_has_its_place_in_the_document() -> None:
    """A document that has lost a marker is not written over."""
    with pytest.raises(ValueError, match="unpack"):
        document.with_tables("# Performance\n", report())


def test_the_document_shows_what_was_measured() -> None:
    """The tables of docs/performance.md are those of docs/bench.json."""
    text = document.PATH.read_text(encoding="utf-8")

    assert document.with_tables(text, Report.read(PATH)) == text
