"""Functions handed to an executor, of which it is known when they have really ended.

The future that `Scheduler.run_in_executor` returns is cancelled at once, whether its function runs
or not. So whoever must wait for a function to end needs the executor's own future, the job: that
can be cancelled only if the function has not begun, and is done when it has ended.

An executor may run a function before `submit` returns (`DummyExecutor`). The traceback of what that
raises refers to all frames below, so none of these may end with a reference to a future that has
the exception.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextvars
import functools
from collections.abc import Callable
from typing import Any, TypeAlias, TypeVar

from waterspout.ioloop.scheduling import Scheduler

T = TypeVar("T")

Job: TypeAlias = "concurrent.futures.Future[Any]"

_InterpreterPoolExecutor: Any = getattr(concurrent.futures, "InterpreterPoolExecutor", ())


class Call:
    """A call of a function that may hand something to an executor before it returns."""

    def __init__(self) -> None:
        self._future: asyncio.Future[Any] | None = None
        self._job: Job | None = None

    def run(self, func: Callable[[Any], T], item: Any) -> T:
        """Call the function, and note what is begun by `run_in_executor` of this module."""
        token = _call.set(self)
        try:
            return func(item)
        finally:
            _call.reset(token)

    def note(self, future: "asyncio.Future[Any]", job: Job | None) -> None:
        self._future, self._job = future, job

    def canceller(self, awaitable: object) -> Callable[[], object] | None:
        """Give what cancels an awaitable that the function returned, and lets it end.

        Returns:
            `None` if that is nothing special. For a function on an executor that nobody knows,
            the loop's default, something that does nothing, so that it is waited for.
        """
        future, job = self._future, self._job
        self._future = self._job = None
        if future is None or future is not awaitable:
            return None
        return _do_nothing if job is None else job.cancel


def _do_nothing() -> None:
    pass


_call: contextvars.ContextVar[Call | None] = contextvars.ContextVar("_call", default=None)


def run_in_executor(
    scheduler: Scheduler,
    executor: concurrent.futures.Executor | None,
    func: Callable[..., T],
    *args: Any,
) -> "asyncio.Future[T]":
    """Do as `Scheduler.run_in_executor` does, and tell the `Call` that is going on, if one is."""
    call = _call.get()
    if call is None:
        return scheduler.run_in_executor(executor, func, *args)
    if executor is None:
        future = scheduler.run_in_executor(None, func, *args)
        call.note(future, None)
        return future
    recorder = _Recorder(executor)
    future = scheduler.run_in_executor(recorder, func, *args)
    call.note(future, recorder.job)
    recorder.job = None
    try:
        return future
    finally:
        del future


class _Recorder(concurrent.futures.Executor):
    """Hands a function to an executor, and keeps the job that this returns."""

    def __init__(self, executor: concurrent.futures.Executor) -> None:
        self._executor = executor
        self.job: Job | None = None
        pools = (concurrent.futures.ThreadPoolExecutor, concurrent.futures.ProcessPoolExecutor)
        # For a simulated loop, which does not know this kind of executor.
        self._waterspout_threads = isinstance(executor, pools) or getattr(
            executor, "_waterspout_threads", False
        )

    def submit(self, fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> Job:
        executor = self._executor
        if isinstance(executor, concurrent.futures.ThreadPoolExecutor) and not isinstance(
            executor, _InterpreterPoolExecutor
        ):  # context variables go along, as the scheduler would have it
            fn = functools.partial(contextvars.copy_context().run, fn)
        job = self.job = executor.submit(fn, *args, **kwargs)
        try:
            return job
        finally:
            del job
