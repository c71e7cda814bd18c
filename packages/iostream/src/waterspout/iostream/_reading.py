"""Reading: what a stream's users call, and the short cuts for what has arrived already."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from typing import Self, TypeAlias

from waterspout.ioloop.scheduling import READ
from waterspout.iostream._checks import bytes_pattern, bytes_view, check_callback, count
from waterspout.iostream._core import bind_context
from waterspout.iostream._errors import StreamClosedError
from waterspout.iostream._reads import (
    Emit,
    Peek,
    ReadBytes,
    ReadInto,
    ReadLine,
    ReadUntil,
    ReadUntilClose,
    ReadUntilRegex,
    StreamBytes,
    StreamUntilClose,
)
from waterspout.iostream._receiving import ReceivingStream

_Future = asyncio.Future

StreamCallback: TypeAlias = Callable[[bytes], object]
"""Takes the bytes that were read."""


class ReadingStream(ReceivingStream):
    """The reading half of `BaseIOStream`."""

    __slots__ = ()

    def peek(self, num_bytes: int, partial: bool = False) -> "asyncio.Future[bytes]":
        """Look at the bytes that come next, and leave them to be read.

        Args:
            num_bytes: How many.
            partial: Whether to be content with fewer, at least one.

        Returns:
            A future of the bytes.

        Raises:
            TypeError: If `num_bytes` is no integer.
            ValueError: If `num_bytes` is negative.
            RuntimeError: If another read is pending, or no loop is running.
            StreamBufferFullError: If `num_bytes` is more than `max_buffer_size`, without `partial`.
            StreamClosedError: If the stream ends before; also through the future.
            OSError: If the event loop cannot register the descriptor, and likewise `ValueError`
                if other code has registered it. No byte is taken.
        """
        count("num_bytes", num_bytes)
        return self._start_read(Peek(num_bytes, partial), None)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        """Read a line, with its newline, as `read_until` does.

        The last line may have none. It ends when the other end has closed in good order.
        Cancelled or timed out, at any moment, it leaves every byte for the next read.

        Returns:
            The line.

        Raises:
            StopAsyncIteration: At a clean end.
            RuntimeError: If another read is pending, or no loop is running.
            StreamBufferFullError: If a line is longer than `max_buffer_size`. Every byte can
                still be read.
            StreamClosedError: If the stream ends by an error.
            OSError: If the event loop cannot register the descriptor, and likewise `ValueError`
                if other code has registered it. No byte is taken.
        """
        buffer = self._read_buffer
        head, start = buffer.head, buffer.start
        end = head.find(b"\n", start) + 1
        if end and end < len(head) and self._gap is None and self._read_future is None:
            buffer.start = end  # as `take`, in fewer steps
            line = head[start:end]
            if self._events != READ:
                self._read_on(line)
            return line
        try:
            return await self._start_read(ReadLine(), None)
        except StreamClosedError as error:
            if error.real_error is None:
                raise StopAsyncIteration from None
            raise

    def read_bytes(
        self,
        num_bytes: int,
        callback: StreamCallback | None = None,
        streaming_callback: StreamCallback | None = None,
        partial: bool = False,
    ) -> "asyncio.Future[bytes]":
        """Read a number of bytes.

        Cancelled or timed out, at any moment, it leaves every byte for the next read; except
        those that `streaming_callback` was given.

        Args:
            num_bytes: How many.
            callback: Called on the loop with the result.
            streaming_callback: Called on the loop with each chunk as it arrives; the result is
                then empty.
            partial: Whether to be content with fewer, at least one.

        Returns:
            A future of the bytes.

        Raises:
            TypeError: If an argument is of the wrong kind.
            ValueError: If `num_bytes` is negative.
            RuntimeError: If another read is pending, or no loop is running.
            StreamBufferFullError: If `num_bytes` is more than `max_buffer_size`, without `partial`
                and `streaming_callback`.
            StreamClosedError: If the stream ends before; also through the future.
            OSError: If the event loop cannot register the descriptor, and likewise `ValueError`
                if other code has registered it. No byte is taken.
        """
        if (
            type(num_bytes) is int
            and callback is None
            and streaming_callback is None
            and self._read_future is None
            and self._gap is None
        ):
            buffer = self._read_buffer
            head, start = buffer.head, buffer.start
            end = start + num_bytes
            if start < end < len(head):  # it is there already, as mostly
                buffer.start = end  # as `take` and `_ready`, in fewer steps
                taken = head[start:end]
                if self._events != READ:
                    self._read_on(taken)
                future: asyncio.Future[bytes] = _Future(loop=self._loop)
                future.set_result(taken)
                return future
        count("num_bytes", num_bytes)
        emit = self._emitter(streaming_callback)
        if emit is not None:
            return self._start_read(StreamBytes(num_bytes, partial, emit), callback)
        return self._start_read(ReadBytes(num_bytes, partial), callback)

    def read_until(
        self,
        delimiter: bytes | tuple[bytes, ...],
        callback: StreamCallback | None = None,
        max_bytes: int | None = None,
    ) -> "asyncio.Future[bytes]":
        """Read up to and with a delimiter.

        Cancelled or timed out, at any moment, it leaves every byte for the next read.

        Args:
            delimiter: The delimiter, or several: the match that ends first wins.
            callback: Called on the loop with the result.
            max_bytes: How many bytes the result may have, its delimiter counted.

        Returns:
            A future of the bytes.

        Raises:
            TypeError: If an argument is of the wrong kind.
            ValueError: If a delimiter is empty or there is none, or `max_bytes` is negative.
            RuntimeError: If another read is pending, or no loop is running.
            UnsatisfiableReadError: If no delimiter comes within `max_bytes`, however the bytes
                arrive; also through the future. Every byte can still be read.
            StreamBufferFullError: If none comes within `max_buffer_size`; also through the
                future. Every byte can still be read.
            StreamClosedError: If the stream ends before; also through the future.
            OSError: If the event loop cannot register the descriptor, and likewise `ValueError`
                if other code has registered it. No byte is taken.
        """
        if (
            type(delimiter) is bytes
            and callback is None
            and max_bytes is None
            and self._read_future is None
            and self._gap is None
        ):
            buffer = self._read_buffer
            head, start = buffer.head, buffer.start
            place = head.find(delimiter, start)
            if place >= 0 and delimiter:  # it is there already, as mostly
                end = place + len(delimiter)
                if end == len(head):
                    return self._ready(buffer.take(end - start))
                buffer.start = end  # as `take` and `_ready`, in fewer steps
                taken = head[start:end]
                if self._events != READ:
                    self._read_on(taken)
                future: asyncio.Future[bytes] = _Future(loop=self._loop)
                future.set_result(taken)
                return future
            unread = len(head) - start
            if (
                self._events == READ
                and self._listening
                and delimiter
                and not (buffer.tail or self._ended)
                and unread < self._read_ahead
            ):
                until = self._last_until
                if until is None or until.delimiters[0] is not delimiter:
                    until = self._last_until = ReadUntil((delimiter,), None)
                until.searched = unread
                return self._wait_for(until)
        delimiters = delimiter if isinstance(delimiter, tuple) else (delimiter,)
        for one in delimiters:
            if not isinstance(one, bytes | bytearray):
                raise TypeError(f"delimiter must be bytes or a tuple of them, not {delimiter!r}")
        if not delimiters or not all(delimiters):
            raise ValueError(f"delimiter must not be empty, not {delimiter!r}")
        if max_bytes is not None:
            count("max_bytes", max_bytes)
        return self._start_read(ReadUntil(delimiters, max_bytes), callback)

    def read_until_regex(
        self,
        regex: "bytes | str | re.Pattern[bytes]",
        callback: StreamCallback | None = None,
        max_bytes: int | None = None,
    ) -> "asyncio.Future[bytes]":
        """Read up to and with what a pattern matches first.

        The pattern is tried on what has arrived so far, so what a greedy one matches depends on
        how the bytes arrive: let it end with a delimiter. From a peer that you do not trust, take
        no more than `max_bytes`.

        Each attempt looks at all that has arrived. A match is found at once as long as the bytes
        come in pieces that are not small for what is there already (an eighth), or there are few.
        Beyond that, such as for single bytes behind a mebibyte, it is found after a short pause of
        the bytes: 2 ms, and 31 ms for each MiB. So the cost stays in proportion to the bytes.

        Cancelled or timed out, at any moment, it leaves every byte for the next read.

        Args:
            regex: A pattern of bytes, as of `re`; text is encoded in UTF-8.
            callback: Called on the loop with the result.
            max_bytes: How many bytes it may take, those of the match included.

        Returns:
            A future of the bytes.

        Raises:
            TypeError: If an argument is of the wrong kind.
            re.error: If `regex` is no valid pattern.
            ValueError: If `max_bytes` is negative.
            RuntimeError: If another read is pending, or no loop is running.
            UnsatisfiableReadError: If nothing matches within `max_bytes`; also through the
                future. Every byte can still be read.
            StreamBufferFullError: If nothing matches within `max_buffer_size`; also through the
                future. Every byte can still be read.
            StreamClosedError: If the stream ends before; also through the future.
            OSError: If the event loop cannot register the descriptor, and likewise `ValueError`
                if other code has registered it. No byte is taken.
        """
        pattern = bytes_pattern("regex", regex)
        if max_bytes is not None:
            count("max_bytes", max_bytes)
        return self._start_read(ReadUntilRegex(pattern, max_bytes), callback)

    def read_into(
        self,
        buf: bytearray | memoryview,
        callback: Callable[[int], object] | None = None,
        partial: bool = False,
    ) -> "asyncio.Future[int]":
        """Read into the caller's memory, until it is full.

        What has arrived already is copied; what arrives later is received straight into the
        memory, as long as 64 KiB or more are missing (or `read_chunk_size`, if that is less).

        Cancelled or timed out, at any moment, it leaves every byte for the next read; what the
        memory then holds does not matter.

        Args:
            buf: Writable, contiguous memory; not to be touched until the read is done.
            callback: Called on the loop with the result.
            partial: Whether to be content with fewer bytes than fit, at least one.

        Returns:
            A future of how many bytes were put at its start.

        Raises:
            TypeError: If an argument is of the wrong kind.
            RuntimeError: If another read is pending, or no loop is running.
            StreamBufferFullError: If `buf` is larger than `max_buffer_size`, without `partial`.
            StreamClosedError: If the stream ends before; also through the future.
            OSError: If the event loop cannot register the descriptor, and likewise `ValueError`
                if other code has registered it. No byte is taken.
        """
        target = bytes_view("buf", buf)
        if target.readonly:
            raise TypeError("buf must be writable")
        return self._start_read(ReadInto(target, partial), callback)

    def read_until_close(
        self,
        callback: StreamCallback | None = None,
        streaming_callback: StreamCallback | None = None,
    ) -> "asyncio.Future[bytes]":
        """Read everything until the other end closes.

        Cancelled or timed out, at any moment, it leaves every byte for the next read; except
        those that `streaming_callback` was given.

        Args:
            callback: Called on the loop with the result.
            streaming_callback: Called on the loop with each chunk as it arrives; the result is
                then empty.

        Returns:
            A future of the bytes.

        Raises:
            TypeError: If an argument is of the wrong kind.
            RuntimeError: If another read is pending, or no loop is running.
            StreamBufferFullError: If there are more than `max_buffer_size`, without
                `streaming_callback`; also through the future. Every byte can still be read.
            StreamClosedError: If the stream ends by an error; also through the future.
            OSError: If the event loop cannot register the descriptor, and likewise `ValueError`
                if other code has registered it. No byte is taken.
        """
        emit = self._emitter(streaming_callback)
        if emit is not None:
            return self._start_read(StreamUntilClose(emit), callback)
        return self._start_read(ReadUntilClose(), callback)

    def _emitter(self, streaming_callback: Callable[[bytes], object] | None) -> Emit | None:
        check_callback("streaming_callback", streaming_callback)
        if streaming_callback is None:
            return None
        # The chunks arrive in the context of whoever was the first to have the stream watched.
        return bind_context(self._use_reactor().add_callback, streaming_callback)
