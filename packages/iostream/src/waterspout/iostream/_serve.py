"""`serve_tcp`: a TCP port whose every connection is given to a coroutine function."""

from __future__ import annotations

import errno
import socket as _socket
from collections.abc import Callable, Sequence
from typing import Any, Literal

from waterspout.ioloop.scheduling import Reactor
from waterspout.iostream._connect import check_port
from waterspout.iostream._network import Address, Network, network_of
from waterspout.iostream._server import Handler, StreamServer, check_serving, stream_factory
from waterspout.iostream._socket import IOStream
from waterspout.iostream._tlscontext import SSLOptions

_NOT_HERE = {errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL}
"""Errors of a system without one of the address families."""


async def serve_tcp(
    handler: Handler,
    host: str | Sequence[str] | None = None,
    port: int = 0,
    *,
    ssl: SSLOptions | Literal[False] = None,
    backlog: int = 128,
    reuse_port: bool = False,
    max_connections: int | None = None,
    **kwargs: Any,
) -> "TCPServer":
    """Listen on a TCP port::

        async with await serve_tcp(handler, "127.0.0.1", 8080) as server:
            await something

    Each connection runs `handler(stream)` in a task of its own; with TLS, after the handshake.
    When it returns, what it wrote is sent and the stream is closed; when it raises, the stream is
    closed and the exception reported by the loop, unless it says no more than that the stream is
    closed.
    Small writes are sent at once (`TCP_NODELAY`).

    Args:
        handler: A coroutine function that takes a stream.
        host: A name or address, or several; `None` for all interfaces. A name is resolved off
            the loop.
        port: The port; 0 takes a free one, the same for all addresses if it can.
        ssl: For TLS, a context or a dict, as `SSLIOStream` takes them; `None` and False mean
            plain.
        backlog: How many connections the system may hold ready.
        reuse_port: Whether other sockets may listen on the same port, to share its load.
        max_connections: How many may be open at a time; further ones wait in the system's
            queue. `None` for any number.
        **kwargs: What the streams take, such as `max_buffer_size`.

    Returns:
        The server, listening.

    Raises:
        TypeError: If an argument is of the wrong kind.
        ValueError: If `host` is empty, `port` is no port, or `ssl` has no certificate.
        OSError: If a name cannot be resolved or an address cannot be listened on. Nothing is
            left behind.
        RuntimeError: If the running loop has no `Reactor`.
    """
    check_port(port)
    check_serving(handler, backlog, max_connections)
    new_stream, reactor = stream_factory(ssl, kwargs)
    hosts: Sequence[str | None] = [host] if host is None or isinstance(host, str) else host
    if not hosts:
        raise ValueError(f"host must name at least one address, not {host!r}")
    network = network_of(reactor)
    addresses: list[Address] = []
    for one in hosts:
        found = await network.resolve(reactor, one, port, passive=True)
        addresses += [address for address in found if address not in addresses]

    sockets = _listen(network, addresses, backlog, reuse_port, host is None)
    return TCPServer(reactor, handler, new_stream, sockets, max_connections)


class TCPServer(StreamServer):
    """A port being listened on; what `serve_tcp` returns. See `StreamServer`.

    Attributes:
        port: The port of the first address.
    """

    def __init__(
        self,
        reactor: Reactor,
        handler: Handler,
        new_stream: Callable[[_socket.socket], IOStream],
        sockets: list[_socket.socket],
        max_connections: int | None,
    ) -> None:
        super().__init__(reactor, handler, new_stream, sockets, max_connections)
        self.port: int = sockets[0].getsockname()[1]
        self._where = f"port={self.port}"


def _listen(
    network: Network, addresses: list[Address], backlog: int, reuse_port: bool, skip: bool
) -> list[_socket.socket]:
    """Listen on all addresses, or on none and raise; with `skip`, on those that the system has."""
    sockets: list[_socket.socket] = []
    missing: OSError | None = None
    try:
        for family, address in addresses:
            port = sockets[0].getsockname()[1] if sockets else address[1]
            try:
                whole = (address[0], port, *address[2:])
                sockets.append(_listen_on(network, family, whole, reuse_port))
            except OSError as error:
                if not (skip and error.errno in _NOT_HERE):
                    raise
                missing = error
            else:
                sockets[-1].listen(backlog)
        if missing is not None and not sockets:
            raise missing
    except BaseException:
        for socket in sockets:
            socket.close()
        raise
    return sockets


def _listen_on(network: Network, family: int, address: Any, reuse_port: bool) -> _socket.socket:
    socket = network.new_socket(family)
    try:
        socket.setblocking(False)
        socket.setsockopt(_socket.SOL_SOCKET, _socket.SO_REUSEADDR, 1)
        if reuse_port:
            socket.setsockopt(_socket.SOL_SOCKET, _socket.SO_REUSEPORT, 1)
        if family == _socket.AF_INET6:
            # IPv4 has a socket of its own, so that all addresses look the same everywhere.
            socket.setsockopt(_socket.IPPROTO_IPV6, _socket.IPV6_V6ONLY, 1)
        socket.bind(address)
    except BaseException:
        socket.close()
        raise
    return socket
