"""What a stream consists of: its state, its descriptor, what is watched, and its end.

Rules:

1.  One read is pending at a time, and any number of writes.
2.  Bytes that arrived stay in the read buffer until a read returns them. A read that raises has
    taken none.
3.  With no read pending, reading ahead stops at `READ_AHEAD` bytes; the kernel's window then
    holds the other end back.
4.  A write is sent whole, in order, also if its future is cancelled.
5.  Once the other end has closed, what was read ahead can still be read, pending writes still go
    out, and then the descriptor is closed. If sending fails, reading still goes on to the end.
6.  A call that raises has changed nothing, whichever exception the reactor raised. What cannot be
    undone or cannot be raised to a caller ends the stream: a write of which the kernel has a part
    fails the writing side, and an error inside a handler fails all that is pending.
7.  An exception that is kept has no traceback (`without_frames`), since its frames refer to the
    stream: a cycle that only the garbage collector would free. One given to `close` is the user's
    and stays as it is.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Any

from waterspout.ioloop.scheduling import READ, WRITE, Reactor, current_scheduler
from waterspout.iostream._buffer import ReadBuffer, WriteBuffer
from waterspout.iostream._checks import positive_size
from waterspout.iostream._delayed import DelayedAttempt
from waterspout.iostream._errors import without_frames
from waterspout.iostream._future import PendingRead
from waterspout.iostream._reads import Read, ReadUntil

READ_AHEAD = 256 * 1024
"""Bytes that a stream reads before anybody asks for them."""
DEFAULT_BUFFER_SIZE = 100 * 1024 * 1024
"""The default of `max_buffer_size` and `max_write_buffer_size`, in bytes."""
DEFAULT_CHUNK_SIZE = 64 * 1024
"""The default of `read_chunk_size`, in bytes. Larger ones cost more in page faults."""


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
        "_delayed",
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

    _keeps_unsent = False
    """Whether bytes that `write_to_fd` did not take may be sent all the same."""
    _input_event: int = READ
    """The event registered for input. A stream that cannot read registers for the peer's end."""

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
        self._read_future: PendingRead[Any] | None = None
        self._delayed: DelayedAttempt | None = None  # the next attempt of the pending read
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
        self._close_callback: Callable[[], object] | None = None  # has the loop call it

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

    # What the halves of a stream do

    def _on_events(self, fd: int, events: int) -> None:
        """The descriptor is ready."""
        raise NotImplementedError

    def _fail_writes(self, error: BaseException | None) -> None:
        """Nothing can be sent any more."""
        raise NotImplementedError

    def _end(self, error: BaseException | None) -> None:
        """Nothing more will come."""
        raise NotImplementedError

    def _reset_on_close(self) -> None:
        """Let the peer see an error instead of an end, where the connection can carry one."""

    # Watching

    def _use_reactor(self) -> Reactor:
        reactor = self._reactor
        if reactor is None or self._loop is None:
            reactor = self._bind(reactor)
        return reactor

    def _bind(self, reactor: Reactor | None) -> Reactor:
        """Run on a reactor from now on, by default the current one."""
        if reactor is None:
            scheduler = current_scheduler()
            if not isinstance(scheduler, Reactor):
                raise RuntimeError(f"the running loop's {scheduler!r} is no Reactor")
            reactor = scheduler
        self._loop = reactor.create_future().get_loop()
        self._reactor = reactor
        return reactor

    def _open(self) -> None:
        """Begin what must be done before bytes can move, if the stream is such a one."""

    def _advance_opening(self) -> None:
        """Go on with that; called when one of `_opening_events` has come."""

    def reading(self) -> bool:
        """Whether a read is pending."""
        return self._read_future is not None and not self._read_future.done()

    def _wanted_events(self) -> int:
        if self._opening:
            return self._opening_events
        events = WRITE if self._write_buffer.size or self._room is not None else 0
        if (
            self._listening
            and not self._ended
            and (self.reading() or len(self._read_buffer) < self._read_ahead)
        ):
            events |= self._input_event
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

    def _register_or_end(self) -> None:
        """Register for the events that are wanted now; if that fails, the stream ends by the error.

        For where no caller can be told, or where what the caller did cannot be undone. A pending
        operation then fails, instead of waiting for events that never come.
        """
        try:
            self._update_events()
        except Exception as error:
            self._break(error)

    def _break(self, error: BaseException) -> None:
        """End both sides by an error of the reactor or of a subclass."""
        if self._write_buffer.size:
            self._reset_on_close()
        without_frames(error)
        if self._ended:  # and how reading ended stays as it is
            self._fail_writes(error)
        else:
            self._end(error)

    # The end

    def _note_error(self, error: BaseException | None) -> None:
        """The first one is what closed the stream."""
        self.error = self.error or error

    def _close_now(self) -> None:
        """Close the descriptor and tell everybody. What fails meanwhile goes to the loop's hook."""
        if self._closed:
            return
        self._closed = True
        for step in (self._update_events, self.close_fd):
            try:
                step()
            except Exception as error:
                self._report(error)
        self._fail_writes(self._write_error or self._reason)
        self._maybe_run_close_callback()

    def _report(self, error: BaseException) -> None:
        """Give the loop's hook an error that no caller can be told of."""
        if self._reactor is not None:
            with contextlib.suppress(Exception):  # such as RuntimeError: the loop is closed
                self._reactor.add_callback(_raise, [error])

    def _maybe_run_close_callback(self) -> None:
        callback = self._close_callback
        if callback is not None and self._closed and not self.reading():
            self._close_callback = None
            reactor = self._use_reactor()
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody is to be told
                # It only has the loop call what was given, which is one hop more than a result
                # takes to its callback; so it comes after that.
                reactor.add_callback(callback)

    def _deliver(self, callback: Callable[[Any], object], future: "asyncio.Future[Any]") -> None:
        """Give a done future's result to a callback, or its error to the loop's hook."""
        if future.cancelled():
            return
        error = future.exception()
        if error is None:
            self._use_reactor().add_callback(callback, future.result())
        else:
            self._use_reactor().add_callback(_raise, [error])


def bind_context(function: Callable[..., object], *args: Any) -> Callable[..., object]:
    """Give a function that runs in the context of the caller of this one, and some arguments."""
    run: Any = contextvars.copy_context().run
    return partial(run, function, *args)


def settle(future: "asyncio.Future[None]") -> None:
    """Mark a future as done, unless it is."""
    if not future.done():
        with contextlib.suppress(RuntimeError):  # its loop is closed, and nobody can wait for it
            future.set_result(None)


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


def _raise(errors: list[BaseException]) -> None:
    # The frames that called this are in the traceback, and have its argument.
    raise errors.pop()
