"""`StreamServer`: what is the same for every kind of socket that is listened on.

A listening socket is in one of two states. Either it has a handler, or it waits and is in
`_waiting`, with the reason: for a connection to end (`None`), or for a time (a timer). One that
cannot be registered again waits for another time, for as long as that takes: registering may need
a descriptor, and the reason to wait may have been that there was none.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import socket as _socket
import ssl as _ssl
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
from waterspout.iostream._checks import count, positive_size
from waterspout.iostream._errors import StreamClosedError
from waterspout.iostream._network import Network, network_of
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
    ssl: SSLOptions | Literal[False], kwargs: dict[str, Any], families: Sequence[int]
) -> tuple[Callable[[_socket.socket], IOStream], Reactor]:
    """Give what makes the streams of accepted sockets, and the running loop's reactor.

    Args:
        ssl: As for `serve_tcp`.
        kwargs: What the streams take.
        families: Families of sockets, of which this machine has one at least.

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

    with _unused_socket(network_of(reactor), families) as unused:
        new_stream(unused)  # so that bad arguments raise now, not at each connection
    return new_stream, reactor


def _unused_socket(network: Network, families: Sequence[int]) -> _socket.socket:
    """Make a socket of the first family that there is."""
    for family in families[:-1]:
        with contextlib.suppress(OSError):
            return network.new_socket(family)
    return network.new_socket(families[-1])


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

    Raises:
        Exception: If the reactor cannot register one of the sockets. All are closed then.
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
        self._sockets = tuple(sockets)
        self._reactor = reactor
        self._handler = handler
        self._new_stream = new_stream
        self._max_connections = max_connections
        self._connections: set[asyncio.Task[None]] = set()
        self._shaking: set[asyncio.Task[None]] = set()  # those of them still in the handshake
        self._closed = False
        # All wait until they are registered, so that closing is the same at every moment.
        self._waiting: dict[_socket.socket, TimeoutHandle] = {}
        for socket in sockets:
            self._waiting[socket] = None
        try:
            for socket in sockets:
                self._register(socket)
        except BaseException:
            self._stop_listening()
            raise

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
    def sockets(self) -> tuple[_socket.socket, ...]:
        """The listening sockets."""
        return self._sockets

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
        with contextlib.ExitStack() as stack:  # every socket is closed, whatever is raised
            for listener in self._sockets:
                stack.callback(listener.close)
                stack.callback(self._unregister, listener)

    def _register(self, listener: _socket.socket) -> None:
        """Accept from a socket that waits."""
        self._reactor.add_handler(listener, self._accept, READ)
        del self._waiting[listener]

    def _unregister(self, listener: _socket.socket) -> None:
        """Accept no more from a socket, in whichever state it is."""
        if listener not in self._waiting:
            with contextlib.suppress(KeyError):  # a loop that was closed has forgotten it
                self._reactor.remove_handler(listener)
        elif (timer := self._waiting.pop(listener)) is not None:
            self._reactor.remove_timeout(timer)

    def _wait(self, listener: _socket.socket) -> None:
        """Leave connections where they are until one that is open ends."""
        self._unregister(listener)
        self._waiting[listener] = None

    def _pause(self, listener: _socket.socket) -> None:
        """Leave connections where they are for a time: the system may have room again then."""
        self._wait(listener)
        self._waiting[listener] = self._reactor.call_later(ACCEPT_PAUSE, self._resume, listener)

    def _resume(self, listener: _socket.socket) -> None:
        """Accept again from a socket that waits, or if that cannot be, after a time."""
        if listener.fileno() < 0:
            return  # somebody has closed it: nothing will ever come
        try:
            self._register(listener)
        except Exception as error:
            self._report(error)
        finally:
            if listener in self._waiting:
                self._pause(listener)

    def _report(self, error: Exception) -> None:
        """Pass an exception to the loop's hook."""
        self._reactor.add_callback(_raise, [error])

    def _cancel_connections(self) -> None:
        for connection in self._connections - {asyncio.current_task()}:
            connection.cancel()

    def _accept(self, listener: _socket.socket, events: int) -> None:
        for _ in range(ACCEPT_AT_ONCE):
            if self._closed:
                return  # by a handler that started at once
            if self._max_connections is not None and self.connections >= self._max_connections:
                self._wait(listener)
                return
            try:
                socket, _address = listener.accept()
            except (BlockingIOError, InterruptedError):
                return
            except Exception as error:
                if isinstance(error, OSError) and error.errno in _GONE:
                    continue
                self._pause(listener)
                raise
            try:
                stream = self._new_stream(socket)
            except Exception as error:
                socket.close()
                # An `OSError` says that the connection is gone already, unless it is OpenSSL's.
                if not isinstance(error, OSError) or isinstance(error, _ssl.SSLError):
                    self._report(error)
                continue
            connection = asyncio.ensure_future(self._serve(stream))
            self._connections.add(connection)
            connection.add_done_callback(partial(self._forget, stream))

    def _forget(self, stream: IOStream, connection: "asyncio.Task[None]") -> None:
        self._connections.discard(connection)
        try:
            stream.close()  # also where the task was cancelled before it began
        finally:
            if self._waiting and not self._closed:
                for listener in [one for one, timer in self._waiting.items() if timer is None]:
                    self._resume(listener)

    async def _serve(self, stream: IOStream) -> None:
        try:
            stream.set_nodelay(True)
            if isinstance(stream, SSLIOStream):
                await self._shake_hands(stream)
        except OSError:
            return  # no fault of ours
        except Exception as error:
            self._report(error)
            return
        try:
            await self._handler(stream)
            await stream._when_sent()  # the handler need not have waited for it
        except Exception as error:
            is_over = stream.closed() or stream.error is not None
            if not (is_over and _tells_of_a_close(error)):
                self._report(error)

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


def _raise(errors: list[Exception]) -> None:
    """Raise an exception that no caller keeps: its traceback refers to the callers' frames."""
    raise errors.pop()
