"""Whom the relay trusts over TLS, and what it proves itself with."""

from __future__ import annotations

import ssl
from pathlib import Path


class _Socket(ssl.SSLSocket):
    """Closed when it is collected: after an early failure nothing else refers to it."""

    def __del__(self) -> None:
        self.close()


def client_context(ca_certs: str | None, client_cert: tuple[str, str] | None) -> ssl.SSLContext:
    """Trust certifi's authorities, as `requests` does, the system's and the operator's.

    Args:
        ca_certs: PEM certificates to trust.
        client_cert: the paths of a certificate and its key, for servers that want one.
    """
    import certifi  # when it is needed; starts should be quick

    context = ssl.create_default_context()
    context.sslsocket_class = _Socket
    context.load_verify_locations(cafile=certifi.where(), cadata=ca_certs)
    if client_cert is not None:
        context.load_cert_chain(*client_cert)
    return context


def parse_certificates(pem: str) -> str:
    """Check certificates in PEM.

    Raises:
        ValueError: the text holds no valid certificates.
    """
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cadata=pem)
    except (ssl.SSLError, TypeError) as exc:  # TypeError: it is not ASCII
        raise ValueError("must be certificates in PEM") from exc
    return pem


def parse_ca_certs(text: str) -> str:
    """Read certificates in PEM, or the path of a file of them; return the PEM.

    Raises:
        ValueError: the text holds no valid certificates.
    """
    try:
        return parse_certificates(
            text if "-----BEGIN" in text else Path(text).read_text(encoding="ascii")
        )
    except (OSError, ValueError) as exc:
        raise ValueError("must be certificates in PEM, or the path of a file of them") from exc


def parse_client_cert(text: str) -> tuple[str, str]:
    """Find a certificate and its key: in one file, or as a Secret of type kubernetes.io/tls.

    Raises:
        ValueError: they are not there, or not a pair, or the key needs a password.
    """
    path = Path(text)
    certificate, key = path, path
    if path.is_dir():
        certificate, key = path / "tls.crt", path / "tls.key"
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    try:
        # Without a password OpenSSL would ask for one at the terminal.
        context.load_cert_chain(certificate, key, password="")
    except (OSError, ValueError) as exc:
        raise ValueError(
            "must be the path of a certificate and its key, without a password, in one PEM file or"
            " in a directory as tls.crt and tls.key"
        ) from exc
    return str(certificate), str(key)
