"""Tasks that the loop started for somebody.

asyncio holds its tasks weakly: one that nobody else holds may vanish in the middle of its work.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any


class HeldTasks:
    """Holds tasks until they are done, and has their exceptions reported.

    Args:
        loop: Their loop.
        report: Called with the callback that returned an awaitable, while its exception is being
            handled.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        report: Callable[[Callable[..., object]], None],
    ) -> None:
        self._loop = loop
        self._report = report
        self._tasks: set[asyncio.Future[Any]] = set()

    def hold(self, callback: Callable[..., object], awaitable: Awaitable[Any]) -> None:
        """Make an awaitable a task, if it is no future, and hold it.

        Args:
            callback: What returned it.
            awaitable: A coroutine, a future, or anything that can be awaited.
        """
        task = asyncio.ensure_future(awaitable, loop=self._loop)
        self._tasks.add(task)
        task.add_done_callback(partial(self._release, callback))

    def _release(self, callback: Callable[..., object], task: "asyncio.Future[Any]") -> None:
        self._tasks.discard(task)
        error = None if task.cancelled() else task.exception()
        if isinstance(error, Exception):  # others have left the loop already
            try:
                raise error
            except Exception:
                self._report(callback)
            finally:
                del error, task  # the exception refers to this frame
