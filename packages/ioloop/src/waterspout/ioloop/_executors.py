"""Running functions off the loop."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
from collections.abc import Callable
from concurrent import futures
from concurrent.futures import Executor, ThreadPoolExecutor
from functools import partial
from typing import Any, TypeVar

from waterspout.ioloop.scheduling import fail, settle

T = TypeVar("T")


class Executors:
    """The executors that a loop uses.

    Args:
        loop: The loop beneath. It has a pool of threads of its own.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._default: Executor | None = None  # other than the loop's own
        # A simulated loop refuses some executors, and keeps account of what the others do.
        self._new_future: Callable[[Executor, Callable[..., Any]], asyncio.Future[Any]] | None
        self._new_future = getattr(loop, "_waterspout_offload", None)

    def run(
        self, executor: Executor | None, func: Callable[..., T], args: tuple[Any, ...]
    ) -> "asyncio.Future[T]":
        """See `Scheduler.run_in_executor`."""
        executor = self._default if executor is None else executor
        if not callable(func):
            raise TypeError(f"func must be callable, not {func!r}")
        if executor is None:
            call = partial(contextvars.copy_context().run, call_off_loop, func, *args)
            future: asyncio.Future[T] = self._loop.run_in_executor(None, call)
            return done_later(future) if future.done() else future
        if type(executor) is ThreadPoolExecutor or shares_our_memory(executor):
            return self._run(executor, contextvars.copy_context().run, (func, *args))
        if not isinstance(executor, Executor):
            raise TypeError(f"executor must be an Executor or None, not {executor!r}")
        return self._run(executor, func, args)

    def _run(
        self, executor: Executor, func: Callable[..., Any], args: tuple[Any, ...]
    ) -> "asyncio.Future[Any]":
        future = (
            self._loop.create_future()
            if self._new_future is None
            else self._new_future(executor, func)
        )
        try:
            carry(executor.submit(func, *args), future)
        except BaseException:
            future.cancel()
            raise
        try:
            return future
        finally:
            del future  # the traceback of what `func` raised in `submit` refers to this frame

    def set_default(self, executor: Executor) -> None:
        """See `IOLoop.set_default_executor`."""
        if not isinstance(executor, Executor):
            raise TypeError(f"executor must be an Executor, not {executor!r}")
        if isinstance(executor, ThreadPoolExecutor) and shares_our_memory(executor):
            self._loop.set_default_executor(executor)
            self._default = None
        else:
            self._default = executor  # asyncio hands its own one what only a thread can run


def shares_our_memory(executor: Executor) -> bool:
    """Whether an executor is known to run functions in this process and interpreter."""
    if not isinstance(executor, ThreadPoolExecutor):
        return False
    elsewhere = getattr(futures, "InterpreterPoolExecutor", None)
    return elsewhere is None or not isinstance(executor, elsewhere)


def call_off_loop(func: Callable[..., T], *args: Any) -> T:
    """Call a function whose outcome asyncio puts into a future.

    Before Python 3.12, asyncio leaves a future pending for ever if that raises `StopIteration`.
    """
    try:
        return func(*args)
    except StopIteration as error:
        raise RuntimeError(f"{func!r} raised StopIteration") from error


def carry(source: "futures.Future[T]", future: "asyncio.Future[T]") -> None:
    """Give a future of the running loop, in a later iteration, the outcome of a foreign one.

    asyncio's own way (`asyncio.wrap_future`) leaves the future pending for ever if the foreign one
    has what `Future.set_exception` refuses: `StopIteration` before Python 3.12, and in all versions
    an exception class that cannot be called without arguments. From Python 3.14 on, it gives the
    outcome at once where that is there already, so that it depends on the speed of a thread
    whether the task that awaits it is suspended.

    Args:
        source: What an executor returned.
        future: Is given its outcome. Cancelling it cancels the source.

    Raises:
        TypeError: If `source` is no future of `concurrent.futures`.
    """
    if not isinstance(source, futures.Future):
        raise TypeError(f"an executor must return a concurrent.futures.Future, not {source!r}")
    loop = future.get_loop()

    def on_done(done: "futures.Future[T]") -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
            loop.call_soon_threadsafe(copy_outcome, done, future)

    def on_future_done(done: "asyncio.Future[T]") -> None:
        if done.cancelled():
            source.cancel()

    future.add_done_callback(on_future_done)
    source.add_done_callback(on_done)


def done_later(done: "asyncio.Future[T]") -> "asyncio.Future[T]":
    """Give a future that gets an outcome in the next iteration: see `carry`."""
    loop = done.get_loop()
    future: asyncio.Future[T] = loop.create_future()
    loop.call_soon(copy_outcome, done, future)
    return future


def copy_outcome(
    source: "futures.Future[T] | asyncio.Future[T]", future: "asyncio.Future[T]"
) -> None:
    """Give a future the outcome of one that is done, unless it has one."""
    if source.cancelled():
        future.cancel()
    elif (error := source.exception()) is not None:
        fail(future, error)
    else:
        settle(future, source.result())
