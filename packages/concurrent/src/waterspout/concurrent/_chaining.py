"""Futures that hand on what they come to, to futures of either kind, in any loop or thread.

An asyncio future may be touched only in its loop's thread, while that loop runs; one of
`concurrent.futures` anywhere. So whatever is done to a future is done `_at_home`.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import logging
from collections.abc import Callable
from types import TracebackType
from typing import Any, TypeAlias, TypeVar

T = TypeVar("T")
F = TypeVar("F", bound="AnyFuture")

AnyFuture: TypeAlias = "asyncio.Future[Any] | concurrent.futures.Future[Any]"

log = logging.getLogger("waterspout.concurrent")


def chain_future(a: AnyFuture, b: AnyFuture) -> None:
    """Have one future end as another does: by its result, its exception or its cancellation.

    Cancelling `b` cancels `a`. If `b` is done otherwise, what `a` comes to is left alone. Either
    may be of asyncio, of any loop, or of `concurrent.futures`.

    Args:
        a: The future that comes first. If it is done already, and `b` is at home here, `b` is
            done on return.
        b: The one that follows.

    Raises:
        TypeError: If an argument is no future.
        ValueError: If they are the same.
    """
    check_future("a", a)
    check_future("b", b)
    if a is b:
        raise ValueError("a and b must be two futures")

    def follow(_: object = None) -> None:
        _at_home(b, lambda: _copy(a, b))

    def on_b_done(_: object) -> None:
        if b.cancelled():
            _at_home(a, a.cancel)

    _add_done_callback(a, follow)
    _add_done_callback(b, on_b_done)


def future_add_done_callback(future: F, callback: Callable[[F], object]) -> None:
    """Call a function once a future is done; at once where it is done already.

    Args:
        future: A future of asyncio or of `concurrent.futures`.
        callback: Takes the future. It is called where `add_done_callback` of the future calls it.

    Raises:
        TypeError: If `future` is no future or `callback` cannot be called.
    """
    check_future("future", future)
    if not callable(callback):
        raise TypeError(f"callback must be callable, not {callback!r}")
    if future.done():
        callback(future)
    else:
        future.add_done_callback(callback)  # type: ignore[arg-type]


def future_set_result_unless_cancelled(
    future: "asyncio.Future[T] | concurrent.futures.Future[T]", value: T
) -> None:
    """Give a future its result, unless it was cancelled.

    Args:
        future: A future of asyncio or of `concurrent.futures`.
        value: The result.

    Raises:
        TypeError: If `future` is no future.
        asyncio.InvalidStateError: If it has a result or an exception already
            (`concurrent.futures.InvalidStateError` for one of those).
    """
    check_future("future", future)
    if not future.cancelled():
        future.set_result(value)


def future_set_exception_unless_cancelled(future: AnyFuture, exc: BaseException) -> None:
    """Give a future its exception. If it was cancelled, the exception is logged instead.

    Args:
        future: A future of asyncio or of `concurrent.futures`.
        exc: The exception.

    Raises:
        TypeError: If `future` is no future, or `exc` no exception.
        asyncio.InvalidStateError: If it has a result or an exception already
            (`concurrent.futures.InvalidStateError` for one of those).
    """
    check_future("future", future)
    if not isinstance(exc, BaseException):
        raise TypeError(f"exc must be an exception, not {exc!r}")
    if future.cancelled():
        log.error("an exception came after its future was cancelled", exc_info=exc)
    else:
        future.set_exception(exc)


def future_set_exc_info(
    future: AnyFuture,
    exc_info: tuple[type[BaseException] | None, BaseException | None, TracebackType | None],
) -> None:
    """Give a future the exception of a tuple, as `future_set_exception_unless_cancelled` does.

    Args:
        future: A future of asyncio or of `concurrent.futures`.
        exc_info: As `sys.exc_info` gives it.

    Raises:
        TypeError: If `future` is no future.
        ValueError: If there is no exception in the tuple.
        asyncio.InvalidStateError: If the future has a result or an exception already.
    """
    exception = exc_info[1]
    if exception is None:
        raise ValueError(f"exc_info must have an exception, not {exc_info!r}")
    future_set_exception_unless_cancelled(future, exception)


def check_future(name: str, future: object) -> None:
    """Raise unless a value is a future."""
    if not isinstance(future, asyncio.Future | concurrent.futures.Future):
        raise TypeError(f"{name} must be a Future, not {future!r}")


def _copy(a: AnyFuture, b: AnyFuture) -> None:
    if b.done():
        return  # and whoever holds `a` is told of its exception
    with contextlib.suppress(concurrent.futures.InvalidStateError):  # another thread was faster
        if a.cancelled():
            b.cancel()
        elif (error := a.exception()) is None:
            b.set_result(a.result())
        elif isinstance(error, StopIteration):
            wrapped = RuntimeError("the future came to a StopIteration")
            wrapped.__cause__ = error
            b.set_exception(wrapped)
        else:
            b.set_exception(error)


def _add_done_callback(future: AnyFuture, callback: Callable[[object], object]) -> None:
    """Add it where that may be done; call it at once where the future is done."""
    if isinstance(future, concurrent.futures.Future) or not future.done():
        _at_home(future, lambda: future.add_done_callback(callback))
    else:
        callback(future)


def _at_home(future: AnyFuture, action: Callable[[], object]) -> None:
    """Do something to a future, now where that may be done here."""
    if isinstance(future, concurrent.futures.Future):
        action()
        return
    home = future.get_loop()
    if home is asyncio._get_running_loop() or not home.is_running():
        if not home.is_closed():
            action()
        return
    with contextlib.suppress(RuntimeError):  # it has closed meanwhile: nobody waits any more
        home.call_soon_threadsafe(action)
