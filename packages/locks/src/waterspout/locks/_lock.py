"""`Lock`: one holder at a time."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

from waterspout.ioloop.scheduling import Timeout, WaitQueue, timeout_seconds
from waterspout.locks._held import Held

_current_task = asyncio.current_task


@dataclass(frozen=True)
class LockStatistics:
    """A lock at one moment.

    Attributes:
        locked: Whether it is held, or was handed to a task that has not resumed yet.
        holder: The name of the task that holds it, where known: if it waited for the lock, or
            the lock is that of a `Condition`.
        waiters: How many tasks wait for it.
    """

    locked: bool
    holder: str | None
    waiters: int


class Lock(Held):
    """A mutual exclusion lock::

        async with lock:
            ...

    It has no owner: any task may release it.

    It counts how often it is held, and not by whom. That is once, except while a coroutine that was
    closed in `Condition.wait` leaves its blocks: these release what the coroutine had taken, and
    must not release what another task holds by then.
    """

    __slots__ = ("_holder", "_line", "_locked", "_notes_holder", "_shares", "_waiters")

    def __init__(self) -> None:
        self._locked = False
        self._waiters: WaitQueue[None] = WaitQueue(Lock._pass_on, owner=self)
        self._line = self._waiters.waiting
        # To ask which task is running takes longer than to take the lock.
        self._notes_holder = False
        self._holder: asyncio.Task[Any] | None = None
        self._shares = 0  # of coroutines that were closed and hold it beside its holder

    def __repr__(self) -> str:
        state = "locked" if self._locked else "unlocked"
        if self._holder is not None:
            state += f" holder={self._holder.get_name()!r}"
        return f"<{type(self).__name__} {state} waiters={len(self._waiters)}>"

    def locked(self) -> bool:
        """Whether somebody holds it, or was handed it and has not resumed yet."""
        return self._locked

    def statistics(self) -> LockStatistics:
        """Give the state of the lock, who holds it, and how many wait."""
        holder = None if self._holder is None else self._holder.get_name()
        return LockStatistics(self._locked, holder, len(self._waiters))

    async def acquire(self, timeout: Timeout = None) -> bool:
        """Take the lock, once everybody who came before has had it.

        Cancelled or timed out, at any moment, it leaves the lock to the next in line.

        Args:
            timeout: Seconds from now, or a `timedelta`; `None` waits for ever, and zero or less
                takes the lock only if that needs no waiting.

        Returns:
            True, always.

        Raises:
            TimeoutError: If it was not free in time.
            RuntimeError: If tasks of another open loop wait for it.
            TypeError: If `timeout` is no number, `timedelta` or `None`.
            ValueError: If `timeout` is NaN or a number of more than ten years.
        """
        if timeout is not None:
            timeout_seconds(timeout)
        if self._locked:
            self._waiters.recover()
        if not self._locked:
            self._locked = True
            if not self._notes_holder:
                return True
        else:
            await self._waiters.wait(timeout)
        self._take_over()
        return True

    async def __aenter__(self) -> Self:
        if not self._locked and not self._notes_holder:
            self._locked = True
            return self
        if self._locked:
            waiters = self._waiters
            waiter = waiters.join()
            try:
                await waiter
            except BaseException:
                waiters.abandon(waiter)
                raise
            del waiters.served[waiter]
            self._holder = _current_task(waiter.get_loop())
        else:
            await self.acquire()
        return self

    def release(self) -> None:
        """Hand the lock to the task that waited longest, or unlock it.

        Raises:
            RuntimeError: If it is not locked, or tasks of another open loop wait for it.
        """
        if not self._locked:
            raise RuntimeError("release() of a lock that is not locked")
        if self._shares:
            self._shares -= 1
        else:
            self._locked = self._waiters.wake(None) if self._line else False
            self._holder = None

    def _pass_on(self, permit: None = None) -> None:
        if self._shares:
            self._shares -= 1
        else:  # nobody is noted as its holder, since the last one has not resumed
            self._locked = self._waiters.wake(None)

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc_val: BaseException | None,
        exc_tb: TracebackType | None,
    ) -> None:
        if self._line or self._shares or not self._locked:
            self.release()
        else:  # as there, in fewer steps
            self._locked = False
            self._holder = None

    # For a condition

    def _note_holder(self) -> None:
        """From now on, know which task holds it."""
        self._notes_holder = True

    def _is_anothers(self) -> bool:
        """Whether it is held, and not by the running task.

        Who took it before its holders were noted is not known, and is given the benefit.
        """
        if self._holder is None:
            return bool(self._waiters.served)
        return self._holder is not asyncio.current_task()

    async def _reacquire(self) -> None:
        """Take it, however often the task is cancelled; that is raised when it is held.

        It is held also when this raises anything else: see `_share`.
        """
        if not self._locked:
            self._locked = True
        else:
            try:
                await self._waiters.wait_through()
            except asyncio.CancelledError:
                self._take_over()
                raise
            except BaseException:
                self._share()
                raise
        self._take_over()

    def _share(self) -> None:
        """Take it without waiting: beside its holder, if there is one.

        For a coroutine that must hold it now, and cannot wait, since it is being closed.
        """
        if self._locked:
            self._shares += 1
        else:
            self._locked = True
            self._take_over()

    def _take_over(self) -> None:
        self._holder = None if asyncio._get_running_loop() is None else _current_task()
