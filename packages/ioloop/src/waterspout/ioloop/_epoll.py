"""Descriptors that an epoll of our own watches, which the loop watches as one descriptor.

All that is ready is then dealt with in one callback of the loop, where `add_reader` has the loop
make one for each: at 64 busy connections that is a tenth of the time of an echo on asyncio's loop.
The kernel also tells of errors and hang-ups unasked (`epoll_ctl(2)`), as long as they last, which
loops do not (see `_watcher`).
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import select
from collections.abc import Callable

from waterspout.ioloop._watcher import Handler
from waterspout.ioloop.scheduling import READ, WRITE, EventCallback

AT_ONCE = 256
"""Descriptors that are dealt with before the loop gets its turn. The kernel passes none over."""

_TROUBLE = 0x008 | 0x010  # EPOLLERR, EPOLLHUP


class EpollWatcher:
    """Watches by an epoll. While it watches nothing, it has none.

    Args:
        loop: The loop.
        report: Called with a handler's callback, while what it has raised is handled.

    Raises:
        NotImplementedError: If the loop cannot watch a descriptor.
    """

    def __init__(
        self, loop: asyncio.AbstractEventLoop, report: Callable[[EventCallback], None]
    ) -> None:
        self._loop = loop
        self._report = report
        self._handlers: dict[int, Handler] = {}
        self._begin()

    def watch(self, handler: Handler, events: int) -> None:
        try:
            self._change(handler.fd, handler, events)
            handler.events = events
        finally:
            if not self._handlers:
                self.close()

    def _change(self, fd: int, handler: Handler, events: int) -> None:
        mask = events & (READ | WRITE)  # of the others the kernel tells anyhow
        if not events:
            del self._handlers[fd]
            self._epoll.unregister(fd)
        elif handler.events:
            self._epoll.modify(fd, mask)
        else:
            # As `add_reader`: a transport's descriptor is refused, and a reader's taken over.
            self._loop.remove_reader(fd)
            if self._epoll.closed:
                self._begin()
            try:
                self._epoll.register(fd, mask)
            except FileExistsError:  # see `_renew`
                self._epoll.modify(fd, mask)
            self._handlers[fd] = handler

    def close(self) -> None:
        if not self._epoll.closed:
            with contextlib.suppress(RuntimeError):  # the loop is closed
                self._loop.remove_reader(self._epoll.fileno())
            self._epoll.close()

    def _begin(self) -> None:
        self._epoll = select.epoll()
        add_reader: Callable[..., object] = self._loop.add_reader
        try:
            # Each handler runs in its own context; this one is nobody's.
            contextvars.Context().run(add_reader, self._epoll.fileno(), self._on_ready)
        except BaseException:
            self._epoll.close()
            raise

    def _renew(self) -> None:
        """Take a new epoll, since the kernel watches a file that nobody has asked it for.

        That was closed before its handler was removed, and somebody else has it open (`epoll(7)`):
        there is no other way to be rid of it.
        """
        self.close()
        self._begin()
        for handler in self._handlers.values():
            with contextlib.suppress(OSError):  # another that was closed
                self._epoll.register(handler.fd, handler.events & (READ | WRITE))

    def _on_ready(self) -> None:
        handlers = self._handlers
        # Who is meant is settled first: a handler may remove another and reuse its number.
        told = [(handlers.get(fd), events) for fd, events in self._epoll.poll(0, AT_ONCE)]
        for handler, ready in told:
            if handler is None:
                self._renew()
                return
            # Who does not ask for errors meets them by reading or writing.
            events = handler.events if ready & _TROUBLE else handler.events & ready
            if events:
                try:
                    handler.context.run(handler.callback, handler.source, events)
                except (KeyboardInterrupt, SystemExit):
                    raise
                except BaseException:  # whatever else one raises, the others get their events
                    handler.context.run(self._report, handler.callback)
