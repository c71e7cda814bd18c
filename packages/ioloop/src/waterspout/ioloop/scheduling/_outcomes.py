"""`settle` and `fail`: give a future its outcome unless it is done.

A future may be cancelled, or expire, at any moment before its outcome is known, so whoever has the
outcome must ask first. A future of `concurrent.futures` may be cancelled by another thread between
the question and the answer.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
from typing import Any, TypeVar

T = TypeVar("T")


def settle(future: "asyncio.Future[T] | concurrent.futures.Future[T]", value: T) -> bool:
    """Give a future its result, unless it is done.

    Args:
        future: A future of asyncio, in its loop's thread, or one of `concurrent.futures`, in any.
        value: The result.

    Returns:
        Whether the future has this result now; false if it was done already.
    """
    if future.done():
        return False
    try:
        future.set_result(value)
    except concurrent.futures.InvalidStateError:  # another thread was faster
        return False
    return True


def fail(
    future: "asyncio.Future[Any] | concurrent.futures.Future[Any]",
    error: BaseException | type[BaseException],
) -> bool:
    """Give a future its exception, unless it is done.

    Every exception can be given, so no future is left pending because of what it was to hold:

    -   `StopIteration` becomes a `RuntimeError` whose cause it is. Raised where a future is
        awaited, it would end the coroutine as if that had returned (PEP 479).
    -   A class is called, as `raise` does it. What is no exception becomes the `TypeError` that
        `raise` makes of it.
    -   `CancelledError` and `InvalidStateError` of `concurrent.futures` become asyncio's, in a
        future of asyncio.

    Args:
        future: A future of asyncio, in its loop's thread, or one of `concurrent.futures`, in any.
        error: The exception, or its class.

    Returns:
        Whether the future has this exception now; false if it was done already.
    """
    if future.done():
        return False
    if not isinstance(error, BaseException):
        error = _raised(error)
    if isinstance(error, StopIteration):
        error = _caused_by(RuntimeError(f"a future cannot hold {error!r}"), error)
    elif isinstance(future, asyncio.Future):
        if isinstance(error, concurrent.futures.CancelledError):
            error = _caused_by(asyncio.CancelledError(*error.args), error)
        elif isinstance(error, concurrent.futures.InvalidStateError):
            error = _caused_by(asyncio.InvalidStateError(*error.args), error)
    try:
        future.set_exception(error)
    except concurrent.futures.InvalidStateError:  # another thread was faster
        return False
    return True


def _raised(error: Any) -> BaseException:
    """Give the exception that raising something gives."""
    try:
        raise error
    except BaseException as raised:
        return raised.with_traceback(None)


def _caused_by(error: BaseException, cause: BaseException) -> BaseException:
    error.__cause__ = cause
    return error
