"""The table of file descriptor handlers of one loop; who watches the descriptors is another's job.

`EpollWatcher` does, where there is an epoll and the loop's descriptors are the kernel's;
`LoopWatcher` elsewhere.
"""

from __future__ import annotations

import asyncio
import contextlib
import select
from collections.abc import Callable

from waterspout.ioloop._epoll import EpollWatcher
from waterspout.ioloop._watcher import Handler, LoopWatcher, Watcher, kernel, kernel_of
from waterspout.ioloop.scheduling import ERROR, READ, WRITE, EventCallback, FileDescriptor

_MASK = READ | WRITE | ERROR


class Handlers:
    """The descriptors that are watched for one asyncio loop.

    Args:
        loop: The loop.
        is_closed: Whether the loop is closed; raises if it must not be touched.
        report: Called with a handler, while what it has raised is handled.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        is_closed: Callable[[], bool],
        report: Callable[[EventCallback], None],
    ) -> None:
        self._loop = loop
        self._is_closed = is_closed
        self._report = report
        self._kernel = kernel_of(loop)
        self._watcher: Watcher | None = None
        self._handlers: dict[int, Handler] = {}

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
        handler = Handler(fd, source, callback)
        if self._watcher is None:
            self._watcher = self._new_watcher()
        self._watcher.watch(handler, events)
        self._handlers[fd] = handler

    def update(self, source: FileDescriptor, events: int) -> None:
        """See `Reactor.update_handler`."""
        self._check_open()
        handler = self._find(source)
        check_events(events)
        assert self._watcher is not None
        self._watcher.watch(handler, events)

    def remove(self, source: FileDescriptor) -> None:
        """See `Reactor.remove_handler`."""
        self._is_closed()
        handler = self._find(source)
        del self._handlers[handler.fd]
        assert self._watcher is not None
        # One whose descriptor was closed may be a transport's by now: it is not watched for us.
        with contextlib.suppress(OSError, RuntimeError):
            self._watcher.watch(handler, 0)
        handler.events = 0

    def close(self) -> None:
        """Remove all."""
        for handler in list(self._handlers.values()):
            self.remove(handler.fd)
        if self._watcher is not None:
            self._watcher.close()

    def _new_watcher(self) -> Watcher:
        if hasattr(select, "epoll") and self._kernel is kernel:
            with contextlib.suppress(NotImplementedError):
                return EpollWatcher(self._loop, self._report)
        return LoopWatcher(self._loop, self._report)

    def _check_open(self) -> None:
        if self._is_closed():
            raise RuntimeError("the event loop is closed")

    def _find(self, source: FileDescriptor) -> Handler:
        try:
            return self._handlers[fileno(source)]
        except (KeyError, ValueError):
            # Closed before it was removed: its number is gone, the object is not.
            for handler in self._handlers.values():
                if handler.source is source and not isinstance(source, int):
                    return handler
            raise KeyError(f"fd {source!r} has no handler") from None


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
