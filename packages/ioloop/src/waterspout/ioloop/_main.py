"""Running a loop until one task is done.

asyncio's own way (`run_until_complete`) raises the task's exception from a frame that refers to the
task. So the exception, its traceback, that frame and the task are a reference cycle, and all the
local variables on the way wait for the garbage collector.
"""

from __future__ import annotations

import asyncio
from typing import Any


def run_until_done(loop: asyncio.AbstractEventLoop, task: "asyncio.Task[Any]") -> None:
    """Run a loop until a task of it is done; what came of the task is left to the caller.

    Raises:
        RuntimeError: If the loop is stopped before.
        KeyboardInterrupt: And `SystemExit`, if a callback or task raises it.
    """
    task.add_done_callback(_stop)
    try:
        loop.run_forever()
    finally:
        task.remove_done_callback(_stop)
        is_done = task.done()
        del task  # its exception refers to this frame, if it left the loop
    if not is_done:
        raise RuntimeError("Event loop stopped before its task was done")


def error_of(task: "asyncio.Task[Any]") -> BaseException | None:
    """Give the exception of a task that is done; if it was cancelled, a `CancelledError`."""
    try:
        return task.exception()
    except asyncio.CancelledError as error:
        return error
    finally:
        del task  # the exception refers to this frame


def _stop(task: "asyncio.Task[Any]") -> None:
    error = None if task.cancelled() else task.exception()
    # These two have left the loop already; to stop it now would stop its next run.
    if not isinstance(error, KeyboardInterrupt | SystemExit):
        task.get_loop().stop()
