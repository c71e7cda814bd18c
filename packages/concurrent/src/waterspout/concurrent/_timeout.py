"""`with_timeout`: an awaitable with a time limit.

A coroutine runs in the caller's task, inside a `time_limit`. A future is cancelled directly when
time is up; that it was the limit that did it, and nobody else who cancelled the caller, is told
as `time_limit` tells it: by the count of requests to cancel the task.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import functools
import inspect
from collections.abc import Awaitable
from typing import TypeVar

from waterspout.concurrent._chaining import at_home, chain_future
from waterspout.ioloop.scheduling import (
    Timeout,
    current_scheduler,
    settle,
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
    or got one at the very moment, that is returned. Cancelling the caller cancels it too. A future
    of `concurrent.futures` whose function runs already cannot be cancelled: that goes on, and is
    not waited for.

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
        BaseException: What it raised. `StopIteration` of a future of `concurrent.futures` becomes
            a `RuntimeError` that it is the cause of.
        RuntimeError: If it is not awaited in a task, and has a timeout for what is not done.
        TypeError: If `timeout` is no number, `timedelta` or `None`, or `future` cannot be
            awaited.
        ValueError: If `timeout` is NaN or a number of more than ten years.
    """
    result: T
    foreign = False
    if not isinstance(future, asyncio.Future):
        foreign = isinstance(future, concurrent.futures.Future)
        future = _awaitable(timeout, future)
    task: asyncio.Task[object] | None = None
    try:
        seconds = timeout_seconds(timeout)
        if not cancel:
            return await _leave_running(seconds, future, foreign)
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
    except GeneratorExit:
        if foreign:
            _leave(future)
        raise
    finally:
        del future, task  # an exception that is theirs refers to this frame


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
        wrapper = current_scheduler().create_future()
        chain_future(future, wrapper)
        return wrapper
    return future


async def _leave_running(seconds: float | None, awaitable: Awaitable[T], foreign: bool) -> T:
    scheduler = current_scheduler()
    waiter = scheduler.create_future()
    timer = None if seconds is None else scheduler.call_later(seconds, _wake, waiter)
    future = asyncio.ensure_future(awaitable)
    wake = functools.partial(_wake, waiter)
    future.add_done_callback(wake)
    try:
        try:
            await waiter
        finally:
            future.remove_done_callback(wake)
            if timer is not None:
                scheduler.remove_timeout(timer)
            if foreign:
                is_done = future.done()
                _leave(future)
            elif not (is_done := future.done()) and future is not awaitable:
                # A task of our making: nobody else holds it, or will hear of its exception.
                scheduler.add_callback(_left_running, future)
        if not is_done:
            raise TimeoutError
        return future.result()
    finally:
        del future, awaitable  # an exception that is theirs refers to this frame


def _wake(waiter: "asyncio.Future[None]", done: object = None) -> None:
    settle(waiter, None)


def _leave(wrapper: Awaitable[object]) -> None:
    """Wait no longer for a future of `concurrent.futures`, and keep nothing on it.

    Its exception is for whoever holds it to retrieve.
    """
    assert isinstance(wrapper, asyncio.Future)
    if not wrapper.done():
        at_home(wrapper, functools.partial(settle, wrapper, None))
    elif not wrapper.cancelled():
        wrapper.exception()


def _left_running(task: "asyncio.Future[T]") -> "asyncio.Future[T]":
    """Hand a task to the scheduler, which holds it and reports its exception."""
    return task
