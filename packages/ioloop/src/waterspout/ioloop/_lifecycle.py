"""The first and the last things that a loop does."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import os
import sys
from collections.abc import Callable
from typing import Any

from waterspout.ioloop._interrupts import interrupts_told_apart
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


def call_when_closed(loop: Any, callback: Callable[[], object]) -> None:
    """Call a function once a loop is closed, whoever closes it.

    asyncio has no such hook. So an attribute of the loop shadows its `close` until it is closed;
    `asyncio.run`, uvloop's runner and a loop's own finalizer all find it.
    """
    loop.close = _CloseAndCall(loop, callback)


class _CloseAndCall:
    """Stands in for the method `close` of a loop."""

    def __init__(self, loop: Any, callback: Callable[[], object]) -> None:
        self._loop = loop
        self._shadowed = vars(loop).get("close")  # somebody else may have set one before
        self._close = loop.close
        self._callback = callback

    def __call__(self) -> None:
        try:
            self._close()
        finally:
            loop = self._loop
            if loop.is_closed():
                if vars(loop).get("close") is self:
                    del loop.close
                    if self._shadowed is not None:
                        loop.close = self._shadowed
                self._callback()


async def call_with_timeout(func: Callable[[], Any], seconds: float | None) -> Any:
    """Call a function, and await its result if that can be, within a time."""
    with time_limit(seconds):
        result = func()
        return await result if inspect.isawaitable(result) else result


def cancel_all_tasks(loop: asyncio.AbstractEventLoop) -> None:
    """Cancel the tasks of a stopped loop, run it until they are done, and end its generators.

    What they raise, other than their cancellation, goes to the loop's exception handler.

    Raises:
        KeyboardInterrupt: And `SystemExit`, if a callback or task raises it: at the end, when
            everything is done. A Ctrl-C raises at once.
    """
    leaving: BaseException | None = None
    # This frame does not refer to the tasks: their exceptions may refer to it (CPython 3.13).
    finishing = _begin_to_finish(loop)
    with interrupts_told_apart() as was_interrupted:
        while not finishing.done():
            try:
                # A stop that was asked for earlier ends the loop too early.
                with contextlib.suppress(RuntimeError):
                    loop.run_until_complete(finishing)
            except (KeyboardInterrupt, SystemExit) as error:
                if was_interrupted():
                    raise
                leaving = leaving or error
    finishing.result()
    if leaving is not None:
        try:
            raise leaving
        finally:
            del leaving  # it refers to this frame


def _begin_to_finish(loop: asyncio.AbstractEventLoop) -> "asyncio.Task[None]":
    tasks = asyncio.all_tasks(loop)
    # Created before the others are cancelled, so that it has started when one of them interrupts.
    finishing = loop.create_task(_finish(loop, tasks))
    finishing._log_destroy_pending = False  # type: ignore[attr-defined]  # a Ctrl-C leaves it so
    for task in tasks:
        task.cancel()
    return finishing


async def _finish(loop: asyncio.AbstractEventLoop, tasks: "set[asyncio.Task[Any]]") -> None:
    if tasks:
        await asyncio.wait(tasks)
    for task in tasks:
        error = None if task.cancelled() else task.exception()
        if error is not None and not isinstance(error, KeyboardInterrupt | SystemExit):
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
