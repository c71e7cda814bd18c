"""Futures that hand on what they come to, to futures of either kind, in any loop or thread.

An asyncio future may be touched only in its loop's thread, while that loop runs; one of
`concurrent.futures` anywhere. So whatever is done to a future is done `at_home`.

A future may live as long as the program, and many short ones be chained behind it. So all chains
from one future share one callback on it, its `_Followers`, however many there are: done callbacks
cannot be removed from a future of `concurrent.futures`, and from one of asyncio only in linear
time. A future that is done is taken out there, in constant time. References, while both futures are
pending::

    a  ->  its _Followers  ->  b  ->  its _Link  -- weakly -->  a

So `a` keeps `b`, whose waiters depend on `a`, and `b` does not keep `a`: nothing here is a cycle.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import contextvars
import functools
import logging
import threading
import weakref
from collections.abc import Callable
from types import TracebackType
from typing import Any, Final, TypeAlias, TypeVar

from waterspout.ioloop.scheduling import fail, settle

T = TypeVar("T")
F = TypeVar("F", bound="AnyFuture")

AnyFuture: TypeAlias = "asyncio.Future[Any] | concurrent.futures.Future[Any]"

log = logging.getLogger("waterspout.concurrent")


def chain_future(a: AnyFuture, b: AnyFuture) -> None:
    """Have one future end as another does: by its result, its exception or its cancellation.

    Cancelling `b` cancels `a`. If `b` is done otherwise, what `a` comes to is left alone. Either
    may be of asyncio, of any loop, or of `concurrent.futures`.

    Every outcome is carried. An exception that a future cannot have becomes another:
    `StopIteration` a `RuntimeError` that it is the cause of, and `CancelledError` of
    `concurrent.futures` that of asyncio, in a future of asyncio. A future of `concurrent.futures`
    that runs cannot be cancelled, and gets a `concurrent.futures.CancelledError` as its exception.

    Once either is done, the other keeps nothing of it: 500 short futures chained behind one that
    lives on leave one empty callback on that. While `a` is pending it keeps `b`, for those who wait
    for `b`; and `b` does not keep `a`.

    Args:
        a: The future that comes first. If it is done already, and `b` is at home here, `b` is
            done on return.
        b: The one that follows.

    Raises:
        TypeError: If an argument is no future, or `b` is a task, whose outcome is that of its
            coroutine.
        ValueError: If they are the same.
    """
    check_future("a", a)
    check_future("b", b)
    if a is b:
        raise ValueError("a and b must be two futures")
    if isinstance(b, asyncio.Task):
        raise TypeError(f"b must be a future that can be given an outcome, not the task {b!r}")
    if isinstance(b, asyncio.Future) and b.get_loop().is_closed():
        return
    if a.done():
        at_home(b, functools.partial(_copy, a, b))
        return
    link = _Link(a, b)
    at_home(a, functools.partial(_follow, a, b, link))
    _add_done_callback(b, link)


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

    `StopIteration`, which a future cannot have, becomes a `RuntimeError` that it is the cause of.

    Args:
        future: A future of asyncio or of `concurrent.futures`.
        exc: The exception.

    Raises:
        TypeError: If `future` is no future, or `exc` no exception. A class is no exception.
        asyncio.InvalidStateError: If it has a result or an exception already
            (`concurrent.futures.InvalidStateError` for one of those).
    """
    check_future("future", future)
    if not isinstance(exc, BaseException):
        raise TypeError(f"exc must be an exception, not {exc!r}")
    if future.cancelled():
        log.error("an exception came after its future was cancelled", exc_info=exc)
    elif future.done() or not fail(future, exc):
        future.set_exception(exc)  # which raises


def future_set_exc_info(
    future: AnyFuture,
    exc_info: tuple[type[BaseException] | None, BaseException | None, TracebackType | None],
) -> None:
    """Give a future the exception of a tuple, as `future_set_exception_unless_cancelled` does.

    Args:
        future: A future of asyncio or of `concurrent.futures`.
        exc_info: As `sys.exc_info` gives it.

    Raises:
        TypeError: If `future` is no future, or the second of the tuple no exception.
        ValueError: If there is no exception in the tuple.
        asyncio.InvalidStateError: If the future has a result or an exception already
            (`concurrent.futures.InvalidStateError` for one of those).
    """
    exception = exc_info[1]
    if exception is None:
        raise ValueError(f"exc_info must have an exception, not {exc_info!r}")
    future_set_exception_unless_cancelled(future, exception)


def check_future(name: str, future: object) -> None:
    """Raise unless a value is a future."""
    if not isinstance(future, asyncio.Future | concurrent.futures.Future):
        raise TypeError(f"{name} must be a Future, not {future!r}")


class _Link:
    """The callback on the second of two chained futures.

    Attributes:
        is_over: Whether the second future is done.
        context: In which the second future gets its outcome, if that matters: callbacks of one of
            `concurrent.futures` run in whatever context is current then.
    """

    __slots__ = ("_first", "context", "is_over")

    def __init__(self, first: AnyFuture, second: AnyFuture) -> None:
        self._first = weakref.ref(first)
        self.is_over = False
        calls_back_here = isinstance(first, asyncio.Future) and not isinstance(
            second, asyncio.Future
        )
        self.context = contextvars.copy_context() if calls_back_here else None

    def __call__(self, second: Any) -> None:
        self.is_over = True
        first = self._first()
        if first is None:
            return
        followers = _find_followers(first)
        if followers is not None:
            followers.links.pop(self, None)
        if second.cancelled():
            at_home(first, first.cancel)


class _Followers:
    """The one callback that chains leave on a future.

    Links may be added and taken out in any thread: each step is one operation on a dictionary, and
    both sides look again after their step.

    Attributes:
        links: Those of the futures that follow and are not done, with these.
    """

    __slots__ = ("__weakref__", "_is_over", "_sweep_at", "first", "links")

    def __init__(self, first: AnyFuture) -> None:
        self.first = weakref.ref(first)
        self.links: dict[_Link, AnyFuture] = {}
        self._is_over = False
        self._sweep_at = _SWEEP_FROM

    def __call__(self, first: Any) -> None:
        self._is_over = True
        for link, second in list(self.links.items()):
            self.links.pop(link, None)
            give = functools.partial(at_home, second, functools.partial(_copy, first, second))
            if link.context is None:
                give()
            else:
                link.context.run(give)

    def add(self, link: _Link, first: AnyFuture, second: AnyFuture) -> None:
        if len(self.links) >= self._sweep_at:
            self._sweep()
        self.links[link] = second
        if link.is_over:
            self.links.pop(link, None)
        elif self._is_over:
            self(first)

    def _sweep(self) -> None:
        """Drop the futures of loops that have closed, which will never be done."""
        for link, second in list(self.links.items()):
            if isinstance(second, asyncio.Future) and second.get_loop().is_closed():
                self.links.pop(link, None)
        self._sweep_at = 2 * len(self.links) + _SWEEP_FROM


_SWEEP_FROM: Final = 32
_all_followers: Final[dict[int, weakref.ref[_Followers]]] = {}
"""By the `id` of a future, on which they are a callback, so that they live as long as it.

A `WeakValueDictionary` would take three times as long.
"""
_creating: Final = threading.RLock()  # reentrant for the sake of finalizers


def _find_followers(first: AnyFuture) -> _Followers | None:
    reference = _all_followers.get(id(first))
    followers = None if reference is None else reference()
    return followers if followers is not None and followers.first() is first else None


def _forget(key: int, reference: weakref.ref[_Followers]) -> None:
    del _all_followers[key]  # it is there still, since a reference that was replaced calls nothing


def _follow(first: AnyFuture, second: AnyFuture, link: _Link) -> None:
    """Have the second future follow, where the first is at home."""
    if isinstance(first, asyncio.Future):
        followers = _find_followers(first)
        if followers is None:
            followers = _new_followers(first)
            # In an empty context, since whichever chain comes first would have its context kept.
            first.add_done_callback(followers, context=contextvars.Context())
        followers.add(link, first, second)
        return
    with _creating:
        followers = _find_followers(first)
        is_new = followers is None
        followers = followers or _new_followers(first)
    followers.add(link, first, second)
    if is_new:
        first.add_done_callback(followers)


def _new_followers(first: AnyFuture) -> _Followers:
    followers, key = _Followers(first), id(first)
    _all_followers[key] = weakref.ref(followers, functools.partial(_forget, key))
    return followers


def _copy(a: AnyFuture, b: AnyFuture) -> None:
    """Give a future the outcome of one that is done, unless it has one."""
    if b.done():
        return  # and whoever holds `a` is told of its exception
    if a.cancelled():
        if not b.cancel():
            fail(b, concurrent.futures.CancelledError())
    elif (error := a.exception()) is not None:
        fail(b, error)
    else:
        settle(b, a.result())


def _add_done_callback(future: AnyFuture, callback: Callable[[object], object]) -> None:
    """Add it where that may be done; call it at once where the future is done."""
    if isinstance(future, concurrent.futures.Future) or not future.done():
        at_home(future, lambda: future.add_done_callback(callback))
    else:
        callback(future)


def at_home(future: AnyFuture, action: Callable[[], object]) -> None:
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
