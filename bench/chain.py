"""The whole way of an event, Send, Broker, Receive and target, all on all cores."""

from __future__ import annotations

import http.client
import json
import os
import signal
import sqlite3
import time
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from typing import Any

from bench import servers
from bench.processes import BenchError, Lab, Server
from local.ports import HOST, free_port

_POLL_INTERVAL_S = 0.02
_DRAIN_TIMEOUT_S = 300.0


class Chain:
    """The servers of a chain, as `./dev up` runs them.

    Args:
        like: Whose dispatcher the Broker follows.
        settings: Of Send and Receive, others than func.yaml's.
        others_results: Results go to another process of Send than the one that is called.
    """

    def __init__(
        self,
        lab: Lab,
        *,
        like: str = "in-memory",
        settings: Mapping[str, str] | None = None,
        others_results: bool = False,
    ) -> None:
        self._lab = lab
        self._like = like
        self._port = free_port()
        self._settings = settings
        self.target = servers.target(lab)
        self.receive = self._function("receive")
        self.send = self._function("send")
        self._resulting = self._function("send") if others_results else self.send
        self.broker = self._start_broker()

    def _function(self, name: str) -> Server:
        return servers.function(
            self._lab,
            name,
            called=self.target,
            broker_port=self._port,
            settings=self._settings,
            cores=self._lab.cores.all,
        )

    def _start_broker(self) -> Server:
        urls = {"receive": self.receive.url, "send": self._resulting.url}
        cores = self._lab.cores.all
        return servers.broker(self._lab, urls, port=self._port, cores=cores, like=self._like)

    def restart_broker(self) -> None:
        """Have it end and begin again, as an update of the dispatcher does."""
        os.kill(self.broker.pid, signal.SIGTERM)
        os.waitpid(self.broker.pid, 0)
        self.broker = self._start_broker()

    @contextmanager
    def nothing_delivered(self) -> Iterator[None]:
        """Hold Receive still while the block runs, so that events wait in the Broker."""
        os.killpg(self.receive.pid, signal.SIGSTOP)
        try:
            yield
        finally:
            os.killpg(self.receive.pid, signal.SIGCONT)

    def wait_until_delivered(self) -> None:
        """Wait until the Broker owes nothing to anybody.

        Raises:
            BenchError: It still does after minutes.
        """
        deadline = time.monotonic() + _DRAIN_TIMEOUT_S
        database = servers.broker_database(self._lab, self._port)
        with closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True, timeout=5)) as db:
            while db.execute("SELECT 1 FROM deliveries LIMIT 1").fetchone():
                if time.monotonic() > deadline:
                    raise BenchError(f"the Broker has not delivered in {_DRAIN_TIMEOUT_S:g} s")
                time.sleep(_POLL_INTERVAL_S)


# Any: whoever asks knows what is told there.
def get(server: Server, path: str, method: str = "GET") -> Any:
    """Read the JSON that a server tells."""
    with closing(http.client.HTTPConnection(HOST, server.port, timeout=30)) as connection:
        connection.request(method, path)
        return json.loads(connection.getresponse().read())
