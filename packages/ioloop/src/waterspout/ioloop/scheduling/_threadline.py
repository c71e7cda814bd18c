"""Threads that wait in the same line as tasks: what a `WaitQueue` does under a guard.

The guard is held for a few operations at a time, and never while anybody waits. It also makes a
thread see what was done for it: whoever serves a thread holds the guard, and the thread takes it
before it looks.
"""

from __future__ import annotations

import asyncio
import itertools
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Final, Generic, TypeAlias, TypeVar

from waterspout.ioloop.scheduling._seconds import Timeout, timeout_seconds
from waterspout.ioloop.scheduling._waiters import ThreadWaiter, Waiter

T = TypeVar("T")

Guard: TypeAlias = "threading.RLock"

CHECK_INTERVAL: Final = 0.5
"""Seconds between two looks of a waiting thread at whether it still makes sense to wait.

A loop does not tell anybody that it is closed.
"""


class ThreadLine(Generic[T]):
    """The part of a `WaitQueue` that is for threads."""

    __slots__ = ("_guard", "_loop")

    waiting: deque[Waiter]
    served: dict[Waiter, T]
    _guard: Guard | None
    _loop: asyncio.AbstractEventLoop | None
    _passed: dict[Waiter, None]

    if TYPE_CHECKING:

        def abandon(self, waiter: Waiter) -> None: ...
        def _leave(self, waiter: Waiter) -> None: ...
        def _keep(self, waiters: Iterable[Waiter]) -> None: ...
        def _live(self) -> list[Waiter]: ...

    def set_guard(self, guard: Guard) -> None:
        """From now on, let threads wait here and wake, under a guard.

        The owner holds it whenever it calls a method, and holds it when a `wait` comes to its end,
        also one that began without.

        Args:
            guard: A reentrant lock.
        """
        self._guard = guard

    def check_threads(self) -> None:
        """Have every thread that waits here call its `check` soon; see `wait_in_thread`."""
        for waiter in self._live():
            if isinstance(waiter, ThreadWaiter):
                waiter.resume()

    def wait_in_thread(
        self, timeout: Timeout = None, check: Callable[[], object] | None = None
    ) -> T:
        """Wait in a thread, at the end of the same line. The guard is let go meanwhile.

        Args:
            timeout: As for `wait`.
            check: Called now and then, about every half second and after `check_threads`, with
                the guard held. If it raises, the thread leaves the line, and raises that.

        Returns:
            The value that `wake` or `wake_all` was called with.

        Raises:
            TimeoutError: If it was not served in time.
            TypeError: If `timeout` is no number, `timedelta` or `None`.
            ValueError: If `timeout` is NaN or a number of more than ten years.
            BaseException: What `check` raises.
        """
        guard = self._guard
        assert guard is not None, "threads wait only under a guard"
        seconds = timeout_seconds(timeout)
        if seconds is not None and seconds <= 0:
            raise TimeoutError
        deadline = math.inf if seconds is None else time.monotonic() + seconds
        waiter = ThreadWaiter()
        self.waiting.append(waiter)
        while True:
            guard.release()
            try:
                waiter.wait(min(CHECK_INTERVAL, max(0, deadline - time.monotonic())))
            except BaseException:  # Ctrl-C
                guard.acquire()
                self.abandon(waiter)
                raise
            guard.acquire()
            if waiter in self.served:
                return self.served.pop(waiter)
            try:
                if time.monotonic() >= deadline:
                    raise TimeoutError
                self._let_go_of_idle_loop()
                if check is not None:
                    check()
            except BaseException:
                self._leave(waiter)
                raise

    def _let_go_of_idle_loop(self) -> None:
        """Belong to no loop if none of its tasks is here, so that it can be collected."""
        if self._loop is not None:
            self._keep(self._live())
            everybody = itertools.chain(self.waiting, self.served, self._passed)
            if all(isinstance(one, ThreadWaiter) for one in everybody):
                self._loop = None
