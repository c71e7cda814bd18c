"""`connect_unix` and `serve_unix`: the same over Unix sockets."""

from __future__ import annotations

import os
import socket as _socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, TypeAlias

from waterspout.ioloop.scheduling import Reactor, Timeout, time_limit, timeout_seconds
from waterspout.iostream._network import check_unix_path
from waterspout.iostream._server import Handler, StreamServer, check_serving, stream_factory
from waterspout.iostream._socket import IOStream
from waterspout.iostream._tls import SSLIOStream
from waterspout.iostream._tlscontext import SSLOptions, checked_name, ssl_context
from waterspout.iostream._unixfile import (
    file_of,
    identity_of,
    is_abstract,
    listen_unix,
    remove_file,
)

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
            (unix(7)), which has no file.
        ssl: For TLS, True, or a context or dict as `SSLIOStream` takes them; `None` and False
            mean plain.
        server_hostname: With TLS, the name that the server must prove.
        timeout: Seconds, or a `timedelta`, that all of it may take.
        **kwargs: What the stream takes, such as `max_buffer_size`.

    Returns:
        The connected stream: an `SSLIOStream` for TLS, else an `IOStream`.

    Raises:
        TypeError: If an argument is of the wrong kind.
        ValueError: If `path` is empty or has a null character inside, `timeout` is NaN or a number
            of more than ten years, `server_hostname` is no possible name, or TLS checks the name
            of the server and none is given.
        TimeoutError: If it took too long.
        ssl.SSLError: If the handshake fails.
        OSError: If it cannot be connected, such as `FileNotFoundError`.
        NotImplementedError: Where the system has no Unix sockets.
    """
    address = _address(path)
    if not address:
        raise ValueError(f"path must not be empty, not {path!r}")
    seconds = timeout_seconds(timeout)
    options = None if isinstance(ssl, bool) else ssl
    context = None if ssl is None or ssl is False else ssl_context(options, False)
    if context is not None:
        server_hostname = checked_name(context, False, server_hostname)
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

    The file is made, and removed when the server is closed, if it is still the same. A socket's
    file on which nobody listens is replaced: the server that made it is gone. Of several servers
    that start at once over such a file, one has it. Another kind of file, a symbolic link
    included, is left alone.

    Args:
        handler: A coroutine function that takes a stream.
        path: The file; on Linux, a name that begins with a null character is an abstract one
            (unix(7)), which has no file, and an empty one has the kernel find an abstract one that
            is free: see `UnixServer.path`.
        ssl: For TLS, a context or a dict, as `SSLIOStream` takes them; `None` and False mean
            plain.
        mode: The permissions of the file, such as 0o600: on Linux, who may write may connect.
            `None` leaves them to the umask. An abstract name has none, and anybody may connect to
            it: then `mode` has no effect.
        backlog: How many connections the system may hold ready.
        max_connections: How many may be open at a time; `None` for any number.
        **kwargs: What the streams take, such as `max_buffer_size`.

    Returns:
        The server, listening.

    Raises:
        TypeError: If an argument is of the wrong kind.
        ValueError: If `path` has a null character inside, or is empty and the system is not
            Linux; if `mode` is not from 0 to 0o777, a number is negative, or `ssl` has no
            certificate.
        OSError: If the path cannot be listened on: another server does, say, it is another kind
            of file, or it is too long. The error has its name. Nothing is left behind.
        NotImplementedError: Where the system has no Unix sockets.
        RuntimeError: If the running loop has no `Reactor`.
    """
    address = _address(path)
    if not address and sys.platform != "linux":
        raise ValueError(f"path must not be empty, not {path!r}")
    check_serving(handler, backlog, max_connections)
    _check_mode(mode)
    new_stream, reactor = stream_factory(ssl, kwargs, [_socket.AF_UNIX])
    socket = await listen_unix(reactor, address, mode, backlog)
    if not address:
        name = os.fsencode(socket.getsockname())
        address = os.fsdecode(name) if isinstance(address, str) else name
    return UnixServer(reactor, handler, new_stream, socket, max_connections, address)


class UnixServer(StreamServer):
    """A Unix socket being listened on; what `serve_unix` returns. See `StreamServer`."""

    def __init__(
        self,
        reactor: Reactor,
        handler: Handler,
        new_stream: Callable[[_socket.socket], IOStream],
        socket: _socket.socket,
        max_connections: int | None,
        path: str | bytes,
    ) -> None:
        self._path = path
        self._where = f"path={path!r}"
        self._file: Path | None = None
        self._process = os.getpid()
        if not is_abstract(path):
            self._file = file_of(path).absolute()  # the same one after os.chdir()
            self._identity = identity_of(self._file)
        super().__init__(reactor, handler, new_stream, [socket], max_connections)

    @property
    def path(self) -> str | bytes:
        """Its file, as it was given, or its abstract name."""
        return self._path

    def _stop_listening(self) -> None:
        try:
            # A forked child closes its copies of the sockets; the file is still the parent's.
            is_ours = self._process == os.getpid() and not self._closed
            if self._file is not None and is_ours:
                remove_file(self._file, self._identity)
        finally:
            super()._stop_listening()


def _address(path: UnixPath) -> str | bytes:
    """Give the path that an argument means.

    Raises:
        TypeError: If it is none.
        ValueError: If no socket can have it.
        NotImplementedError: Where the system has no Unix sockets.
    """
    if sys.platform == "win32" or not hasattr(_socket, "AF_UNIX"):
        raise NotImplementedError("this system has no Unix sockets")
    if not isinstance(path, str | bytes | os.PathLike):
        raise TypeError(f"path must be a str, bytes or os.PathLike, not {path!r}")
    address = os.fspath(path)
    check_unix_path(address)
    return address


def _check_mode(mode: int | None) -> None:
    if mode is None:
        return
    if not isinstance(mode, int):
        raise TypeError(f"mode must be an integer, not {mode!r}")
    if not 0 <= mode <= 0o777:
        raise ValueError(f"mode must be from 0 to 0o777, not {mode} ({mode:#o})")
