"""The ports of the local stack, and the settings that move them."""

from __future__ import annotations

import re
import socket
from collections.abc import Mapping
from dataclasses import dataclass, fields

from local.serving import HOST, reason


class PortError(ValueError):
    """A port that cannot be used; the message names the setting."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Ports:
    """The port of each part; `GATEWAY_PORT` moves `gateway`, and so on."""

    gateway: int = 8080
    broker: int = 8081
    send: int = 8082
    receive: int = 8083
    display: int = 8084
    sample_api: int = 30000

    @classmethod
    def from_env(cls, env: Mapping[str, str]) -> Ports:
        """Read the settings; an empty one counts as unset.

        Raises:
            PortError: A setting is no port, or two of them are the same.
        """
        settings = {field.name: setting_of(field.name) for field in fields(cls)}
        ports = cls(
            **{
                name: _parse(setting, env[setting])
                for name, setting in settings.items()
                if env.get(setting)
            }
        )
        seen: dict[int, str] = {}
        for name, setting in settings.items():
            port: int = getattr(ports, name)
            if port in seen:
                raise PortError(f"{seen[port]} and {setting} must differ, both are {port}")
            seen[port] = setting
        return ports

    def check_free(self) -> None:
        """Check that every port can be listened on.

        Raises:
            PortError: One cannot.
        """
        for field in fields(self):
            port: int = getattr(self, field.name)
            try:
                socket.create_server((HOST, port)).close()
            except OSError as exc:
                setting = setting_of(field.name)
                raise PortError(
                    f"port {port} cannot be used ({reason(exc)}): set {setting} to another one"
                ) from exc


def setting_of(name: str) -> str:
    """Name the setting that moves the port of a part."""
    return f"{name.upper()}_PORT"


def _parse(setting: str, text: str) -> int:
    if not re.fullmatch(r"[0-9]{1,5}", text, re.ASCII) or not 0 < int(text) < 65536:
        raise PortError(f"{setting} must be a number from 1 to 65535, not {text!r}")
    return int(text)
