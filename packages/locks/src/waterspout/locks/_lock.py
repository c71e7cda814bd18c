"""`Lock`: one holder at a time."""

from __future__ import annotations

from waterspout.ioloop.scheduling import Timeout, WaitQueue, timeout_seconds
from waterspout.locks._held import Held


class Lock(Held):
    """A mutual exclusion lock::

        async with lock:
            ...

    It has no owner: any task may release it.
    """

    __slots__ = ("_locked", "_waiters")

    def __init__(self) -> None:
        self._locked = False
        self._waiters: WaitQueue[None] = WaitQueue(self._pass_on)

    def __repr__(self) -> str:
        state = "locked" if self._locked else "unlocked"
        return f"<{type(self).__name__} {state} waiters={len(self._waiters)}>"

    def locked(self) -> bool:
        """Whether somebody holds it, or was handed it and has not resumed yet."""
        return self._locked

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
            ValueError: If `timeout` is NaN.
        """
        if self._locked:
            self._waiters.recover()
        if not self._locked:
            if timeout is not None:
                timeout_seconds(timeout)
            self._locked = True
        else:
            await self._waiters.wait(timeout)
        return True

    def release(self) -> None:
        """Hand the lock to the task that waited longest, or unlock it.

        Raises:
            RuntimeError: If it is not locked, or tasks of another open loop wait for it.
        """
        if not self._locked:
            raise RuntimeError("release() of a lock that is not locked")
        self._pass_on()

    def _pass_on(self, permit: None = None) -> None:
        if not self._waiters.wake(None):
            self._locked = False
