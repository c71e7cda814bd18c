"""A file sent over a stream: by the kernel where that gives the same bytes, else by reading it.

What is sent is what the file object's `read()` gives. A descriptor says nothing about that: a gzip
file has the one of the packed file, and a subclass may change what it reads. So the kernel sends a
file only if the object is exactly one of those that `open` returns for a file on disk.

While a file is being sent nothing else can be written, so that nothing comes in between. All
methods of the file object that may block are called in a thread.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import io
import os
import socket as _socket
import stat
from collections.abc import Callable
from typing import IO, TYPE_CHECKING, Any, TypeAlias, TypeVar

from waterspout.iostream._checks import count as check_count
from waterspout.iostream._errors import StreamClosedError
from waterspout.iostream._offloop import FILES
from waterspout.iostream._tlsengines import is_kernels

if TYPE_CHECKING:
    from waterspout.iostream._base import BaseIOStream

T = TypeVar("T")

File: TypeAlias = "IO[bytes] | io.RawIOBase | io.BufferedIOBase"

AT_ONCE = 1024 * 1024
"""Bytes sent before the loop gets its turn."""
READ_AT_ONCE = 256 * 1024
"""Bytes of a file that are in memory at a time."""
MAX_OFFSET = 2**63 - 1
"""The largest position in a file that the system has numbers for."""

_CANNOT = {errno.EINVAL, errno.ENOSYS, errno.ENOTSOCK, errno.EOPNOTSUPP, errno.EOVERFLOW}
"""Errors of `os.sendfile` that mean that it does not serve for this file or socket."""
_READS = {"read", "readinto", "readall", "seek"}
"""Methods on which it depends what is read."""
_BROKEN = {errno.EPIPE, errno.ECONNRESET, errno.ENOTCONN, errno.ECONNABORTED, errno.ETIMEDOUT}
"""Errors that are the connection's, and not the file's."""


class FileSender:
    """One file on its way.

    Args:
        stream: The stream.
        file: A binary file.
        offset: Where to begin, in bytes.
        count: How many bytes to send at most; `None` sends all to the end.

    Raises:
        TypeError: If an argument is of the wrong kind.
        ValueError: If `offset` or `count` is negative, or `offset` is over `MAX_OFFSET`.
    """

    def __init__(self, stream: BaseIOStream, file: File, offset: int, count: int | None) -> None:
        given: object = file
        if isinstance(given, io.TextIOBase) or not callable(getattr(given, "read", None)):
            raise TypeError(f"file must be a binary file, not {file!r}")
        check_count("offset", offset)
        if offset > MAX_OFFSET:
            raise ValueError(f"offset must be at most {MAX_OFFSET}, not {offset!r}")
        if count is not None:
            check_count("count", count)
        self._stream = stream
        self._file = file
        self._offset = offset
        self._count = count
        self.sent = 0

    async def send(self) -> int:
        """Send it; give how many bytes it was."""
        await self._stream._until_room()
        if not (await self._suits_the_kernel() and await self._send_by_kernel()):
            await self._send_by_reading()
        return self.sent

    async def _suits_the_kernel(self) -> bool:
        """Whether the kernel may send the file over this stream. Flushes the file then."""
        socket = getattr(self._stream, "socket", None)
        if not (
            hasattr(os, "sendfile")
            and isinstance(socket, _socket.socket)
            and is_kernels(socket)
            and _reads_its_descriptor(self._file)
        ):
            return False
        if isinstance(self._file, io.BufferedRandom):
            await self._off_loop(self._file.flush)
        status = os.fstat(self._file.fileno())
        # Files in /proc are regular and empty, and can be read all the same.
        return stat.S_ISREG(status.st_mode) and status.st_size > 0

    def _remaining(self, most: int) -> int:
        return most if self._count is None else min(most, self._count - self.sent)

    async def _send_by_kernel(self) -> bool:
        """Whether it could be sent so; if not, a part may be."""
        while size := self._remaining(AT_ONCE):
            # Asked each time: a file that was closed meanwhile must not be taken for another one.
            descriptor = self._file.fileno()
            try:
                sent = os.sendfile(
                    self._stream.fileno(), descriptor, self._offset + self.sent, size
                )
            except (BlockingIOError, InterruptedError):
                pass
            except OSError as error:
                if error.errno in _CANNOT:
                    return False
                if error.errno in _BROKEN:
                    raise StreamClosedError(error) from error
                raise
            else:
                if sent == 0:
                    break
                self.sent += sent
            await self._stream._until_room()
        return True

    async def _send_by_reading(self) -> None:
        await self._off_loop(_go_to, self._file, self._offset + self.sent)
        while size := self._remaining(READ_AT_ONCE):
            view = _bytes_read(await self._off_loop(self._file.read, size))
            if not view:
                break
            view = view[: self._remaining(len(view))]
            self.sent += len(view)
            await self._stream._write(view)

    async def _off_loop(self, func: Callable[..., T], *args: Any) -> T:
        """Call something of the file in a thread, and wait for it while the stream is open."""
        reactor = self._stream._use_reactor()
        result = reactor.run_in_executor(FILES, func, *args)
        # A future like those of write_eof(), of which there are none now, fails with the stream.
        broken: asyncio.Future[None] = reactor.create_future()
        self._stream._eof_waiters.append(broken)
        both: list[asyncio.Future[Any]] = [result, broken]
        try:
            await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
            if broken.done():
                broken.result()
            return result.result()
        finally:
            with contextlib.suppress(ValueError):  # the stream has failed
                self._stream._eof_waiters.remove(broken)
            result.cancel()
            if not result.cancelled():
                result.exception()  # so that it is not logged
            del result, broken, both  # their exceptions refer to this frame


def _reads_its_descriptor(file: File) -> bool:
    """Whether `read()` gives the bytes of the file that the descriptor is of."""
    raw: object = file
    if type(file) is io.BufferedReader or type(file) is io.BufferedRandom:
        raw = file.raw
    if type(raw) is not io.FileIO or not raw.readable():
        return False
    # Methods can be replaced in these objects, too.
    return vars(file).keys().isdisjoint(_READS) and vars(raw).keys().isdisjoint(_READS)


def _go_to(file: File, offset: int) -> None:
    """Go to a position in a file, or if it has none, stay where it is."""
    seekable = getattr(file, "seekable", None)
    if hasattr(file, "seek") if seekable is None else seekable():
        file.seek(offset)
    elif offset:
        raise ValueError(f"offset must be 0 for a file that cannot seek, not {offset!r}")


def _bytes_read(data: object) -> memoryview:
    """Give a view of what a file's `read()` returned."""
    try:
        return memoryview(data).cast("B")  # type: ignore[arg-type]
    except TypeError:
        raise TypeError(f"file.read() must return bytes, not {type(data).__name__}") from None
