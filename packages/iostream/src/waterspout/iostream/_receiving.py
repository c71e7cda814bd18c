"""Receiving: how bytes come into the read buffer, and from there to the pending read."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

from waterspout.ioloop.scheduling import ERROR, READ, WRITE
from waterspout.iostream._checks import check_callback
from waterspout.iostream._core import fail
from waterspout.iostream._errors import (
    StreamBufferFullError,
    StreamClosedError,
    UnsatisfiableReadError,
)
from waterspout.iostream._future import ReadFuture
from waterspout.iostream._reads import NOT_YET, NotYet, Read, ReadBytes, ReadUntil
from waterspout.iostream._writing import WritingStream

R = TypeVar("R")

_INPUT = READ | ERROR
"""Events after which to receive; a stream that cannot read has `ERROR`."""
FILL_AT_MOST = 1024 * 1024
"""Bytes received before the loop gets its turn, about."""
QUICK = 16 * 1024
"""Bytes of which it is likely that they come at once."""


def _scratch_of(loop: Any, size: int) -> memoryview:
    """One piece of memory a loop, for all its streams to receive into.

    A loop runs in one thread at a time, and what is received is copied out of there at once.
    """
    memory: memoryview | None = getattr(loop, "_waterspout_scratch", None)
    if memory is None or len(memory) < size:
        memory = loop._waterspout_scratch = memoryview(bytearray(size))
    return memory[:size]


class ReceivingStream(WritingStream):
    """What gives the reads of `ReadingStream` their bytes."""

    __slots__ = ()

    # A read

    def _start_read(
        self, read: Read[R], callback: Callable[[R], object] | None
    ) -> "asyncio.Future[R]":
        if callback is not None:
            check_callback("callback", callback)
        if self._read_future is not None and not self._read_future.done():
            raise RuntimeError("another read of this stream is pending")
        if not read.can_fit(0, self._max_buffer_size):
            raise StreamBufferFullError(
                f"the read can never fit: max_buffer_size={self._max_buffer_size}"
            )
        self._use_reactor()
        if self._opening:
            self._open()
        result: Any = NOT_YET
        if self._gap is None and (len(self._read_buffer) >= read.least or self._ended):
            result = self._attempt(read)
        future: asyncio.Future[R]
        if result is not NOT_YET:
            future = asyncio.Future(loop=self._loop)
            future.set_result(result)
        else:
            # Who gives a callback has the result, however the future is awaited.
            if callback is None:
                future = self._wait_for(read)
            else:
                future = asyncio.Future(loop=self._loop)
                self._read, self._read_future = read, future
            self._listening = True
        try:
            self._update_events()
        except OSError:  # it cannot be watched
            self._read = self._read_future = None
            if result is not NOT_YET:
                self._read_buffer.give_back(read.undo(result))
            raise
        if callback is not None:
            future.add_done_callback(partial(self._deliver, callback))
        return future

    def _wait_for(self, read: Read[R]) -> "ReadFuture[R]":
        """Start a read of which it is known that it must wait, and that reading goes on."""
        future: ReadFuture[R] = ReadFuture(loop=self._loop)
        future.stream = self
        future.awaiting = 0
        future.returned = False
        self._read, self._read_future = read, future
        return future

    def _ready(self, taken: bytes) -> "asyncio.Future[bytes]":
        """A future of bytes that were taken out of the buffer already."""
        if self._events != READ:
            self._read_on(taken)
        future: asyncio.Future[bytes] = asyncio.Future(loop=self._loop)
        future.set_result(taken)
        return future

    def _read_on(self, taken: bytes) -> None:
        """Reading ahead may have stopped, and can go on now that some bytes were taken."""
        try:
            self._update_events()
        except OSError:  # it cannot be watched
            self._read_buffer.give_back(taken)
            raise

    def _attempt(self, read: Read[R]) -> "R | NotYet":
        """Take a read's result out of the buffer, or raise what it comes to."""
        result = read.attempt(self._read_buffer)
        return self._end_of(read) if result is NOT_YET else result

    def _end_of(self, read: Read[Any]) -> Any:
        """What becomes of a read that has not got its bytes."""
        buffer = self._read_buffer
        result: Any = NOT_YET
        if self._ended:
            result = NOT_YET if self._reason is not None else read.at_end(buffer)
            if result is NOT_YET:
                raise StreamClosedError(self._reason, partial=buffer.peek(len(buffer)))
        elif not read.can_fit(len(buffer), self._max_buffer_size):
            raise StreamBufferFullError(
                f"{len(buffer)} bytes without a result: max_buffer_size={self._max_buffer_size}"
            )
        return result

    def _try_read(self) -> None:
        """Give the pending read its result, if there is one."""
        read, future = self._read, self._read_future
        if read is None or future is None or self._gap is not None:
            return
        if not future.done():
            try:
                result = read.attempt(self._read_buffer)
                if result is NOT_YET:
                    result = self._end_of(read)
            except (StreamClosedError, StreamBufferFullError, UnsatisfiableReadError) as error:
                fail(future, error)
            else:
                if result is NOT_YET:
                    return
                future.set_result(result)
                if type(future) is ReadFuture:
                    if future.awaiting:
                        self._gap = read
                    else:  # nobody can be cancelled in the gap, so it may let go
                        future.stream = None
        self._read = self._read_future = None
        if self._closed:
            self._maybe_run_close_callback()

    def _settled(self, result: Any, returned: bool) -> None:
        """The task of a read has resumed, or never will."""
        read, self._gap = self._gap, None
        if returned and read is not None and not self._dropped:
            self._read_buffer.give_back(read.undo(result))
        self._try_read()
        self._update_events()

    def _read_cancelled(self) -> None:
        """The pending read was cancelled, just now."""
        self._recall()
        self._read = self._read_future = None

    def _recall(self) -> None:
        """Have what was received straight into a caller's memory in the buffer instead."""
        if self._read is not None and (placed := self._read.recall()):
            self._read_buffer.give_back(placed)

    # Receipt

    def _on_events(self, fd: int, events: int) -> None:
        direct, read, buffer = self._direct, self._read, self._read_buffer
        if (
            direct is not None
            and events == READ
            and (type(read) is ReadUntil or (type(read) is ReadBytes and read.size <= QUICK))
            and not (buffer.head or buffer.tail or self._opening or self._ended)
        ):  # as `_fill`, in fewer steps
            try:
                chunk = direct.recv(self._quick_size)
            except (BlockingIOError, InterruptedError):
                return
            except Exception as error:
                self._end(error)
            else:
                if chunk:
                    buffer.head = chunk
                    self._try_read()
                else:
                    self._end(None)
        elif self._opening:
            self._advance_opening()
        else:
            if events & WRITE:
                self._flush()
            if events & _INPUT and not self._ended:
                self._fill()
        if (
            direct is not None
            and self._events == READ
            and not (buffer.head or buffer.tail or self._ended)
        ):
            return  # as mostly: what is wanted is watched
        if not self._closed:
            self._update_events()

    def _fill(self) -> None:
        """Receive a chunk; more of them for a read that would rather have more first."""
        more = self._receive()
        read = self._read
        if read is None:
            return
        if more and read.patience:
            start = len(self._read_buffer)
            while (size := len(self._read_buffer)) < read.patience and self._receive():
                if size - start >= FILL_AT_MOST:  # the descriptor may tell no more
                    self._use_reactor().add_callback(self._fill_on)
                    return
        self._try_read()

    def _fill_on(self) -> None:
        if not self._closed and self._wanted_events() & READ:
            self._on_events(self._watched, READ)

    def _receive(self) -> bool:
        """Receive what is there, up to one chunk, and to what may be gathered."""
        buffer, read = self._read_buffer, self._read
        target = None
        if read is not None and read.takes_memory and not len(buffer):
            target = self._room_of(read)
        if target is None:
            limit = self._read_ahead if read is None else self._max_buffer_size
            size = min(self._read_chunk_size, limit - len(buffer))
            if self._scratch is None:
                self._scratch = _scratch_of(self._loop, self._read_chunk_size)
            chunk = self._scratch[: max(size, self._least_room)]
        else:
            chunk = target
        try:
            received = self.read_from_fd(chunk)
        except Exception as error:
            self._end(error)
            return False
        if received:
            if target is None or read is None:
                buffer.append(chunk[:received])
            else:
                read.place(received)
            return True
        if received is not None:
            self._end(None)
        return False

    def _room_of(self, read: Read[Any]) -> memoryview | None:
        """The memory that a read may be given its bytes in, if there is no doubt about it."""
        future = self._read_future
        if self._gap is not None or not isinstance(future, ReadFuture) or future.done():
            return None
        room = read.room()
        return room[: self._read_ahead] if len(room) >= self._least_room else None

    def _end(self, error: BaseException | None) -> None:
        """Nothing more will come."""
        self._ended = True
        self._reason = error
        self._note_error(error)
        self._recall()
        self._try_read()
        if error is not None or not self._has_more_to_send():
            self._close_now()
