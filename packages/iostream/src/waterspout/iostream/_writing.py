"""Writing: what a stream's users call, and how bytes are handed to the kernel."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable
from functools import partial

from waterspout.iostream._buffer import BytesLike
from waterspout.iostream._checks import bytes_view, check_callback
from waterspout.iostream._core import StreamCore, fail, settle
from waterspout.iostream._errors import StreamBufferFullError, StreamClosedError, without_frames

FLUSH_AT_MOST = 1024 * 1024
"""Bytes sent before the loop gets its turn, about."""


class WritingStream(StreamCore):
    """The writing half of `BaseIOStream`."""

    __slots__ = ()

    can_write_eof = False

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
            TypeError: If `data` is not contiguous and bytes-like, or `callback` cannot be called.
            StreamBufferFullError: If other writes wait, and together they are more than
                `max_write_buffer_size`. Nothing of this one is sent.
            StreamClosedError: If the stream is closed, an earlier write has failed, or the
                kernel refuses this one; or if the kernel took a part of it and the event loop
                cannot register the descriptor for the rest. On TCP the peer then sees a reset.
            RuntimeError: If `write_eof` was called, a file is being sent, or no loop is running.
            OSError: If the event loop cannot register the descriptor, and likewise `ValueError`
                if other code has registered it. Nothing of this write is sent.
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
                self._fail_writes(without_frames(error))
                self._register_or_end()
                raise StreamClosedError(error) from error
            self._written += sent
            if sent == len(data):
                return self._sent
            return self._wait_to_send(memoryview(data)[sent:], sent)
        view = bytes_view("data", data)
        check_callback("callback", callback)
        if self._sending_file:
            raise RuntimeError("a file is being sent: wait for sendfile() to be done")
        future = self._write(view)
        if callback is not None:
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody is to be told
                future.add_done_callback(partial(self._deliver, lambda _: callback()))
        return future

    def write_eof(self) -> "asyncio.Future[None]":
        """Close the sending side, once all that was written is sent. Reading goes on.

        Cancelling the future changes nothing. A second call waits for the same.

        Returns:
            A future that is done when the other end can see it, or has `StreamClosedError`.

        Raises:
            NotImplementedError: If the stream cannot do that, such as one of TLS.
            StreamClosedError: If the stream is closed or a write has failed.
            RuntimeError: If a file is being sent, or no loop is running.
        """
        if not self.can_write_eof:
            raise NotImplementedError(f"{type(self).__name__} cannot be closed for writing alone")
        if self._sending_file:
            raise RuntimeError("a file is being sent: wait for sendfile() to be done")
        is_over = self._write_error is not None or (self._closed and not self._eof_sent)
        if is_over or not self._eof_wanted:
            self._check_can_write()
        self._use_reactor()
        future: asyncio.Future[None] = asyncio.Future(loop=self._loop)
        if self._eof_sent:
            future.set_result(None)
            return future
        self._open()
        self._eof_waiters.append(future)
        self._eof_wanted = True
        if not self._opening:
            self._flush()
            self._register_or_end()
        return future

    def _when_sent(self) -> "asyncio.Future[None]":
        """Give a future that is done when all that was written is handed to the kernel."""
        return self.write_eof() if self._eof_wanted else self.write(b"")

    def writing(self) -> bool:
        """Whether bytes wait to be handed to the kernel."""
        return self._write_buffer.size > 0

    # What is to be sent

    def _check_can_write(self) -> None:
        if self._closed or self._write_error is not None:
            raise StreamClosedError(self._write_error or self._reason)
        if self._eof_wanted:
            raise RuntimeError("write_eof() was called: nothing can be written any more")

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
        sent = 0
        if not unsent and not self._opening:
            sent = self._send(view[:FLUSH_AT_MOST])
            if self._write_error is not None:
                self._register_or_end()
                raise StreamClosedError(self._write_error)
        return self._wait_to_send(view[sent:], sent)

    def _make_sent(self) -> "asyncio.Future[None]":
        """The future of all writes that the kernel took at once."""
        self._sent = asyncio.Future(loop=self._loop)
        self._sent.set_result(None)
        return self._sent

    def _wait_to_send(self, view: memoryview, sent: int) -> "asyncio.Future[None]":
        """Queue what is left of a write of which some bytes may have been sent."""
        buffer = self._write_buffer
        buffer.append(view)
        if not buffer.size:
            return self._sent or self._make_sent()
        future: asyncio.Future[None] = asyncio.Future(loop=self._loop)
        waiters = self._write_waiters
        if waiters is None:
            waiters = self._write_waiters = deque()
        waiters.append((self._written + buffer.size, future))
        try:
            self._update_events()
        except BaseException as error:
            if not sent and (self._opening or not self._keeps_unsent):
                waiters.pop()
                buffer.take_back(len(view))
                raise
            self._reset_on_close()  # the peer may have a part of it
            self._fail_writes(without_frames(error))
            if isinstance(error, Exception):
                raise StreamClosedError(error) from error
            raise
        return future

    # Sending

    def _send(self, view: memoryview) -> int:
        """Hand bytes to the kernel; if that fails, all writes fail."""
        try:
            sent = self.write_to_fd(view)
        except Exception as error:
            self._fail_writes(without_frames(error))
            return 0
        self._written += sent
        return sent

    def _flush(self) -> None:
        """Hand what waits to the kernel, as far as it takes it, and some at most."""
        buffer = self._write_buffer
        budget = FLUSH_AT_MOST
        while buffer.size and budget > 0:
            with buffer.first() as view:
                part = view[:budget]
                sent, size = self._send(part), len(part)
                part.release()
            if self._write_error is not None:
                return
            buffer.advance(sent)
            budget -= sent
            if sent < size:
                break
        self._tell_writers()
        if self._room is not None and not buffer.size:
            settle(self._room)
        if self._eof_wanted and not (buffer.size or self._eof_sent):
            self._send_eof()
        if self._ended and not self._has_more_to_send():
            self._close_now()

    def _send_eof(self) -> None:
        self._eof_sent = True
        try:
            self.shut_down_fd()
        except Exception as error:
            self._fail_writes(without_frames(error))
            return
        eof_waiters, self._eof_waiters = self._eof_waiters, []
        for future in eof_waiters:
            settle(future)

    async def _until_room(self) -> None:
        """Wait until all writes are sent and the kernel would take more."""
        self._use_reactor()
        self._open()
        self._room = asyncio.Future(loop=self._loop)
        try:
            self._update_events()
            await self._room
        finally:
            self._room = None
            if not self._closed:
                self._register_or_end()
        if self._closed or self._write_error is not None:  # in the gap
            raise StreamClosedError(self._write_error or self._reason)

    def _tell_writers(self) -> None:
        """Resolve the writes of which all is handed over."""
        waiters = self._write_waiters
        while waiters and waiters[0][0] <= self._written:
            settle(waiters.popleft()[1])
        if not waiters:
            self._write_waiters = None

    def _has_more_to_send(self) -> bool:
        """Whether the stream is to stay open for writing, after the other end's end."""
        if self._write_error is not None:
            return False
        return self._write_buffer.size > 0 or (self._half_open and not self._eof_wanted)

    def _fail_writes(self, error: BaseException | None) -> None:
        """Nothing can be sent any more. Reads go on to the end, which then closes the stream."""
        self._write_error = error
        if not self._closed:
            self._note_error(error)
        self._write_buffer.clear()
        self._tell_writers()
        waiters, self._write_waiters = self._write_waiters, None
        for _, future in waiters or ():
            fail(future, StreamClosedError(error))
        eof_waiters, self._eof_waiters = self._eof_waiters, []
        for future in eof_waiters:
            fail(future, StreamClosedError(error))
        if self._room is not None:
            fail(self._room, StreamClosedError(error))
        if self._ended:
            self._close_now()
        else:
            self._listening = True
