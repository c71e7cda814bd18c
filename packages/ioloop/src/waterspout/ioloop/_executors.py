"""Running functions off the loop."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Callable
from concurrent import futures
from concurrent.futures import Executor, ThreadPoolExecutor
from functools import partial
from typing import Any, TypeVar

T = TypeVar("T")


class Executors:
    """The executors that a loop uses.

    Args:
        loop: The loop beneath. It has a pool of threads of its own.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._default: Executor | None = None  # other than the loop's own

    def run(
        self, executor: Executor | None, func: Callable[..., T], args: tuple[Any, ...]
    ) -> "asyncio.Future[T]":
        """See `Scheduler.run_in_executor`."""
        executor = self._default if executor is None else executor
        if not callable(func):
            raise TypeError(f"func must be callable, not {func!r}")
        if (
            executor is None
            or type(executor) is ThreadPoolExecutor  # as mostly
            or shares_our_memory(executor)
        ):
            context = contextvars.copy_context()
            call = partial(context.run, call_off_loop, func, *args)
            return self._loop.run_in_executor(executor, call)
        if not isinstance(executor, Executor):
            raise TypeError(f"executor must be an Executor or None, not {executor!r}")
        return self._loop.run_in_executor(executor, func, *args)

    def set_default(self, executor: Executor) -> None:
        """See `IOLoop.set_default_executor`."""
        if not isinstance(executor, Executor):
            raise TypeError(f"executor must be an Executor, not {executor!r}")
        self._default = executor
        if isinstance(executor, ThreadPoolExecutor) and shares_our_memory(executor):
            self._loop.set_default_executor(executor)
            self._default = None


def shares_our_memory(executor: Executor) -> bool:
    """Whether an executor is known to run functions in this process and interpreter."""
    if not isinstance(executor, ThreadPoolExecutor):
        return False
    elsewhere = getattr(futures, "InterpreterPoolExecutor", None)
    return elsewhere is None or not isinstance(executor, elsewhere)


def call_off_loop(func: Callable[..., T], *args: Any) -> T:
    """Call a function whose outcome goes into a future.

    A future cannot have `StopIteration` (PEP 479 tells why); before Python 3.12 asyncio leaves
    such a future pending for ever.
    """
    try:
        return func(*args)
    except StopIteration as error:
        raise RuntimeError(f"{func!r} raised StopIteration") from error
