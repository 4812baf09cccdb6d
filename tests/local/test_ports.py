"""The ports are settings, checked before anything starts."""

from __future__ import annotations

import socket

import pytest

from local.ports import PortError, Ports
from tests.support.processes import free_port


def test_has_the_ports_of_the_readme() -> None:
    """Without settings, or with empty ones, every part is where the documentation has it."""
    assert Ports.from_env({"GATEWAY_PORT": ""}) == Ports(
        gateway=8080, broker=8081, receive=8083, display=8084, sample_api=30000
    )


def test_a_setting_moves_one_port() -> None:
    """A setting moves its part, and no other."""
    ports = Ports.from_env({"SAMPLE_API_PORT": "30001", "PORT": "1"})

    assert ports == Ports(sample_api=30001)


@pytest.mark.parametrize("text", ["http", "0", "65536", "-1", "8080.0", "\uff18080"])
def test_names_a_setting_that_is_no_port(text: str) -> None:
    """A value that is no port is refused by the name of its setting."""
    with pytest.raises(PortError) as error:
        Ports.from_env({"GATEWAY_PORT": text})

    assert str(error.value) == f"GATEWAY_PORT must be a number from 1 to 65535, not {text!r}"


def test_names_two_settings_that_are_the_same() -> None:
    """Two parts cannot have one port."""
    with pytest.raises(PortError) as error:
        Ports.from_env({"RECEIVE_PORT": "8081"})

    assert str(error.value) == "BROKER_PORT and RECEIVE_PORT must differ, both are 8081"


def test_names_a_port_that_is_taken() -> None:
    """A port on which somebody listens is named, with the setting that moves it."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        names = ("gateway", "broker", "receive", "sample_api")
        ports = Ports(display=port, **{name: free_port() for name in names})
        with pytest.raises(PortError) as error:
            ports.check_free()

    assert str(error.value) == (
        f"port {port} cannot be used (Address already in use): stop what listens there, such as"
        " another stack, or set DISPLAY_PORT to another port"
    )
