"""`DummyExecutor`: an executor that does not go anywhere."""

from __future__ import annotations

import concurrent.futures
from collections.abc import Callable
from typing import Any, TypeVar

T = TypeVar("T")


class DummyExecutor(concurrent.futures.Executor):
    """Runs functions at once, in the thread that submits them.

    For tests, and for what takes an executor where none is wanted. It holds nothing, so `shutdown`
    does nothing.
    """

    def submit(
        self, fn: Callable[..., T], /, *args: Any, **kwargs: Any
    ) -> "concurrent.futures.Future[T]":
        """Run a function, now.

        Args:
            fn: A function.
            *args: Its arguments.
            **kwargs: Its keyword arguments.

        Returns:
            A future that is done: it has the result, or the exception that the function raised.

        Raises:
            KeyboardInterrupt: If the function raised it.
            SystemExit: If the function raised it.
        """
        future: concurrent.futures.Future[T] = concurrent.futures.Future()
        try:
            future.set_result(fn(*args, **kwargs))
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:
            future.set_exception(error)
        try:
            return future
        finally:
            del future  # the exception's traceback refers to this frame


dummy_executor: DummyExecutor = DummyExecutor()
"""A `DummyExecutor` for all to use."""
