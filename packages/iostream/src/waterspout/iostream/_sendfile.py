"""A file sent over a stream: from the kernel to the kernel where that can be, else by reading it.

While a file is being sent nothing else can be written, so that nothing comes in between.
"""

from __future__ import annotations

import errno
import io
import os
import socket as _socket
import stat
from typing import IO, TYPE_CHECKING, TypeAlias

from waterspout.iostream._checks import count as check_count
from waterspout.iostream._errors import StreamClosedError
from waterspout.iostream._tlsengines import is_kernels

if TYPE_CHECKING:
    from waterspout.iostream._base import BaseIOStream

File: TypeAlias = "IO[bytes] | io.RawIOBase | io.BufferedIOBase"

AT_ONCE = 1024 * 1024
"""Bytes sent before the loop gets its turn."""
READ_AT_ONCE = 256 * 1024
"""Bytes of a file that are in memory at a time."""

_CANNOT = {errno.EINVAL, errno.ENOSYS, errno.ENOTSOCK, errno.EOPNOTSUPP, errno.EOVERFLOW}
"""Errors of `os.sendfile` that mean that it does not serve for this file or socket."""
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
        ValueError: If `offset` or `count` is negative.
    """

    def __init__(self, stream: BaseIOStream, file: File, offset: int, count: int | None) -> None:
        given: object = file
        if isinstance(given, io.TextIOBase) or not hasattr(given, "read"):
            raise TypeError(f"file must be a binary file, not {file!r}")
        check_count("offset", offset)
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
        descriptor = self._descriptor()
        if descriptor < 0 or not await self._send_by_kernel(descriptor):
            await self._send_by_reading()
        return self.sent

    def _descriptor(self) -> int:
        """The file's, if the kernel may send it over this stream; else -1."""
        socket = getattr(self._stream, "socket", None)
        if not (isinstance(socket, _socket.socket) and is_kernels(socket)):
            return -1
        try:
            descriptor = self._file.fileno()
            return descriptor if stat.S_ISREG(os.fstat(descriptor).st_mode) else -1
        except OSError:  # a file in memory
            return -1

    def _remaining(self, most: int) -> int:
        return most if self._count is None else min(most, self._count - self.sent)

    async def _send_by_kernel(self, descriptor: int) -> bool:
        """Whether it could be sent so."""
        if not hasattr(os, "sendfile"):
            return False
        while size := self._remaining(AT_ONCE):
            try:
                sent = os.sendfile(
                    self._stream.fileno(), descriptor, self._offset + self.sent, size
                )
            except (BlockingIOError, InterruptedError):
                pass
            except OSError as error:
                if self.sent == 0 and error.errno in _CANNOT:
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
        reactor = self._stream._use_reactor()
        if self._file.seekable():
            await reactor.run_in_executor(None, self._file.seek, self._offset)
        elif self._offset:
            raise ValueError(f"offset must be 0 for a file that cannot seek, not {self._offset!r}")
        while size := self._remaining(READ_AT_ONCE):
            data = await reactor.run_in_executor(None, self._file.read, size)
            if not data:
                break
            self.sent += len(data)
            await self._stream._write(memoryview(data))
