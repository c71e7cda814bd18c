"""Calling back when a future is done."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Callable
from typing import Any


def calls_back_directly(
    loop: asyncio.AbstractEventLoop,
    run: Callable[[Callable[..., object], tuple[Any, ...], dict[str, Any]], None],
    future: object,
    callback: Callable[..., object],
) -> bool:
    """Have a pending future of a loop call back in the iteration after it is done.

    A future calls its own callbacks then, in the loop's thread. To go by way of
    `Scheduler.add_callback`, as for any other future, would take one iteration more.

    Args:
        loop: The loop.
        run: Calls a callback with its arguments and reports what it raises.
        future: What `Scheduler.add_future` was called with.
        callback: This, too.

    Returns:
        Whether that is done. False if the future is done, is not of this loop, or must not be
        touched in this thread, or an argument is of the wrong kind.
    """
    if (
        not isinstance(future, asyncio.Future)
        or future.done()
        or future.get_loop() is not loop
        or not callable(callback)
    ):
        return False
    if asyncio._get_running_loop() is not loop and loop.is_running():
        return False
    future.add_done_callback(
        lambda done: run(callback, (done,), {}), context=contextvars.copy_context()
    )
    return True
