"""File descriptors for a loop that cannot poll them, by a thread that can.

Windows' proactor loop, and some third parties', have no `add_reader`. For such a loop a thread
waits in a selector and passes what is ready to the loop.

The thread and the loop take turns with the selector. The loop changes it only while the thread
is not selecting (`_changing` wakes it and waits), and the thread selects again only once the loop
has dealt with what was ready; so readiness stays level-triggered, and is reported once at a time.

select(2) fails for all descriptors if one of them was closed, and takes none above a limit. So
whatever the selector raises, the thread leaves to the loop (`_mend`), which drops the descriptors
that are at fault, or takes a new selector if none is. The others go on.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import selectors
import socket
import sys
import threading
from collections.abc import Callable, Generator
from typing import Any

RETRY_SECONDS = 0.1
"""Until a selector is used again that failed although no descriptor is at fault."""

_Callback = tuple[Callable[..., object], tuple[Any, ...]]


class SelectorThread:
    """`add_reader` and its siblings, for a loop that has none.

    Args:
        loop: The loop on which the callbacks run. All methods are called in its thread.
        on_dropped: Called with a descriptor that can no longer be polled, and the error. Its
            callbacks have been removed.

    Raises:
        OSError: If there are no descriptors left for a selector and a pair of sockets.
        RuntimeError: If no thread can be started.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        on_dropped: Callable[[int, BaseException], None],
    ) -> None:
        self._loop = loop
        self._on_dropped = on_dropped
        self._callbacks: dict[int, dict[int, _Callback]] = {}
        self._turn = threading.Condition()
        self._selecting = False
        self._changes = 0  # of the loop, that wait for their turn
        self._telling = False  # whether the loop has been told, and has not dealt with it
        self._failures = 0  # of the selector, one after the other
        self._closed = False
        with contextlib.ExitStack() as undo:
            self._waker, self._woken = socket.socketpair()
            undo.enter_context(self._waker)
            undo.enter_context(self._woken)
            self._waker.setblocking(False)
            self._woken.setblocking(False)
            self._selector = self._new_selector()
            undo.callback(self._selector.close)
            self._thread = threading.Thread(
                target=self._work, name="waterspout-selector", daemon=True
            )
            self._thread.start()
            undo.pop_all()

    def add_reader(self, fd: int, callback: Callable[..., object], *args: Any) -> None:
        """As a loop's."""
        self._set(fd, selectors.EVENT_READ, (callback, args))

    def add_writer(self, fd: int, callback: Callable[..., object], *args: Any) -> None:
        """As a loop's."""
        self._set(fd, selectors.EVENT_WRITE, (callback, args))

    def remove_reader(self, fd: int) -> None:
        """As a loop's."""
        self._set(fd, selectors.EVENT_READ, None)

    def remove_writer(self, fd: int) -> None:
        """As a loop's."""
        self._set(fd, selectors.EVENT_WRITE, None)

    def close(self) -> None:
        """End the thread. Closing twice does nothing."""
        with self._turn:
            if not self._closed:  # the thread may have noticed that the loop is closed
                self._closed = True
                self._wake()
                self._turn.notify_all()
        if sys.is_finalizing():
            return  # the thread does not run any more, so it cannot be waited for
        self._thread.join()
        self._callbacks.clear()
        self._release()

    def abandon(self) -> None:  # pragma: no cover (in a forked child)
        """Be closed, in a child process, which has no such thread and shares the selector."""
        self._turn = threading.Condition()  # the thread may have held the other one
        self._selecting = False
        self._closed = True

    def _new_selector(self) -> selectors.BaseSelector:
        """Make a selector that polls what wakes the thread."""
        selector = selectors.DefaultSelector()
        try:
            selector.register(self._woken, selectors.EVENT_READ)
        except BaseException:
            selector.close()
            raise
        return selector

    def _release(self) -> None:
        self._selector.close()
        self._waker.close()
        self._woken.close()

    def _set(self, fd: int, event: int, callback: _Callback | None) -> None:
        with self._changing():
            known = self._callbacks.pop(fd, {})
            wanted = {key: value for key, value in known.items() if key != event}
            if callback is not None:
                wanted[event] = callback
            if known:
                # Not modify(): if that fails, the selector no longer knows the descriptor.
                self._unregister(fd)
            try:
                if wanted:
                    self._register(fd, sum(wanted), is_new=not known)
            except BaseException:
                wanted = known
                if known:
                    with contextlib.suppress(OSError):  # it was closed
                        self._selector.register(fd, sum(known))
                raise
            finally:
                if wanted:
                    self._callbacks[fd] = wanted

    def _register(self, fd: int, events: int, *, is_new: bool) -> None:
        """Have the selector poll a descriptor.

        Args:
            fd: The descriptor.
            events: What for.
            is_new: Whether it is one more than before, and so may be one too many.

        Raises:
            OSError: If it cannot.
        """
        self._selector.register(fd, events)
        if hasattr(self._selector, "fileno"):
            return  # the kernel has accepted it
        error = self._probe(fd, events)
        if error is None and is_new and _failure_of(self._selector) is not None:
            self._drop_bad()  # another one may be at fault
            error = _failure_of(self._selector)
        if error is not None:
            self._unregister(fd)
            raise OSError(errno.EINVAL, f"descriptor {fd} cannot be polled: {error}") from error

    def _unregister(self, fd: int) -> None:
        with contextlib.suppress(OSError, KeyError, ValueError):  # it was closed
            self._selector.unregister(fd)

    def _probe(self, fd: int, events: int) -> BaseException | None:
        """Give the error of a selector that polls one descriptor alone."""
        try:
            _check_open(fd)
            with contextlib.closing(type(self._selector)()) as selector:
                selector.register(fd, events)
                return _failure_of(selector)
        except OSError as error:
            # Without a descriptor for a selector, nothing is known about this one.
            return None if error.errno in (errno.EMFILE, errno.ENFILE) else error

    def _drop_bad(self) -> bool:
        """Drop the descriptors that cannot be polled.

        Returns:
            Whether there were any.
        """
        bad = [
            (fd, error)
            for fd, wanted in self._callbacks.items()
            if (error := self._probe(fd, sum(wanted))) is not None
        ]
        for fd, error in bad:
            self._drop(fd, error)
        return bool(bad)

    def _drop(self, fd: int, error: BaseException) -> None:
        del self._callbacks[fd]
        self._unregister(fd)
        self._on_dropped(fd, error)

    @contextlib.contextmanager
    def _changing(self) -> Generator[None, None, None]:
        with self._turn:
            self._changes += 1
            self._wake()
            self._turn.wait_for(lambda: not self._selecting)
            try:
                yield
            finally:
                self._changes -= 1
                self._turn.notify_all()

    def _wake(self) -> None:
        with contextlib.suppress(BlockingIOError):  # it has been woken often enough
            self._waker.send(b"\0")

    def _work(self) -> None:
        try:
            while self._take_turn():
                pass
        finally:
            with self._turn:  # nobody waits for a thread that has ended
                self._selecting = False
                self._turn.notify_all()

    def _take_turn(self) -> bool:
        """Wait once for something to be ready, and have the loop deal with it.

        Returns:
            Whether the thread goes on.
        """
        with self._turn:
            self._turn.wait_for(lambda: self._closed or not (self._changes or self._telling))
            if self._closed:
                return False
            self._selecting = True
        ready, error = self._select()
        with self._turn:
            self._selecting = False
            self._turn.notify_all()
            if self._closed:
                return False
            self._failures = 0 if error is None else self._failures + 1
            events = [(key.fd, mask) for key, mask in ready if key.fileobj is not self._woken]
            if len(events) < len(ready):
                self._drain()
            self._telling = bool(events) or error is not None
        try:
            if error is not None:
                self._loop.call_soon_threadsafe(self._mend, error)
            elif events:
                self._loop.call_soon_threadsafe(self._tell, events)
        except RuntimeError:  # somebody has closed the loop so that nobody learned of it
            with self._turn:
                self._closed = True
                self._release()
        return True

    def _select(self) -> tuple[list[tuple[selectors.SelectorKey, int]], BaseException | None]:
        try:
            return self._selector.select(), None
        except BaseException as error:  # whatever it is, this thread must not end
            return [], error

    def _drain(self) -> None:
        with contextlib.suppress(BlockingIOError):
            while self._woken.recv(4096):
                pass

    def _resume(self) -> None:
        """Let the thread select again."""
        with self._turn:
            self._telling = False
            self._turn.notify_all()

    def _tell(self, events: list[tuple[int, int]]) -> None:
        """Run the callbacks of what is ready, in the loop."""
        try:
            self._drop_closed({fd for fd, _ in events})
            told = [
                (fd, event, self._callbacks.get(fd, {}).get(event))
                for fd, mask in events
                for event in (selectors.EVENT_READ, selectors.EVENT_WRITE)
                if mask & event
            ]
            for fd, event, callback in told:
                # It may have been removed meanwhile, and the number be another's.
                if callback is not None and callback is self._callbacks.get(fd, {}).get(event):
                    callback[0](*callback[1])
        finally:
            self._resume()

    def _drop_closed(self, fds: set[int]) -> None:
        """Drop those of some descriptors that were closed; poll(2) reports them again and again."""
        for fd in fds & self._callbacks.keys():
            try:
                _check_open(fd)
            except OSError as error:
                self._drop(fd, error)

    def _mend(self, error: BaseException) -> None:
        """Find out why the selector failed, in the loop's thread, while the other one waits."""
        # The first time, the descriptor that was at fault may have been removed meanwhile.
        if self._closed or self._drop_bad() or self._failures == 1:
            self._resume()
            return
        self._loop.call_exception_handler(
            {"message": "Polling file descriptors failed; it will be retried", "exception": error}
        )
        with contextlib.suppress(OSError):  # there are no descriptors left for another one
            self._replace_selector()
        self._loop.call_later(RETRY_SECONDS, self._resume)

    def _replace_selector(self) -> None:
        selector = self._new_selector()
        for fd, wanted in self._callbacks.items():
            selector.register(fd, sum(wanted))
        self._selector.close()
        self._selector = selector


def _check_open(fd: int) -> None:
    """Raise `OSError` unless a descriptor is open."""
    os.fstat(fd) if sys.platform != "win32" else None  # there, only select can tell


def _failure_of(selector: selectors.BaseSelector) -> Exception | None:
    """Give what a selector raises."""
    try:
        selector.select(0)
    except Exception as error:
        return error
    return None
