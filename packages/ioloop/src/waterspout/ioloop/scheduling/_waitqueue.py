"""`WaitQueue`: the one waiting room, on which every lock and queue is built.

Rules:

1.  First come, first served. `wake` serves the waiter that came first; which task happens to
    resume first does not matter, since what it waited for is its own by then.
2.  A wait that returns has its value. A wait that raises (cancelled, timed out, its coroutine
    closed) has nothing: either it was never served, or what it was served went back to the
    owner by `reclaim`, who hands it to the next in line.
3.  Joining, leaving, being cancelled, timing out and being served each take constant time.
4.  The room belongs to a loop only while its tasks wait here, or were served and have not resumed.
5.  Threads may wait in the same line, where the owner has a guard: a lock that its owner holds
    around everything it does, and that is let go while somebody waits.

Why no hand-off is lost. A waiter is a future in a line. It leaves the line once, by one of three
hands: `wake` (and then the future has a value), the timer (and then the future has the mark
`Mark.EXPIRED`), or its own task. A task that leaves its `await` by an exception finds its future in
one of these states:

-   in the line: nobody served it, and it leaves;
-   cancelled and passed over: `wake` came to it in the gap between its cancellation and its
    resumption, and served the next;
-   served: `wake` came to it in the gap between the hand-off and its resumption, so the value
    is reclaimed, now, before any other task can run;
-   expired: it has nothing.

There is no fifth state, because all of these steps run in one thread, or under the guard, and none
of them awaits. A hand-off counts from the moment at which it is noted among the served; where it
comes from another thread, the loop is told to go on with it, and may find that the task has gone.
Loops begin to run, stop and close without the guard: so a thread always lets the loop itself set
the future, and passes over waiters of a loop that turns out to be closed.

Leaving takes constant time, although the line is a deque: who leaves is noted among the left, and
the line is cleared of them once they are more than half of it, or when `wake` comes to them.

The garbage collector closes suspended coroutines in any thread. What such a coroutine leaves behind
is a matter for the thread of its loop, if that runs elsewhere: `abandon` is called again there, and
so is `reclaim`, for a value that could not be handed over from the wrong thread.

A loop may close after a hand-off and before its task resumes; that task never does. So the served
are remembered until they have resumed, and `recover` reclaims from those whose loop is closed.
`join` calls it once the newcomer stands in line, who so may be served at once. Owners call it
before they say no without making anybody wait.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
import weakref
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any, Final, TypeVar, overload

from waterspout.ioloop.scheduling._registry import current_scheduler
from waterspout.ioloop.scheduling._seconds import Timeout, timeout_seconds
from waterspout.ioloop.scheduling._threadline import Guard, ThreadLine
from waterspout.ioloop.scheduling._waiters import (
    Mark,
    SteadfastFuture,
    ThreadWaiter,
    Waiter,
    is_being_closed,
    is_closed_elsewhere,
    is_dead,
    is_told,
)

T = TypeVar("T")
O = TypeVar("O")  # noqa: E741 (the owner's type)

_get_running_loop = asyncio._get_running_loop

_NO_GUARD: Final = contextlib.nullcontext()

CROWD: Final = 1000
"""So many served at a time leave memory behind that is worth giving back."""
FORGET_AFTER: Final = 0.1
"""Seconds until that is tried."""


class WaitQueue(ThreadLine[T]):
    """Tasks parked in the order in which they came, each waiting to be handed a value.

    Args:
        reclaim: Called with the value of each hand-off that will not be used, because the task
            was cancelled (or its coroutine closed) after it was served. It runs inside that
            task, must not raise, and usually serves the next waiter. Without it such a value is
            dropped.
        guard: A reentrant lock, if threads are to wait here or to wake; see `set_guard`.
        owner: If given, `reclaim` is called with it and the value. It is referenced weakly, so
            that an object that has a queue, and a method for `reclaim`, is no reference cycle.

    Attributes:
        waiting: The line, the first first, and among them some who have left it. Not to be
            changed; to ask whether it is empty costs little.
        served: Those who were handed a value and have not resumed, with the value.
    """

    __slots__ = ("_left", "_owner", "_passed", "_reclaim", "served", "waiting")

    @overload
    def __init__(
        self,
        reclaim: Callable[[T], object] | None = None,
        guard: Guard | None = None,
        owner: None = None,
    ) -> None: ...
    @overload
    def __init__(
        self, reclaim: Callable[[O, T], object], guard: Guard | None = None, *, owner: O
    ) -> None: ...
    def __init__(
        self,
        reclaim: Callable[..., object] | None = None,
        guard: Guard | None = None,
        owner: object = None,
    ) -> None:
        self._reclaim = reclaim
        self._owner = None if owner is None else weakref.ref(owner)
        self._guard = guard
        self.waiting: deque[Waiter] = deque()
        self.served: dict[Waiter, T] = {}
        # Of the tasks that wait here or were served.
        self._loop: asyncio.AbstractEventLoop | None = None
        # Dictionaries, since an empty one is smaller than an empty set.
        self._left: dict[Waiter, None] = {}  # still among the waiting
        self._passed: dict[Waiter, None] = {}  # cancelled, and not resumed yet

    def __len__(self) -> int:
        """How many wait that were not served."""
        return len(self.waiting) - len(self._left)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} waiters={len(self)}>"

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
            ValueError: If `timeout` is NaN or a number of more than ten years.
        """
        if timeout is not None:
            return await self._wait_in_time(timeout_seconds(timeout))
        waiter = self.join()
        if self._guard is not None:
            self._guard.release()
        try:
            value: T = await waiter
        except BaseException:
            if self._guard is not None:  # it may have come meanwhile
                self._guard.acquire()
            self.abandon(waiter)
            raise
        if self._guard is not None:
            self._guard.acquire()
        del self.served[waiter]
        return value

    async def _wait_in_time(self, seconds: float | None) -> T:
        if seconds is None:
            return await self.wait()
        if seconds <= 0:
            raise TimeoutError
        scheduler = current_scheduler()
        waiter: asyncio.Future[Any] = asyncio.Future()
        timer = scheduler.call_later(seconds, self._expire, waiter)
        try:
            self.join(waiter)
        except BaseException:
            scheduler.remove_timeout(timer)
            raise
        if self._guard is not None:
            self._guard.release()
        try:
            value: T | Mark = await waiter
        except BaseException:
            if self._guard is not None:
                self._guard.acquire()
            self.abandon(waiter)
            raise
        finally:
            scheduler.remove_timeout(timer)
        if self._guard is not None:
            self._guard.acquire()
        if isinstance(value, Mark):
            raise TimeoutError
        del self.served[waiter]
        return value

    # The steps of a wait without a timeout, for owners that count every call: `waiter = join()`;
    # await it, and if that raises, `abandon(waiter)`; then, under the guard if one came meanwhile,
    # `del served[waiter]`.

    def join(self, waiter: "asyncio.Future[T] | None" = None) -> "asyncio.Future[T]":
        """Stand at the end of the line.

        Args:
            waiter: The future to stand there; by default a new one.

        Returns:
            A future of the value, to be awaited by the running task.

        Raises:
            RuntimeError: If tasks of another open loop wait here.
        """
        if waiter is None:
            waiter = asyncio.Future()
        if waiter.get_loop() is self._loop:
            self.waiting.append(waiter)
        else:
            self._move_to(waiter.get_loop())
            self.waiting.append(waiter)
            self._reclaim_dead()
        return waiter

    def abandon(self, waiter: "Waiter") -> None:
        """Leave the line, or give back what one was served.

        Call it while the exception is handled that came out of awaiting it: if a coroutine is
        being closed in another thread than its loop's, this happens in that, a little later.

        Args:
            waiter: What `join` gave, and what raised when it was awaited.
        """
        if not isinstance(waiter, ThreadWaiter):
            loop = waiter.get_loop()
            if loop.is_closed():
                return  # a matter for `recover`: the garbage collector closes coroutines anywhere
            if type(sys.exception()) is not asyncio.CancelledError and is_closed_elsewhere(loop):
                with contextlib.suppress(RuntimeError):  # it has closed meanwhile
                    loop.call_soon_threadsafe(self.abandon, waiter)
                return
        with self._guard or _NO_GUARD:
            if waiter in self.served:
                self._give_back(waiter)
            elif isinstance(waiter, ThreadWaiter) or not waiter.done() or waiter.cancelled():
                self._leave(waiter)  # else it has expired, and left

    async def wait_through(self) -> T:
        """Wait as `wait` does, but keep the place in line however often it is cancelled.

        For what must be had before anything else can go on, such as a lock that is to be taken
        again.

        Returns:
            The value that `wake` or `wake_all` was called with.

        Raises:
            RuntimeError: If tasks of another open loop wait here.
            CancelledError: If it was cancelled meanwhile; the value is the caller's all the same.
        """
        waiter = SteadfastFuture()
        self.join(waiter)
        cancelled: asyncio.CancelledError | None = None
        try:
            while not waiter.done():
                try:
                    await waiter
                except asyncio.CancelledError as error:
                    cancelled = error
            value = self.served.pop(waiter)
            if cancelled is not None:
                raise cancelled
        except asyncio.CancelledError:
            raise
        except BaseException:
            self.abandon(waiter)
            waiter.is_abandoned = True
            raise
        finally:
            del cancelled  # its traceback refers to this frame
        return value

    def wake(self, value: T) -> bool:
        """Hand a value to the waiter that came first.

        Args:
            value: What its `wait` returns.

        Returns:
            Whether anybody was there to take it.

        Raises:
            RuntimeError: If tasks of another open loop wait here; then nothing was done. Not if
                the caller is a coroutine that is being closed, which may happen in any thread:
                then the value is reclaimed in that loop, and that counts as somebody.
        """
        waiting = self.waiting
        if not waiting:
            return False
        waiter = waiting[0]
        if waiter.done() or self._left or waiter.get_loop() is not _get_running_loop():
            try:
                here = self.check_loop()
            except RuntimeError:
                if is_being_closed():
                    return self._reclaim_in_loop(value)
                raise
            return self.hand_over(value, here)
        waiting.popleft()  # as there, in fewer steps
        self.served[waiter] = value
        waiter.set_result(value)
        if len(self.served) == CROWD:
            self._forget_crowd()
        return True

    def _reclaim_in_loop(self, value: T) -> bool:
        """Have a value reclaimed in the thread of the loop whose tasks wait here.

        It is among the served meanwhile, so that it is not lost if the loop closes.
        """
        assert self._loop is not None
        nobody: asyncio.Future[T] = asyncio.Future(loop=self._loop)
        self.served[nobody] = value
        with contextlib.suppress(RuntimeError):  # it has closed: a matter for `recover`
            self._loop.call_soon_threadsafe(self.abandon, nobody)
        return True

    def hand_over(self, value: T, here: bool) -> bool:
        """Hand a value over as `wake` does, when `check_loop` was called already.

        Args:
            value: What the waiter's `wait` returns.
            here: What `check_loop` returned.

        Returns:
            Whether anybody was there to take it.
        """
        waiting = self.waiting
        while waiting:
            waiter = waiting.popleft()
            if self._left and waiter in self._left:
                del self._left[waiter]
            elif waiter.done():  # it was cancelled and has not resumed yet
                self._passed[waiter] = None
            elif here or isinstance(waiter, ThreadWaiter):
                self.served[waiter] = value
                waiter.set_result(value)
                if len(self.served) == CROWD:
                    self._forget_crowd()
                return True
            elif is_told(waiter, value):
                self.served[waiter] = value
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
        here = self.check_loop()
        served = 0
        while self.hand_over(value, here):
            served += 1
        return served

    def check_loop(self) -> bool:
        """Make sure that whoever waits here waits in the running loop.

        `wake` does this itself; call it before a change that must not be made where waking then
        fails. Waiters of a closed loop can never resume, and are dropped. A thread in which no
        loop runs may wake those of any loop, under the guard.

        Returns:
            Whether tasks that wait here can be woken from here directly.

        Raises:
            RuntimeError: If tasks of another open loop wait here.
        """
        loop = self._loop
        if not self.waiting or loop is None:
            return True
        running = _get_running_loop()
        if running is loop:
            return True
        if loop.is_closed():
            self._keep(one for one in self._live() if isinstance(one, ThreadWaiter))
            return True
        if running is None and self._guard is not None:
            return False  # a thread cannot know when the loop starts to run
        if (running is not None or loop.is_running()) and self._has_tasks():
            raise RuntimeError(f"tasks of another event loop wait here: {loop!r}")
        return True

    def recover(self) -> None:
        """Reclaim what was handed to tasks of loops that have closed since. Usually nothing."""
        if self.served and self._loop is not None and self._loop.is_closed():
            self._reclaim_dead()

    def _reclaim_dead(self) -> None:
        for waiter in [one for one in self.served if is_dead(one)]:
            self._give_back(waiter)

    def _move_to(self, loop: asyncio.AbstractEventLoop) -> None:
        """Belong to another loop from now on.

        While `_loop` is set, no task of another open loop waits here or has been served.
        """
        old = self._loop
        if old is not None and not old.is_closed():
            if self._has_tasks() or not all(isinstance(one, ThreadWaiter) for one in self.served):
                raise RuntimeError(f"tasks of another event loop wait here: {old!r}")
        elif old is not None:
            self._keep(one for one in self._live() if isinstance(one, ThreadWaiter))
            for waiter in [one for one in self._passed if is_dead(one)]:
                del self._passed[waiter]
        self._loop = loop

    def _has_tasks(self) -> bool:
        """Whether there are tasks in the line."""
        return any(not isinstance(one, ThreadWaiter) for one in self._live())

    def _live(self) -> list[Waiter]:
        """Those in line who have not left it."""
        return [one for one in self.waiting if one not in self._left]

    def _leave(self, waiter: Waiter) -> None:
        """Leave the line, if it has not passed by already."""
        if waiter in self._passed:
            del self._passed[waiter]
            return
        self._left[waiter] = None
        if 2 * len(self._left) > len(self.waiting):
            self._keep(self._live())

    def _keep(self, waiters: Iterable[Waiter]) -> None:
        """Let the line be of these, none of whom has left it."""
        kept = list(waiters)
        self.waiting.clear()
        self.waiting.extend(kept)
        self._left.clear()

    def _forget_crowd(self) -> None:
        """Give memory back once those who were served have resumed: a dictionary never shrinks."""
        with contextlib.suppress(RuntimeError):  # in a thread without a loop
            current_scheduler().call_later(FORGET_AFTER, self._forget)

    def _forget(self) -> None:
        with self._guard or _NO_GUARD:
            if self.served:
                self._forget_crowd()
            else:
                self.served.clear()

    def _give_back(self, waiter: Waiter) -> None:
        value = self.served.pop(waiter)
        if self._reclaim is None:
            return
        if self._owner is None:
            self._reclaim(value)
        elif (owner := self._owner()) is not None:  # else nobody can ask for it any more
            self._reclaim(owner, value)

    def _expire(self, waiter: "asyncio.Future[Any]") -> None:
        with self._guard or _NO_GUARD:
            if waiter not in self.served and not waiter.done():
                self._leave(waiter)
                waiter.set_result(Mark.EXPIRED)
