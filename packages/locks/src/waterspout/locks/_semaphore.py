"""`Semaphore` and `BoundedSemaphore`: so many holders at a time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

from waterspout.ioloop.scheduling import Timeout, WaitQueue, timeout_seconds
from waterspout.locks._held import Held


@dataclass(frozen=True)
class SemaphoreStatistics:
    """A semaphore at one moment.

    Attributes:
        value: How many permits are free.
        waiters: How many tasks wait for one.
    """

    value: int
    waiters: int


class Semaphore(Held):
    """A number of permits::

        async with semaphore:
            ...

    Args:
        value: How many permits there are at first.

    Raises:
        TypeError: If `value` is no integer.
        ValueError: If `value` is negative.
    """

    __slots__ = ("_value", "_waiters")

    def __init__(self, value: int = 1) -> None:
        if not isinstance(value, int):
            raise TypeError(f"value must be an integer, not {value!r}")
        if value < 0:
            raise ValueError(f"value must not be negative, not {value!r}")
        # Permits that nobody holds. While anybody waits it is zero.
        self._value = value
        self._waiters: WaitQueue[None] = WaitQueue(Semaphore._pass_on, owner=self)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} value={self._value} waiters={len(self._waiters)}>"

    def statistics(self) -> SemaphoreStatistics:
        """Give how many permits are free, and how many tasks wait for one."""
        return SemaphoreStatistics(self._value, len(self._waiters))

    def locked(self) -> bool:
        """Whether `acquire` would have to wait."""
        return self._value == 0

    async def acquire(self, timeout: Timeout = None) -> bool:
        """Take a permit, once everybody who came before has got one.

        Cancelled or timed out, at any moment, it leaves the permit to the next in line.

        Args:
            timeout: Seconds from now, or a `timedelta`; `None` waits for ever, and zero or less
                takes a permit only if that needs no waiting.

        Returns:
            True, always.

        Raises:
            TimeoutError: If no permit was free in time.
            RuntimeError: If tasks of another open loop wait for one.
            TypeError: If `timeout` is no number, `timedelta` or `None`.
            ValueError: If `timeout` is NaN or a number of more than ten years.
        """
        if timeout is not None:
            timeout_seconds(timeout)
        if not self._value:
            self._waiters.recover()
        if self._value:
            self._value -= 1
        else:
            await self._waiters.wait(timeout)
        return True

    async def __aenter__(self) -> Self:
        if self._value:
            self._value -= 1
        else:
            await self.acquire()
        return self

    def release(self) -> None:
        """Hand a permit to the task that waited longest, or put it back.

        Raises:
            RuntimeError: If tasks of another open loop wait for one.
        """
        self._pass_on()

    def _pass_on(self, permit: None = None) -> None:
        if not (self._waiters.waiting and self._waiters.wake(None)):
            self._value += 1


class BoundedSemaphore(Semaphore):
    """A semaphore that refuses to hold more permits than it was made with.

    Args:
        value: How many permits there are.

    Raises:
        TypeError: If `value` is no integer.
        ValueError: If `value` is negative.
    """

    __slots__ = ("_bound",)

    def __init__(self, value: int = 1) -> None:
        super().__init__(value)
        self._bound = value

    def release(self) -> None:
        """Hand a permit to the task that waited longest, or put it back.

        Raises:
            ValueError: If all permits are there already.
            RuntimeError: If tasks of another open loop wait for one.
        """
        if self._value >= self._bound:
            raise ValueError("release() of a BoundedSemaphore of which no permit is taken")
        super().release()
