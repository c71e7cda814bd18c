"""A queue's side for threads.

The queue is one and the same: threads put and take under its guard, a lock that is held for a few
operations at a time and never while anybody waits. A loop is woken only where one of its tasks
waits, and a thread only where it waits itself.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import AsyncGenerator, Iterator
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from waterspout.ioloop.scheduling import Timeout, timeout_seconds
from waterspout.queues._errors import QueueShutDown

if TYPE_CHECKING:
    from waterspout.queues._queue import Queue

T = TypeVar("T")


class Turn:
    """Holds a queue's guard, if it has one, for the length of a block.

    It may get one in the middle of a block, while that waits: then it is held from there on.
    """

    __slots__ = ("_queue",)

    def __init__(self, queue: Queue[Any]) -> None:
        self._queue = queue

    def __enter__(self) -> None:
        guard = self._queue._guard
        if guard is not None:
            guard.acquire()

    def __exit__(self, *exc_info: object) -> None:
        guard = self._queue._guard
        if guard is not None:
            guard.release()


class ThreadSide(Generic[T]):
    """A queue as other threads see it; `Queue.threadside` gives it.

    Its methods are those of the queue, and block instead of being awaited. Iterating over it takes
    items until the queue is shut down and empty. When the event loop that it was made in shuts
    down, everybody who waits gets a `RuntimeError`, and so does every call from then on.
    """

    def __init__(self, queue: Queue[T], guard: threading.RLock) -> None:
        self._queue = queue
        self._loop = asyncio.get_running_loop()
        self._over = False
        self._guard = guard
        queue._let_threads_in(guard)
        # A loop that shuts down ends its asynchronous generators, and so tells of its end.
        self._lifetime = self._until_shutdown()
        with contextlib.suppress(StopIteration):
            self._lifetime.__anext__().send(None)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of {self._queue!r}>"

    def belongs_here(self) -> bool:
        """Whether it was made in the running loop."""
        return asyncio._get_running_loop() is self._loop and not self._over

    def put(self, item: T, timeout: Timeout = None) -> None:
        """Add an item, once there is a place for it.

        Args:
            item: Anything.
            timeout: Seconds from now, or a `timedelta`; `None` waits for ever, and zero or less
                adds the item only if that needs no waiting.

        Raises:
            TimeoutError: If there was no place in time.
            QueueShutDown: If the queue is shut down, or was before there was a place.
            RuntimeError: If the loop has ended, or an event loop runs in this thread.
            TypeError: If `timeout` is no number, `timedelta` or `None`.
            ValueError: If `timeout` is NaN or a number of more than ten years.
        """
        queue = self._enter(timeout)
        with self._guard:
            self._check_open()
            if not queue._put_now(item):
                queue._put_in_turn(item, queue._putters.wait_in_thread(timeout))

    def put_nowait(self, item: T) -> None:
        """Add an item; see `Queue.put_nowait`."""
        with self._guard:
            self._check_open()
            self._queue._put_or_raise(item)

    def get(self, timeout: Timeout = None) -> T:
        """Take the next item, once there is one.

        Args:
            timeout: Seconds from now, or a `timedelta`; `None` waits for ever, and zero or less
                takes an item only if that needs no waiting.

        Returns:
            The item.

        Raises:
            TimeoutError: If there was no item in time.
            QueueShutDown: If the queue is shut down and has no item left, or was before there
                was one.
            RuntimeError: If the loop has ended, or an event loop runs in this thread.
            TypeError: If `timeout` is no number, `timedelta` or `None`.
            ValueError: If `timeout` is NaN or a number of more than ten years.
        """
        queue = self._enter(timeout)
        with self._guard:
            self._check_open()
            if queue._can_get():
                return queue._take()
            return queue._get_in_turn(queue._getters.wait_in_thread(timeout))

    def get_nowait(self) -> T:
        """Take the next item; see `Queue.get_nowait`."""
        with self._guard:
            self._check_open()
            return self._queue._get_or_raise()

    def __iter__(self) -> Iterator[T]:
        """Take items until the queue is shut down and empty."""
        while True:
            try:
                item = self.get()
            except QueueShutDown:
                return
            yield item

    def task_done(self) -> None:
        """Say that the work on one item is done; see `Queue.task_done`."""
        with self._guard:
            self._check_open()
            self._queue.task_done()

    def join(self, timeout: Timeout = None) -> None:
        """Wait until `task_done` was called for every item that was put in.

        Args:
            timeout: Seconds from now, or a `timedelta`; `None` waits for ever, and zero or less
                not at all.

        Raises:
            TimeoutError: If the work was not done in time.
            RuntimeError: If the loop has ended, or an event loop runs in this thread.
            TypeError: If `timeout` is no number, `timedelta` or `None`.
            ValueError: If `timeout` is NaN or a number of more than ten years.
        """
        queue = self._enter(timeout)
        with self._guard:
            self._check_open()
            if queue._unfinished:
                queue._joiners.wait_in_thread(timeout)

    def shutdown(self, immediate: bool = False) -> None:
        """Take no more items; see `Queue.shutdown`."""
        with self._guard:
            self._check_open()
            self._queue.shutdown(immediate)

    def qsize(self) -> int:
        """How many items could be taken; see `Queue.qsize`."""
        with self._guard:
            return self._queue.qsize()

    def empty(self) -> bool:
        """Whether nothing could be taken; see `Queue.empty`."""
        with self._guard:
            return self._queue.empty()

    def full(self) -> bool:
        """Whether there is no place; see `Queue.full`."""
        with self._guard:
            return self._queue.full()

    def _enter(self, timeout: Timeout) -> Queue[T]:
        if timeout is not None:
            timeout_seconds(timeout)
        if asyncio._get_running_loop() is not None:
            raise RuntimeError("a queue's threadside would block the event loop of this thread")
        return self._queue

    def _check_open(self) -> None:
        if self._over or self._loop.is_closed():
            raise RuntimeError("the event loop of the queue has ended")

    async def _until_shutdown(self) -> AsyncGenerator[None, None]:
        try:
            yield
        finally:
            self._end()

    def _end(self) -> None:
        with self._guard:
            self._over = True
            queue = self._queue
            if queue._threadside is not self:
                return  # threads wait for the loop that the queue is used in now
            for waiters in (queue._putters, queue._getters, queue._joiners):
                waiters.fail_threads(RuntimeError("the event loop of the queue has ended"))
