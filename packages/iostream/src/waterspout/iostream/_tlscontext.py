"""What `ssl_options` and `server_hostname` mean."""

from __future__ import annotations

import contextlib
import ipaddress
import re
import socket as _socket
import ssl
from typing import Any, TypeAlias

SSLOptions: TypeAlias = ssl.SSLContext | dict[str, Any] | None

HANDSHAKE_TIMEOUT = 60.0
"""The default of `handshake_timeout`, in seconds."""

_NAME = re.compile(r"[a-z0-9_-]{1,63}(\.[a-z0-9_-]{1,63})*")
_LONGEST_NAME = 253  # RFC 1035, section 2.3.4
_NUMBERS = re.compile(r"(0[xX])?[0-9a-fA-F]+(\.(0[xX])?[0-9a-fA-F]+){0,3}")
"""All that `inet_aton` reads as an IPv4 address, and some names that it does not."""


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


def verification_name(host: str) -> str:
    """Give the name that a TLS server must prove, for the name or address that is looked up.

    They differ: the dot at the end of a fully qualified name is for the resolver alone (RFC 6066,
    section 3), as is the zone of an IPv6 address; an address has one spelling in certificates; and
    a name outside of ASCII is proved in its IDNA form.

    Raises:
        ValueError: If it can be neither a name nor an address.
    """
    address = _address_of(host)
    if address is not None:
        return address
    try:
        name = host.encode("idna").decode("ascii").lower().removesuffix(".")
    except UnicodeError:
        name = ""
    if len(name) > _LONGEST_NAME or not _NAME.fullmatch(name):
        raise ValueError(f"server_hostname must be a host's name or address, not {host!r}")
    return _address_of(name) or name


def _address_of(host: str) -> str | None:
    """Give the usual spelling of an IP address, if that is what a host is."""
    bare = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    with contextlib.suppress(ValueError):
        return str(ipaddress.IPv6Address(bare.partition("%")[0]))
    if _NUMBERS.fullmatch(host):
        with contextlib.suppress(OSError):
            return _socket.inet_ntoa(_socket.inet_aton(host))
    return None


def checked_name(
    context: ssl.SSLContext, server_side: bool, server_hostname: str | None
) -> str | None:
    """Give the name that the peer must prove; `None` for none.

    Raises:
        TypeError: If it is no string.
        ValueError: If it can be none, the context checks it and there is none, or this is the
            server's side.
    """
    if server_hostname is None:
        if context.check_hostname and not server_side:
            raise ValueError("server_hostname is needed to verify the server's certificate")
        return None
    if not isinstance(server_hostname, str):
        raise TypeError(f"server_hostname must be a string or None, not {server_hostname!r}")
    if server_side:
        raise ValueError(f"server_hostname is for clients, not for a server: {server_hostname!r}")
    return verification_name(server_hostname)


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
