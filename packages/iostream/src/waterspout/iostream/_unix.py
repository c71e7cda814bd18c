"""`connect_unix` and `serve_unix`: the same over Unix sockets."""

from __future__ import annotations

import contextlib
import errno
import os
import socket as _socket
import stat
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, TypeAlias

from waterspout.ioloop.scheduling import Reactor, Timeout, time_limit, timeout_seconds
from waterspout.iostream._server import Handler, StreamServer, check_serving, stream_factory
from waterspout.iostream._socket import IOStream
from waterspout.iostream._tls import SSLIOStream
from waterspout.iostream._tlscontext import SSLOptions, check_name, ssl_context

UnixPath: TypeAlias = "str | bytes | os.PathLike[str]"


async def connect_unix(
    path: UnixPath,
    *,
    ssl: SSLOptions | bool = None,
    server_hostname: str | None = None,
    timeout: Timeout = None,
    **kwargs: Any,
) -> IOStream:
    """Connect to a Unix socket, and shake hands if it is to be TLS.

    Cancelled or timed out, at any moment, it leaves no socket behind.

    Args:
        path: Its file; on Linux, a name that begins with a null character is an abstract one
            (unix(7)).
        ssl: For TLS, True, or a context or dict as `SSLIOStream` takes them; `None` and False
            mean plain.
        server_hostname: With TLS, the name that the server must prove.
        timeout: Seconds, or a `timedelta`, that all of it may take.
        **kwargs: What the stream takes, such as `max_buffer_size`.

    Returns:
        The connected stream: an `SSLIOStream` for TLS, else an `IOStream`.

    Raises:
        TypeError: If an argument is of the wrong kind.
        ValueError: If `timeout` is NaN or a number of more than ten years, or TLS checks the name
            of the server and none is given.
        TimeoutError: If it took too long.
        ssl.SSLError: If the handshake fails.
        OSError: If it cannot be connected, such as `FileNotFoundError`.
        NotImplementedError: Where the system has no Unix sockets.
    """
    address = _address(path)
    seconds = timeout_seconds(timeout)
    options = None if isinstance(ssl, bool) else ssl
    context = None if ssl is None or ssl is False else ssl_context(options, False)
    if context is not None:
        check_name(context, False, server_hostname)
    socket = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM)
    try:
        stream = (
            IOStream(socket, **kwargs)
            if context is None
            else SSLIOStream(socket, ssl_options=context, server_hostname=server_hostname, **kwargs)
        )
    except BaseException:
        socket.close()
        raise
    try:
        with time_limit(seconds):
            return await stream.connect(address)
    except BaseException:
        stream.close()
        raise


async def serve_unix(
    handler: Handler,
    path: UnixPath,
    *,
    ssl: SSLOptions | Literal[False] = None,
    mode: int | None = None,
    backlog: int = 128,
    max_connections: int | None = None,
    **kwargs: Any,
) -> UnixServer:
    """Listen on a Unix socket, as `serve_tcp` does on a port.

    The file is made, and removed when the server is closed. One that a server left behind that is
    gone is replaced.

    Args:
        handler: A coroutine function that takes a stream.
        path: The file; on Linux, a name that begins with a null character is an abstract one
            (unix(7)).
        ssl: For TLS, a context or a dict, as `SSLIOStream` takes them; `None` and False mean
            plain.
        mode: The permissions of the file, such as 0o600: on Linux, who may write may connect.
            `None` leaves them to the umask.
        backlog: How many connections the system may hold ready.
        max_connections: How many may be open at a time; `None` for any number.
        **kwargs: What the streams take, such as `max_buffer_size`.

    Returns:
        The server, listening.

    Raises:
        TypeError: If an argument is of the wrong kind.
        ValueError: If `ssl` has no certificate, or a number is negative.
        OSError: If the path cannot be listened on: another server does, say, or it is another
            kind of file. Nothing is left behind.
        NotImplementedError: Where the system has no Unix sockets.
        RuntimeError: If the running loop has no `Reactor`.
    """
    address = _address(path)
    check_serving(handler, backlog, max_connections)
    if mode is not None and not isinstance(mode, int):
        raise TypeError(f"mode must be an integer, not {mode!r}")
    new_stream, reactor = stream_factory(ssl, kwargs)
    socket = _bind(address, mode)
    socket.listen(backlog)
    return UnixServer(reactor, handler, new_stream, socket, max_connections, address)


class UnixServer(StreamServer):
    """A Unix socket being listened on; what `serve_unix` returns. See `StreamServer`.

    Attributes:
        path: Its file.
    """

    def __init__(
        self,
        reactor: Reactor,
        handler: Handler,
        new_stream: Callable[[_socket.socket], IOStream],
        socket: _socket.socket,
        max_connections: int | None,
        path: str | bytes,
    ) -> None:
        self.path = path
        self._where = f"path={path!r}"
        self._identity = _identity(path)
        super().__init__(reactor, handler, new_stream, [socket], max_connections)

    def _stop_listening(self) -> None:
        # Not one that somebody has put in its place.
        if not self._closed and self._identity and _identity(self.path) == self._identity:
            _remove(self.path)
        super()._stop_listening()


def _address(path: UnixPath) -> str | bytes:
    if sys.platform == "win32" or not hasattr(_socket, "AF_UNIX"):
        raise NotImplementedError("this system has no Unix sockets")
    return os.fspath(path)


def _is_abstract(address: str | bytes) -> bool:
    return address[:1] in ("\0", b"\0")


def _file(address: str | bytes) -> Path:
    return Path(os.fsdecode(address))


def _bind(address: str | bytes, mode: int | None) -> _socket.socket:
    socket = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM)
    try:
        socket.setblocking(False)
        try:
            socket.bind(address)
        except OSError as error:
            if error.errno != errno.EADDRINUSE or not _is_stale(address):
                error.add_note(f"path is {address!r}")
                raise
            _remove(address)
            socket.bind(address)
        if mode is not None and not _is_abstract(address):
            _file(address).chmod(mode)  # before anybody can connect
    except BaseException:
        socket.close()
        raise
    return socket


def _is_stale(address: str | bytes) -> bool:
    """Whether a file is a socket that nobody listens on."""
    if _is_abstract(address) or not stat.S_ISSOCK(_file(address).stat().st_mode):
        return False
    with _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        return probe.connect_ex(address) == errno.ECONNREFUSED


def _identity(address: str | bytes) -> tuple[int, int] | None:
    """Which file it is, if there is one."""
    if _is_abstract(address):
        return None
    try:
        status = _file(address).stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino


def _remove(address: str | bytes) -> None:
    with contextlib.suppress(OSError):
        _file(address).unlink()
