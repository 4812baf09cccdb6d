"""Why a connection failed, in the relay's own words: a peer's certificate may say anything."""

from __future__ import annotations

import errno
import socket
import ssl
from typing import Final

_NETWORK: Final = {
    errno.ECONNREFUSED: "the connection was refused",
    errno.ECONNRESET: "the connection was reset",
    errno.EHOSTUNREACH: "there is no route to it",
    errno.ENETUNREACH: "there is no route to it",
    socket.EAI_NONAME: "its name was not found",
    socket.EAI_AGAIN: "its name cannot be looked up at the moment",
}
# OpenSSL's X509_V_ERR_….
_CERTIFICATE: Final = {
    9: "its certificate is not yet valid",
    10: "its certificate has expired",
    **dict.fromkeys((2, 18, 19, 20, 21), "its certificate is from an unknown authority"),
    **dict.fromkeys((62, 64), "its certificate is for another name"),
}
_NO_COMMON_VERSION: Final = "it has no TLS version in common with the relay"
_NO_TLS: Final = "it does not speak TLS"
_CERTIFICATE_REFUSED: Final = "it does not accept the client certificate"
# OpenSSL's names; an alert is what the peer says.
_TLS: Final = {
    "UNSUPPORTED_PROTOCOL": _NO_COMMON_VERSION,
    "TLSV1_ALERT_PROTOCOL_VERSION": _NO_COMMON_VERSION,
    "WRONG_VERSION_NUMBER": _NO_TLS,
    "PACKET_LENGTH_TOO_LONG": _NO_TLS,
    "RECORD_LAYER_FAILURE": _NO_TLS,
    "TLSV13_ALERT_CERTIFICATE_REQUIRED": "it wants a client certificate",
    # TLS 1.2 has one alert for both.
    "SSLV3_ALERT_HANDSHAKE_FAILURE": "it wants a client certificate, or no cipher of the relay",
    "SSLV3_ALERT_BAD_CERTIFICATE": _CERTIFICATE_REFUSED,
    "SSLV3_ALERT_CERTIFICATE_EXPIRED": _CERTIFICATE_REFUSED,
    "SSLV3_ALERT_CERTIFICATE_UNKNOWN": _CERTIFICATE_REFUSED,
    "TLSV1_ALERT_UNKNOWN_CA": _CERTIFICATE_REFUSED,
}


def reason_of(error: OSError) -> str:
    """Say what went wrong, as what follows "cannot be reached: "."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return _CERTIFICATE.get(error.verify_code, "its certificate is not valid")
    if isinstance(error, ssl.SSLEOFError | ssl.SSLZeroReturnError):
        return "the connection was closed"
    if isinstance(error, ssl.SSLError):
        return _TLS.get(error.reason or "", "TLS failed")
    if isinstance(error, TimeoutError):
        return "timed out"
    return _NETWORK.get(error.errno or 0, "the connection failed")
