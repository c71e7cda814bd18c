"""File descriptors for a loop that cannot watch them, by a thread that can.

Windows' proactor loop, and some third parties', have no `add_reader`. For such a loop a thread
waits in a selector and tells the loop what is ready.

The thread and the loop take turns with the selector. The loop changes it only while the thread
is not selecting (`_changing` wakes it and waits), and the thread selects again only once the loop
has dealt with what was ready; so readiness stays level-triggered, and is told once at a time.
"""

from __future__ import annotations

import asyncio
import contextlib
import selectors
import socket
import threading
from collections.abc import AsyncGenerator, Callable, Generator
from typing import Any

_Callback = tuple[Callable[..., object], tuple[Any, ...]]


class SelectorThread:
    """`add_reader` and its siblings, for a loop that has none.

    Args:
        loop: The loop on which the callbacks run. The thread ends with it.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._callbacks: dict[int, dict[int, _Callback]] = {}
        self._selector = selectors.DefaultSelector()
        self._waker, self._woken = socket.socketpair()
        self._waker.setblocking(False)
        self._woken.setblocking(False)
        self._selector.register(self._woken, selectors.EVENT_READ)
        self._turn = threading.Condition()
        self._selecting = False
        self._changes = 0  # of the loop, that wait for their turn
        self._telling = False  # whether the loop has been told, and has not dealt with it
        self._closed = False
        self._thread = threading.Thread(target=self._work, name="waterspout-selector", daemon=True)
        self._thread.start()
        self._lifetime = self._until_shutdown()
        if asyncio._get_running_loop() is loop:
            self._begin_lifetime()
        else:
            loop.call_soon(self._begin_lifetime)

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
            if self._closed:
                return
            self._closed = True
            self._wake()
            self._turn.notify_all()
        self._thread.join()
        self._release()

    def _release(self) -> None:
        self._selector.close()
        self._waker.close()
        self._woken.close()

    def _set(self, fd: int, event: int, callback: _Callback | None) -> None:
        if self._closed:
            if callback is None:
                return
            raise RuntimeError("the event loop has been shut down")
        with self._changing():
            known = self._callbacks.get(fd, {})
            wanted = {key: value for key, value in known.items() if key != event}
            if callback is not None:
                wanted[event] = callback
            if not wanted:
                self._selector.unregister(fd)
            elif known:
                self._selector.modify(fd, sum(wanted))
            else:
                self._selector.register(fd, sum(wanted))
            self._callbacks[fd] = wanted
            if not wanted:
                del self._callbacks[fd]

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
        while True:
            with self._turn:
                self._turn.wait_for(lambda: self._closed or not (self._changes or self._telling))
                if self._closed:
                    return
                self._selecting = True
            ready = self._selector.select()
            with self._turn:
                self._selecting = False
                self._turn.notify_all()
                if self._closed:
                    return
                events = [(key.fd, mask) for key, mask in ready if key.fileobj is not self._woken]
                if len(events) < len(ready):
                    self._drain()
                self._telling = bool(events)
            if events:
                try:
                    self._loop.call_soon_threadsafe(self._tell, events)
                except RuntimeError:  # the loop was closed without a word
                    self._closed = True
                    self._release()
                    return

    def _drain(self) -> None:
        with contextlib.suppress(BlockingIOError):
            while self._woken.recv(4096):
                pass

    def _tell(self, events: list[tuple[int, int]]) -> None:
        """Run the callbacks of what is ready, in the loop."""
        try:
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
            with self._turn:
                self._telling = False
                self._turn.notify_all()

    def _begin_lifetime(self) -> None:
        """Step into the generator, by which the loop learns of it; it never waits on the way."""
        with contextlib.suppress(StopIteration):
            self._lifetime.__anext__().send(None)

    async def _until_shutdown(self) -> AsyncGenerator[None, None]:
        """A generator that the loop ends when it shuts down, as `asyncio.run` has it do."""
        try:
            yield
        finally:
            self.close()
