"""Look names up, each in its own thread, since resolvers keep no deadline."""

from __future__ import annotations

import ipaddress
import queue
import socket
import threading
from typing import TypeAlias

import requests

from relay.urls import IPAddress, Origin

# A look-up that hangs keeps its thread until the resolver gives up.
_MOST = 256

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
        self._asked: dict[tuple[str, int], list[queue.SimpleQueue[Result]]] = {}
        self._lock = threading.Lock()

    def ask(self, origin: Origin) -> queue.SimpleQueue[Result]:
        """Return where the addresses will be, or why there are none.

        Raises:
            requests.ConnectionError: too many look-ups hang.
        """
        own: queue.SimpleQueue[Result] = queue.SimpleQueue()
        name = (origin.host, origin.port)
        with self._lock:
            waiting = self._asked.get(name)
            if waiting is not None:
                waiting.append(own)
                return own
            if len(self._asked) >= self._most:
                raise requests.ConnectionError("too many look-ups hang")
            self._asked[name] = [own]
        threading.Thread(target=self._look_up, args=name, name="look-up", daemon=True).start()
        return own

    def _look_up(self, host: str, port: int) -> None:
        result = _addresses(host, port)
        with self._lock:
            waiting = self._asked.pop((host, port))
        for each in waiting:
            each.put(result)


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
