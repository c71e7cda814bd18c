"""File descriptor handlers on an asyncio loop's `add_reader` and `add_writer`.

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
from typing import Any

from waterspout.ioloop._selectorthread import SelectorThread
from waterspout.ioloop.scheduling import ERROR, READ, WRITE, EventCallback, FileDescriptor

HANGUP_POLL_SECONDS = 0.05
"""How often a descriptor with unwanted bytes is asked whether it was hung up."""

_MASK = READ | WRITE | ERROR


class _Handler:
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


class Handlers:
    """The descriptors that one asyncio loop watches for us.

    Args:
        loop: The loop. If it cannot watch descriptors, a thread does it.
        is_closed: Whether the loop is closed; raises if it must not be touched.
        run: Calls a handler with its arguments and reports what it raises.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        is_closed: Callable[[], bool],
        run: Callable[[EventCallback, Any, int], None],
    ) -> None:
        self._loop = loop
        self._is_closed = is_closed
        self._run = run
        self._watcher: asyncio.AbstractEventLoop | SelectorThread = loop
        self._gives_up = hasattr(select, "poll") and not isinstance(
            loop, asyncio.selector_events.BaseSelectorEventLoop
        )
        self._kernel: Any = getattr(loop, "_waterspout_kernel", kernel)
        self._handlers: dict[int, _Handler] = {}

    def sources(self) -> dict[int, FileDescriptor]:
        """What was registered, as it was given, by descriptor."""
        return {fd: handler.source for fd, handler in self._handlers.items()}

    def add(self, source: FileDescriptor, callback: EventCallback, events: int) -> None:
        """See `Reactor.add_handler`."""
        self._check_open()
        if not callable(callback):
            raise TypeError(f"handler must be callable, not {callback!r}")
        check_events(events)
        fd = fileno(source)
        if fd in self._handlers:
            raise ValueError(f"fd {fd} has a handler already")
        self._kernel.check_open(fd)  # EBADF here, not in some later poll
        handler = _Handler(fd, source, callback)
        self._watch(handler, events)
        self._handlers[fd] = handler

    def update(self, source: FileDescriptor, events: int) -> None:
        """See `Reactor.update_handler`."""
        self._check_open()
        handler = self._find(source)
        check_events(events)
        self._watch(handler, events)

    def remove(self, source: FileDescriptor) -> None:
        """See `Reactor.remove_handler`."""
        closed = self._is_closed()
        handler = self._find(source)
        del self._handlers[handler.fd]
        if not closed:
            # One whose descriptor was closed may be a transport's by now: it is not watched for us.
            with contextlib.suppress(OSError, RuntimeError):
                self._watch(handler, 0)

    def close(self) -> None:
        """Remove all."""
        for handler in list(self._handlers.values()):
            self.remove(handler.fd)
        if isinstance(self._watcher, SelectorThread):
            self._watcher.close()

    def _check_open(self) -> None:
        if self._is_closed():
            raise RuntimeError("the event loop is closed")

    def _find(self, source: FileDescriptor) -> _Handler:
        try:
            return self._handlers[fileno(source)]
        except (KeyError, ValueError):
            # Closed before it was removed: its number is gone, the object is not.
            for handler in self._handlers.values():
                if handler.source is source and not isinstance(source, int):
                    return handler
            raise KeyError(f"fd {source!r} has no handler") from None

    def _watch(self, handler: _Handler, events: int) -> None:
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

    def _add_reader(self, handler: _Handler, events: int) -> None:
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

    def _on_readable(self, handler: _Handler) -> None:
        if handler.events & READ:
            self._on_ready(handler, READ)
        elif self._kernel.hung_up(handler.fd):
            handler.context.run(self._run, handler.callback, handler.source, ERROR)
        else:
            self._watcher.remove_reader(handler.fd)
            handler.reading = False
            handler.poll = self._loop.call_later(HANGUP_POLL_SECONDS, self._poll, handler)

    def _on_ready(self, handler: _Handler, event: int) -> None:
        if handler.events & ERROR and self._kernel.hung_up(handler.fd):
            event |= ERROR
        handler.context.run(self._run, handler.callback, handler.source, event)
        if self._gives_up and self._watcher is self._loop and self._has_error(handler):
            self._loop.call_soon(self._watch_anew, handler)

    def _has_error(self, handler: _Handler) -> bool:
        if self._handlers.get(handler.fd) is not handler:
            return False
        if handler.probe is None:
            handler.probe = select.poll()
            handler.probe.register(handler.fd, 0)
        return any(event & select.POLLERR for _, event in handler.probe.poll(0))

    def _watch_anew(self, handler: _Handler) -> None:
        if self._handlers.get(handler.fd) is handler:
            events = handler.events
            self._watch(handler, 0)
            self._watch(handler, events)

    def _poll(self, handler: _Handler) -> None:
        """Ask again about a descriptor that has bytes nobody wants."""
        with contextlib.suppress(OSError):  # it was closed, and not removed
            self._watch(handler, handler.events)


def check_events(events: int) -> None:
    """Raise unless `events` is a union of READ, WRITE and ERROR, and not empty."""
    if not isinstance(events, int):
        raise TypeError(f"events must be a mask of READ, WRITE and ERROR, not {events!r}")
    if not events or events & ~_MASK:
        raise ValueError(f"events must be a mask of READ, WRITE and ERROR, not {events:#x}")


def fileno(source: FileDescriptor) -> int:
    """Give the descriptor of what a caller calls one."""
    if isinstance(source, int):
        fd = source
    elif hasattr(source, "fileno"):
        fd = source.fileno()
    else:
        raise TypeError(f"fd must be a descriptor or have fileno(), not {source!r}")
    if not 0 <= fd < 2**31:
        raise ValueError(f"fd must be an open descriptor, not {source!r}")
    return fd


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
