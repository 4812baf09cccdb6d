"""Look names up in threads of their own, since resolvers keep no deadline."""

from __future__ import annotations

import ipaddress
import math
import queue
import socket
import threading
import time
from functools import partial
from typing import TypeAlias

import requests

from relay.leaving import Cut
from relay.reasons import reason_of
from relay.urls import IPAddress, Origin

# A look-up that hangs keeps its thread until the resolver gives up.
_MOST = 256
# Threads that wait for the next name.
_MOST_IDLE = 4

_Name: TypeAlias = tuple[str, int]
Result: TypeAlias = "list[IPAddress] | OSError"


class Lookups:
    """The look-ups that are under way.

    Calls that ask for the same name share one look-up: a name whose servers hang takes one thread,
    however many calls want it, and leaves the others to other names.

    Args:
        most: how many names may be looked up at once.
    """

    def __init__(self, most: int = _MOST) -> None:
        self._most = most
        self._asked: dict[_Name, list[queue.SimpleQueue[Result]]] = {}
        self._known: dict[_Name, tuple[float, Result]] = {}
        self._names: queue.SimpleQueue[_Name] = queue.SimpleQueue()
        self._idle = 0
        self._lock = threading.Lock()

    def addresses(
        self, origin: Origin, timeout_s: float, cut: Cut, max_age_s: float = 0.0
    ) -> list[IPAddress]:
        """Look a name up, or wait for a look-up that is under way.

        Args:
            cut: ends the wait before the time is up.
            max_age_s: take an answer that is not older.

        Raises:
            requests.ConnectionError: it is not found, or not in time, or too many look-ups hang.
        """
        name = (origin.host, origin.port)
        known_s, result = self._known.get(name, (-math.inf, []))
        if time.monotonic() - known_s >= max_age_s:
            answers = self._ask(name)
            cut.ends_by(partial(answers.put, TimeoutError()))
            try:
                result = answers.get(timeout=timeout_s)
            except queue.Empty as exc:
                raise requests.ConnectionError("its name was not looked up in time") from exc
        if isinstance(result, OSError):
            raise requests.ConnectionError(reason_of(result)) from result
        return result

    def _ask(self, name: _Name) -> queue.SimpleQueue[Result]:
        own: queue.SimpleQueue[Result] = queue.SimpleQueue()
        with self._lock:
            waiting = self._asked.get(name)
            if waiting is not None:
                waiting.append(own)
                return own
            if len(self._asked) >= self._most:
                raise requests.ConnectionError("too many look-ups hang")
            self._asked[name] = [own]
            is_awaited = self._idle > 0
            self._idle -= is_awaited
        if is_awaited:
            self._names.put(name)
        else:
            threading.Thread(target=self._run, args=(name,), name="look-up", daemon=True).start()
        return own

    def _run(self, name: _Name) -> None:
        while True:
            result = _addresses(*name)
            with self._lock:
                if len(self._known) >= self._most:
                    self._known.clear()
                self._known[name] = (time.monotonic(), result)
                waiting = self._asked.pop(name)
                stays = self._idle < _MOST_IDLE
                self._idle += stays
            for each in waiting:
                each.put(result)
            if not stays:
                return
            name = self._names.get()


def _addresses(host: str, port: int) -> Result:
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except OSError as exc:
        return exc
    except UnicodeError:  # the idna codec, for a label it does not like
        return socket.gaierror(socket.EAI_NONAME, "no name")
    # dict: each address once, in the resolver's order; a zone would only say which link.
    texts = dict.fromkeys(str(info[4][0]).partition("%")[0] for info in found)
    return [ipaddress.ip_address(text) for text in texts]
