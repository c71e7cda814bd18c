"""`serve_tcp`: a TCP port whose every connection is given to a coroutine function."""

from __future__ import annotations

import asyncio
import errno
import socket as _socket
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from types import TracebackType
from typing import Any, Literal, Self, TypeAlias

from waterspout.ioloop.scheduling import (
    READ,
    Reactor,
    Timeout,
    TimeoutHandle,
    current_scheduler,
    timeout_seconds,
)
from waterspout.iostream._connect import check_port
from waterspout.iostream._errors import StreamClosedError
from waterspout.iostream._network import Address, Network, network_of
from waterspout.iostream._socket import IOStream
from waterspout.iostream._tls import SSLIOStream, SSLOptions, ssl_context

Handler: TypeAlias = Callable[[IOStream], Awaitable[object]]

ACCEPT_PAUSE = 0.5
"""Seconds without accepting, after the system had no descriptor or memory for a connection, say."""
ACCEPT_AT_ONCE = 64
"""Connections accepted before the loop gets its turn."""

_GONE = {errno.ECONNABORTED, errno.ECONNRESET, errno.EPROTO, errno.EPERM, errno.ETIMEDOUT}
"""Errors of `accept` that mean only that one connection is there no more."""
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
    if not callable(handler):
        raise TypeError(f"handler must be callable, not {handler!r}")
    check_port(port)
    context = None if ssl is None or ssl is False else ssl_context(ssl, True)
    reactor = current_scheduler()
    if not isinstance(reactor, Reactor):
        raise RuntimeError(f"the running loop's {reactor!r} is no Reactor")
    hosts: Sequence[str | None] = [host] if host is None or isinstance(host, str) else host
    if not hosts:
        raise ValueError(f"host must name at least one address, not {host!r}")
    network = network_of(reactor)
    addresses: list[Address] = []
    for one in hosts:
        found = await network.resolve(reactor, one, port, passive=True)
        addresses += [address for address in found if address not in addresses]

    def new_stream(socket: _socket.socket) -> IOStream:
        if context is None:
            return IOStream(socket, reactor, **kwargs)
        return SSLIOStream(socket, reactor, ssl_options=context, server_side=True, **kwargs)

    with network.new_socket(_socket.AF_INET) as unused:
        new_stream(unused)  # so that bad arguments raise here, not at each connection
    return TCPServer(
        reactor,
        handler,
        new_stream,
        _listen(network, addresses, backlog, reuse_port, host is None),
    )


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


class TCPServer:
    """A port being listened on; what `serve_tcp` returns.

    As an async context manager it closes at the end, letting handlers finish; if the block raises,
    it cancels them.

    Attributes:
        sockets: The listening sockets.
        port: The port of the first address.
    """

    def __init__(
        self,
        reactor: Reactor,
        handler: Handler,
        new_stream: Callable[[_socket.socket], IOStream],
        sockets: list[_socket.socket],
    ) -> None:
        self.sockets: tuple[_socket.socket, ...] = tuple(sockets)
        self._reactor = reactor
        self._handler = handler
        self._new_stream = new_stream
        self.port: int = sockets[0].getsockname()[1]
        self._connections: set[asyncio.Task[None]] = set()
        self._shaking: set[asyncio.Task[None]] = set()  # those of them still in the handshake
        self._pauses: dict[_socket.socket, TimeoutHandle] = {}
        self._closed = False
        for socket in sockets:
            reactor.add_handler(socket, self._accept, READ)

    def __repr__(self) -> str:
        state = "closed" if self._closed else f"port={self.port}"
        return f"<{type(self).__name__} {state} connections={len(self._connections)}>"

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc_val: BaseException | None,
        exc_tb: TracebackType | None,
    ) -> None:
        await self.close(None if exc_type is None else 0)

    @property
    def connections(self) -> int:
        """How many connections are open."""
        return len(self._connections)

    async def close(self, timeout: Timeout = None) -> None:
        """Stop listening, and let the handlers finish.

        Connections in the handshake are cancelled at once. Cancelled itself, it has stopped
        listening, and cancels the handlers without waiting for their end. A handler that calls it
        does not wait for itself.

        Args:
            timeout: Seconds, or a `timedelta`, that the handlers get before they are cancelled;
                `None` waits for ever.

        Raises:
            TypeError: If `timeout` is no number, `timedelta` or `None`.
            ValueError: If `timeout` is NaN.
        """
        seconds = timeout_seconds(timeout)
        self._stop_listening()
        for connection in self._shaking:
            connection.cancel()
        timer: TimeoutHandle = None
        if seconds is not None:
            timer = self._reactor.call_later(seconds, self._cancel_connections)
        try:
            while others := self._connections - {asyncio.current_task()}:
                await asyncio.wait(others)
        except asyncio.CancelledError:
            self._cancel_connections()
            raise
        finally:
            if seconds is not None:
                self._reactor.remove_timeout(timer)

    def _stop_listening(self) -> None:
        if self._closed:
            return
        self._closed = True
        for socket in self.sockets:
            pause = self._pauses.pop(socket, None)
            if pause is not None:
                self._reactor.remove_timeout(pause)
            else:
                self._reactor.remove_handler(socket)
            socket.close()

    def _cancel_connections(self) -> None:
        for connection in self._connections - {asyncio.current_task()}:
            connection.cancel()

    def _accept(self, listener: _socket.socket, events: int) -> None:
        for _ in range(ACCEPT_AT_ONCE):
            if self._closed:
                return  # by a handler that started at once
            try:
                socket, _address = listener.accept()
            except (BlockingIOError, InterruptedError):
                return
            except OSError as error:
                if error.errno in _GONE:
                    continue
                self._pause(listener)
                raise
            try:
                stream = self._new_stream(socket)
            except OSError:
                socket.close()  # gone already
                continue
            connection = asyncio.ensure_future(self._serve(stream))
            self._connections.add(connection)
            connection.add_done_callback(partial(self._forget, stream))

    def _forget(self, stream: IOStream, connection: "asyncio.Task[None]") -> None:
        self._connections.discard(connection)
        stream.close()  # also where the task was cancelled before it began

    def _pause(self, listener: _socket.socket) -> None:
        """Leave connections where they are until the system may have room again."""
        self._reactor.remove_handler(listener)
        self._pauses[listener] = self._reactor.call_later(ACCEPT_PAUSE, self._resume, listener)

    def _resume(self, listener: _socket.socket) -> None:
        del self._pauses[listener]
        self._reactor.add_handler(listener, self._accept, READ)

    async def _serve(self, stream: IOStream) -> None:
        try:
            stream.set_nodelay(True)
            if isinstance(stream, SSLIOStream):
                await self._shake_hands(stream)
        except OSError:
            return  # no fault of ours
        try:
            await self._handler(stream)
            await stream.write(b"")  # what the handler did not wait for
        except Exception as error:
            if not (stream.closed() and _tells_of_a_close(error)):
                self._reactor.add_callback(_raise, error)

    async def _shake_hands(self, stream: SSLIOStream) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._shaking.add(task)
        try:
            await stream.wait_for_handshake()
        finally:
            self._shaking.discard(task)


def _tells_of_a_close(error: Exception) -> bool:
    if isinstance(error, ExceptionGroup):
        return error.split(StreamClosedError)[1] is None
    return isinstance(error, StreamClosedError)


def _raise(error: Exception) -> None:
    raise error
