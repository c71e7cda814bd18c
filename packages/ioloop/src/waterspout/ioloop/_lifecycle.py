"""The first and the last things that a loop does."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import os
import sys
from collections.abc import Callable
from typing import Any

from waterspout.ioloop.scheduling import FileDescriptor, time_limit


def knows_its_thread(loop: asyncio.AbstractEventLoop) -> bool:
    """Whether to ask a loop which thread it runs in, instead of asking which loop runs here.

    Before Python 3.12 the running loop is found by asking for the process's number first, which
    takes longer than all else in `IOLoop.add_callback`. asyncio's own loops know their thread.
    """
    return sys.version_info < (3, 12) and hasattr(loop, "_thread_id")


def check_can_run(
    loop: asyncio.AbstractEventLoop, is_closed: Callable[[], bool], name: str
) -> None:
    """Raise unless a loop can be run here and now.

    Args:
        loop: The loop.
        is_closed: Whether it is closed; raises if it must not be touched.
        name: The method that is to run it.
    """
    if asyncio._get_running_loop() is not None:
        raise RuntimeError(f"{name}() cannot be called while an event loop runs in this thread")
    if loop.is_running():
        raise RuntimeError(f"{name}(): the loop is running in another thread")
    if is_closed():
        raise RuntimeError(f"{name}(): the loop is closed")


async def call_with_timeout(func: Callable[[], Any], seconds: float | None) -> Any:
    """Call a function, and await its result if that can be, within a time."""
    with time_limit(seconds):
        result = func()
        return await result if inspect.isawaitable(result) else result


def cancel_all_tasks(loop: asyncio.AbstractEventLoop) -> None:
    """Cancel the tasks of a stopped loop, run it until they are done, and end its generators.

    What they raise, other than their cancellation, goes to the loop's exception handler.
    """
    # This frame does not refer to the tasks: their exceptions may refer to it (CPython 3.13).
    finishing = _begin_to_finish(loop)
    while not finishing.done():
        # A stop that was asked for earlier ends the loop too early.
        with contextlib.suppress(RuntimeError):
            loop.run_until_complete(finishing)
    finishing.result()


def _begin_to_finish(loop: asyncio.AbstractEventLoop) -> "asyncio.Task[None]":
    tasks = asyncio.all_tasks(loop)
    for task in tasks:
        task.cancel()
    return loop.create_task(_finish(loop, tasks))


async def _finish(loop: asyncio.AbstractEventLoop, tasks: "set[asyncio.Task[Any]]") -> None:
    if tasks:
        await asyncio.wait(tasks)
    for task in tasks:
        error = None if task.cancelled() else task.exception()
        if error is not None:
            loop.call_exception_handler(
                {
                    "message": "Exception in a task that was cancelled when the loop was closed",
                    "exception": error,
                    "task": task,
                }
            )
    await loop.shutdown_asyncgens()
    await loop.shutdown_default_executor()


def close_source(source: FileDescriptor) -> None:
    """Close a descriptor, or the object it was registered as."""
    with contextlib.suppress(OSError):
        if isinstance(source, int):
            os.close(source)
        else:
            close = getattr(source, "close", None)
            close() if close is not None else os.close(source.fileno())
