"""`PipeIOStream`: a stream over a pipe, or another descriptor that is no socket."""

from __future__ import annotations

import errno
import io
import os
import select
import stat
import sys
from collections.abc import Callable
from typing import Any

from waterspout.ioloop.scheduling import Reactor
from waterspout.iostream._base import BaseIOStream
from waterspout.iostream._reads import Read


class PipeIOStream(BaseIOStream):
    """A stream over a descriptor: one end of a pipe, a FIFO, a terminal.

    The stream owns the descriptor: it makes it non-blocking, and closes it. A pipe has one
    direction; reading from its writing end, and the other way round, raises
    `io.UnsupportedOperation` (an `OSError`). The close callback of a stream that writes tells of
    a reader that is gone.

    Args:
        fd: The descriptor.
        io_loop: As for `BaseIOStream`.
        **kwargs: As for `BaseIOStream`.

    Raises:
        TypeError: If `fd` is no integer, or another argument is of the wrong kind.
        ValueError: If it is negative, or a regular file or folder, which cannot be watched.
        OSError: If it is not open.
        NotImplementedError: On Windows, where descriptors cannot be watched.
    """

    can_write_eof = True

    def __init__(self, fd: int, io_loop: Reactor | None = None, **kwargs: Any) -> None:
        if sys.platform == "win32":
            raise NotImplementedError("PipeIOStream: Windows cannot watch descriptors")
        super().__init__(io_loop, **kwargs)
        if not isinstance(fd, int):
            raise TypeError(f"fd must be a descriptor, not {fd!r}")
        if fd < 0:
            raise ValueError(f"fd must not be negative, not {fd!r}")
        mode = os.fstat(fd).st_mode
        if stat.S_ISREG(mode) or stat.S_ISDIR(mode):
            raise ValueError(f"fd must be of a pipe or the like, not of a file or folder: {fd!r}")
        self._can_read, self._can_write = _directions(fd)
        self._was_blocking = os.get_blocking(fd)
        os.set_blocking(fd, False)
        self._fd = fd

    def fileno(self) -> int:
        return self._fd

    def detach(self) -> int:
        """Give the descriptor away, in the blocking mode in which it came. The stream is closed.

        Bytes that were read ahead are lost, and writes that wait fail.

        Returns:
            The descriptor.

        Raises:
            ValueError: If the stream is closed.
        """
        if self._closed:
            raise ValueError("detach() of a stream that is closed")
        fd, self._fd = self._fd, -1
        self.close()
        os.set_blocking(fd, self._was_blocking)
        return fd

    def close_fd(self) -> None:
        fd, self._fd = self._fd, -1
        if fd >= 0:
            # Others may have the same one: that of a terminal, say, is the shell's, too.
            os.set_blocking(fd, self._was_blocking)
            os.close(fd)

    def read_from_fd(self, buf: memoryview) -> int | None:
        if not self._can_read:  # it is only watched, for the reader's end
            if _is_broken(self._fd):
                raise BrokenPipeError(errno.EPIPE, os.strerror(errno.EPIPE))
            return None
        try:
            return os.readv(self._fd, [buf])
        except (BlockingIOError, InterruptedError):
            return None
        except OSError as error:
            if error.errno == errno.EIO and self._can_write:
                return 0  # a terminal whose other side is closed
            raise

    def write_to_fd(self, data: memoryview) -> int:
        try:
            return os.write(self._fd, data)
        except (BlockingIOError, InterruptedError):
            return 0

    def shut_down_fd(self) -> None:
        if self._can_read:
            raise OSError(errno.EOPNOTSUPP, "the descriptor has but one side")
        self._ended = True  # the descriptor is all there is, so it is closed now

    def _start_read(self, read: Read[Any], callback: Callable[[Any], object] | None) -> Any:
        if not self._can_read:
            raise io.UnsupportedOperation("the descriptor is not open for reading")
        return super()._start_read(read, callback)

    def _check_can_write(self) -> None:
        super()._check_can_write()
        if not self._can_write:
            raise io.UnsupportedOperation("the descriptor is not open for writing")


def _directions(fd: int) -> tuple[bool, bool]:
    """Whether a descriptor can be read, and written."""
    import fcntl

    access = fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_ACCMODE
    return access != os.O_WRONLY, access != os.O_RDONLY


def _is_broken(fd: int) -> bool:
    """Whether nobody reads from the other end of a pipe."""
    poll = select.poll()
    poll.register(fd, 0)
    return bool(poll.poll(0))
