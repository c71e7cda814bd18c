"""`time_limit`: a block of code that may take only so long.

When time is up, the task that is inside is cancelled, and the `CancelledError` that comes out of
the block becomes a `TimeoutError`. It arrives just as it does when somebody else cancels the
task; but a task counts the requests to cancel it (`Task.cancelling`), so a request from outside
is told apart, and goes on as what it is.
"""

from __future__ import annotations

import asyncio
from types import TracebackType
from typing import Any, Self

from waterspout.ioloop.scheduling._interface import Scheduler, TimeoutHandle
from waterspout.ioloop.scheduling._registry import current_scheduler
from waterspout.ioloop.scheduling._seconds import Timeout, timeout_seconds


class time_limit:  # noqa: N801 (it reads as a statement)
    """Limit the time of a block, by the scheduler's clock::

        with time_limit(5.0):
            await something

    What is inside is cancelled when time is up, and may take its time to end. If it ends well
    all the same, the block ends well.

    Args:
        seconds: How long it may take, or a `timedelta`; zero or less lets it run up to its first
            wait, `None` sets no limit.

    Raises:
        TypeError: If `seconds` is no number, `timedelta` or `None`.
        ValueError: If `seconds` is NaN or a number of more than ten years.
        TimeoutError: From the block, in place of the cancellation, when time is up.
        RuntimeError: If it is not entered inside a task, or entered twice.
    """

    __slots__ = ("_entered", "_expired", "_requests", "_scheduler", "_seconds", "_task", "_timer")

    def __init__(self, seconds: Timeout) -> None:
        self._seconds = timeout_seconds(seconds, "seconds")
        self._entered = False
        self._expired = False
        self._task: asyncio.Task[Any] | None = None
        self._scheduler: Scheduler | None = None
        self._timer: TimeoutHandle = None

    def __enter__(self) -> Self:
        if self._entered:
            raise RuntimeError("time_limit() can be entered only once")
        task = asyncio.current_task()
        if task is None:
            raise RuntimeError("time_limit() must be entered inside a task")
        self._entered = True
        self._task = task
        self._requests = task.cancelling()
        if self._seconds is not None:
            self._scheduler = current_scheduler()
            self._timer = self._scheduler.call_later(self._seconds, self._expire)
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_val: BaseException | None,
        exc_tb: TracebackType | None,
    ) -> None:
        if self._scheduler is not None:
            self._scheduler.remove_timeout(self._timer)
        # If the exception becomes the task's, the task must not be found from this frame.
        task, self._task = self._task, None
        if not self._expired:
            return
        assert task is not None
        others = task.uncancel() > self._requests
        del task
        if exc_type is asyncio.CancelledError and not others:
            raise TimeoutError from exc_val

    def _expire(self) -> None:
        assert self._task is not None
        self._expired = self._task.cancel()
