"""Small things about futures."""

from __future__ import annotations

import asyncio
import concurrent.futures
import types
from collections.abc import Generator
from typing import Any, TypeGuard

from waterspout.ioloop.scheduling import Timeout, current_scheduler, timeout_seconds


def is_future(
    obj: object,
) -> "TypeGuard[asyncio.Future[Any] | concurrent.futures.Future[Any]]":
    """Whether an object is a future, of asyncio (a task, say) or of `concurrent.futures`."""
    return isinstance(obj, asyncio.Future | concurrent.futures.Future)


async def sleep(duration: Timeout) -> None:
    """Let other tasks run for a while.

    Cancelling it ends it at once, and leaves no timer behind.

    Args:
        duration: Seconds, or a `timedelta`. Zero or less yields to the loop exactly once; `None`
            and infinity sleep until cancelled.

    Raises:
        TypeError: If `duration` is no number, `timedelta` or `None`.
        ValueError: If `duration` is NaN or a number of more than ten years.
        RuntimeError: If no loop is running.
    """
    seconds = timeout_seconds(duration, "duration")
    if seconds is not None and seconds <= 0:
        await _yield_once()
        return None
    scheduler = current_scheduler()
    waiter: asyncio.Future[None] = scheduler.create_future()
    if seconds is None:
        return await waiter
    timer = scheduler.call_later(seconds, _wake, waiter)
    try:
        await waiter
    finally:
        scheduler.remove_timeout(timer)


def _wake(waiter: "asyncio.Future[None]") -> None:
    if not waiter.done():
        waiter.set_result(None)


@types.coroutine
def _yield_once() -> Generator[None, None, None]:
    """A bare yield, which a task takes for «go on in the next iteration»."""
    yield
