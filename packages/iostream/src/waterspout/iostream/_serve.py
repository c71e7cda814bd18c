"""`serve_tcp`: a TCP port whose every connection is given to a coroutine function.

A name may have addresses that this machine has not, such as `::1` for localhost in a container
without IPv6. They are skipped, unless the name has no other. Errors of `bind` that say this are
those of `_NOT_HERE`; the others say that the address is there and cannot be had (it is taken, or
not allowed), and are raised. A socket that cannot be made says that there is no such family, unless
descriptors or memory are lacking.
"""

from __future__ import annotations

import contextlib
import errno
import socket as _socket
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Literal

from waterspout.ioloop.scheduling import Reactor
from waterspout.iostream._connect import one_for_all
from waterspout.iostream._network import (
    Address,
    Network,
    check_host,
    check_port,
    look_up,
    network_of,
)
from waterspout.iostream._server import Handler, StreamServer, check_serving, stream_factory
from waterspout.iostream._socket import IOStream
from waterspout.iostream._tlscontext import SSLOptions

_NOT_HERE = {
    getattr(errno, name)
    for name in (
        "EADDRNOTAVAIL",  # no interface has the address
        "EAFNOSUPPORT",  # there is no such family, or not for this kind of socket
        "EHOSTUNREACH",
        "EINVAL",  # a link-local address without its interface (scope)
        "ENETDOWN",
        "ENETUNREACH",
        "ENODEV",  # no such interface
        "ENOPROTOOPT",  # no IPv6 that could be told from IPv4
        "ENXIO",
        "EPFNOSUPPORT",
        "EPROTONOSUPPORT",
        "EPROTOTYPE",
        "ESOCKTNOSUPPORT",
    )
    if hasattr(errno, name)  # not all systems have all
}
"""Errors of `bind` that mean that this machine has no such address."""

_LACKING = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}
"""Errors of `socket` that do not depend on its family."""

PORT_ATTEMPTS = 64
"""How many free ports are tried until one is free at all addresses."""


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
            the loop, in threads of the package's own; an address needs no thread. Of the
            addresses of a name, those that this machine has not are skipped, unless it has none.
        port: The port; 0 takes one that is free, the same for all addresses.
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
        ValueError: If `host` is an empty sequence, `port` is no port, or `ssl` has no
            certificate.
        OSError: If a name cannot be resolved or is no possible one (`socket.gaierror`), an
            address is taken or may not be used, or this machine has no address of a name; of
            several errors the last, with an `ExceptionGroup` of all as its cause. Nothing is left
            behind.
        RuntimeError: If the running loop has no `Reactor`.
    """
    check_port(port)
    hosts = _hosts(host)
    check_serving(handler, backlog, max_connections)
    families = _socket.AF_INET, _socket.AF_INET6
    new_stream, reactor = stream_factory(ssl, kwargs, families)
    found = [await look_up(reactor, one, port, passive=True) for one in hosts]
    sockets = _listen(network_of(reactor), found, port, backlog, reuse_port)
    return TCPServer(reactor, handler, new_stream, sockets, max_connections)


def _hosts(host: object) -> Sequence[str | None]:
    """Give the hosts that an argument means.

    Raises:
        TypeError: If it is neither a string nor a sequence of them nor `None`.
        ValueError: If it is an empty sequence.
    """
    if host is None or isinstance(host, str):
        return [host]
    if isinstance(host, bytes) or not isinstance(host, Iterable):
        raise TypeError(f"host must be a string, a sequence of strings or None, not {host!r}")
    hosts = list(host)
    for one in hosts:
        check_host("each host", one)
    if not hosts:
        raise ValueError(f"host must name at least one address, not {host!r}")
    return hosts


class TCPServer(StreamServer):
    """A port being listened on; what `serve_tcp` returns. See `StreamServer`."""

    def __init__(
        self,
        reactor: Reactor,
        handler: Handler,
        new_stream: Callable[[_socket.socket], IOStream],
        sockets: list[_socket.socket],
        max_connections: int | None,
    ) -> None:
        self._port: int = sockets[0].getsockname()[1]
        self._where = f"port={self._port}"
        super().__init__(reactor, handler, new_stream, sockets, max_connections)

    @property
    def port(self) -> int:
        """The port of the first address."""
        return self._port


def _listen(
    network: Network,
    found: Sequence[Sequence[Address]],
    port: int,
    backlog: int,
    reuse_port: bool,
) -> list[_socket.socket]:
    """Listen on the addresses of all hosts, on one port; on none, if it raises."""
    attempts = 1 if port else PORT_ATTEMPTS
    with contextlib.ExitStack() as failed:
        while True:
            listeners = _Listeners(network, backlog, reuse_port)
            attempts -= 1
            try:
                for addresses in found:
                    listeners.add(addresses)
                return list(listeners.sockets.values())
            except BaseException as error:
                # They are closed in the end: while they have their port, another one is free.
                for socket in listeners.sockets.values():
                    failed.callback(socket.close)
                if not attempts or getattr(error, "errno", None) != errno.EADDRINUSE:
                    raise


class _Listeners:
    """Sockets that listen, on one port.

    Attributes:
        sockets: By their addresses, as these were looked up.
    """

    def __init__(self, network: Network, backlog: int, reuse_port: bool) -> None:
        self._network = network
        self._backlog = backlog
        self._reuse_port = reuse_port
        self.sockets: dict[Address, _socket.socket] = {}

    def add(self, addresses: Sequence[Address]) -> None:
        """Listen on those addresses of a host that this machine has; it must have one.

        Raises:
            OSError: If it has none, or one cannot be listened on for another reason.
        """
        missing: list[OSError] = []
        for family, address in addresses:
            if (family, address) not in self.sockets:
                error = self._try(family, address)
                if error is not None:
                    missing.append(error)
        error = None  # or the error that is raised would refer to this frame, and this to it
        if len(missing) == len(addresses):
            raise one_for_all("this machine has none of the addresses", missing)

    def _try(self, family: int, address: Any) -> OSError | None:
        """Listen on an address, or give the error that says that this machine has not got it."""
        try:
            socket = self._network.new_socket(family)
        except OSError as error:
            error.add_note(f"address is {address!r}")
            if error.errno in _LACKING:
                raise
            return error
        port = next((one.getsockname()[1] for one in self.sockets.values()), address[1])
        try:
            whole = (address[0], port, *address[2:])
            _listen_on(socket, whole, self._backlog, self._reuse_port)
        except BaseException as error:
            socket.close()
            error.add_note(f"address is {address!r}")
            if isinstance(error, OSError) and error.errno in _NOT_HERE:
                return error
            raise
        self.sockets[family, address] = socket
        return None


def _listen_on(socket: _socket.socket, address: Any, backlog: int, reuse_port: bool) -> None:
    socket.setblocking(False)
    socket.setsockopt(_socket.SOL_SOCKET, _socket.SO_REUSEADDR, 1)
    if reuse_port:
        socket.setsockopt(_socket.SOL_SOCKET, _socket.SO_REUSEPORT, 1)
    if socket.family == _socket.AF_INET6:
        # IPv4 has a socket of its own, so that all addresses look the same everywhere.
        socket.setsockopt(_socket.IPPROTO_IPV6, _socket.IPV6_V6ONLY, 1)
    socket.bind(address)
    socket.listen(backlog)
