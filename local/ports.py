"""The ports of the local stack, and the settings that move them."""

from __future__ import annotations

import random
import re
import socket
from collections.abc import Mapping
from dataclasses import dataclass, fields

HOST = "127.0.0.1"

_named: set[int] = set()


class PortError(ValueError):
    """A port that cannot be used; the message names the setting."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Ports:
    """Where each part listens; `GATEWAY_PORT` moves `gateway`, and so on.

    Attributes:
        gateway: Send's own. Callers find it where a cluster has its gateway.
    """

    gateway: int = 8080
    broker: int = 8081
    receive: int = 8083
    display: int = 8084
    sample_api: int = 30000

    @classmethod
    def from_env(cls, env: Mapping[str, str]) -> Ports:
        """Read the settings; an empty one counts as unset.

        Raises:
            PortError: A setting is not a port, or two of them are the same.
        """
        given = {name: _parse(name, env) for name in _NAMES if env.get(setting_of(name))}
        ports = cls(**given)
        seen: dict[int, str] = {}
        for name in _NAMES:
            port: int = getattr(ports, name)
            if port in seen:
                raise PortError(f"{seen[port]} and {setting_of(name)} must differ, both are {port}")
            seen[port] = setting_of(name)
        return ports

    def check_free(self) -> None:
        """Raise a PortError for the first port that cannot be listened on."""
        for name in _NAMES:
            port: int = getattr(self, name)
            if problem := _problem_of(port):
                raise PortError(
                    f"port {port} cannot be used ({problem}):"
                    f" stop what listens there, such as another stack,"
                    f" or set {setting_of(name)} to another port"
                )


_NAMES = tuple(field.name for field in fields(Ports))


def setting_of(name: str) -> str:
    """Name the setting that moves the port of a part."""
    return f"{name.upper()}_PORT"


def free_port() -> int:
    """Choose a port of 127.0.0.1 on which nothing listens at the moment, each time another one.

    It is outside the range from which systems take the ports of outgoing connections: one of those
    could otherwise have it by the time that a server starts.
    """
    while True:
        port = random.randrange(10_000, 32_000)  # noqa: S311
        if port not in _named and not _problem_of(port):
            _named.add(port)
            return port


def reason(error: OSError) -> str:
    """Say why a port cannot be listened on, without the address that `socket` appends."""
    return str(error.strerror).partition(" (")[0]


def _problem_of(port: int) -> str:
    try:
        socket.create_server((HOST, port)).close()
    except OSError as exc:
        return reason(exc)
    return ""


def _parse(name: str, env: Mapping[str, str]) -> int:
    text = env[setting_of(name)]
    if not re.fullmatch(r"[0-9]{1,5}", text, re.ASCII) or not 0 < int(text) < 65536:
        raise PortError(f"{setting_of(name)} must be a number from 1 to 65535, not {text!r}")
    return int(text)
