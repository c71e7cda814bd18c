"""Descriptors that a loop watches, by its `add_reader` and `add_writer`.

An asyncio loop tells of reading and of writing, never of errors: where a descriptor is hung up,
it calls whichever of the two it was asked for. So a handler whose mask has `ERROR` has the kernel
asked, when it is called, whether the descriptor was hung up; other handlers pay nothing. A mask
of `ERROR` alone is watched as a reader. While such a descriptor has bytes that nobody asked
for, it would be reported in every iteration, so it is asked by a timer instead.

libuv, and so uvloop, stops watching a descriptor that has an error, after telling once. On loops
other than asyncio's own selector loops, the kernel is therefore asked after each call whether
there is one, and if so the descriptor is watched anew: a handler that took only some of the bytes
is called again.
"""

from __future__ import annotations

import asyncio
import asyncio.selector_events
import contextlib
import contextvars
import os
import select
import sys
from collections.abc import Callable
from typing import Any, Protocol

from waterspout.ioloop._selectorthread import SelectorThread
from waterspout.ioloop.scheduling import ERROR, READ, WRITE, EventCallback, FileDescriptor

HANGUP_POLL_SECONDS = 0.05
"""How often a descriptor with unwanted bytes is asked whether it was hung up."""


class Handler:
    """One descriptor, and who is to be told of it.

    Attributes:
        events: What it is watched for; 0 once it is not watched any more.
    """

    __slots__ = (
        "callback",
        "context",
        "events",
        "fd",
        "is_direct",
        "poll",
        "probe",
        "reading",
        "source",
        "writing",
    )

    def __init__(self, fd: int, source: FileDescriptor, callback: EventCallback) -> None:
        self.fd = fd
        self.source = source
        self.callback = callback
        self.context = contextvars.copy_context()
        self.events = 0
        self.reading = False
        self.is_direct = False  # whether the loop calls its callback to read without `Handlers`
        self.writing = False
        self.poll: asyncio.TimerHandle | None = None
        self.probe: Any = None  # asks for an error of the descriptor


class Watcher(Protocol):
    """Who tells handlers of events."""

    def watch(self, handler: Handler, events: int) -> None:
        """Watch for what a mask says from now on, for nothing if it is 0.

        Raises:
            OSError: If it cannot be watched; what was watched for before still is.
        """

    def close(self) -> None:
        """Let go of what it uses. No handlers are left."""


class LoopWatcher:
    """Watches by a loop, or if that cannot watch, by a thread.

    Args:
        loop: The loop.
        report: Called with a handler's callback, while what it has raised is handled.
    """

    def __init__(
        self, loop: asyncio.AbstractEventLoop, report: Callable[[EventCallback], None]
    ) -> None:
        self._loop = loop
        self._report = report
        self._watcher: asyncio.AbstractEventLoop | SelectorThread = loop
        self._gives_up = hasattr(select, "poll") and not isinstance(
            loop, asyncio.selector_events.BaseSelectorEventLoop
        )
        self._kernel = kernel_of(loop)

    def close(self) -> None:
        if isinstance(self._watcher, SelectorThread):
            self._watcher.close()

    def _run(self, callback: EventCallback, source: Any, events: int) -> None:
        try:
            callback(source, events)
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException:
            self._report(callback)

    def watch(self, handler: Handler, events: int) -> None:
        """Bring the loop's reader and writer of a descriptor in line with a mask."""
        reading = bool(events & READ) or events == ERROR
        writing = bool(events & WRITE)
        added_reader = reading and not handler.reading
        if added_reader:
            self._add_reader(handler, events)
        elif reading and handler.is_direct and events & ERROR:
            self._watcher.remove_reader(handler.fd)
            self._add_reader(handler, events)
        try:
            if writing and not handler.writing:
                self._add("add_writer", handler.fd, self._on_ready, handler, WRITE)
        except BaseException:
            if added_reader:
                self._watcher.remove_reader(handler.fd)
            raise
        if handler.reading and not reading:
            self._watcher.remove_reader(handler.fd)
        if handler.writing and not writing:
            self._watcher.remove_writer(handler.fd)
        handler.reading, handler.writing, handler.events = reading, writing, events
        if handler.poll is not None:
            handler.poll.cancel()
            handler.poll = None

    def _add_reader(self, handler: Handler, events: int) -> None:
        handler.is_direct = False
        if self._watcher is self._loop and not (events & ERROR or self._gives_up):
            # The kernel is asked for nothing besides, so the loop may call it straight.
            arguments: Any = (handler.fd, self._run, handler.callback, handler.source, READ)
            add_reader: Callable[..., object] = self._loop.add_reader
            with contextlib.suppress(NotImplementedError):
                # A copy, since this may be called inside of the handler.
                handler.context.copy().run(add_reader, *arguments)
                handler.is_direct = True
                return
        self._add("add_reader", handler.fd, self._on_readable, handler)

    def _add(self, method: str, fd: int, callback: Callable[..., object], *args: Any) -> None:
        try:
            getattr(self._watcher, method)(fd, callback, *args)
        except NotImplementedError:
            self._watcher = SelectorThread(self._loop)
            getattr(self._watcher, method)(fd, callback, *args)

    def _on_readable(self, handler: Handler) -> None:
        if handler.events & READ:
            self._on_ready(handler, READ)
        elif self._kernel.hung_up(handler.fd):
            handler.context.run(self._run, handler.callback, handler.source, ERROR)
        else:
            self._watcher.remove_reader(handler.fd)
            handler.reading = False
            handler.poll = self._loop.call_later(HANGUP_POLL_SECONDS, self._poll, handler)

    def _on_ready(self, handler: Handler, event: int) -> None:
        if handler.events & ERROR and self._kernel.hung_up(handler.fd):
            event |= ERROR
        handler.context.run(self._run, handler.callback, handler.source, event)
        if self._gives_up and self._watcher is self._loop and self._has_error(handler):
            self._loop.call_soon(self._watch_anew, handler)

    def _has_error(self, handler: Handler) -> bool:
        if not handler.events:
            return False
        if handler.probe is None:
            handler.probe = select.poll()
            handler.probe.register(handler.fd, 0)
        return any(event & select.POLLERR for _, event in handler.probe.poll(0))

    def _watch_anew(self, handler: Handler) -> None:
        if handler.events:
            events = handler.events
            self.watch(handler, 0)
            self.watch(handler, events)

    def _poll(self, handler: Handler) -> None:
        """Ask again about a descriptor that has bytes nobody wants."""
        with contextlib.suppress(OSError):  # it was closed, and not removed
            self.watch(handler, handler.events)


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
