"""Receiving: how bytes come into the read buffer, and from there to the pending read."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

from waterspout.ioloop.scheduling import ERROR, READ, WRITE
from waterspout.iostream._checks import check_callback
from waterspout.iostream._core import fail
from waterspout.iostream._delayed import DelayedAttempt
from waterspout.iostream._errors import StreamBufferFullError, StreamClosedError, without_frames
from waterspout.iostream._future import PendingRead, ReadFuture
from waterspout.iostream._reads import NOT_YET, NotYet, Read, ReadBytes, ReadUntil
from waterspout.iostream._writing import WritingStream

R = TypeVar("R")

_Future = asyncio.Future

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
        if self._read_future is not None:
            if not self._read_future.done():
                raise RuntimeError("another read of this stream is pending")
            self._read_cancelled()  # other code has resolved it
        if not read.can_fit(0, self._max_buffer_size):
            raise StreamBufferFullError(
                f"the read can never fit: max_buffer_size={self._max_buffer_size}"
            )
        self._use_reactor()
        if self._opening:
            self._open()
        result: Any = NOT_YET
        if (
            self._gap is None
            and (len(self._read_buffer) >= read.least or self._ended)
            and not read.emits
        ):
            result = self._attempt(read)
        if result is NOT_YET:
            return self._start_waiting(read, callback)
        future: asyncio.Future[R] = _Future(loop=self._loop)
        try:
            self._update_events()
            if callback is not None:
                future.add_done_callback(partial(self._deliver, callback))
            future.set_result(result)
        except BaseException:
            self._read_buffer.give_back(read.undo(result))
            raise
        return future

    def _start_waiting(
        self, read: Read[R], callback: Callable[[R], object] | None
    ) -> "asyncio.Future[R]":
        """Have a read wait for its bytes."""
        listening, self._listening = self._listening, True
        future: PendingRead[R]
        if callback is None:  # as `_wait_for`, without the call
            reading: ReadFuture[R] = ReadFuture(loop=self._loop)
            reading.awaiting = 0
            reading.returned = False
            future = reading
        else:  # who gives a callback has the result, however the future is awaited
            future = PendingRead(loop=self._loop)
        future.stream = self
        self._read, self._read_future = read, future
        try:
            self._update_events()
            if read.emits:  # which cannot be undone, so it comes last
                self._emit_buffered(read, future)
        except BaseException:
            self._read = self._read_future = None
            self._listening = listening
            raise
        if callback is not None:
            future.add_done_callback(partial(self._deliver, callback))
        return future

    def _emit_buffered(self, read: Read[R], future: PendingRead[R]) -> None:
        """Give a streaming callback what has arrived already."""
        if self._gap is not None:
            return
        result = self._attempt(read)
        if result is not NOT_YET:
            self._read = self._read_future = future.stream = None
            future.set_result(result)

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
        future: asyncio.Future[bytes] = _Future(loop=self._loop)
        future.set_result(taken)
        return future

    def _read_on(self, taken: bytes) -> None:
        """Reading ahead may have stopped, and can go on now that some bytes were taken."""
        try:
            self._update_events()
        except BaseException:
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
            except Exception as error:
                future.stream = None
                fail(future, without_frames(error))
            else:
                if result is NOT_YET:
                    return
                future.set_result(result)
                if type(future) is ReadFuture and future.awaiting:
                    self._gap = read
                else:  # nobody can be cancelled in the gap, so it may let go
                    future.stream = None
        else:  # other code has resolved it
            self._recall()
        self._read = self._read_future = None
        if self._closed:
            self._maybe_run_close_callback()

    def _settled(self, result: Any, returned: bool) -> None:
        """The task of a read has resumed, or never will."""
        read, self._gap = self._gap, None
        if returned and read is not None and not self._dropped:
            self._read_buffer.give_back(read.undo(result))
        self._try_read()
        self._register_or_end()

    def _read_cancelled(self) -> None:
        """The pending read was cancelled, just now."""
        self._recall()
        self._read = self._read_future = None

    def _recall(self) -> None:
        """Have all bytes in the buffer, and no attempt under way."""
        if self._read is not None:
            self._read.recall(self._read_buffer)
        if self._delayed is not None:
            self._delayed.cancel()
            self._delayed = None

    def _attempt_delayed(self) -> None:
        """Search again; the time for it has come."""
        self._delayed = None
        self._try_read()
        self._register_or_end()

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
                self._end(without_frames(error))
            else:
                if chunk:
                    buffer.head = chunk
                    self._try_read()
                else:
                    self._end(None)
        else:
            self._handle_events(events)
        if (
            direct is not None
            and self._events == READ
            and not (buffer.head or buffer.tail or self._ended)
        ):
            return  # as mostly: what is wanted is watched
        if not self._closed:
            self._register_or_end()

    def _handle_events(self, events: int) -> None:
        """Do what the descriptor is ready for; any mistake in there ends the stream."""
        try:
            if self._opening:
                self._advance_opening()
            elif not self._closed:
                if events & WRITE:
                    self._flush()
                # A connection that cannot be written to is read to its end at once, so that the
                # stream is mostly closed by the time that a failed write is told.
                is_readable = events & _INPUT or self._write_error is not None
                if is_readable and not self._ended:
                    self._fill()
        except Exception as error:
            self._break(error)

    def _fill(self) -> None:
        """Receive a chunk; more of them for a read that would rather have more first."""
        more = self._receive()
        read, buffer = self._read, self._read_buffer
        if read is None:
            return
        if more and read.patience:
            start = len(buffer)
            while (size := len(buffer)) < read.patience and self._receive():
                if size - start >= FILL_AT_MOST:  # the descriptor may tell no more
                    self._use_reactor().add_callback(self._fill_on)
                    return
            if self._read is not read:  # the end has come
                return
        if len(buffer) < read.due and read.can_fit(len(buffer), self._max_buffer_size):
            self._delay_attempt()
        else:
            if self._delayed is not None:
                self._delayed.cancel()
                self._delayed = None
            self._try_read()

    def _delay_attempt(self) -> None:
        """Have the pending read attempt a little later, however many bytes come until then."""
        if self._delayed is None:
            self._delayed = DelayedAttempt(self, len(self._read_buffer))
        else:
            self._delayed.postponed = True

    def _fill_on(self) -> None:
        if not self._closed and self._wanted_events() & READ:
            self._on_events(self._watched, READ)

    def _receive(self) -> bool:
        """Receive what is there, up to one chunk, and to what may be gathered."""
        buffer, read = self._read_buffer, self._read
        target = None
        if read is not None and read.takes_memory:
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
            self._end(without_frames(error))
            return False
        if received:
            if read is None:
                buffer.append(chunk[:received])
            elif target is None:
                read.take_in(buffer, chunk[:received])
            else:
                read.place(received)
            return True
        if received is not None:
            self._end(None)
        return False

    def _room_of(self, read: Read[Any]) -> memoryview | None:
        """The memory to receive straight into for a read, if that is worth it.

        Where less than a chunk is missing, a copy costs less than the system call by which what
        comes behind would be received on its own.
        """
        if self._gap is not None or self._read_future is None or self._read_future.done():
            return None
        room = read.room(len(self._read_buffer))
        enough = max(self._quick_size, self._least_room)
        return room[:FILL_AT_MOST] if len(room) >= enough else None

    def _end(self, error: BaseException | None) -> None:
        """Nothing more will come."""
        self._ended = True
        self._reason = error
        self._note_error(error)
        self._recall()
        self._try_read()
        if error is not None or not self._has_more_to_send():
            self._close_now()
