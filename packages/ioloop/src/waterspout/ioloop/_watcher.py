"""Registrations of descriptors, and a poller that uses a loop's `add_reader` and `add_writer`.

An asyncio loop reports reading and writing, never errors: where a descriptor is hung up, it calls
whichever of the two is registered. So for a handler whose mask has `ERROR` the kernel is asked,
when the handler is called, whether the descriptor was hung up; other handlers pay nothing. A mask
of `ERROR` alone is registered as a reader. While such a descriptor has bytes that nobody asked
for, it would be reported in every iteration, so a timer asks the kernel instead.

libuv, and so uvloop, stops polling a descriptor that has an error after it has reported it once.
On loops other than asyncio's own selector loops, the kernel is therefore asked after each call
whether there is one, and if so the descriptor is registered anew: a handler that took only some of
the bytes is called again.

`add_reader` of an arbitrary loop belongs to the loop's thread. What another thread asks for is done
there, in the order in which it was asked.
"""

from __future__ import annotations

import asyncio
import asyncio.selector_events
import contextlib
import contextvars
import errno
import os
import select
import selectors
import sys
import threading
from collections import deque
from collections.abc import Callable
from typing import Any, Protocol

from waterspout.ioloop._selectorthread import SelectorThread
from waterspout.ioloop.scheduling import ERROR, READ, WRITE, EventCallback, FileDescriptor

HANGUP_POLL_SECONDS = 0.05
"""How often a descriptor with unwanted bytes is asked whether it was hung up."""


class Registration:
    """One descriptor and its handler.

    Attributes:
        events: What its handler is called for; 0 if the descriptor is not polled: not yet, not any
            more, or because that became impossible.
    """

    __slots__ = ("callback", "context", "events", "fd", "source")

    def __init__(self, fd: int, source: FileDescriptor, callback: EventCallback) -> None:
        self.fd = fd
        self.source = source
        self.callback = callback
        self.context = contextvars.copy_context()
        self.events = 0


class Registrations:
    """The registrations of one loop, which its poller looks up when events arrive.

    Attributes:
        by_fd: The registrations by descriptor. An entry is made before the kernel learns of the
            descriptor and deleted before the kernel forgets it, because an event may arrive on the
            loop's thread while another thread is still inside of the call.
        lock: Held while `by_fd` or what the kernel polls changes. It is reentrant because the
            garbage collector may close a stream, and so remove a handler, at any moment.
        report: Called with a handler while its exception is being handled.
        is_ending: Whether the loop runs for the last time, to let its tasks finish.
    """

    __slots__ = ("by_fd", "is_ending", "lock", "report")

    def __init__(self, report: Callable[[EventCallback], None]) -> None:
        self.by_fd: dict[int, Registration] = {}
        self.lock = threading.RLock()
        self.report = report
        self.is_ending = False

    def report_unpollable(self, handler: Registration, error: BaseException) -> None:
        """Report that a handler is not called any more because of its descriptor."""
        number = error.errno if isinstance(error, OSError) and error.errno else errno.EBADF
        try:
            raise OSError(
                number, f"the handler of descriptor {handler.fd} is not called any more: {error}"
            ) from error
        except OSError:
            handler.context.run(self.report, handler.callback)

    def is_last_call(self, error: BaseException) -> bool:
        """Whether a handler that raised `KeyboardInterrupt` or `SystemExit` is not called again.

        Its descriptor probably stays ready. It would raise again in the run in which the remaining
        tasks finish, and end that too early. A `KeyboardInterrupt` may be a Ctrl-C that merely
        arrived during the call, after which a program may go on.
        """
        return self.is_ending or isinstance(error, SystemExit)


class Poller(Protocol):
    """Calls handlers when the kernel reports events."""

    def watch(self, handler: Registration, events: int) -> None:
        """Poll a descriptor for the events of a mask from now on; not at all if the mask is 0.

        The caller holds the lock of the registrations.

        Raises:
            OSError: If it cannot be polled; what it was polled for before still holds.
        """

    def try_to_modify(self, handler: Registration, events: int) -> bool:
        """Change the mask of a descriptor that is polled, if that needs no lock.

        Returns:
            Whether it was done.
        """
        ...

    def is_gone(self, handler: Registration) -> bool:
        """Whether a descriptor is known to be another file than the one that is polled."""
        ...

    def close(self) -> None:
        """Release descriptors and threads. No registrations are left."""


def runs_elsewhere(loop: asyncio.AbstractEventLoop) -> bool:
    """Whether a loop is running in another thread."""
    return loop.is_running() and asyncio._get_running_loop() is not loop


def check_selectable(loop: asyncio.AbstractEventLoop, fd: int) -> None:
    """Raise `OSError` if a loop polls with select(2) and that cannot take a descriptor.

    `add_reader` would accept it, and the loop would end with an exception in its next iteration.
    """
    if isinstance(getattr(loop, "_selector", None), selectors.SelectSelector):
        try:
            select.select([fd], [], [], 0)
        except ValueError as error:
            raise OSError(errno.EINVAL, f"select cannot take descriptor {fd}: {error}") from error


class _ReaderState:
    """The state of a registration in an `AddReaderPoller`.

    Attributes:
        reading: Whether the loop has a reader of the descriptor.
        writing: Whether it has a writer.
        is_direct: Whether the reader calls the handler and does nothing else.
        poll: The timer that asks whether the descriptor was hung up.
        probe: Asks for an error of the descriptor.
    """

    __slots__ = ("handler", "is_direct", "poll", "probe", "reading", "writing")

    def __init__(self, handler: Registration) -> None:
        self.handler = handler
        self.reading = self.writing = self.is_direct = False
        self.poll: asyncio.TimerHandle | None = None
        self.probe: Any = None


class AddReaderPoller:
    """Polls by a loop's `add_reader`, or by a thread where the loop has none.

    Args:
        loop: The loop.
        table: The loop's registrations.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, table: Registrations) -> None:
        self._loop = loop
        self._table = table
        self._states: dict[Registration, _ReaderState] = {}
        self._requests: deque[tuple[Registration, int]] = deque()  # of other threads
        self._watcher: asyncio.AbstractEventLoop | SelectorThread = loop
        self._gives_up = hasattr(select, "poll") and not isinstance(
            loop, asyncio.selector_events.BaseSelectorEventLoop
        )
        self._kernel = kernel_of(loop)

    def close(self) -> None:
        for state in self._states.values():
            if state.poll is not None:
                state.poll.cancel()
        self._states.clear()
        if isinstance(self._watcher, SelectorThread):
            self._watcher.close()
            self._watcher = self._loop  # the thread's object refers to this one

    def abandon(self) -> None:  # pragma: no cover (in a forked child)
        """Do nothing any more with what a parent process uses."""
        if isinstance(self._watcher, SelectorThread):
            self._watcher.abandon()

    def watch(self, handler: Registration, events: int) -> None:
        if runs_elsewhere(self._loop):
            self._loop.call_soon_threadsafe(self._serve_requests)
            self._requests.append((handler, events))
            if not events:
                handler.events = 0  # not called again, though its descriptor is still polled
        else:
            if self._requests:
                self._serve_requests()
            self._set_events(handler, events)

    def try_to_modify(self, handler: Registration, events: int) -> bool:
        return False

    def is_gone(self, handler: Registration) -> bool:
        return False  # a loop does not tell

    def _serve_requests(self) -> None:
        """Do what other threads have asked for."""
        with self._table.lock:
            while self._requests:
                handler, events = self._requests.popleft()
                try:
                    self._set_events(handler, events)
                except Exception as error:
                    self._loop.call_soon(self._report_unpollable, handler, error)

    def _set_events(self, handler: Registration, events: int) -> None:
        """Bring the loop's reader and writer of a descriptor in line with a mask."""
        state = self._states.pop(handler, None) or _ReaderState(handler)
        try:
            self._bring_in_line(state, events)
        finally:
            if events and handler.events:
                self._states[handler] = state

    def _bring_in_line(self, state: _ReaderState, events: int) -> None:
        handler = state.handler
        reading = bool(events & READ) or events == ERROR
        writing = bool(events & WRITE)
        added_reader = reading and not state.reading
        if added_reader:
            self._add_reader(state, events)
        elif reading and state.is_direct and events & ERROR:
            self._watcher.remove_reader(handler.fd)
            self._add_reader(state, events)
        try:
            if writing and not state.writing:
                self._add("add_writer", handler.fd, self._on_ready, state, WRITE)
        except BaseException:
            if added_reader:
                self._watcher.remove_reader(handler.fd)
            raise
        if state.reading and not reading:
            self._watcher.remove_reader(handler.fd)
        if state.writing and not writing:
            self._watcher.remove_writer(handler.fd)
        state.reading, state.writing, handler.events = reading, writing, events
        if state.poll is not None:
            state.poll.cancel()
            state.poll = None

    def _add_reader(self, state: _ReaderState, events: int) -> None:
        handler, state.is_direct = state.handler, False
        if self._watcher is self._loop and not (events & ERROR or self._gives_up):
            # The kernel is asked for nothing besides, so the loop may call the handler itself.
            check_selectable(self._loop, handler.fd)
            add_reader: Callable[..., object] = self._loop.add_reader
            with contextlib.suppress(NotImplementedError):
                # A copy, since this may be called inside of the handler.
                handler.context.copy().run(add_reader, handler.fd, self._call_direct, handler)
                state.is_direct = True
                return
        self._add("add_reader", handler.fd, self._on_readable, state)

    def _add(self, method: str, fd: int, callback: Callable[..., object], *args: Any) -> None:
        try:
            if self._watcher is self._loop:
                check_selectable(self._loop, fd)
            getattr(self._watcher, method)(fd, callback, *args)
        except NotImplementedError:
            self._watcher = SelectorThread(self._loop, self._on_unpollable)
            getattr(self._watcher, method)(fd, callback, *args)

    def _call_direct(self, handler: Registration) -> None:
        if handler.events:  # another thread may have removed it
            self._call(handler, READ)

    def _call(self, handler: Registration, events: int) -> None:
        try:
            handler.callback(handler.source, events)
        except (KeyboardInterrupt, SystemExit) as error:
            if self._table.is_last_call(error):
                self._drop(handler)
            raise
        except BaseException:
            self._table.report(handler.callback)

    def _on_readable(self, state: _ReaderState) -> None:
        handler = state.handler
        if handler.events & READ:
            self._on_ready(state, READ)
        elif not handler.events:
            pass  # another thread has removed it
        elif self._kernel.hung_up(handler.fd):
            handler.context.run(self._call, handler, ERROR)
        else:
            self._watcher.remove_reader(handler.fd)
            state.reading = False
            state.poll = self._loop.call_later(HANGUP_POLL_SECONDS, self._poll, handler)

    def _on_ready(self, state: _ReaderState, event: int) -> None:
        handler = state.handler
        if handler.events & ERROR and self._kernel.hung_up(handler.fd):
            event |= ERROR
        event &= handler.events
        if event:
            handler.context.run(self._call, handler, event)
        if self._gives_up and self._watcher is self._loop and self._has_error(state):
            self._loop.call_soon(self._watch_anew, handler)

    def _has_error(self, state: _ReaderState) -> bool:
        if not state.handler.events:
            return False
        if state.probe is None:
            state.probe = select.poll()
            state.probe.register(state.handler.fd, 0)
        return any(event & select.POLLERR for _, event in state.probe.poll(0))

    def _watch_anew(self, handler: Registration) -> None:
        if handler.events:
            with self._table.lock:
                events = handler.events
                self._set_events(handler, 0)
            self._set_or_drop(handler, events)

    def _poll(self, handler: Registration) -> None:
        """Ask again about a descriptor that has bytes nobody wants."""
        self._set_or_drop(handler, handler.events)

    def _set_or_drop(self, handler: Registration, events: int) -> None:
        try:
            with self._table.lock:
                self._set_events(handler, events)
        except OSError as error:
            self._drop(handler)
            self._report_unpollable(handler, error)

    def _drop(self, handler: Registration) -> None:
        """Stop polling for a handler that stays registered."""
        with self._table.lock, contextlib.suppress(OSError, RuntimeError):
            self._set_events(handler, 0)
        handler.events = 0

    def _on_unpollable(self, fd: int, error: BaseException) -> None:
        """Take note that a `SelectorThread` has dropped a descriptor."""
        for handler in [one for one in self._states if one.fd == fd]:
            del self._states[handler]
            handler.events = 0
            # Later: a handler that is removed right after its descriptor was closed is no error.
            self._loop.call_soon(self._report_unpollable, handler, error)

    def _report_unpollable(self, handler: Registration, error: BaseException) -> None:
        if self._table.by_fd.get(handler.fd) is handler:
            self._table.report_unpollable(handler, error)


class Kernel:
    """What is asked about descriptors besides their readiness.

    A loop whose descriptors are not the kernel's has an attribute `_waterspout_kernel` instead.
    """

    def check_open(self, fd: int) -> None:
        """Raise `OSError` unless a descriptor is open."""
        os.fstat(fd) if sys.platform != "win32" else None  # there, only the selector can tell

    if hasattr(select, "poll"):

        def hung_up(self, fd: int) -> bool:
            """Whether a descriptor failed or was hung up."""
            poll = select.poll()
            poll.register(fd, 0)
            return bool(poll.poll(0))

    else:  # pragma: no cover (Windows)

        def hung_up(self, fd: int) -> bool:
            """Whether a descriptor failed or was hung up."""
            return bool(select.select([], [], [fd], 0)[2])


kernel = Kernel()


def kernel_of(loop: asyncio.AbstractEventLoop) -> Kernel:
    """Who is asked about the descriptors of a loop."""
    found: Kernel = getattr(loop, "_waterspout_kernel", kernel)
    return found
