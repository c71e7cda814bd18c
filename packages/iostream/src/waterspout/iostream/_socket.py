"""`IOStream`: a stream over a socket."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import socket as _socket
import struct
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any, Self, overload

from waterspout.ioloop.scheduling import WRITE, Reactor, Timeout, timeout_seconds
from waterspout.iostream._base import BaseIOStream
from waterspout.iostream._checks import check_callback
from waterspout.iostream._core import fail
from waterspout.iostream._errors import StreamClosedError, copy_error
from waterspout.iostream._network import check_port, check_unix_path, look_up, unix_error
from waterspout.iostream._tlscontext import (
    HANDSHAKE_TIMEOUT,
    SSLOptions,
    checked_name,
    ssl_context,
)
from waterspout.iostream._tlsengines import is_kernels
from waterspout.iostream._tlsmemory import MemoryTLSSocket

if TYPE_CHECKING:
    from waterspout.iostream._tls import SSLIOStream

_IN_PROGRESS = {errno.EINPROGRESS, errno.EWOULDBLOCK, getattr(errno, "WSAEWOULDBLOCK", 0)}

_INTERNET = {_socket.AF_INET, _socket.AF_INET6}

_NO_LINGER = struct.pack("ii", 1, 0)


class IOStream(BaseIOStream):
    """A stream over a socket, connected or to be connected.

    The stream owns the socket: it makes it non-blocking, and closes it.

    Args:
        socket: A stream socket (TCP, Unix). To `connect` it, or connected already.
        io_loop: As for `BaseIOStream`.
        **kwargs: As for `BaseIOStream`.

    Attributes:
        socket: The socket.

    Raises:
        TypeError: If `socket` is no socket, or another argument is of the wrong kind.
        ValueError: If the socket is closed or is no stream socket.
        OSError: If its connection is broken already.
    """

    __slots__ = (
        "_address",
        "_connecting",
        "_detached",
        "_has_opened",
        "_has_peer",
        "_openers",
        "_process",
        "socket",
    )

    can_write_eof = True

    def __init__(
        self, socket: _socket.socket, io_loop: Reactor | None = None, **kwargs: Any
    ) -> None:
        super().__init__(io_loop, **kwargs)
        if not isinstance(socket, (_socket.socket, MemoryTLSSocket)):
            raise TypeError(f"socket must be a socket, not {socket!r}")
        if socket.fileno() < 0 or socket.type != _socket.SOCK_STREAM:
            raise ValueError(f"socket must be an open stream socket, not {socket!r}")
        has_peer = is_connected(socket)
        socket.setblocking(False)  # last of what can fail: until then nothing has changed
        self.socket: _socket.socket = socket
        moves = type(self).read_from_fd, type(self).write_to_fd
        if moves == _MOVES and (is_kernels(socket) or getattr(socket, "_is_plain", False)):
            self._direct = socket
        self._has_peer = has_peer
        self._opening = not self._has_peer  # until then nothing is watched or sent
        self._has_opened = self._has_peer
        self._connecting = False
        self._detached = False
        self._process: int | None = None  # the id of the one whose loop the stream belongs to
        self._address: Any = None
        self._openers: list[asyncio.Future[Any]] = []  # who waits for the opening to be done

    def fileno(self) -> int:
        return -1 if self._detached else self.socket.fileno()

    def close_fd(self) -> None:
        self.socket.close()

    def read_from_fd(self, buf: memoryview) -> int | None:
        try:
            return self.socket.recv_into(buf)
        except (BlockingIOError, InterruptedError):
            return None

    def write_to_fd(self, data: memoryview) -> int:
        try:
            return self.socket.send(data)
        except (BlockingIOError, InterruptedError):
            return 0

    def shut_down_fd(self) -> None:
        if self._is_inherited():
            raise RuntimeError("the connection belongs to the parent process")
        self.socket.shutdown(_socket.SHUT_WR)

    def _bind(self, reactor: Reactor | None) -> Reactor:
        bound = super()._bind(reactor)
        self._process = os.getpid()
        return bound

    def _is_inherited(self) -> bool:
        """Whether this is a forked child, and the parent had begun to use the connection.

        Both processes have the same connection then. What a child sends, shuts down or sets is
        done to its parent's.
        """
        return self._process not in (None, os.getpid())

    def _reset_on_close(self) -> None:
        if self._is_inherited():
            return
        with contextlib.suppress(OSError):
            self.socket.setsockopt(_socket.SOL_SOCKET, _socket.SO_LINGER, _NO_LINGER)

    def set_nodelay(self, value: bool) -> None:
        if not self._closed and self.socket.family in _INTERNET:
            self.socket.setsockopt(_socket.IPPROTO_TCP, _socket.TCP_NODELAY, bool(value))

    @overload
    def connect(
        self, address: Any, callback: None = None, server_hostname: str | None = None
    ) -> Coroutine[Any, Any, Self]: ...
    @overload
    def connect(
        self,
        address: Any,
        callback: Callable[[Self], object],
        server_hostname: str | None = None,
    ) -> "asyncio.Task[Self]": ...
    def connect(
        self,
        address: Any,
        callback: Callable[[Self], object] | None = None,
        server_hostname: str | None = None,
    ) -> "Coroutine[Any, Any, Self] | asyncio.Task[Self]":
        """Connect the socket. A coroutine function; with a callback, it starts at once.

        Writes and a read may be started before it is done. Cancelled, it closes the stream.

        Args:
            address: What the socket's family calls an address: `(host, port)`, for IPv6 also
                with flow info and scope; a path. A host name is resolved off the loop, an
                address needs no thread.
            callback: Called on the loop with the stream. A task is returned then.
            server_hostname: The name that a TLS server must prove; see `SSLIOStream`.

        Returns:
            The stream itself.

        Raises:
            TypeError: If `address` or `callback` is of the wrong kind.
            ValueError: If the port is no port, or a path has a null character inside; for TLS,
                if the name of the server is to be checked and none, or no possible one, is given.
            OSError: If the name cannot be resolved (`socket.gaierror`), the socket cannot be
                connected, such as `ConnectionRefusedError`, or the TLS handshake fails. The
                stream is closed then.
            RuntimeError: If it is connecting or connected already; it stays so.
            StreamClosedError: If it is closed, or is closed meanwhile.
        """
        check_callback("callback", callback)
        if callback is None:
            return self._connect(address, server_hostname)
        self._check_can_connect(server_hostname)
        _check_address(self.socket.family, address)
        task = asyncio.ensure_future(self._connect(address, server_hostname))
        self._use_reactor().add_future(task, lambda done: self._deliver(callback, done))
        return task

    def start_tls(
        self,
        server_side: bool,
        ssl_options: SSLOptions = None,
        server_hostname: str | None = None,
        *,
        handshake_timeout: Timeout = HANDSHAKE_TIMEOUT,
    ) -> "asyncio.Future[SSLIOStream]":
        """Go on in TLS, over the same connection.

        From then on this stream is closed, and a new one has the connection: this one's limits,
        its close callback, and the bytes that it had read ahead, which are taken for the other
        side's handshake. Cancelling the future closes the connection.

        Args:
            server_side: Whether this is the server's side.
            ssl_options: As for `SSLIOStream`.
            server_hostname: For a client, the name that the server must prove (SNI); see
                `SSLIOStream`.
            handshake_timeout: Seconds, or a `timedelta`, that the handshake may take.

        Returns:
            A future of the new stream, done when the handshake is. If it fails, the connection is
            closed.

        Raises:
            TypeError: If an argument is of the wrong kind.
            ValueError: If a server has no certificate, `server_hostname` is no possible name or
                is given for a server, a client's context checks the name of the server and none
                is given, or `handshake_timeout` is NaN.
            RuntimeError: If a read or write is pending, the stream is not connected, or no loop
                is running.
            StreamClosedError: If it is closed; through the future, if the new one is closed
                meanwhile.
            ssl.SSLError: If a certificate cannot be loaded, or (or `ValueError`) the context is
                for the other side; through the future, if the handshake fails.
            TimeoutError: Through the future, if it takes longer than `handshake_timeout`.
            OSError: If a file of `ssl_options` cannot be read; through the future, if the
                connection breaks.
            Exception: What the reactor raises. If it refuses to wait for the handshake, the
                connection is closed; else this stream goes on.
        """
        from waterspout.iostream._tls import SSLIOStream

        context = ssl_context(ssl_options, server_side)
        seconds = timeout_seconds(handshake_timeout, "handshake_timeout")
        name = checked_name(context, server_side, server_hostname)
        if self._closed:
            raise StreamClosedError(self._reason)
        if self.reading() or self._gap is not None or self.writing() or self._sending_file:
            raise RuntimeError("start_tls() while a read or write is pending")
        if self._opening or self._eof_wanted:
            raise RuntimeError("start_tls() of a stream that is not connected, or half closed")
        reactor = self._use_reactor()
        received = self._read_buffer.peek(len(self._read_buffer))
        stream = SSLIOStream(
            MemoryTLSSocket(self._carrier(), context, server_side, name, received),  # type: ignore[arg-type]
            reactor,
            handshake_timeout=seconds,
            max_buffer_size=self._max_buffer_size,
            read_chunk_size=self._read_chunk_size,
            max_write_buffer_size=self._max_write_buffer_size,
            half_open=self._half_open,
        )
        self._unwatch()
        stream._close_callback = callback = self._detach()
        stream._listening = callback is not None
        try:
            future = stream.wait_for_handshake()
        except BaseException:
            stream.close()  # a part of the handshake may have been sent
            raise
        future.add_done_callback(lambda done: stream.close() if done.cancelled() else None)
        return future

    def _carrier(self) -> Any:
        """The transport of a TLS connection inside of this one."""
        return self.socket

    def _unwatch(self) -> None:
        """Have the reactor forget the descriptor, which another stream is to have."""
        if self._events:
            with contextlib.suppress(KeyError):
                self._use_reactor().remove_handler(self._watched)
            self._events = 0

    def _detach(self) -> Callable[[], object] | None:
        """Give away the close callback, and be closed; the connection is another stream's."""
        callback, self._close_callback = self._close_callback, None
        self._detached = self._closed = self._ended = self._dropped = True
        self._reason = ConnectionAbortedError("the stream was given away to start_tls()")
        self._read_buffer.clear()
        return callback

    def _check_can_connect(self, server_hostname: str | None) -> None:
        if self._closed:
            raise StreamClosedError(self._reason)
        if self._connecting or self._has_peer:
            raise RuntimeError("the stream is connecting or connected already")

    async def _connect(self, address: Any, server_hostname: str | None) -> Self:
        self._check_can_connect(server_hostname)
        _check_address(self.socket.family, address)
        self._use_reactor()
        self._connecting = True
        try:
            await self._start_connecting(address)
            await self._when_open()
        except BaseException as error:
            self._fail_opening(error)
            raise
        return self

    async def _start_connecting(self, address: Any) -> None:
        address = await self._resolve(address)
        if self._closed:
            raise StreamClosedError(self._reason)
        self._address = address
        try:
            code = self.socket.connect_ex(address)
        except OSError as error:
            if error.errno is None and isinstance(address, str | bytes):  # it is too long
                raise unix_error(error, address) from None
            raise
        if code and (code not in _IN_PROGRESS or self._is_full(code)):
            raise _os_error(code, address)
        self._opening_events = WRITE
        self._update_events()

    def _is_full(self, code: int) -> bool:
        """Whether a Unix socket's queue is full: then nothing is in progress."""
        return code == errno.EAGAIN and self.socket.family not in _INTERNET

    async def _resolve(self, address: Any) -> Any:
        """Look up a host name in the way the socket would, but off the loop."""
        family = self.socket.family
        if family not in _INTERNET:
            return address
        host, port, *more = address
        if isinstance(host, bytes):
            host = host.decode("ascii", "surrogateescape")
        with contextlib.suppress(OSError, ValueError):
            _socket.inet_pton(family, host)
            return (host, port, *more)  # which is what the socket would do
        # To a socket, an empty host is this machine.
        found = await look_up(self._use_reactor(), host or None, port, family=family)
        resolved = found[0][1]
        if not more:
            return resolved
        flow_info, scope = (*more, 0)[:2]
        return (*resolved[:2], flow_info, scope or resolved[3])

    def _advance_opening(self) -> None:
        try:
            code = self.socket.getsockopt(_socket.SOL_SOCKET, _socket.SO_ERROR)
        except OSError as error:  # somebody has closed it
            self._fail_opening(error)
            return
        if code:
            self._fail_opening(_os_error(code, self._address))
        else:
            self._connected()

    def _connected(self) -> None:
        """The socket is connected; a subclass may have more to do."""
        self._connecting = False
        self._has_peer = True
        self._finish_opening()

    def _when_open(self) -> "asyncio.Future[Self]":
        """A future of the stream, for when bytes can move."""
        future: asyncio.Future[Self] = self._use_reactor().create_future()
        if self._closed and not self._has_opened:
            fail(future, copy_error(self.error or StreamClosedError(self._reason)))
        elif self._opening:
            self._openers.append(future)
        else:
            future.set_result(self)
        return future

    def _finish_opening(self) -> None:
        """Let bytes move; if they cannot be waited for, the opening has failed."""
        self._opening = False
        self._has_opened = True
        try:
            self._flush()
            self._update_events()
        except BaseException as error:
            self._has_opened = False
            self._fail_opening(error)
            if not isinstance(error, Exception):
                raise
            return
        openers, self._openers = self._openers, []
        for future in openers:
            if not future.done():
                future.set_result(self)

    def _fail_opening(self, error: BaseException) -> None:
        """Close the stream, and raise the error from what waits for the opening.

        The stream keeps a copy: where the error is raised, its traceback refers to the stream.
        """
        self._opening = False
        openers, self._openers = self._openers, []
        for future in openers:
            fail(future, copy_error(error))
        if not self._closed:
            self._end(copy_error(error))

    def _close_now(self) -> None:
        super()._close_now()
        self._opening = False
        openers, self._openers = self._openers, []
        for future in openers:
            fail(future, StreamClosedError(self._reason))


_MOVES = IOStream.read_from_fd, IOStream.write_to_fd


def is_connected(socket: _socket.socket) -> bool:
    """Whether a socket has another end.

    Raises:
        OSError: If it had one that is gone already.
    """
    try:
        socket.getpeername()
    except OSError:
        code = socket.getsockopt(_socket.SOL_SOCKET, _socket.SO_ERROR)
        if code:
            raise OSError(code, os.strerror(code)) from None
        return False
    return True


def _check_address(family: int, address: Any) -> None:
    """Raise unless a value is what a socket's family calls an address.

    Raises:
        TypeError: If it is of the wrong kind.
        ValueError: If its port is no port, or its path has a null character.
    """
    if family in _INTERNET:
        most = 2 if family == _socket.AF_INET else 4
        if not isinstance(address, tuple) or not 2 <= len(address) <= most:
            raise TypeError(f"address must be a tuple (host, port), not {address!r}")
        if not isinstance(address[0], str | bytes):
            raise TypeError(f"the host of address must be a string, not {address[0]!r}")
        check_port(address[1], "the port of address")
        if not all(isinstance(number, int) for number in address[2:]):
            raise TypeError(f"flow info and scope must be integers, not {address[2:]!r}")
    elif family == getattr(_socket, "AF_UNIX", None):
        if not isinstance(address, str | bytes):
            raise TypeError(f"address must be a path as str or bytes, not {address!r}")
        check_unix_path(address)


def _os_error(code: int, address: Any) -> OSError:
    return OSError(code, f"cannot connect to {address!r}: {os.strerror(code)}")
