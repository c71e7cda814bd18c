"""`amap`: a function over many items, so many at a time.

An item is *open* from when it is taken from the source to when its result is given out. There are
at most `limit` open ones, so a slow consumer holds the source back. The work is done by one task an
item. The iterator that a user holds is a shell around `_Work`, to which the tasks belong: so an
iterator that is dropped is noticed, and ends them.

A function that runs on an executor cannot be cancelled. The future that stands for it can, and
would be done at once. So, where the function's `Call` knows better, not the future is cancelled but
the executor's job, which is done when the function has ended.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import functools
import inspect
from collections import deque
from collections.abc import (
    AsyncGenerator,
    AsyncIterable,
    AsyncIterator,
    Awaitable,
    Callable,
    Iterable,
    Iterator,
)
from types import CoroutineType, TracebackType
from typing import Any, Generic, Self, TypeVar, overload

from waterspout.concurrent._jobs import Call, run_in_executor
from waterspout.ioloop.scheduling import current_scheduler, fail, settle

T = TypeVar("T")
R = TypeVar("R")


@overload
def amap(
    func: Callable[[T], Awaitable[R]],
    iterable: Iterable[T] | AsyncIterable[T],
    *,
    limit: int,
    ordered: bool = True,
    executor: None = None,
) -> AsyncMap[R]: ...
@overload
def amap(
    func: Callable[[T], R],
    iterable: Iterable[T] | AsyncIterable[T],
    *,
    limit: int,
    ordered: bool = True,
    executor: concurrent.futures.Executor,
) -> AsyncMap[R]: ...
def amap(
    func: Callable[[Any], Any],
    iterable: Iterable[Any] | AsyncIterable[Any],
    *,
    limit: int,
    ordered: bool = True,
    executor: concurrent.futures.Executor | None = None,
) -> AsyncMap[Any]:
    """Call a function on each item, on several at a time, and iterate over the results::

        async with amap(fetch, urls, limit=10) as pages:
            async for page in pages:
                ...

    Items are taken from the source as results are taken from here: never more than `limit` are
    begun and not given out. Nothing starts before the first result is asked for.

    The first exception, of the function or of the source, stops it: nothing new is begun, what runs
    is cancelled and waited for, and the exception is raised, in its item's place where the results
    are ordered. So does cancelling a task that waits for a result, and leaving the block, in any
    way. An iterator that is dropped without a block cancels what runs.

    What runs on an executor (`executor`, or that of `run_on_executor`) cannot be cancelled: it runs
    to its end, and is waited for, however often the task that waits is cancelled; what the executor
    has not begun is dropped. A coroutine function that awaits such a thing itself is cancelled, and
    does not wait for it.

    Args:
        func: A coroutine function, or one that returns an awaitable; with an executor, a plain
            one.
        iterable: The items; an asynchronous iterable may be given as well, and if it is a
            generator, it is closed in the end.
        limit: How many items may be open at a time.
        ordered: Whether results come in the order of the items; else as they are ready.
        executor: Where to run `func`.

    Returns:
        An asynchronous iterator.

    Raises:
        TypeError: If an argument is of the wrong kind.
        ValueError: If `limit` is not positive.
    """
    if not callable(func):
        raise TypeError(f"func must be callable, not {func!r}")
    if not isinstance(limit, int):
        raise TypeError(f"limit must be an integer, not {limit!r}")
    if limit < 1:
        raise ValueError(f"limit must be positive, not {limit!r}")
    if executor is not None and not isinstance(executor, concurrent.futures.Executor):
        raise TypeError(f"executor must be an Executor or None, not {executor!r}")
    source: Iterator[Any] | AsyncIterator[Any]
    if isinstance(iterable, AsyncIterable):
        source = aiter(iterable)
    elif isinstance(iterable, Iterable):
        source = iter(iterable)
    else:
        raise TypeError(f"iterable must be iterable, not {iterable!r}")
    call = func if executor is None else functools.partial(_on_executor, executor, func)
    return AsyncMap(_Work(call, source, limit, ordered))


def _on_executor(
    executor: concurrent.futures.Executor, func: Callable[[Any], R], item: Any
) -> "asyncio.Future[R]":
    return run_in_executor(current_scheduler(), executor, func, item)


class AsyncMap(AsyncIterator[R]):
    """Results one after another; what `amap` returns.

    As an asynchronous context manager it ends the work when the block is left.
    """

    def __init__(self, work: _Work[R]) -> None:
        self._work = work
        self._cannot_wait = False  # the coroutine that waited for a result was closed

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> R:
        """Give the next result.

        Cancelled, it ends the work and waits for that.

        Raises:
            StopAsyncIteration: If there are no more.
            RuntimeError: If another task waits for a result, or `func` raised `StopIteration` or
                `StopAsyncIteration`, which is its cause.
            TypeError: If what `func` returned cannot be awaited.
            BaseException: What `func` or the source raised.
        """
        work = self._work
        work.check_alone()
        task: asyncio.Future[R] | None = None
        try:
            task = work.ready() or await work.next()
            if task is not None:
                return task.result()
        except StopAsyncIteration as error:  # which would be taken for the end of the results
            await self.aclose()
            raise RuntimeError("func raised StopAsyncIteration") from error
        except GeneratorExit:  # a coroutine that is closed cannot wait for the end
            self._cannot_wait = True
            self._work.cancel()
            raise
        except BaseException:
            await self.aclose()
            raise
        finally:
            del task  # the exception that it has refers to this frame
        await self.aclose()
        raise StopAsyncIteration

    async def aclose(self) -> None:
        """Cancel what runs, and wait for its end. Iterating over it ends.

        However often it is cancelled meanwhile; that is raised at last.

        Raises:
            BaseException: What the source raised as it was closed, if it is an asynchronous
                generator.
        """
        await self._work.end()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc_val: BaseException | None,
        exc_tb: TracebackType | None,
    ) -> None:
        if not (self._cannot_wait and exc_type is GeneratorExit):
            await self.aclose()

    def __del__(self) -> None:
        self._work.cancel()


class _Work(Generic[R]):
    """The tasks of a map."""

    def __init__(
        self,
        call: Callable[[Any], Awaitable[R]],
        source: Iterator[Any] | AsyncIterator[Any],
        limit: int,
        ordered: bool,
    ) -> None:
        self._call = call
        self._only_awaits = inspect.iscoroutinefunction(call)  # and begins nothing when called
        self._source = source
        self._asks_source = isinstance(source, AsyncIterator)  # asking each time takes long
        self._loop: asyncio.AbstractEventLoop | None = None  # the one that runs
        self._limit = limit
        self._ordered = ordered
        # Also the one that asks the source; and how to cancel them, if that is special.
        self._running: dict[asyncio.Future[Any], Callable[[], object] | None] = {}
        self._open: deque[asyncio.Future[R]] = deque()  # in order: begun, or else done
        self._unordered = 0  # how many are running that are not among the open yet
        self._pulling: asyncio.Future[Any] | None = None
        self._exhausted = False
        self._waiter: asyncio.Future[None] | None = None  # for the next result
        self._enders: list[asyncio.Future[None]] = []  # who wait until nothing runs
        self._is_awaited = False

    def check_alone(self) -> None:
        """Raise if somebody waits for the next result."""
        if self._is_awaited:
            raise RuntimeError("another task waits for the next result")

    def ready(self) -> "asyncio.Future[R] | None":
        """Give the next one that is done, if there is one already; and see to new ones."""
        if not self._exhausted:
            self._begin_more()
        if self._open and self._open[0].done():
            return self._open.popleft()
        return None

    async def next(self) -> "asyncio.Future[R] | None":
        """Give the next one, once it is done; `None` if there is none any more."""
        self._is_awaited = True
        try:
            while self._open or self._unordered or not self._exhausted:
                self._waiter = current_scheduler().create_future()
                await self._waiter
                task = self.ready()
                if task is not None:
                    return task
            return None
        finally:
            self._is_awaited = False

    def _begin_more(self) -> None:
        """Take items from the source as long as they are wanted."""
        source: Any = self._source
        while not self._exhausted and self._pulling is None and self._count() < self._limit:
            if self._asks_source:
                self._pulling = self._start(_pull(source), self._on_pulled)
                return
            try:
                item = next(source)
            except StopIteration:
                self._exhausted = True
            except Exception as error:
                self._fail(error)
            else:
                self._begin(item)

    def _on_pulled(self, pulling: "asyncio.Future[Any]") -> None:
        """Begin with what an asynchronous source gave."""
        self._running.pop(pulling, None)
        self._pulling = None
        error = None if pulling.cancelled() else pulling.exception()
        if error is not None:
            self._fail(error)
        elif pulling.cancelled() or not pulling.result():
            self._exhausted = True
        elif not self._exhausted:
            self._begin(pulling.result()[0])
        self._wake()

    def _fail(self, error: BaseException) -> None:
        """The source, or a call, has failed: that comes up behind what was begun before."""
        self._exhausted = True
        failed = current_scheduler().create_future()
        fail(failed, error)
        failed.exception()  # if it is given out, it is raised anew
        self._open.append(failed)

    def _count(self) -> int:
        return len(self._open) + self._unordered

    def _begin(self, item: Any) -> None:
        try:
            if self._only_awaits:
                awaitable, canceller = self._call(item), None
            else:
                call = Call()
                awaitable = call.run(self._call, item)
                canceller = call.canceller(awaitable)
            task = self._start(awaitable, self._on_done, canceller)
        except Exception as error:
            self._fail(error)
            return
        if self._ordered:
            self._open.append(task)
        else:
            self._unordered += 1
        # The traceback of what was raised already refers to this frame.
        del awaitable, canceller, task

    def _start(
        self,
        awaitable: Awaitable[Any],
        on_done: Callable[..., object],
        canceller: Callable[[], object] | None = None,
    ) -> "asyncio.Future[Any]":
        task: asyncio.Future[Any]
        if type(awaitable) is CoroutineType:
            if self._loop is None:
                self._loop = asyncio.get_running_loop()
            task = self._loop.create_task(awaitable)
        else:
            task = asyncio.ensure_future(awaitable)
        self._running[task] = canceller
        task.add_done_callback(on_done)
        return task

    def _on_done(self, task: "asyncio.Future[Any]") -> None:
        self._running.pop(task, None)
        if task.cancelled() or task.exception() is not None:
            self._exhausted = True  # nothing new is begun
        if self._unordered:
            self._unordered -= 1
            self._open.append(task)
        self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)
        if self._enders and not self._running:
            for ender in self._enders:
                settle(ender, None)
            self._enders.clear()

    def cancel(self) -> None:
        """Cancel what runs; from any thread, since the garbage collector may call it there."""
        self._exhausted = True
        self._open.clear()
        self._unordered = 0
        for task, canceller in list(self._running.items()):
            loop = task.get_loop()
            if canceller is not None:
                canceller()
            elif loop is asyncio._get_running_loop():
                task.cancel()
            else:
                with contextlib.suppress(RuntimeError):  # it has closed
                    loop.call_soon_threadsafe(task.cancel)

    async def end(self) -> None:
        """Cancel what runs, wait for it, and close the source if it is an asynchronous generator.

        However often it is cancelled meanwhile; that is raised at last.
        """
        self.cancel()
        cancelled: asyncio.CancelledError | None = None
        closing: asyncio.Future[Any] | None = None
        try:
            cancelled = await self._until_idle()
            if isinstance(self._source, AsyncGenerator):
                closing = self._start(_close(self._source), self._closed)
                cancelled = await self._until_idle() or cancelled
            self._open.clear()
            if cancelled is not None:
                raise cancelled
            if closing is not None:
                closing.result()
        finally:
            del cancelled, closing  # these exceptions refer to this frame

    def _closed(self, closing: "asyncio.Future[Any]") -> None:
        self._running.pop(closing, None)
        self._wake()

    async def _until_idle(self) -> asyncio.CancelledError | None:
        """Wait until nothing runs; give the last cancellation meanwhile.

        Not by `asyncio.wait`, in whose frame, on Python 3.15, the task that waits refers to itself.
        """
        cancelled: asyncio.CancelledError | None = None
        try:
            while self._running:
                ender = current_scheduler().create_future()
                self._enders.append(ender)
                try:
                    await ender
                except asyncio.CancelledError as error:
                    cancelled = error
            return cancelled
        finally:
            del cancelled  # its traceback refers to this frame


async def _close(source: AsyncGenerator[Any, Any]) -> None:
    await source.aclose()


async def _pull(source: AsyncIterator[T]) -> tuple[T] | None:
    """The next item in a tuple, or `None` at the end."""
    try:
        return (await anext(source),)
    except StopAsyncIteration:
        return None
