"""`PipeIOStream`: a stream over a pipe, or another descriptor that is no socket."""

from __future__ import annotations

import contextlib
import errno
import io
import os
import select
import stat
import sys
import warnings
from collections.abc import Callable
from typing import Any, TypeVar

from waterspout.ioloop.scheduling import ERROR, Reactor
from waterspout.iostream._base import BaseIOStream
from waterspout.iostream._blockingmode import OpenFile, claim
from waterspout.iostream._reads import Read

T = TypeVar("T")


class PipeIOStream(BaseIOStream):
    """A stream over a descriptor: one end of a pipe, a FIFO, a terminal.

    The stream owns the descriptor and closes it. A pipe has one direction; reading from its writing
    end, and the other way round, raises `io.UnsupportedOperation` (an `OSError`). The close
    callback of a stream that writes is also called when the reader is gone.

    The blocking mode belongs to the open file, which others may share: a terminal is shared with
    the shell and with `print`. A terminal is set to non-blocking mode only during each call that
    reads or writes, unless several streams use it at the same time. Any other descriptor is in
    non-blocking mode as long as a stream uses it. Once the last stream of an open file is closed or
    detached, or else at exit, the mode is what it was.

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

    _fd = -1
    _file: OpenFile | None = None

    def __init__(self, fd: int, io_loop: Reactor | None = None, **kwargs: Any) -> None:
        if sys.platform == "win32":
            raise NotImplementedError("PipeIOStream: Windows cannot watch descriptors")
        super().__init__(io_loop, **kwargs)
        if not isinstance(fd, int):
            raise TypeError(f"fd must be a descriptor, not {fd!r}")
        if fd < 0:
            raise ValueError(f"fd must not be negative, not {fd!r}")
        status = os.fstat(fd)
        mode = status.st_mode
        if stat.S_ISREG(mode) or stat.S_ISDIR(mode):
            raise ValueError(f"fd must be of a pipe or the like, not of a file or folder: {fd!r}")
        self._can_read, self._can_write = _directions(fd)
        if not self._can_read:
            # A terminal becomes readable when somebody types, and stays so.
            self._input_event = ERROR
        self._is_terminal = os.isatty(fd)
        self._file: OpenFile | None = claim(fd, status)
        try:
            if not self._is_terminal or (self._file is not None and self._file.is_shared):
                os.set_blocking(fd, False)
        except BaseException:
            self._release(fd)
            raise
        self._fd = fd  # owned from now on

    def __del__(self) -> None:
        if self._fd >= 0:
            try:
                warnings.warn(f"unclosed {self!r}", ResourceWarning, source=self, stacklevel=2)
            finally:
                with contextlib.suppress(OSError):
                    self.close_fd()

    def fileno(self) -> int:
        return self._fd

    def detach(self) -> int:
        """Give the descriptor away, in the blocking mode in which it came. The stream is closed.

        Bytes that were read ahead are lost, and writes that wait fail. While other streams use the
        same open file, it stays in non-blocking mode.

        Returns:
            The descriptor.

        Raises:
            ValueError: If the stream is closed.
        """
        if self._closed:
            raise ValueError("detach() of a stream that is closed")
        fd, self._fd = self._fd, -1
        self.close()
        self._release(fd)
        return fd

    def close_fd(self) -> None:
        fd, self._fd = self._fd, -1
        if fd >= 0:
            try:
                self._release(fd)
            finally:
                os.close(fd)

    def read_from_fd(self, buf: memoryview) -> int | None:
        if not self._can_read:  # it is only watched, for the reader's end
            if _is_broken(self._fd):
                raise BrokenPipeError(errno.EPIPE, os.strerror(errno.EPIPE))
            return None
        try:
            if self._is_terminal:
                return self._without_blocking(os.readv, [buf])
            return os.readv(self._fd, [buf])
        except (BlockingIOError, InterruptedError):
            return None
        except OSError as error:
            if error.errno == errno.EIO and self._can_write:
                return 0  # a terminal whose other side is closed
            raise

    def write_to_fd(self, data: memoryview) -> int:
        try:
            if self._is_terminal:
                return self._without_blocking(os.write, data)
            return os.write(self._fd, data)
        except (BlockingIOError, InterruptedError):
            return 0

    def _without_blocking(self, move: Callable[[int, T], int], data: T) -> int:
        """Read from or write to a terminal, in non-blocking mode for the time of the call.

        It is set each time, since other processes may set the terminal to blocking mode.
        """
        fd = self._fd
        os.set_blocking(fd, False)
        try:
            return move(fd, data)
        finally:
            # Streams that share it may run in other threads, so these must not meet its change.
            if self._file is not None and not self._file.is_shared:
                os.set_blocking(fd, True)

    def _release(self, fd: int) -> None:
        file, self._file = self._file, None
        if file is not None:
            file.release(fd)

    def shut_down_fd(self) -> None:
        if self._can_read:
            raise OSError(errno.EOPNOTSUPP, "the descriptor has but one side")
        self._ended = True  # the descriptor is all there is, so it is closed now

    def _fail_writes(self, error: BaseException | None) -> None:
        if not self._can_read:
            self._ended = True  # nothing else can be done with it, so it is closed now
        super()._fail_writes(error)

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
