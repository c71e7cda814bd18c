"""Descriptors that an epoll of our own polls, which the loop polls as one descriptor.

All that is ready is then dealt with in one callback of the loop, where `add_reader` has the loop
make one for each: at 64 busy connections that is a tenth of the time of an echo on asyncio's loop.
The kernel also reports errors and hang-ups unasked (`epoll_ctl(2)`), as long as they last, which
loops do not (see `_watcher`).

The epoll stays open as long as its loop. So handlers come and go without a new descriptor, even
when none are left, and from any thread: the kernel lets one thread change an epoll while another
waits for it. Only `attach` and `_reopen` touch the loop, and they run in its thread.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import errno
import select
from collections.abc import Callable

from waterspout.ioloop._watcher import Registration, Registrations, check_selectable
from waterspout.ioloop.scheduling import READ, WRITE

AT_ONCE = 256
"""Descriptors that are dealt with before the loop gets its turn. The kernel passes none over."""

RETRY_SECONDS = 0.1
"""Until an epoll is opened that could not be, for lack of descriptors or memory."""

_ERROR_BITS = 0x008 | 0x010  # EPOLLERR, EPOLLHUP
_EVENTS = READ | WRITE  # of the others the kernel reports anyhow
_SCARCE = (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOSPC)


class EpollPoller:
    """Polls by an epoll.

    Args:
        loop: The loop. It polls the epoll once `attach` was called.
        table: The loop's registrations.

    Raises:
        OSError: If there is no descriptor left for it.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, table: Registrations) -> None:
        self._loop = loop
        self._table = table
        self._retry: asyncio.TimerHandle | None = None
        self._lingering: set[int] = set()
        """Numbers of descriptors that were closed before they were removed. If the file is open
        under another number as well, the kernel goes on to report it (`epoll(7)`)."""
        self._epoll = select.epoll()

    def fileno(self) -> int:
        """Give the descriptor of the epoll, or -1 while there is none."""
        return -1 if self._epoll.closed else self._epoll.fileno()

    def attach(self) -> None:
        """Have the loop poll the epoll. Called in the loop's thread.

        Raises:
            NotImplementedError: If the loop has no `add_reader`.
            OSError: If the loop cannot poll the epoll.
        """
        check_selectable(self._loop, self._epoll.fileno())
        add_reader: Callable[..., object] = self._loop.add_reader
        # Each handler runs in its own context; this one is nobody's.
        contextvars.Context().run(add_reader, self._epoll.fileno(), self._on_ready)

    def close(self) -> None:
        if self._retry is not None:
            self._retry.cancel()
            self._retry = None
        if not self._epoll.closed:
            with contextlib.suppress(RuntimeError):  # the loop is closed
                self._loop.remove_reader(self._epoll.fileno())
            self._epoll.close()

    def abandon(self) -> None:  # pragma: no cover (in a forked child)
        """Do nothing any more with an epoll that a parent process uses."""

    def watch(self, handler: Registration, events: int) -> None:
        before, fd = handler.events, handler.fd
        handler.events = events
        try:
            if before and events:
                self._epoll.modify(fd, events & _EVENTS)
            elif events:
                self._register(fd, events)
            elif before:
                self._unregister(fd)
        except BaseException as error:
            if self._lacks(error):
                return
            handler.events = before
            raise

    def try_to_modify(self, handler: Registration, events: int) -> bool:
        """Change the mask of a descriptor without the lock; give up if there is any difficulty.

        The table is changed first, so that `_reopen`, if it happens at the same time, registers
        either the new mask or what is modified here a moment later.
        """
        before = handler.events
        if before:
            handler.events = events
            try:
                self._epoll.modify(handler.fd, events & _EVENTS)
            except (OSError, ValueError):
                handler.events = before
            else:
                return True
        return False

    def _lacks(self, error: BaseException) -> bool:
        """Whether an error is due to an epoll that `_reopen` has not filled or opened again yet.

        Until then, the table alone says what is to be polled.
        """
        return self._retry is not None and isinstance(error, ValueError | FileNotFoundError)

    def is_gone(self, handler: Registration) -> bool:
        """Whether a descriptor is known to be another file than the one that is polled."""
        try:
            if handler.events:
                self._epoll.modify(handler.fd, handler.events & _EVENTS)
        except (OSError, ValueError) as error:
            return not self._lacks(error)
        return False

    def _register(self, fd: int, events: int) -> None:
        # As `add_reader`: a transport's descriptor is refused, and a reader's taken over.
        with contextlib.suppress(NotImplementedError):  # which `attach` will find out
            self._loop.remove_reader(fd)
        try:
            self._epoll.register(fd, events & _EVENTS)
        except FileExistsError:  # it was closed, and the same file has its number again
            self._epoll.modify(fd, events & _EVENTS)

    def _unregister(self, fd: int) -> None:
        try:
            self._epoll.unregister(fd)
        except OSError:  # it was closed, and its number may be another file's
            self._lingering.add(fd)

    def _reopen(self) -> None:
        """Open a new epoll, since the kernel polls a file that nobody has asked it for.

        There is no other way to be rid of a descriptor that was closed before it was removed. The
        old epoll is closed first, so that there is a descriptor for the new one.
        """
        with self._table.lock:
            self.close()
            try:
                self._epoll = select.epoll()
                self.attach()
            except OSError:
                self._epoll.close()
                self._reopen_later()
                return
            self._lingering.clear()
            failed = self._register_all()
        for handler, error in failed:
            self._table.report_unpollable(handler, error)

    def _reopen_later(self) -> None:
        self._retry = self._loop.call_later(
            RETRY_SECONDS, self._reopen, context=contextvars.Context()
        )

    def _register_all(self) -> list[tuple[Registration, OSError]]:
        """Have a new epoll poll all descriptors; give those that it cannot."""
        failed = []
        for handler in self._table.by_fd.values():
            try:
                if handler.events:
                    self._epoll.register(handler.fd, handler.events & _EVENTS)
            except OSError as error:
                if error.errno in _SCARCE:
                    self._reopen_later()
                    break
                handler.events = 0
                failed.append((handler, error))
        return failed

    def _reports_lingering(self, ready: list[tuple[int, int]]) -> bool:
        """Whether something is ready that nobody has asked for."""
        for fd, _ in ready:
            if fd in self._lingering:
                handler = self._table.by_fd.get(fd)
                if handler is None or not _is_ready(fd, handler.events):
                    return True
        return False

    def _on_ready(self) -> None:
        ready = self._epoll.poll(0, AT_ONCE)
        if self._lingering and self._reports_lingering(ready):
            self._reopen()
            return
        by_fd = self._table.by_fd
        # Which handlers are meant is settled first: one may remove another and reuse its number.
        for handler, reported in [(by_fd.get(fd), events) for fd, events in ready]:
            if handler is None:
                continue  # another thread has just removed it
            # Handlers without ERROR see an error by reading or writing.
            events = handler.events if reported & _ERROR_BITS else handler.events & reported
            if events:
                try:
                    handler.context.run(handler.callback, handler.source, events)
                except (KeyboardInterrupt, SystemExit) as error:
                    if self._table.is_last_call(error):
                        with self._table.lock:
                            self.watch(handler, 0)
                    raise
                except BaseException:  # whatever else one raises, the others get their events
                    handler.context.run(self._table.report, handler.callback)


def _is_ready(fd: int, events: int) -> bool:
    """Whether a descriptor is open and has one of some events, or an error."""
    poll = select.poll()
    poll.register(fd, events & _EVENTS)
    return any(not event & select.POLLNVAL for _, event in poll.poll(0))
