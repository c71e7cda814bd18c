"""What `ssl_options` and `server_hostname` mean."""

from __future__ import annotations

import ssl
from typing import Any, TypeAlias

SSLOptions: TypeAlias = ssl.SSLContext | dict[str, Any] | None

HANDSHAKE_TIMEOUT = 60.0
"""The default of `handshake_timeout`, in seconds."""


def ssl_context(ssl_options: SSLOptions, server_side: bool) -> ssl.SSLContext:
    """Make the context that `ssl_options` means; see `SSLIOStream`."""
    if isinstance(ssl_options, ssl.SSLContext):
        return ssl_options
    if ssl_options is not None and not isinstance(ssl_options, dict):
        raise TypeError(f"ssl_options must be an SSLContext, a dict or None, not {ssl_options!r}")
    options = dict(ssl_options or {})
    purpose = ssl.Purpose.CLIENT_AUTH if server_side else ssl.Purpose.SERVER_AUTH
    context = ssl.create_default_context(purpose, cafile=options.pop("ca_certs", None))
    context.options |= ssl.OP_NO_RENEGOTIATION
    certificate, key = options.pop("certfile", None), options.pop("keyfile", None)
    if certificate is not None:
        context.load_cert_chain(certificate, key)
    elif server_side:
        raise ValueError("ssl_options of a server must have a certificate: certfile")
    if "check_hostname" in options:
        context.check_hostname = options.pop("check_hostname")
    if "cert_reqs" in options:
        requirement = ssl.VerifyMode(options.pop("cert_reqs"))
        if requirement is ssl.CERT_NONE:
            context.check_hostname = False
        context.verify_mode = requirement
    if "ciphers" in options:
        context.set_ciphers(options.pop("ciphers"))
    if options:
        raise TypeError(f"ssl_options has unknown keys: {sorted(options)}")
    return context


def check_name(context: ssl.SSLContext, server_side: bool, server_hostname: str | None) -> None:
    """Raise unless a server's name is one, before a socket has been given away for it.

    Raises:
        ValueError: If it is none, or the context checks it and there is none.
    """
    if server_hostname is not None or (context.check_hostname and not server_side):
        if not server_hostname:
            raise ValueError("server_hostname is needed to verify the server's certificate")
        try:
            context.wrap_bio(ssl.MemoryBIO(), ssl.MemoryBIO(), server_side, server_hostname)
        except ValueError as error:
            message = f"server_hostname must be a host's name, not {server_hostname!r}"
            raise ValueError(message) from error


_NOT_TLS = {
    "HTTPS_PROXY_REQUEST",
    "HTTP_REQUEST",
    "PACKET_LENGTH_TOO_LONG",
    "RECORD_LAYER_FAILURE",
    "UNKNOWN_PROTOCOL",
    "WRONG_VERSION_NUMBER",
}
_NO_COMMON_GROUND = {
    "NO_PROTOCOLS_AVAILABLE",
    "NO_SHARED_CIPHER",
    "SSLV3_ALERT_HANDSHAKE_FAILURE",
    "TLSV1_ALERT_PROTOCOL_VERSION",
    "UNSUPPORTED_PROTOCOL",
}


def explain(error: OSError) -> None:
    """Add a note to what OpenSSL says of a handshake that failed, where it could be plainer."""
    reason = getattr(error, "reason", None)
    if reason in _NOT_TLS:
        error.add_note("the other end does not speak TLS on this port; plain HTTP, perhaps")
    elif reason in _NO_COMMON_GROUND:
        error.add_note("the two sides have no version of TLS, or no cipher, in common")
