"""`relay.settings`: what an operator sets is right, or the start fails and names it."""

from __future__ import annotations

import ipaddress
from pathlib import Path

import pytest
import trustme
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    load_pem_private_key,
)

from relay.egress import AllowedTarget
from relay.settings import InvalidSetting, Settings


def test_defaults_need_no_environment() -> None:
    """With nothing set, everything has its default."""
    assert Settings.from_env({}) == Settings()
    assert Settings().k_sink is None
    assert Settings().event_type == "dev.knative.samples.t2"
    assert Settings().event_source == "dev.knative.samples/t2"


def test_an_empty_variable_counts_as_unset() -> None:
    """Knative sets some variables to nothing, `K_CE_OVERRIDES` for one."""
    names = (
        "K_SINK",
        "K_CE_OVERRIDES",
        "K_CA_CERTS",
        "K_SERVICE",
        "EVENT_TYPE",
        "EVENT_SOURCE",
        "ALLOWED_TARGETS",
        "ALLOWED_TARGETS_ONLY",
        "TARGET_TIMEOUT_S",
        "TARGET_CONNECT_TIMEOUT_S",
        "PUBLISH_TIMEOUT_S",
        "RETRY_DELAYS_S",
        "MAX_AGE_S",
        "WAITING_PLACES",
        "TRIGGER_PLACES",
        "BREAKER_FAILURES",
        "BREAKER_PAUSE_S",
        "ORIGIN_SHARE",
        "MAX_BODY_BYTES",
        "MAX_BODIES_BYTES",
        "MAX_EVENT_BYTES",
        "MAX_RESULT_BYTES",
        "TARGET_CA_CERTS",
        "TARGET_CLIENT_CERT",
        "LOG_LEVEL",
        "THREADS",
    )

    assert Settings.from_env(dict.fromkeys(names, "")) == Settings()


@pytest.fixture
def key_and_certificate(tmp_path: Path) -> Path:
    path = tmp_path / "client.pem"
    path.write_bytes(trustme.CA().issue_cert("a").private_key_and_cert_chain_pem.bytes())
    return path


def test_every_setting_is_read(key_and_certificate: Path) -> None:
    """Each variable has its field."""
    certificate = trustme.CA().cert_pem.bytes().decode()
    settings = Settings.from_env(
        {
            "K_SINK": "http://broker-ingress.knative-eventing.svc.cluster.local/default/default",
            "K_CE_OVERRIDES": '{"extensions":{"team":"a b"}}',
            "K_CA_CERTS": certificate,
            "K_SERVICE": "send-serving",
            "EVENT_TYPE": "t",
            "EVENT_SOURCE": "/s",
            "ALLOWED_TARGETS": " localhost:30000, 10.0.0.0/8 ,,",
            "ALLOWED_TARGETS_ONLY": "True",
            "TARGET_TIMEOUT_S": "2.5",
            "TARGET_CONNECT_TIMEOUT_S": "1",
            "PUBLISH_TIMEOUT_S": "3",
            "RETRY_DELAYS_S": "0.5, 2,2",
            "MAX_AGE_S": "60",
            "WAITING_PLACES": "7",
            "TRIGGER_PLACES": "8",
            "BREAKER_FAILURES": "0",
            "BREAKER_PAUSE_S": "1.5",
            "ORIGIN_SHARE": "1",
            "MAX_BODY_BYTES": "10",
            "MAX_BODIES_BYTES": "12",
            "MAX_EVENT_BYTES": "100000",
            "MAX_RESULT_BYTES": "11",
            "TARGET_CA_CERTS": certificate,
            "TARGET_CLIENT_CERT": str(key_and_certificate),
            "STATE_URL": "rediss://user:p%2Fw@[fd00::1]:6380/2",
            "STATE_MAX_BYTES": "12",
            "CALLBACK_SECRET": f"whsec_{'a2V5' * 8} {'S0VZ' * 8}",
            "API_TOKEN": "0123456789abcdef fedcba9876543210",
            "LOG_LEVEL": "debug",
            "THREADS": "4",
        }
    )

    assert settings.k_sink is not None
    assert settings.k_sink.path == "/default/default"
    assert settings.k_ce_overrides == {"team": "a b"}
    assert settings.k_ca_certs == certificate
    assert settings.k_service == "send-serving"
    assert (settings.event_type, settings.event_source) == ("t", "/s")
    assert settings.allowed_targets == (
        AllowedTarget(name="localhost", port=30000),
        AllowedTarget(network=ipaddress.ip_network("10.0.0.0/8")),
    )
    assert settings.allowed_targets_only
    assert settings.target_timeout_s == 2.5
    assert settings.target_connect_timeout_s == 1.0
    assert settings.publish_timeout_s == 3.0
    assert settings.retry_delays_s == (0.5, 2.0, 2.0)
    assert (settings.max_age_s, settings.waiting_places) == (60.0, 7)
    assert (settings.trigger_places, settings.origin_share) == (8, 1.0)
    assert (settings.breaker_failures, settings.breaker_pause_s) == (0, 1.5)
    assert (settings.max_body_bytes, settings.max_result_bytes) == (10, 11)
    assert (settings.max_bodies_bytes, settings.max_event_bytes) == (12, 100_000)
    assert settings.target_ca_certs == certificate
    assert settings.target_client_cert == (str(key_and_certificate), str(key_and_certificate))
    assert settings.state_url == "rediss://user:p%2Fw@[fd00::1]:6380/2"
    assert settings.state_max_bytes == 12
    assert settings.callback_secret == (b"key" * 8, b"KEY" * 8)
    assert settings.api_token == ("0123456789abcdef", "fedcba9876543210")
    assert settings.log_level == "DEBUG"
    assert settings.threads == 4


ATTRIBUTE = "must be 1 to 128 visible ASCII characters without space, quote or %"
OVERRIDES = 'K_CE_OVERRIDES must be JSON like {"extensions": {"name": "value"}}'
STATE = (
    "must be memory://, sqlite:///PATH or redis[s]://[:PASSWORD@]HOST[:PORT][/DATABASE],"
    " the password percent-encoded"
)
SECRET = "must be whsec_ and base64 of 24 bytes or more, or two of these with a space between them"
TOKEN = "must be 16 or more visible ASCII characters, or several of these with a space between them"
CA_CERTS = "must be certificates in PEM, or the path of a file of them"
CLIENT_CERT = (
    "must be the path of a certificate and its key, without a password, in one PEM file or in a"
    " directory as tls.crt and tls.key"
)
SECONDS = "must be a number of seconds above 0, at most 86400"
DELAYS = "must be 1 to 5 numbers of seconds with commas between, the shortest first"
NAME_RULE = "a name is 1 to 20 lower-case letters or digits, and no context attribute"
ENTRY = "an entry is host[:port], *.suffix[:port] or CIDR[:port]"


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        (
            "K_SINK",
            "broker",
            "K_SINK must be http(s)://host[:port][/base], without user, query or fragment",
        ),
        ("K_CE_OVERRIDES", "{", None),
        ("K_CE_OVERRIDES", "[]", OVERRIDES),
        ("K_CE_OVERRIDES", '{"extensions":["a"]}', OVERRIDES),
        (
            "K_CE_OVERRIDES",
            '{"extensions":{"Team":"a"}}',
            f"K_CE_OVERRIDES has the extension name 'Team'; {NAME_RULE}",
        ),
        (
            "K_CE_OVERRIDES",
            '{"extensions":{"time":"a"}}',
            f"K_CE_OVERRIDES has the extension name 'time'; {NAME_RULE}",
        ),
        (
            "K_CE_OVERRIDES",
            '{"extensions":{"a":1}}',
            "K_CE_OVERRIDES must give a a string of visible characters",
        ),
        (
            "K_CE_OVERRIDES",
            '{"extensions":{"a":"\\r\\nX: 1"}}',
            "K_CE_OVERRIDES must give a a string of visible characters",
        ),
        ("EVENT_TYPE", "a b", f"EVENT_TYPE {ATTRIBUTE}"),
        ("EVENT_TYPE", "a\n", f"EVENT_TYPE {ATTRIBUTE}"),
        ("EVENT_SOURCE", "ü", f"EVENT_SOURCE {ATTRIBUTE}"),
        ("EVENT_SOURCE", "a" * 129, f"EVENT_SOURCE {ATTRIBUTE}"),
        (
            "ALLOWED_TARGETS",
            "a.test, http://b.test",
            f"ALLOWED_TARGETS has the entry 'http://b.test'; {ENTRY}",
        ),
        ("ALLOWED_TARGETS_ONLY", "yes", "ALLOWED_TARGETS_ONLY must be true or false"),
        ("TARGET_TIMEOUT_S", "0", f"TARGET_TIMEOUT_S {SECONDS}"),
        ("TARGET_TIMEOUT_S", "nan", f"TARGET_TIMEOUT_S {SECONDS}"),
        ("TARGET_TIMEOUT_S", "inf", f"TARGET_TIMEOUT_S {SECONDS}"),
        ("TARGET_TIMEOUT_S", "30s", f"TARGET_TIMEOUT_S {SECONDS}"),
        ("TARGET_CONNECT_TIMEOUT_S", "-1", f"TARGET_CONNECT_TIMEOUT_S {SECONDS}"),
        ("PUBLISH_TIMEOUT_S", "86401", f"PUBLISH_TIMEOUT_S {SECONDS}"),
        ("RETRY_DELAYS_S", "1,2,4,8,16,32", f"RETRY_DELAYS_S {DELAYS}"),
        ("RETRY_DELAYS_S", "2,1", f"RETRY_DELAYS_S {DELAYS}"),
        ("RETRY_DELAYS_S", "1,,2", f"RETRY_DELAYS_S {SECONDS}"),
        ("MAX_AGE_S", "0", f"MAX_AGE_S {SECONDS}"),
        ("BREAKER_FAILURES", "-1", "BREAKER_FAILURES must be a whole number above 0, or 0"),
        ("ORIGIN_SHARE", "0", "ORIGIN_SHARE must be a number above 0, at most 1"),
        ("ORIGIN_SHARE", "half", "ORIGIN_SHARE must be a number above 0, at most 1"),
        ("WAITING_PLACES", "0", "WAITING_PLACES must be a whole number above 0"),
        ("MAX_BODY_BYTES", "1e6", "MAX_BODY_BYTES must be a whole number above 0"),
        ("MAX_BODY_BYTES", "0", "MAX_BODY_BYTES must be a whole number above 0"),
        ("MAX_RESULT_BYTES", "-1", "MAX_RESULT_BYTES must be a whole number above 0"),
        ("THREADS", "٣", "THREADS must be a whole number above 0"),
        ("K_CA_CERTS", "/etc/ca.pem", "K_CA_CERTS must be certificates in PEM"),
        ("K_CA_CERTS", "-----BEGIN CERTIFICATE-----", "K_CA_CERTS must be certificates in PEM"),
        ("K_CA_CERTS", "é", "K_CA_CERTS must be certificates in PEM"),
        ("TARGET_CA_CERTS", "/nowhere/ca.pem", f"TARGET_CA_CERTS {CA_CERTS}"),
        ("TARGET_CA_CERTS", "-----BEGIN CERTIFICATE-----", f"TARGET_CA_CERTS {CA_CERTS}"),
        ("TARGET_CA_CERTS", __file__, f"TARGET_CA_CERTS {CA_CERTS}"),
        ("TARGET_CLIENT_CERT", "/nowhere/client.pem", f"TARGET_CLIENT_CERT {CLIENT_CERT}"),
        ("TARGET_CLIENT_CERT", "/", f"TARGET_CLIENT_CERT {CLIENT_CERT}"),
        ("TARGET_CLIENT_CERT", __file__, f"TARGET_CLIENT_CERT {CLIENT_CERT}"),
        *(
            ("STATE_URL", url, f"STATE_URL {STATE}")
            for url in (
                *(
                    "memory",
                    "memory://x",
                    "file:///x",
                    "sqlite://host/x",
                    "sqlite:///x?y",
                    "redis://",
                    "redis://:p@",
                ),
                *("redis://a:port", "redis://a:70000", "redis://a/x", "redis://:p/w@a"),
                *("redis://:p[w@a", "redis://:p@w@a", "redis://:pä@a", "redis://:p w@a"),
                *("redis://a?db=1", "redis://[a]", "redis://a:1:2", "unix:///a"),
            )
        ),
        *(
            ("CALLBACK_SECRET", secrets, f"CALLBACK_SECRET {SECRET}")
            for secrets in (
                *("whsec_", "whsec_AAAA", f"whsec_{'A' * 31}", f"whsec_{'A' * 32}!"),
                *(f"whsec_{'A' * 32} AAAA", f"whsec-{'A' * 32}", f"{'A' * 31}\u0391"),
            )
        ),
        ("API_TOKEN", "0123456789abcdef short", f"API_TOKEN {TOKEN}"),
        ("API_TOKEN", "0123456789abcdeé", f"API_TOKEN {TOKEN}"),
        ("LOG_LEVEL", "LOUD", "LOG_LEVEL must be DEBUG, INFO, WARNING, ERROR or CRITICAL"),
    ],
)
def test_a_bad_value_stops_the_start(name: str, value: str, message: str | None) -> None:
    """A value that is not of its kind is an error that names the setting, never a default."""
    with pytest.raises(InvalidSetting) as caught:
        Settings.from_env({name: value})

    if message is None:
        assert str(caught.value).startswith(f"{name} is not JSON: ")
    else:
        assert str(caught.value) == message


@pytest.mark.parametrize(
    ("sizes", "largest"),
    [
        pytest.param({"MAX_RESULT_BYTES": "900000"}, 700_848, id="no room for base64"),
        pytest.param({"MAX_RESULT_BYTES": "700849"}, 700_848, id="one byte"),
        pytest.param({"MAX_EVENT_BYTES": "400000"}, 250_848, id="the default is too much"),
        pytest.param({"MAX_EVENT_BYTES": "1000", "MAX_RESULT_BYTES": "1"}, 0, id="no room at all"),
    ],
)
def test_a_result_that_no_event_can_hold(sizes: dict[str, str], largest: int) -> None:
    """Sizes that contradict each other stop the start, and the error says what would be right."""
    with pytest.raises(InvalidSetting) as caught:
        Settings.from_env(sizes)

    assert str(caught.value) == (
        f"MAX_RESULT_BYTES must be at most {largest}: MAX_EVENT_BYTES is"
        f" {sizes.get('MAX_EVENT_BYTES', '1000000')}, of which attributes and headers take up to"
        " 65536, and base64 makes four bytes of three"
    )


def test_the_largest_result_that_fits() -> None:
    """Exactly what the error names is taken."""
    assert Settings.from_env({"MAX_RESULT_BYTES": "700848"}).max_result_bytes == 700_848


def test_certificates_from_a_file(tmp_path: Path) -> None:
    """Certificates may be given, or be in a file."""
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "ca.crt")

    settings = Settings.from_env({"TARGET_CA_CERTS": str(tmp_path / "ca.crt")})

    assert settings.target_ca_certs == authority.cert_pem.bytes().decode()


def test_a_client_certificate_from_a_secret(tmp_path: Path) -> None:
    """A Secret of type kubernetes.io/tls is mounted as a directory."""
    issued = trustme.CA().issue_cert("a")
    issued.cert_chain_pems[0].write_to_path(tmp_path / "tls.crt")
    issued.private_key_pem.write_to_path(tmp_path / "tls.key")

    settings = Settings.from_env({"TARGET_CLIENT_CERT": str(tmp_path)})

    assert settings.target_client_cert == (str(tmp_path / "tls.crt"), str(tmp_path / "tls.key"))


def test_a_key_with_a_password(tmp_path: Path) -> None:
    """Nobody is asked for a password: the start stops."""
    key = trustme.CA().issue_cert("a").private_key_pem.bytes()
    encrypted = load_pem_private_key(key, None).private_bytes(
        Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"secret")
    )
    path = tmp_path / "client.pem"
    path.write_bytes(encrypted + trustme.CA().cert_pem.bytes())

    with pytest.raises(InvalidSetting) as caught:
        Settings.from_env({"TARGET_CLIENT_CERT": str(path)})

    assert str(caught.value) == f"TARGET_CLIENT_CERT {CLIENT_CERT}"
