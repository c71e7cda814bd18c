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

    __slots__ = ("callback", "context", "events", "fd", "source")

    def __init__(self, fd: int, source: FileDescriptor, callback: EventCallback) -> None:
        self.fd = fd
        self.source = source
        self.callback = callback
        self.context = contextvars.copy_context()
        self.events = 0


class Watcher(Protocol):
    """Who tells handlers of events."""

    def watch(self, handler: Handler, events: int) -> None:
        """Watch for what a mask says from now on, for nothing if it is 0.

        Raises:
            OSError: If it cannot be watched; what was watched for before still is.
        """

    def close(self) -> None:
        """Let go of what it uses. No handlers are left."""


class _Watch:
    """What a `LoopWatcher` knows of a handler's descriptor.

    Attributes:
        reading: Whether the descriptor has a reader.
        writing: Whether it has a writer.
        is_direct: Whether the reader is the handler's callback itself.
        poll: The timer that asks whether it was hung up.
        probe: Asks for an error of the descriptor.
    """

    __slots__ = ("handler", "is_direct", "poll", "probe", "reading", "writing")

    def __init__(self, handler: Handler) -> None:
        self.handler = handler
        self.reading = self.writing = self.is_direct = False
        self.poll: asyncio.TimerHandle | None = None
        self.probe: Any = None


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
        self._watches: dict[Handler, _Watch] = {}
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
        watch = self._watches.pop(handler, None) or _Watch(handler)
        try:
            self._bring_in_line(watch, events)
        finally:
            if events and handler.events:
                self._watches[handler] = watch

    def _bring_in_line(self, watch: _Watch, events: int) -> None:
        handler = watch.handler
        reading = bool(events & READ) or events == ERROR
        writing = bool(events & WRITE)
        added_reader = reading and not watch.reading
        if added_reader:
            self._add_reader(watch, events)
        elif reading and watch.is_direct and events & ERROR:
            self._watcher.remove_reader(handler.fd)
            self._add_reader(watch, events)
        try:
            if writing and not watch.writing:
                self._add("add_writer", handler.fd, self._on_ready, watch, WRITE)
        except BaseException:
            if added_reader:
                self._watcher.remove_reader(handler.fd)
            raise
        if watch.reading and not reading:
            self._watcher.remove_reader(handler.fd)
        if watch.writing and not writing:
            self._watcher.remove_writer(handler.fd)
        watch.reading, watch.writing, handler.events = reading, writing, events
        if watch.poll is not None:
            watch.poll.cancel()
            watch.poll = None

    def _add_reader(self, watch: _Watch, events: int) -> None:
        handler, watch.is_direct = watch.handler, False
        if self._watcher is self._loop and not (events & ERROR or self._gives_up):
            # The kernel is asked for nothing besides, so the loop may call it straight.
            arguments: Any = (handler.fd, self._run, handler.callback, handler.source, READ)
            add_reader: Callable[..., object] = self._loop.add_reader
            with contextlib.suppress(NotImplementedError):
                # A copy, since this may be called inside of the handler.
                handler.context.copy().run(add_reader, *arguments)
                watch.is_direct = True
                return
        self._add("add_reader", handler.fd, self._on_readable, watch)

    def _add(self, method: str, fd: int, callback: Callable[..., object], *args: Any) -> None:
        try:
            getattr(self._watcher, method)(fd, callback, *args)
        except NotImplementedError:
            self._watcher = SelectorThread(self._loop)
            getattr(self._watcher, method)(fd, callback, *args)

    def _on_readable(self, watch: _Watch) -> None:
        handler = watch.handler
        if handler.events & READ:
            self._on_ready(watch, READ)
        elif self._kernel.hung_up(handler.fd):
            handler.context.run(self._run, handler.callback, handler.source, ERROR)
        else:
            self._watcher.remove_reader(handler.fd)
            watch.reading = False
            watch.poll = self._loop.call_later(HANGUP_POLL_SECONDS, self._poll, handler)

    def _on_ready(self, watch: _Watch, event: int) -> None:
        handler = watch.handler
        if handler.events & ERROR and self._kernel.hung_up(handler.fd):
            event |= ERROR
        handler.context.run(self._run, handler.callback, handler.source, event)
        if self._gives_up and self._watcher is self._loop and self._has_error(watch):
            self._loop.call_soon(self._watch_anew, handler)

    def _has_error(self, watch: _Watch) -> bool:
        if not watch.handler.events:
            return False
        if watch.probe is None:
            watch.probe = select.poll()
            watch.probe.register(watch.handler.fd, 0)
        return any(event & select.POLLERR for _, event in watch.probe.poll(0))

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
