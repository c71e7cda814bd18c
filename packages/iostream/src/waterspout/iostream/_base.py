"""`BaseIOStream`: reads and writes over anything that is a descriptor.

A subclass says how bytes are moved, by four methods: `fileno`, `close_fd`, `read_from_fd` and
`write_to_fd`. When they are called is `_core`'s business.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from functools import partial
from types import TracebackType
from typing import Any, Self, TypeAlias

from waterspout.ioloop.scheduling import Reactor
from waterspout.iostream._buffer import BytesLike
from waterspout.iostream._checks import (
    bytes_view,
    check_callback,
    exception_of,
)
from waterspout.iostream._core import FLUSH_AT_MOST
from waterspout.iostream._errors import StreamBufferFullError, StreamClosedError
from waterspout.iostream._reading import ReadingStream
from waterspout.iostream._sendfile import File, FileSender

CloseCallback: TypeAlias = Callable[[], object]
"""Takes nothing."""


class BaseIOStream(ReadingStream):
    """A stream of bytes over a descriptor; see its subclasses.

    Args:
        io_loop: The reactor to run on; `None` takes the current one at the first operation.
        max_buffer_size: Bytes that one pending read may gather; by default 100 MiB.
        read_chunk_size: Bytes that are received in one go; by default 64 KiB.
        max_write_buffer_size: Bytes of writes that may wait for the kernel; by default 100 MiB.
        half_open: Whether the stream stays open for writing after the other end has closed
            its side.

    Attributes:
        error: What closed the stream, if that was an error.
        can_write_eof: Whether this kind of stream can be closed for writing alone.

    Raises:
        TypeError: If an argument is of the wrong kind.
        ValueError: If a size is not positive.
    """

    __slots__ = ()

    can_write_eof = False

    def __init__(
        self,
        io_loop: Reactor | None = None,
        max_buffer_size: int | None = None,
        read_chunk_size: int | None = None,
        max_write_buffer_size: int | None = None,
        *,
        half_open: bool = False,
    ) -> None:
        super().__init__(
            io_loop, max_buffer_size, read_chunk_size, max_write_buffer_size, half_open
        )

    def __repr__(self) -> str:
        state = "closed" if self._closed else "ended" if self._ended else "open"
        return (
            f"<{type(self).__name__} {state} buffered={len(self._read_buffer)} "
            f"unsent={self._write_buffer.size}>"
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc_val: BaseException | None,
        exc_tb: TracebackType | None,
    ) -> None:
        self.close()

    # Writing

    def write(
        self, data: BytesLike, callback: Callable[[], object] | None = None
    ) -> "asyncio.Future[None]":
        """Send bytes, after those of earlier writes.

        Cancelling the future changes nothing: the bytes are sent whole.

        Args:
            data: Contiguous bytes. They may be sent from where they are, so they must not change
                until the future is done.
            callback: Called on the loop, without arguments, once all of it is handed over; not if
                the future was cancelled.

        Returns:
            A future that is done when all of it is handed to the kernel, or has
            `StreamClosedError`.

        Raises:
            TypeError: If `data` is not bytes-like, or `callback` cannot be called.
            StreamBufferFullError: If other writes wait, and together they are more than
                `max_write_buffer_size`. Nothing of this one is sent.
            StreamClosedError: If the stream is closed.
            RuntimeError: If no loop is running.
        """
        if (
            type(data) is bytes
            and callback is None
            and len(data) <= FLUSH_AT_MOST
            and self._sent is not None
            and not self._write_buffer.size
            and not (self._opening or self._closed or self._eof_wanted or self._sending_file)
            and self._write_error is None
        ):  # as in `_write`, in fewer steps; and mostly the kernel takes all of it
            try:
                direct = self._direct
                sent = self.write_to_fd(memoryview(data)) if direct is None else direct.send(data)
            except (BlockingIOError, InterruptedError):
                sent = 0
            except Exception as error:
                self._fail_writes(error)
                self._update_events()
                raise StreamClosedError(error) from error
            self._written += sent
            if sent == len(data):
                return self._sent
            return self._wait_to_send(memoryview(data)[sent:])
        view = bytes_view("data", data)
        check_callback("callback", callback)
        if self._sending_file:
            raise RuntimeError("a file is being sent: wait for sendfile() to be done")
        future = self._write(view)
        if callback is not None:
            future.add_done_callback(partial(self._deliver, lambda _: callback()))
        return future

    def _write(self, view: memoryview) -> "asyncio.Future[None]":
        self._check_can_write()
        unsent = self._write_buffer.size
        if unsent and unsent + len(view) > self._max_write_buffer_size:
            raise StreamBufferFullError(
                f"{len(view)} bytes do not fit behind {unsent} unsent ones: "
                f"max_write_buffer_size={self._max_write_buffer_size}"
            )
        self._use_reactor()
        self._open()
        self._check_can_write()
        if not unsent and not self._opening:
            view = view[self._send(view[:FLUSH_AT_MOST]) :]
            if self._write_error is not None:
                self._update_events()
                raise StreamClosedError(self._write_error)
        return self._wait_to_send(view)

    def _make_sent(self) -> "asyncio.Future[None]":
        """The future of all writes that the kernel took at once."""
        self._sent = self._use_reactor().create_future()
        self._sent.set_result(None)
        return self._sent

    def _wait_to_send(self, view: memoryview) -> "asyncio.Future[None]":
        self._write_buffer.append(view)
        if not self._write_buffer.size:
            return self._sent or self._make_sent()
        future: asyncio.Future[None] = self._use_reactor().create_future()
        if self._write_waiters is None:
            self._write_waiters = deque()
        self._write_waiters.append((self._written + self._write_buffer.size, future))
        try:
            self._update_events()
        except OSError as error:  # it cannot be watched, and a part may be sent
            self._fail_writes(error)
            raise StreamClosedError(error) from error
        return future

    async def sendfile(self, file: File, offset: int = 0, count: int | None = None) -> int:
        """Send a file, after what was written before.

        The kernel does it alone where it can (`os.sendfile`), else it is read piece by piece, off
        the loop. Until it is done, nothing else can be written. If it is cancelled or fails when
        a part has been sent, the stream is closed.

        Args:
            file: A binary file. Its position afterwards does not matter.
            offset: Where in the file to begin, in bytes.
            count: How many bytes to send at most; `None` sends all to the end.

        Returns:
            How many bytes were sent.

        Raises:
            TypeError: If an argument is of the wrong kind.
            ValueError: If `offset` or `count` is negative.
            OSError: If the file cannot be read.
            StreamClosedError: If the stream is closed, or is closed meanwhile.
            RuntimeError: If another file is being sent, or `write_eof` was called.
        """
        sender = FileSender(self, file, offset, count)
        if self._sending_file:
            raise RuntimeError("another file is being sent")
        self._check_can_write()
        self._sending_file = True
        try:
            return await sender.send()
        except BaseException as error:
            if sender.sent:
                self.close(isinstance(error, Exception) and error)
            raise
        finally:
            self._sending_file = False

    def write_eof(self) -> "asyncio.Future[None]":
        """Close the sending side, once all that was written is sent. Reading goes on.

        Cancelling the future changes nothing. A second call waits for the same.

        Returns:
            A future that is done when the other end can see it, or has `StreamClosedError`.

        Raises:
            NotImplementedError: If the stream cannot do that, such as one of TLS.
            StreamClosedError: If the stream is closed.
            RuntimeError: If no loop is running.
        """
        if not self.can_write_eof:
            raise NotImplementedError(f"{type(self).__name__} cannot be closed for writing alone")
        if self._sending_file:
            raise RuntimeError("a file is being sent: wait for sendfile() to be done")
        if self._write_error is not None or not self._eof_wanted:
            self._check_can_write()
        future: asyncio.Future[None] = self._use_reactor().create_future()
        if self._eof_sent:
            future.set_result(None)
            return future
        self._eof_waiters.append(future)
        self._eof_wanted = True
        self._open()
        if not self._opening:
            self._flush()
            self._update_events()
        return future

    def set_nodelay(self, value: bool) -> None:
        """Send small writes at once (True) or gather them (False), where the stream has a say.

        Args:
            value: Whether to send at once.
        """

    def _check_can_write(self) -> None:
        if self._closed or self._write_error is not None:
            raise StreamClosedError(self._write_error or self._reason)
        if self._eof_wanted:
            raise RuntimeError("write_eof() was called: nothing can be written any more")

    # State and end

    def closed(self) -> bool:
        """Whether the descriptor is closed. What was read before may still be in the buffer."""
        return self._closed

    def writing(self) -> bool:
        """Whether bytes wait to be handed to the kernel."""
        return self._write_buffer.size > 0

    def set_close_callback(self, callback: CloseCallback | None) -> None:
        """Say what to call once the stream is closed, by whichever side.

        It is called on the loop, once, after a pending read is done; at once for a stream that
        is closed. It does not wait for unread bytes.

        Args:
            callback: A function without arguments; `None` for none.

        Raises:
            TypeError: If it cannot be called.
            RuntimeError: If no loop is running.
        """
        check_callback("callback", callback)
        self._use_reactor()
        self._close_callback = callback
        if callback is not None:
            self._listening = True
            self._update_events()
            self._maybe_run_close_callback()

    def close(
        self,
        exc_info: "bool | BaseException | tuple[Any, BaseException | None, Any]" = False,
    ) -> None:
        """Close the stream, and drop what was not read or sent. Closing twice does nothing.

        A pending read and pending writes get `StreamClosedError`.

        Args:
            exc_info: What becomes `error`: an exception, a tuple as of `sys.exc_info`, or True
                for the exception being handled.
        """
        if not self._closed:
            error = exception_of(exc_info)
            self.error = error
            self._reason = error or ConnectionAbortedError("the stream was closed on this side")
            self._ended = True
            self._recall()
            self._try_read()
            self._close_now()
        self._dropped = True
        self._read_buffer.clear()
