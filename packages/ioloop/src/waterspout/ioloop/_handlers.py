"""The handlers of one loop's file descriptors.

Which poller calls them depends on the system: `EpollPoller` where there is an epoll and the loop's
descriptors are the kernel's, `AddReaderPoller` elsewhere.

All three methods may be called from any thread. The table is changed before the kernel is asked,
and changed back if the kernel refuses; both happen under one lock.
"""

from __future__ import annotations

import asyncio
import errno
import select
import threading
from collections.abc import Callable

from waterspout.ioloop._epoll import EpollPoller
from waterspout.ioloop._watcher import (
    AddReaderPoller,
    Registration,
    Registrations,
    kernel,
    kernel_of,
    runs_elsewhere,
)
from waterspout.ioloop.scheduling import ERROR, READ, WRITE, EventCallback, FileDescriptor

_MASK = READ | WRITE | ERROR


class Handlers:
    """The handlers of one asyncio loop.

    Args:
        loop: The loop.
        report: Called with a handler while the exception that it raised is being handled.

    Attributes:
        is_closed: Whether the loop is closed. In a forked child it raises.
    """

    def __init__(
        self, loop: asyncio.AbstractEventLoop, report: Callable[[EventCallback], None]
    ) -> None:
        self._loop = loop
        self.is_closed: Callable[[], bool] = loop.is_closed
        self._kernel = kernel_of(loop)
        self._table = Registrations(report)
        self._poller: EpollPoller | AddReaderPoller | None = None

    @property
    def own_descriptor(self) -> int:
        """The descriptor that the loop polls instead of those that have handlers; -1 without."""
        return self._poller.fileno() if isinstance(self._poller, EpollPoller) else -1

    def sources(self) -> dict[int, FileDescriptor]:
        """What was registered, as it was given, by descriptor."""
        return {fd: handler.source for fd, handler in self._table.by_fd.items()}

    def add(self, source: FileDescriptor, callback: EventCallback, events: int) -> None:
        """See `Reactor.add_handler`."""
        self._check_open()
        if not callable(callback):
            raise TypeError(f"handler must be callable, not {callback!r}")
        check_events(events)
        fd = fileno(source)
        table = self._table
        with table.lock:
            if fd in table.by_fd and not self._forget_if_gone(table.by_fd[fd]):
                raise ValueError(f"fd {fd} has a handler already")
            self._kernel.check_open(fd)  # EBADF here, not in some later poll
            if self._poller is None:
                self._poller = self._new_poller()
            handler = table.by_fd[fd] = Registration(fd, source, callback)
            try:
                self._poller.watch(handler, events)
            except BaseException:
                table.by_fd.pop(fd, None)
                raise

    def update(self, source: FileDescriptor, events: int) -> None:
        """See `Reactor.update_handler`."""
        self._check_open()
        handler = self._find(source)
        check_events(events)
        poller = self._poller
        assert poller is not None
        if poller.try_to_modify(handler, events):
            return
        with self._table.lock:
            if self._table.by_fd.get(handler.fd) is not handler:  # another thread was faster
                raise KeyError(f"fd {source!r} has no handler")
            poller.watch(handler, events)

    def remove(self, source: FileDescriptor) -> None:
        """See `Reactor.remove_handler`."""
        if self.is_closed():
            return  # and so are all handlers gone
        with self._table.lock:
            handler = self._find(source)
            del self._table.by_fd[handler.fd]
            assert self._poller is not None
            # A descriptor that was closed may be a transport's by now: it is not polled for us.
            try:
                self._poller.watch(handler, 0)
            except (OSError, RuntimeError):
                handler.events = 0

    def begin_last_run(self) -> None:
        """Call no handler again that raises `SystemExit` or `KeyboardInterrupt` from now on."""
        self._table.is_ending = True

    def close(self) -> None:
        """Remove all handlers of a closed loop. Closing twice does nothing."""
        with self._table.lock:
            handlers = list(self._table.by_fd.values())
            self._table.by_fd.clear()
            for handler in handlers:
                handler.events = 0
            poller, self._poller = self._poller, None
        if poller is not None:
            poller.close()

    def become_inherited(self, refuse: Callable[[], bool]) -> None:  # pragma: no cover (a child)
        """Do nothing any more with what a parent process uses. See `_fork`."""
        self.is_closed = refuse
        self._table.lock = threading.RLock()  # a thread of the parent may have held the other one
        if self._poller is not None:
            self._poller.abandon()

    def _new_poller(self) -> EpollPoller | AddReaderPoller:
        if hasattr(select, "epoll") and self._kernel is kernel:
            poller = EpollPoller(self._loop, self._table)
            try:
                if runs_elsewhere(self._loop):
                    self._loop.call_soon_threadsafe(self._attach, poller)
                else:
                    poller.attach()
                return poller
            except NotImplementedError:
                poller.close()
            except BaseException:
                poller.close()
                raise
        return AddReaderPoller(self._loop, self._table)

    def _attach(self, poller: EpollPoller) -> None:
        """Have the loop poll an epoll that another thread has opened."""
        failed = []
        with self._table.lock:
            try:
                poller.attach()
            except Exception:
                poller.close()
                self._poller = AddReaderPoller(self._loop, self._table)
                for handler in self._table.by_fd.values():
                    events, handler.events = handler.events, 0
                    try:
                        self._poller.watch(handler, events)
                    except Exception as error:
                        failed.append((handler, error))
        for handler, reason in failed:
            self._table.report_unpollable(handler, reason)

    def _forget_if_gone(self, handler: Registration) -> bool:
        """Forget a handler if its descriptor was closed, and the number is another file's by now.

        One program part that forgets to remove its handlers must not keep others from adding
        theirs.
        """
        assert self._poller is not None
        fd, source = handler.fd, handler.source
        if isinstance(source, int):
            is_gone = self._poller.is_gone(handler)
        else:
            try:
                is_gone = fileno(source) != fd
            except (OSError, ValueError):
                is_gone = True
        if is_gone:
            self.remove(fd)
            error = OSError(errno.EBADF, "the descriptor was closed, and is another file's by now")
            self._loop.call_soon_threadsafe(self._table.report_unpollable, handler, error)
        return is_gone

    def _check_open(self) -> None:
        if self.is_closed():
            raise RuntimeError("the event loop is closed")

    def _find(self, source: FileDescriptor) -> Registration:
        by_fd = self._table.by_fd
        try:
            return by_fd[fileno(source)]
        except (KeyError, OSError, ValueError):
            # Closed before it was removed: its number is gone, the object is not.
            for handler in by_fd.values():
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
