"""`StreamServer`: what is the same for every kind of socket that is listened on."""

from __future__ import annotations

import asyncio
import errno
import socket as _socket
from collections.abc import Awaitable, Callable
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
from waterspout.iostream._checks import count, positive_size
from waterspout.iostream._errors import StreamClosedError
from waterspout.iostream._network import network_of
from waterspout.iostream._socket import IOStream
from waterspout.iostream._tls import SSLIOStream
from waterspout.iostream._tlscontext import SSLOptions, ssl_context

Handler: TypeAlias = Callable[[IOStream], Awaitable[object]]

ACCEPT_PAUSE = 0.5
"""Seconds without accepting, after the system had no descriptor or memory for a connection, say."""
ACCEPT_AT_ONCE = 64
"""Connections accepted before the loop gets its turn."""

_GONE = {errno.ECONNABORTED, errno.ECONNRESET, errno.EPROTO, errno.EPERM, errno.ETIMEDOUT}
"""Errors of `accept` that mean only that one connection is there no more."""


def check_serving(handler: Handler, backlog: int, max_connections: int | None) -> None:
    """Raise unless the arguments that all servers have are good."""
    if not callable(handler):
        raise TypeError(f"handler must be callable, not {handler!r}")
    count("backlog", backlog)
    positive_size("max_connections", max_connections, 1)


def stream_factory(
    ssl: SSLOptions | Literal[False], kwargs: dict[str, Any]
) -> tuple[Callable[[_socket.socket], IOStream], Reactor]:
    """Give what makes the streams of accepted sockets, and the running loop's reactor.

    Raises:
        Exception: What is wrong with the arguments of the streams.
    """
    context = None if ssl is None or ssl is False else ssl_context(ssl, True)
    reactor = current_scheduler()
    if not isinstance(reactor, Reactor):
        raise RuntimeError(f"the running loop's {reactor!r} is no Reactor")

    def new_stream(socket: _socket.socket) -> IOStream:
        if context is None:
            return IOStream(socket, reactor, **kwargs)
        return SSLIOStream(socket, reactor, ssl_options=context, server_side=True, **kwargs)

    with network_of(reactor).new_socket(_socket.AF_INET) as unused:
        new_stream(unused)  # so that bad arguments raise now, not at each connection
    return new_stream, reactor


class StreamServer:
    """Listening sockets, and the connections that came through them.

    As an async context manager it closes at the end, letting handlers finish; if the block raises,
    it cancels them.

    Args:
        reactor: What it runs on.
        handler: A coroutine function that takes a stream.
        new_stream: Makes the stream of an accepted socket.
        sockets: The listening sockets; they are its own from now on.
        max_connections: How many may be open at a time; `None` for any number.

    Attributes:
        sockets: The listening sockets.
    """

    _where = "open"  # for its repr

    def __init__(
        self,
        reactor: Reactor,
        handler: Handler,
        new_stream: Callable[[_socket.socket], IOStream],
        sockets: list[_socket.socket],
        max_connections: int | None,
    ) -> None:
        self.sockets: tuple[_socket.socket, ...] = tuple(sockets)
        self._reactor = reactor
        self._handler = handler
        self._new_stream = new_stream
        self._max_connections = max_connections
        self._full: set[_socket.socket] = set()  # those that wait for a connection to end
        self._connections: set[asyncio.Task[None]] = set()
        self._shaking: set[asyncio.Task[None]] = set()  # those of them still in the handshake
        self._pauses: dict[_socket.socket, TimeoutHandle] = {}
        self._closed = False
        for socket in sockets:
            reactor.add_handler(socket, self._accept, READ)

    def __repr__(self) -> str:
        state = "closed" if self._closed else self._where
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
            ValueError: If `timeout` is NaN or a number of more than ten years.
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
            elif socket not in self._full:
                self._reactor.remove_handler(socket)
            socket.close()
        self._full.clear()

    def _cancel_connections(self) -> None:
        for connection in self._connections - {asyncio.current_task()}:
            connection.cancel()

    def _accept(self, listener: _socket.socket, events: int) -> None:
        for _ in range(ACCEPT_AT_ONCE):
            if self._closed:
                return  # by a handler that started at once
            if self._max_connections is not None and self.connections >= self._max_connections:
                self._reactor.remove_handler(listener)
                self._full.add(listener)
                return
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
        full, self._full = self._full, set()
        for listener in full:
            self._reactor.add_handler(listener, self._accept, READ)

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
            is_over = stream.closed() or stream.error is not None
            if not (is_over and _tells_of_a_close(error)):
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
