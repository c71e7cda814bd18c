"""`with_timeout`: an awaitable with a time limit.

A coroutine runs in the caller's task, inside a `time_limit`. A future is cancelled directly when
time is up; that it was the limit that did it, and nobody else who cancelled the caller, is told
as `time_limit` tells it: by the count of requests to cancel the task.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import inspect
from collections.abc import Awaitable
from typing import TypeVar

from waterspout.ioloop.scheduling import (
    Timeout,
    current_scheduler,
    time_limit,
    timeout_seconds,
)

T = TypeVar("T")


async def with_timeout(
    timeout: Timeout,
    future: "Awaitable[T] | concurrent.futures.Future[T]",
    *,
    cancel: bool = True,
) -> T:
    """Wait for a future or coroutine, but not for ever.

    When time is up it is cancelled, and its end is waited for; if it has a result all the same,
    or got one at the very moment, that is returned. Cancelling the caller cancels it too.

    Args:
        timeout: Seconds from now, or a `timedelta`; `None` waits for ever. Zero or less gives the
            result of what is done already; a coroutine then runs up to its first real wait.
        future: A future, also one of `concurrent.futures`, a coroutine, or anything that can be
            awaited. Other than a future, it runs in the caller's task.
        cancel: With False it is left running when time is up or the caller is cancelled: what
            is no future as a task of its own, whose exception is then reported by the loop; a
            future as what it is to whoever holds it.

    Returns:
        Its result.

    Raises:
        TimeoutError: If time was up first.
        asyncio.CancelledError: If the caller was cancelled, or `future` was.
        Exception: What it raised.
        TypeError: If `timeout` is no number, `timedelta` or `None`, or `future` cannot be
            awaited.
        ValueError: If `timeout` is NaN or a number of more than ten years.
    """
    if not isinstance(future, asyncio.Future):
        future = _awaitable(timeout, future)
    seconds = timeout_seconds(timeout)
    if not cancel:
        return await _leave_running(seconds, future)
    result: T
    if seconds is None or (isinstance(future, asyncio.Future) and future.done()):
        result = await future
        return result
    if not isinstance(future, asyncio.Future):
        with time_limit(seconds):
            return await future
    task = asyncio.current_task()
    if task is None:
        raise RuntimeError("with_timeout() must be awaited in a task")
    requests = task.cancelling()
    expired: list[bool] = []
    scheduler = current_scheduler()
    timer = scheduler.call_later(seconds, _expire, future, expired)
    try:
        result = await future
    except asyncio.CancelledError as error:
        if expired and task.cancelling() <= requests:
            raise TimeoutError from error
        raise
    finally:
        scheduler.remove_timeout(timer)
    return result


def _expire(future: "asyncio.Future[T]", expired: list[bool]) -> None:
    """Cancel a future whose time is up, and say so if it was not done yet."""
    if future.cancel():
        expired.append(True)


def _awaitable(
    timeout: Timeout, future: "Awaitable[T] | concurrent.futures.Future[T]"
) -> Awaitable[T]:
    """Give what is no asyncio future as what can be awaited, if both arguments are in order."""
    if not (isinstance(future, concurrent.futures.Future) or inspect.isawaitable(future)):
        raise TypeError(f"future must be awaitable, not {future!r}")
    try:
        timeout_seconds(timeout)
    except (TypeError, ValueError):
        if inspect.iscoroutine(future):
            future.close()
        raise
    if isinstance(future, concurrent.futures.Future):
        return asyncio.wrap_future(future)
    return future


async def _leave_running(seconds: float | None, awaitable: Awaitable[T]) -> T:
    future = asyncio.ensure_future(awaitable)
    scheduler = current_scheduler()
    waiter = scheduler.create_future()

    def wake(done: object = None) -> None:
        if not waiter.done():
            waiter.set_result(None)

    timer = None if seconds is None else scheduler.call_later(seconds, wake)
    future.add_done_callback(wake)
    try:
        await waiter
    finally:
        future.remove_done_callback(wake)
        if timer is not None:
            scheduler.remove_timeout(timer)
        if future is not awaitable and not future.done():
            # A task of our making: nobody else holds it, or will hear of its exception.
            scheduler.add_callback(_left_running, future)
    if not future.done():
        raise TimeoutError
    return future.result()


def _left_running(task: "asyncio.Future[T]") -> "asyncio.Future[T]":
    """Hand a task to the scheduler, which holds it and reports its exception."""
    return task
