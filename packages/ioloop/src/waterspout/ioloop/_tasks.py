"""Running callbacks, and the tasks that they start.

asyncio holds its tasks weakly: one that nobody else holds may vanish in the middle of its work.
"""

from __future__ import annotations

import asyncio
import inspect
import weakref
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, Protocol


class _HasHook(Protocol):
    @property
    def asyncio_loop(self) -> asyncio.AbstractEventLoop: ...

    def handle_callback_exception(self, callback: Callable[..., object]) -> None: ...


def reporter_of(loop: _HasHook) -> Callable[[Callable[..., object]], None]:
    """Make a function that calls a loop's hook, also one that is set on the loop later.

    It does not keep the loop alive: the parts of a loop report by it.
    """
    reference = weakref.ref(loop)

    def report(callback: Callable[..., object]) -> None:
        loop = reference()
        if loop is None:  # pragma: no cover (the asyncio loop holds it until it is closed)
            return
        try:
            loop.handle_callback_exception(callback)
        except Exception as error:  # or other callbacks would not be called
            loop.asyncio_loop.call_exception_handler(
                {"message": f"Exception in the hook for {callback!r}", "exception": error}
            )

    return report


class Calls:
    """Calls callbacks, holds the tasks that they start until these are done, and reports errors.

    Args:
        loop: Their loop.
        report: Called with a callback while the exception that it, or its task, raised is being
            handled.
    """

    __slots__ = ("_loop", "_report", "_tasks")

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        report: Callable[[Callable[..., object]], None],
    ) -> None:
        self._loop = loop
        self._report = report
        self._tasks: set[asyncio.Future[Any]] = set()

    def run(
        self, callback: Callable[..., object], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> None:
        """Call a callback; make its result a task if it can be awaited."""
        try:
            result = callback(*args, **kwargs)
            if result is not None and inspect.isawaitable(result):
                self._hold(callback, result)
        except Exception:
            self._report(callback)

    def close(self) -> None:
        """Hold no task any more. The loop is closed, so none of them goes on."""
        self._tasks.clear()

    def _hold(self, callback: Callable[..., object], awaitable: Awaitable[Any]) -> None:
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
                del error, task, callback  # the error refers to this frame
