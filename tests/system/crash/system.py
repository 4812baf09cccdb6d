"""Send, Receive and the Broker as processes that are killed, and restarted whenever they end."""

from __future__ import annotations

import os
import re
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path

from local import manifests
from local.functions import Function, function_environment
from local.ports import HOST, free_port
from local.process import REPOSITORY, Process, ProcessError, clean_environment
from tests.system.crash.plan import ATTEMPTS
from tests.system.crash.target import DEAD_LETTERS, RESULTS, Target

VICTIMS = ("receive worker", "receive master", "send", "broker", "state")

_READY = {
    "broker": "/healthz",
    "send": "/health/readiness",
    "receive": "/health/readiness",
}
_SERVICES = {"send": "send-serving", "receive": "receive-cloudevent-service"}
_RESTART_POLL_S = 0.05
_START_TIMEOUT_S = 30.0
_TARGET_TIMEOUT_S = "1"
# Whoever repeats what a Send that was killed had begun to publish waits so long.
_PUBLISH_TIMEOUT_S = "2"
_RETRY_DELAY_S = "0.1"
_RETRY = 20
# A process that is killed while it writes to the database.
_WRITER = """
import sqlite3, sys, time
db = sqlite3.connect(sys.argv[1], isolation_level=None)
db.execute("PRAGMA busy_timeout = 10000")
db.execute("BEGIN IMMEDIATE")
db.execute("DELETE FROM requests")
print("writing", flush=True)
time.sleep(60)
"""
_WRITES_S = 0.3
REQUEST_TYPE = "dev.knative.samples.t2"

# As in knative/, but for the patience, and with one Trigger for all tiers. Deliveries that meet a
# Receive that is down spend the retries, and this run has one down every few seconds: what is
# measured is whether anything is lost, not for how long the retries of knative/ last. Dead letters
# go to the subscriber that counts them.
_MANIFESTS = """\
apiVersion: eventing.knative.dev/v1
kind: Broker
metadata: {{name: default}}
spec:
  delivery:
    retry: {retry}
    backoffPolicy: linear
    backoffDelay: PT0.1S
    retryAfterMax: PT1S
    deadLetterSink: {{uri: "{observer}{dead_letters}"}}
---
apiVersion: eventing.knative.dev/v1
kind: Trigger
metadata: {{name: receive}}
spec:
  broker: default
  filters: [{{any: [{{exact: {{type: {type}}}}}, {{prefix: {{type: {type}.retry}}}}]}}]
  subscriber: {{ref: {{kind: Service, name: receive-cloudevent-service}}}}
---
apiVersion: eventing.knative.dev/v1
kind: Trigger
metadata: {{name: results}}
spec:
  broker: default
  filters: [{{prefix: {{type: {type}.}}}}]
  subscriber: {{ref: {{kind: Service, name: send-serving}}, uri: /event/callback}}
---
apiVersion: eventing.knative.dev/v1
kind: Trigger
metadata: {{name: observer}}
spec:
  broker: default
  filters: [{{prefix: {{type: {type}.}}}}]
  subscriber: {{uri: "{observer}{results}"}}
"""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Part:
    """What is started, and again whenever it ends."""

    name: str
    command: Sequence[str]
    cwd: Path
    env: Mapping[str, str]
    log: Path

    def start(self) -> Process:
        return Process(self.name, self.command, cwd=self.cwd, env=self.env, log=self.log)


class System:
    """The relay as `./dev up` runs it, on free ports, while the `with` block runs.

    Args:
        folder: for the manifests, the Broker's and the functions' data and the logs.
        target: it is the observer of results and dead letters too.
        state: as in `Plan`.
    """

    def __init__(self, folder: Path, target: Target, state: str) -> None:
        self._folder = folder
        self._target = target.authority
        self._authorities = {name: f"{HOST}:{free_port()}" for name in _READY}
        target.send = self._authorities["send"]
        self._database = folder / "state.sqlite3"
        self._state_url = {"memory": "memory://", "sqlite": f"sqlite://{self._database}"}.get(state)
        self._stopping = threading.Event()
        self._supervisor = threading.Thread(target=self._supervise)
        self._parts = [self._redis()] if self._state_url is None else []
        self._parts += [self._broker(), *(self._function(name) for name in _SERVICES)]
        self._processes: dict[str, Process] = {}
        self._ended: list[Process] = []

    def authority(self, part: str) -> str:
        """Return the `host:port` of `broker`, `send` or `receive`."""
        return self._authorities[part]

    def __enter__(self) -> System:
        self._processes = {part.name: part.start() for part in self._parts}
        self._supervisor.start()
        try:
            for name in _READY:
                self._processes[name].wait_until_ready(
                    f"http://{self._authorities[name]}{_READY[name]}", _START_TIMEOUT_S
                )
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        self._supervisor.join()
        for process in self._processes.values():
            with suppress(ProcessError):
                process.stop()
        for process in (*self._processes.values(), *self._ended):
            process.kill()

    def kill(self, victim: str) -> None:
        """Kill one of `VICTIMS` with SIGKILL; it is started again at once."""
        if victim == "receive worker":  # its master starts it again
            pids = re.findall(r"Booting worker with pid: (\d+)", self._processes["receive"].output)
            with suppress(ProcessLookupError):  # killed already, and not started again yet
                os.kill(int(pids[-1]), signal.SIGKILL)
        elif victim not in self._processes and victim == "state":
            self._kill_writer()
        else:
            self._processes[victim.partition(" ")[0]].send_signal(signal.SIGKILL)

    def _kill_writer(self) -> None:
        """Kill a process in the middle of its transaction, which has held up all others."""
        command = [sys.executable, "-c", _WRITER, str(self._database)]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as writer:
            assert writer.stdout is not None
            writer.stdout.readline()
            time.sleep(_WRITES_S)
            writer.kill()

    def pending(self) -> int:
        """Count what the Broker still has to deliver."""
        database = self._folder / "data" / "broker.sqlite3"
        with closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True, timeout=5)) as db:
            return int(db.execute("SELECT count(*) FROM deliveries").fetchone()[0])

    def broker_log(self) -> str:
        """Return what the Broker has logged, in all its lives."""
        return self._processes["broker"].output

    def _redis(self) -> _Part:
        """Run Redis as knative/ does."""
        port = free_port()
        self._state_url = f"redis://{HOST}:{port}"
        command = [
            *("redis-server", "--port", str(port), "--bind", HOST, "--dir", str(self._folder)),
            *("--save", "", "--appendonly", "yes", "--appendfsync", "always"),
            *("--maxmemory-policy", "noeviction"),
        ]
        return _Part(
            name="state",
            command=command,
            cwd=self._folder,
            env=clean_environment(os.environ),
            log=self._folder / "state.log",
        )

    def _broker(self) -> _Part:
        folder = self._folder / "manifests"
        folder.mkdir()
        text = _MANIFESTS.format(
            retry=_RETRY,
            type=REQUEST_TYPE,
            observer=f"http://{self._target}",
            results=RESULTS,
            dead_letters=DEAD_LETTERS,
        )
        (folder / "eventing.yaml").write_text(text, encoding="utf-8")
        command = [
            *(sys.executable, "-m", "local.broker"),
            *("--port", self._authorities["broker"].rpartition(":")[2]),
            *("--manifests", str(folder), "--data", str(self._folder / "data")),
        ]
        for part, service in _SERVICES.items():
            command += ["--service", f"{service}=http://{self._authorities[part]}"]
        env = clean_environment(os.environ)
        return _Part(
            name="broker",
            command=command,
            cwd=REPOSITORY,
            env=env,
            log=self._folder / "broker.log",
        )

    def _function(self, name: str) -> _Part:
        function = Function(REPOSITORY / "functions" / name)
        settings = {
            "TARGET_TIMEOUT_S": _TARGET_TIMEOUT_S,
            "PUBLISH_TIMEOUT_S": _PUBLISH_TIMEOUT_S,
            "RETRY_DELAYS_S": ",".join([_RETRY_DELAY_S] * (ATTEMPTS - 1)),
            # There is one target, which a fifth of all calls find hanging or gone.
            "BREAKER_FAILURES": "0",
            "LOG_LEVEL": "WARNING",
        }
        assert self._state_url is not None
        env = function_environment(
            function,
            {**clean_environment(os.environ), **settings},
            manifests.load(REPOSITORY / "knative"),
            broker_url=f"http://{self._authorities['broker']}",
            sample_api=self._target,
            state_url=self._state_url,
        )
        # The log then tells the workers' pids.
        env["GUNICORN_LOG_LEVEL"] = "info"
        port = int(self._authorities[name].rpartition(":")[2])
        command = function.command(sys.executable, HOST, port)
        return _Part(
            name=name,
            command=command,
            cwd=function.source_folder,
            env=env,
            log=self._folder / f"{name}.log",
        )

    def _supervise(self) -> None:
        while not self._stopping.wait(_RESTART_POLL_S):
            for part in self._parts:
                if self._processes[part.name].exit_code is not None:
                    self._ended.append(self._processes[part.name])
                    self._processes[part.name] = part.start()
