"""`time_limit`: a block of code that may take only so long.

When time is up, the task that is inside is cancelled, and the `CancelledError` that comes out of
the block becomes a `TimeoutError`. It arrives just as it does when somebody else cancels the
task; but a task counts the requests to cancel it (`Task.cancelling`), so a request from outside
is told apart, and goes on as what it is.
"""

import asyncio
from types import TracebackType
from typing import Any, Self

from waterspout.ioloop.scheduling._interface import TimeoutHandle
from waterspout.ioloop.scheduling._registry import current_scheduler


class time_limit:  # noqa: N801 (it reads as a statement)
    """Limit the time of a block, by the scheduler's clock.

        with time_limit(5.0):
            await something

    What is inside is cancelled when time is up, and may take its time to end. If it ends well
    all the same, the block ends well.

    Args:
        seconds: How long it may take; zero or less lets it run up to its first wait, `None`
            sets no limit.

    Raises:
        TimeoutError: From the block, in place of the cancellation, when time is up.
        RuntimeError: If it is not entered inside a task.
    """

    __slots__ = ("_expired", "_requests", "_seconds", "_task", "_timer")

    def __init__(self, seconds: float | None) -> None:
        self._seconds = seconds
        self._expired = False
        self._timer: TimeoutHandle = None

    def __enter__(self) -> Self:
        task = asyncio.current_task()
        if task is None:
            raise RuntimeError("time_limit() must be entered inside a task")
        self._task: asyncio.Task[Any] = task
        self._requests = task.cancelling()
        if self._seconds is not None:
            self._timer = current_scheduler().call_later(self._seconds, self._expire)
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_val: BaseException | None,
        exc_tb: TracebackType | None,
    ) -> None:
        if self._seconds is not None:
            current_scheduler().remove_timeout(self._timer)
        if self._expired:
            others = self._task.uncancel() > self._requests
            if exc_type is asyncio.CancelledError and not others:
                raise TimeoutError from exc_val

    def _expire(self) -> None:
        self._expired = self._task.cancel()
