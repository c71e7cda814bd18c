"""`WaitQueue`: the one waiting room, on which every lock and queue is built.

Rules:

1.  First come, first served. `wake` serves the waiter that came first; which task happens to
    resume first does not matter, since what it waited for is its own by then.
2.  A wait that returns has its value. A wait that raises (cancelled, timed out, its coroutine
    closed) has nothing: either it was never served, or what it was served went back to the
    owner by `reclaim`, who hands it to the next in line.
3.  Joining, leaving, being cancelled, timing out and being served each take constant time.
4.  The room belongs to a loop only while somebody waits in it.

Why no hand-off is lost. A waiter is a future in an ordered dictionary. It leaves the dictionary
once, by one of three hands: `wake` (and then the future has a value), the timer (and then the
future has the mark `_EXPIRED`), or its own task. A task that leaves its `await` by an exception
finds its future in one of these states:

-   in the dictionary: nobody served it, and it takes itself out;
-   cancelled and out of the dictionary: `wake` passed it over in the gap between its
    cancellation and its resumption, and served the next;
-   with a value: it was served in the gap between the hand-off and its resumption, so the value
    is reclaimed, now, before any other task can run;
-   expired: it has nothing.

There is no fifth state, because all of these steps run in one thread and none of them awaits.

A loop may close after a hand-off and before its task resumes; that task never does. So the served
are remembered until they have resumed, and `recover` reclaims from those whose loop is closed.
Owners call it before they make anybody wait.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import OrderedDict
from collections.abc import Callable
from enum import Enum
from typing import Final, Generic, Literal, TypeVar

from waterspout.ioloop.scheduling._registry import current_scheduler
from waterspout.ioloop.scheduling._seconds import Timeout, timeout_seconds

T = TypeVar("T")


class _Mark(Enum):
    EXPIRED = "expired"


_EXPIRED: Final = _Mark.EXPIRED


class WaitQueue(Generic[T]):
    """Tasks parked in the order in which they came, each waiting to be handed a value.

    Args:
        reclaim: Called with the value of each hand-off whose task will not use it, because it
            was cancelled (or its coroutine closed) after it was served. It runs inside that
            task, must not raise, and usually serves the next waiter. Without it such a value is
            dropped.
    """

    __slots__ = ("_reclaim", "_served", "_waiters")

    def __init__(self, reclaim: Callable[[T], object] | None = None) -> None:
        self._reclaim = reclaim
        self._waiters: OrderedDict[asyncio.Future[T | Literal[_Mark.EXPIRED]], None] = OrderedDict()
        self._served: set[asyncio.Future[T | Literal[_Mark.EXPIRED]]] = set()

    def __len__(self) -> int:
        """How many wait that were not served."""
        return len(self._waiters)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} waiters={len(self._waiters)}>"

    async def wait(self, timeout: Timeout = None) -> T:
        """Wait at the end of the line to be handed a value.

        Cancelling it, at any moment, leaves the line as though it had not been called.

        Args:
            timeout: Seconds from now, or a `timedelta`; `None` waits for ever, and zero or less
                not at all.

        Returns:
            The value that `wake` or `wake_all` was called with.

        Raises:
            TimeoutError: If it was not served in time.
            RuntimeError: If tasks of another open loop wait here.
            TypeError: If `timeout` is no number, `timedelta` or `None`.
            ValueError: If `timeout` is NaN.
        """
        seconds = timeout_seconds(timeout)
        if seconds is not None and seconds <= 0:
            raise TimeoutError
        scheduler = current_scheduler()
        waiter = scheduler.create_future()
        waiters = self._waiters
        if waiters:
            self.check_loop()
        waiters[waiter] = None
        timer = None
        try:
            if seconds is not None:
                timer = scheduler.call_later(seconds, self._expire, waiter)
            value: T | Literal[_Mark.EXPIRED] = await waiter
        except BaseException:
            self._abandon(waiter)
            raise
        finally:
            if timer is not None:
                scheduler.remove_timeout(timer)
        if value is _EXPIRED:
            raise TimeoutError
        self._served.discard(waiter)
        return value

    def wake(self, value: T) -> bool:
        """Hand a value to the waiter that came first.

        Args:
            value: What its `wait` returns.

        Returns:
            Whether anybody was there to take it.

        Raises:
            RuntimeError: If tasks of another open loop wait here; then nothing was done.
        """
        waiters = self._waiters
        if not waiters:
            return False
        self.check_loop()
        while waiters:
            waiter, _ = waiters.popitem(last=False)
            if not waiter.done():  # a done one was cancelled and has not resumed yet
                self._served.add(waiter)
                waiter.set_result(value)
                return True
        return False

    def wake_all(self, value: T) -> int:
        """Hand a value to everybody who waits now.

        Args:
            value: What their `wait` returns.

        Returns:
            How many there were.

        Raises:
            RuntimeError: If tasks of another open loop wait here; then nothing was done.
        """
        served = 0
        while self.wake(value):
            served += 1
        return served

    def check_loop(self) -> None:
        """Make sure that whoever waits here waits in the running loop.

        `wake` does this itself; call it before a change that must not be made where waking then
        fails. Waiters of a closed loop can never resume, and are dropped.

        Raises:
            RuntimeError: If tasks of another open loop wait here.
        """
        waiters = self._waiters
        if not waiters:
            return
        loop = next(iter(waiters)).get_loop()
        running = asyncio._get_running_loop()
        if running is loop:
            return
        if loop.is_closed():
            waiters.clear()
        elif running is not None or loop.is_running():
            raise RuntimeError(f"tasks of another event loop wait here: {loop!r}")

    def recover(self) -> None:
        """Reclaim what was handed to tasks of loops that have closed since. Usually nothing."""
        for waiter in [waiter for waiter in self._served if waiter.get_loop().is_closed()]:
            self._give_back(waiter)

    def _abandon(self, waiter: "asyncio.Future[T | Literal[_Mark.EXPIRED]]") -> None:
        """The task of a waiter leaves its `await` by an exception."""
        if self._waiters.pop(waiter, self) is None or waiter not in self._served:
            return
        if not waiter.get_loop().is_closed():
            self._give_back(waiter)
        elif self._waiters:
            # A coroutine of a closed loop may be closed by the garbage collector in any thread.
            with contextlib.suppress(RuntimeError):
                next(iter(self._waiters)).get_loop().call_soon_threadsafe(self.recover)

    def _give_back(self, waiter: "asyncio.Future[T | Literal[_Mark.EXPIRED]]") -> None:
        self._served.discard(waiter)
        value = waiter.result()
        if value is not _EXPIRED and self._reclaim is not None:
            self._reclaim(value)

    def _expire(self, waiter: "asyncio.Future[T | Literal[_Mark.EXPIRED]]") -> None:
        if not waiter.done():
            self._waiters.pop(waiter, None)
            waiter.set_result(_EXPIRED)
