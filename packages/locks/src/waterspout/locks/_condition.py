"""`Condition`: to wait until something has changed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Self, TypeVar

from waterspout.ioloop.scheduling import (
    Timeout,
    WaitQueue,
    current_scheduler,
    deadline_after,
    timeout_seconds,
)
from waterspout.locks._held import Held
from waterspout.locks._lock import Lock, LockStatistics

T = TypeVar("T")


@dataclass(frozen=True)
class ConditionStatistics:
    """A condition at one moment.

    Attributes:
        waiters: How many tasks wait to be notified.
        lock: The state of its lock.
    """

    waiters: int
    lock: LockStatistics


class Condition(Held):
    """A place to wait for a change, and to tell of one::

        async with condition:
            await condition.wait_for(lambda: stock > 0)
            stock -= 1

        async with condition:
            stock += 1
            condition.notify()

    The lock guards what the change is about. Where nothing is awaited between a look and a change,
    it is not needed: with the lock free, `wait` and `notify` do without.

    Args:
        lock: The lock; by default one of its own. Several conditions may share one.

    Raises:
        TypeError: If `lock` is no `Lock`.
    """

    __slots__ = ("_lock", "_waiters")

    def __init__(self, lock: Lock | None = None) -> None:
        if lock is not None and not isinstance(lock, Lock):
            raise TypeError(f"lock must be a Lock, not {lock!r}")
        self._lock = Lock() if lock is None else lock
        self._lock._note_holder()
        self._waiters: WaitQueue[bool] = WaitQueue(Condition._pass_on, owner=self)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} waiters={len(self._waiters)} {self._lock!r}>"

    def statistics(self) -> ConditionStatistics:
        """Give how many wait, and the state of the lock."""
        return ConditionStatistics(len(self._waiters), self._lock.statistics())

    # Its lock

    def locked(self) -> bool:
        """Whether its lock is held."""
        return self._lock.locked()

    async def acquire(self, timeout: Timeout = None) -> bool:
        """Take its lock; see `Lock.acquire`."""
        return await self._lock.acquire(timeout)

    def release(self) -> None:
        """Give its lock back; see `Lock.release`."""
        self._lock.release()

    async def __aenter__(self) -> Self:
        await self._lock.acquire()
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc_val: BaseException | None,
        exc_tb: TracebackType | None,
    ) -> None:
        await self._lock.__aexit__(exc_type, exc_val, exc_tb)

    # Waiting

    async def wait(self, timeout: Timeout = None) -> bool:
        """Wait to be notified.

        If the running task holds the lock, it is released for as long as that takes, and held
        again on return, also after a timeout or a cancellation. With the lock free, it stays so.

        Cancelled, at any moment, it leaves its notification to the next in line. The cancellation
        is raised once the lock is held again. So does a coroutine that is closed; since it cannot
        wait, it holds the lock at once, beside the task that holds it then, if there is one.

        Args:
            timeout: Seconds from now, or a `timedelta`, that the notification may take; to take
                the lock again may take longer. `None` waits for ever. Zero or less does not wait
                for a notification, but lets those who wait for the lock have it first.

        Returns:
            True if it was notified, False if time was up first.

        Raises:
            RuntimeError: If another task holds the lock, or tasks of another open loop wait.
            TypeError: If `timeout` is no number, `timedelta` or `None`.
            ValueError: If `timeout` is NaN or a number of more than ten years.
        """
        seconds = timeout_seconds(timeout)
        lock = self._lock
        holds = lock.locked()
        if holds and lock._is_anothers():
            raise RuntimeError(
                "wait() of a condition whose lock another task holds (before Python 3.12, "
                "asyncio.wait_for makes a task of its own: use timeout=)"
            )
        self._waiters.check_loop()
        if not holds:
            return await self._notified(seconds)
        lock.release()
        try:
            notified = await self._notified(seconds)
        except GeneratorExit:
            lock._share()
            raise
        except BaseException:
            await lock._reacquire()
            raise
        try:
            await lock._reacquire()
        except BaseException:
            if notified:
                self._pass_on(True)
            raise
        return notified

    async def _notified(self, seconds: float | None) -> bool:
        try:
            return await self._waiters.wait(seconds)
        except TimeoutError:
            return False

    async def wait_for(self, predicate: Callable[[], T], timeout: Timeout = None) -> T:
        """Wait until something is true, which is looked at first and after each notification.

        Args:
            predicate: A function without arguments. What it raises comes out of here.
            timeout: Seconds from now, or a `timedelta`, that all of it may take, but for taking
                the lock again; `None` waits for ever.

        Returns:
            What `predicate` returned last: something true, or, if time was up first, not.

        Raises:
            RuntimeError: As `wait`.
            TypeError: If `predicate` cannot be called, or `timeout` is no number, `timedelta` or
                `None`.
            ValueError: If `timeout` is NaN or a number of more than ten years.
        """
        if not callable(predicate):
            raise TypeError(f"predicate must be callable, not {predicate!r}")
        seconds = timeout_seconds(timeout)
        result = predicate()
        if seconds is None:
            while not result:
                await self.wait()
                result = predicate()
            return result
        scheduler = current_scheduler()
        deadline = deadline_after(seconds, scheduler.time())
        while not result and await self.wait(deadline - scheduler.time()):
            result = predicate()
        return result or predicate()

    def notify(self, n: int = 1) -> None:
        """Notify the tasks that have waited longest. The lock is not needed for that.

        Args:
            n: How many, at most.

        Raises:
            TypeError: If `n` is no integer.
            ValueError: If `n` is negative.
            RuntimeError: If tasks of another open loop wait; then nobody is notified.
        """
        if not isinstance(n, int):
            raise TypeError(f"n must be an integer, not {n!r}")
        if n < 0:
            raise ValueError(f"n must not be negative, not {n!r}")
        while n and self._waiters.wake(True):
            n -= 1

    def notify_all(self) -> None:
        """Notify all tasks that wait.

        Raises:
            RuntimeError: If tasks of another open loop wait; then nobody is notified.
        """
        self._waiters.wake_all(True)

    def _pass_on(self, notification: bool) -> None:
        self._waiters.wake(notification)
