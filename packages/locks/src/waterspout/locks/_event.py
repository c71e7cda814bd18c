"""`Event`: a flag to wait for."""

from __future__ import annotations

from dataclasses import dataclass

from waterspout.ioloop.scheduling import Timeout, WaitQueue, timeout_seconds


@dataclass(frozen=True)
class EventStatistics:
    """An event at one moment.

    Attributes:
        is_set: Whether the flag is set.
        waiters: How many tasks wait for it.
    """

    is_set: bool
    waiters: int


class Event:
    """A flag, unset at first, that tasks can wait for."""

    __slots__ = ("__weakref__", "_set", "_waiters")

    def __init__(self) -> None:
        self._set = False
        self._waiters: WaitQueue[None] = WaitQueue()

    def __repr__(self) -> str:
        state = "set" if self._set else "unset"
        return f"<{type(self).__name__} {state} waiters={len(self._waiters)}>"

    def statistics(self) -> EventStatistics:
        """Give the state of the flag, and how many wait for it."""
        return EventStatistics(self._set, len(self._waiters))

    def is_set(self) -> bool:
        """Whether the flag is set."""
        return self._set

    def set(self) -> None:
        """Set the flag, and wake everybody who waits for it.

        Raises:
            RuntimeError: If tasks of another open loop wait for it; then it stays unset.
        """
        if not self._set:
            self._waiters.wake_all(None)
            self._set = True

    def clear(self) -> None:
        """Unset the flag. Whoever `set` woke stays woken, also if it has not resumed yet."""
        self._set = False

    async def wait(self, timeout: Timeout = None) -> bool:
        """Wait until the flag is set; return at once where it is.

        Cancelling it changes nothing.

        Args:
            timeout: Seconds from now, or a `timedelta`; `None` waits for ever, and zero or less
                not at all.

        Returns:
            True if the flag was set, False if time was up first.

        Raises:
            RuntimeError: If tasks of another open loop wait for it.
            TypeError: If `timeout` is no number, `timedelta` or `None`.
            ValueError: If `timeout` is NaN or a number of more than ten years.
        """
        if self._set:
            if timeout is not None:
                timeout_seconds(timeout)
            return True
        try:
            await self._waiters.wait(timeout)
        except TimeoutError:
            return False
        return True
