"""The machinery of a stream: when bytes are moved, and who gets them.

Rules:

1.  One read is pending at a time, and any number of writes.
2.  Bytes that arrived stay in the read buffer until a read returns them. A read that raises has
    taken none.
3.  With no read pending, reading ahead stops at `READ_AHEAD` bytes; the kernel's window then
    holds the other end back.
4.  A write is sent whole, in order, also if its future is cancelled.
5.  Once the other end has closed, what was read ahead can still be read, pending writes still go
    out, and then the descriptor is closed. If sending fails, reading still goes on to the end.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

from waterspout.ioloop.scheduling import READ, WRITE, Reactor, current_scheduler
from waterspout.iostream._buffer import ReadBuffer, WriteBuffer
from waterspout.iostream._checks import check_callback, positive_size
from waterspout.iostream._errors import (
    StreamBufferFullError,
    StreamClosedError,
    UnsatisfiableReadError,
)
from waterspout.iostream._future import ReadFuture
from waterspout.iostream._reads import NOT_YET, NotYet, Read, ReadBytes, ReadUntil

R = TypeVar("R")

READ_AHEAD = 256 * 1024
"""Bytes that a stream reads before anybody asks for them."""
DEFAULT_BUFFER_SIZE = 100 * 1024 * 1024
"""The default of `max_buffer_size` and `max_write_buffer_size`, in bytes."""
FLUSH_AT_MOST = 1024 * 1024
"""Bytes sent before the loop gets its turn, about."""
FILL_AT_MOST = 1024 * 1024
"""Bytes received before the loop gets its turn, about."""
QUICK = 16 * 1024
"""Bytes of which it is likely that they come at once."""
DEFAULT_CHUNK_SIZE = 64 * 1024
"""The default of `read_chunk_size`, in bytes. Larger ones cost more in page faults."""


def _scratch_of(loop: Any, size: int) -> memoryview:
    """One piece of memory a loop, for all its streams to receive into.

    A loop runs in one thread at a time, and what is received is copied out of there at once.
    """
    memory: memoryview | None = getattr(loop, "_waterspout_scratch", None)
    if memory is None or len(memory) < size:
        memory = loop._waterspout_scratch = memoryview(bytearray(size))
    return memory[:size]


class StreamCore:
    """What `BaseIOStream` gives an interface to.

    It has slots since there are more attributes than Python keeps at hand in an instance (30), and
    for what ten thousand idle streams take.
    """

    __slots__ = (
        "__dict__",
        "__weakref__",
        "_close_callback",
        "_closed",
        "_direct",
        "_dropped",
        "_ended",
        "_eof_sent",
        "_eof_waiters",
        "_eof_wanted",
        "_events",
        "_gap",
        "_half_open",
        "_last_until",
        "_least_room",
        "_listening",
        "_loop",
        "_max_buffer_size",
        "_max_write_buffer_size",
        "_opening",
        "_opening_events",
        "_quick_size",
        "_reactor",
        "_read",
        "_read_ahead",
        "_read_buffer",
        "_read_chunk_size",
        "_read_future",
        "_reason",
        "_room",
        "_scratch",
        "_sending_file",
        "_sent",
        "_watched",
        "_write_buffer",
        "_write_error",
        "_write_waiters",
        "_written",
        "error",
    )

    def __init__(
        self,
        io_loop: Reactor | None,
        max_buffer_size: int | None,
        read_chunk_size: int | None,
        max_write_buffer_size: int | None,
        half_open: bool,
    ) -> None:
        if io_loop is not None and not isinstance(io_loop, Reactor):
            raise TypeError(f"io_loop must be a Reactor or None, not {io_loop!r}")
        self._reactor = io_loop
        self._loop: asyncio.AbstractEventLoop | None = None  # the one of its futures
        self._max_buffer_size = positive_size(
            "max_buffer_size", max_buffer_size, DEFAULT_BUFFER_SIZE
        )
        self._read_chunk_size = positive_size(
            "read_chunk_size", read_chunk_size, DEFAULT_CHUNK_SIZE
        )
        self._max_write_buffer_size = positive_size(
            "max_write_buffer_size", max_write_buffer_size, DEFAULT_BUFFER_SIZE
        )
        self._read_ahead = min(READ_AHEAD, self._max_buffer_size)
        self._quick_size = min(self._read_chunk_size, self._max_buffer_size, DEFAULT_CHUNK_SIZE)
        self._half_open = half_open
        self._direct: Any = None  # a socket for short cuts around `read_from_fd`, `write_to_fd`
        self._least_room = 1  # bytes that a receipt must have room for
        self.error: BaseException | None = None

        self._read_buffer = ReadBuffer()
        self._read: Read[Any] | None = None
        self._read_future: asyncio.Future[Any] | None = None
        self._gap: Read[Any] | None = None  # done, but its task has not resumed; see _future
        self._write_buffer = WriteBuffer()
        # Most streams never wait to write; an empty deque takes three quarters of a kilobyte.
        self._write_waiters: deque[tuple[int, asyncio.Future[None]]] | None = None
        self._written = 0  # bytes handed to the kernel, ever

        self._events = 0  # for which a handler is registered
        self._watched = -1  # the descriptor it is registered for
        self._listening = False  # whether to be told of bytes that nobody asked for
        self._opening = False  # while true, nothing is read or written
        self._opening_events = 0
        self._ended = False  # nothing more will come
        self._room: asyncio.Future[None] | None = None  # of who waits to send something else
        self._sending_file = False
        self._scratch: memoryview | None = None
        self._last_until: ReadUntil | None = None  # to be used again
        self._sent: asyncio.Future[None] | None = None  # that of writes that were sent at once
        self._eof_wanted = self._eof_sent = False
        self._eof_waiters: list[asyncio.Future[None]] = []
        self._reason: BaseException | None = None  # why, for reads that come later
        self._write_error: BaseException | None = None  # nothing can be sent any more
        self._closed = False
        self._dropped = False  # whether close() dropped what was not read
        self._close_callback: Callable[[], object] | None = None

    # How bytes are moved: for subclasses

    def fileno(self) -> int:
        """The descriptor, for the reactor to watch."""
        raise NotImplementedError(f"{type(self).__name__} must define fileno()")

    def close_fd(self) -> None:
        """Close the descriptor. Called once; must not raise."""
        raise NotImplementedError(f"{type(self).__name__} must define close_fd()")

    def read_from_fd(self, buf: memoryview) -> int | None:
        """Receive without blocking.

        Args:
            buf: Where to put what arrived.

        Returns:
            How many bytes arrived; zero at the other end's end, `None` if nothing is there yet.

        Raises:
            OSError: If the connection is broken.
        """
        raise NotImplementedError(f"{type(self).__name__} must define read_from_fd()")

    def write_to_fd(self, data: memoryview) -> int:
        """Send without blocking.

        Args:
            data: What to send; not to be kept.

        Returns:
            How many bytes were taken; zero if none can be now.

        Raises:
            OSError: If the connection is broken.
        """
        raise NotImplementedError(f"{type(self).__name__} must define write_to_fd()")

    def shut_down_fd(self) -> None:
        """Tell the other end that nothing more will be sent, where there is a way to.

        Raises:
            OSError: If the connection is broken.
        """
        raise NotImplementedError(f"{type(self).__name__} must define shut_down_fd()")

    # Reading

    def reading(self) -> bool:
        """Whether a read is pending."""
        return self._read_future is not None and not self._read_future.done()

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
        self.error = self.error or error
        self._recall()
        self._try_read()
        if error is not None or not self._has_more_to_send():
            self._close_now()

    def _has_more_to_send(self) -> bool:
        """Whether the stream is to stay open for writing, after the other end's end."""
        if self._write_error is not None:
            return False
        return self._write_buffer.size > 0 or (self._half_open and not self._eof_wanted)

    # Writing

    def _send(self, view: memoryview) -> int:
        """Hand bytes to the kernel; if that fails, all writes fail."""
        try:
            sent = self.write_to_fd(view)
        except Exception as error:
            self._fail_writes(error)
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
        if self._room is not None and not (buffer.size or self._room.done()):
            self._room.set_result(None)
        if self._eof_wanted and not (buffer.size or self._eof_sent):
            self._send_eof()
        if self._ended and not self._has_more_to_send():
            self._close_now()

    def _send_eof(self) -> None:
        self._eof_sent = True
        try:
            self.shut_down_fd()
        except OSError as error:
            self._fail_writes(error)
            return
        for future in self._eof_waiters:
            if not future.done():
                future.set_result(None)

    async def _until_room(self) -> None:
        """Wait until all writes are sent and the kernel would take more."""
        self._room = self._use_reactor().create_future()
        try:
            self._open()
            self._update_events()
            await self._room
        finally:
            self._room = None
            if not self._closed:
                self._update_events()
        if self._closed or self._write_error is not None:  # in the gap
            raise StreamClosedError(self._write_error or self._reason)

    def _tell_writers(self) -> None:
        """Resolve the writes of which all is handed over."""
        waiters = self._write_waiters
        while waiters and waiters[0][0] <= self._written:
            _, future = waiters.popleft()
            if not future.done():
                future.set_result(None)
        if not waiters:
            self._write_waiters = None

    # Events

    def _use_reactor(self) -> Reactor:
        reactor = self._reactor
        if reactor is None:
            scheduler = current_scheduler()
            if not isinstance(scheduler, Reactor):
                raise RuntimeError(f"the running loop's {scheduler!r} is no Reactor")
            self._reactor = reactor = scheduler
        if self._loop is None:
            self._loop = reactor.create_future().get_loop()
        return reactor

    def _open(self) -> None:
        """Begin what must be done before bytes can move, if the stream is such a one."""

    def _advance_opening(self) -> None:
        """Go on with that; called when one of `_opening_events` has come."""

    def _wanted_events(self) -> int:
        if self._opening:
            return self._opening_events
        events = WRITE if self._write_buffer.size or self._room is not None else 0
        if (
            self._listening
            and not self._ended
            and (self.reading() or len(self._read_buffer) < self._read_ahead)
        ):
            events |= READ
        return events

    def _update_events(self) -> None:
        """Watch for what is wanted now."""
        if (  # as mostly
            self._events == READ
            and self._direct is not None
            and not (self._write_buffer.size or self._closed or self._opening or self._ended)
            and (self._read_future is not None or len(self._read_buffer) < self._read_ahead)
            and self._room is None
        ):
            return
        events = 0 if self._closed else self._wanted_events()
        if events == self._events:
            return
        reactor = self._use_reactor()
        if self._events == 0:
            self._watched = self.fileno()
            reactor.add_handler(self._watched, self._on_events, events)
        elif events == 0:
            with contextlib.suppress(KeyError):  # a loop that was closed has forgotten it
                reactor.remove_handler(self._watched)
        else:
            reactor.update_handler(self._watched, events)
        self._events = events

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
            if events & READ and not self._ended:
                self._fill()
        if (
            direct is not None
            and self._events == READ
            and not (buffer.head or buffer.tail or self._ended)
        ):
            return  # as mostly: what is wanted is watched
        if not self._closed:
            self._update_events()

    def _close_now(self) -> None:
        """Close the descriptor and tell everybody."""
        if self._closed:
            return
        self._closed = True
        try:
            self._update_events()
        finally:
            self._close_descriptor()
            self._fail_writes(self._write_error or self._reason)
            self._maybe_run_close_callback()

    def _close_descriptor(self) -> None:
        try:
            self.close_fd()
        except OSError as error:  # somebody else has closed it
            if self._reactor is not None:
                self._reactor.add_callback(_raise, error)

    def _fail_writes(self, error: BaseException | None) -> None:
        """Nothing can be sent any more. Reads go on to the end, which then closes the stream."""
        self._write_error = error
        self.error = self.error or (None if self._closed else error)
        self._write_buffer.clear()
        self._tell_writers()
        waiters, self._write_waiters = self._write_waiters, None
        for _, future in waiters or ():
            fail(future, StreamClosedError(error))
        for future in self._eof_waiters:
            fail(future, StreamClosedError(error))
        if self._room is not None:
            fail(self._room, StreamClosedError(error))
        if self._ended:
            self._close_now()
        else:
            self._listening = True

    def _maybe_run_close_callback(self) -> None:
        callback = self._close_callback
        if callback is not None and self._closed and not self.reading():
            self._close_callback = None
            reactor = self._use_reactor()
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody is to be told
                # One hop more than a result takes to its callback, so that it comes after that.
                reactor.add_callback(reactor.add_callback, callback)

    def _deliver(self, callback: Callable[[Any], object], future: "asyncio.Future[Any]") -> None:
        """Give a done future's result to a callback, or its error to the loop."""
        if future.cancelled():
            return
        error = future.exception()
        if error is None:
            self._use_reactor().add_callback(callback, future.result())
        else:
            self._use_reactor().add_callback(_raise, error)


def fail(future: "asyncio.Future[Any]", error: BaseException) -> None:
    """Give a future an exception. The next operation meets it too, so nobody need look at it."""
    if future.done():
        return
    with contextlib.suppress(RuntimeError):  # its loop is closed, and nobody can wait for it
        if isinstance(error, asyncio.CancelledError):
            future.cancel()
        else:
            future.set_exception(error)
    if not future.cancelled():
        future.exception()


def _raise(error: BaseException) -> None:
    raise error
