"""A queue's side for threads.

The queue is one and the same: threads put and take under its guard, a lock that is held for a few
operations at a time and never while anybody waits. A loop is woken only where one of its tasks
waits, and a thread only where it waits itself.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
import threading
import weakref
from collections.abc import AsyncGenerator, Iterator
from typing import TYPE_CHECKING, Any, Generic, TypeVar, cast

from waterspout.ioloop.scheduling import Timeout, WaitQueue, timeout_seconds
from waterspout.queues._errors import QueueShutDown

if TYPE_CHECKING:
    from waterspout.queues._queue import Queue

T = TypeVar("T")


class ThreadSide(Generic[T]):
    """A queue as other threads see it; `Queue.threadside` gives it.

    Its methods are those of the queue, and block instead of being awaited. Iterating over it takes
    items until the queue is shut down and empty. When the event loop that it was made in shuts
    down, as at the end of `asyncio.run`, everybody who waits gets a `RuntimeError`, and so does
    every call from then on. If that loop is only closed, or is collected, threads notice it within
    a second, since they look twice a second. A loop that is stopped and not closed may run again,
    so threads wait for it.
    """

    def __init__(self, queue: Queue[T], guard: threading.RLock) -> None:
        self._queue = queue
        # Weakly, so that a thread that waits does not keep a loop that everybody else has dropped.
        self._loop = weakref.ref(asyncio.get_running_loop())
        self._over = False
        self._guard = guard
        queue._let_threads_in(guard)
        self._lifetime = _until_shutdown(weakref.ref(self))
        _begin(self._lifetime)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of {self._queue!r}>"

    def belongs_here(self) -> bool:
        """Whether it was made in the running loop."""
        return asyncio._get_running_loop() is self._loop() and not self._over

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
                place = queue._putters.wait_in_thread(timeout, self._check_open)
                queue._put_in_turn(item, place)

    def put_nowait(self, item: T) -> None:
        """Add an item; see `Queue.put_nowait`.

        Args:
            item: Anything.

        Raises:
            QueueFull: If there is no place for it.
            QueueShutDown: If the queue is shut down.
            RuntimeError: If the loop has ended.
        """
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
            return queue._get_in_turn(queue._getters.wait_in_thread(timeout, self._check_open))

    def get_nowait(self) -> T:
        """Take the next item; see `Queue.get_nowait`.

        Returns:
            The item.

        Raises:
            QueueEmpty: If there is none.
            QueueShutDown: If there is none and the queue is shut down.
            RuntimeError: If the loop has ended.
        """
        with self._guard:
            self._check_open()
            return self._queue._get_or_raise()

    def __iter__(self) -> Iterator[T]:
        """Take items until the queue is shut down and empty.

        Raises:
            RuntimeError: As `get`.
        """
        while True:
            try:
                item = self.get()
            except QueueShutDown:
                return
            yield item

    def task_done(self) -> None:
        """Say that the work on one item is done; see `Queue.task_done`.

        Raises:
            ValueError: If it was called more often than items were put in.
            RuntimeError: If the loop has ended.
        """
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
                queue._joiners.wait_in_thread(timeout, self._check_open)

    def shutdown(self, immediate: bool = False) -> None:
        """Take no more items; see `Queue.shutdown`.

        Args:
            immediate: Whether to drop what is in the queue.

        Raises:
            RuntimeError: If the loop has ended.
        """
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
        loop = self._loop()
        if self._over or loop is None or loop.is_closed():
            raise RuntimeError("the event loop of the queue has ended")

    def _end(self) -> None:
        with self._guard:
            self._over = True
            for waiters in (self._queue._putters, self._queue._getters, self._queue._joiners):
                waiters.check_threads()


class HasThreadSide(Generic[T]):
    """The part of a queue that lets threads in: a guard, which whoever is at work holds."""

    _getters: WaitQueue[bool]
    _putters: WaitQueue[bool]
    _joiners: WaitQueue[None]

    def __init__(self) -> None:
        self._is_special = False  # shut down or guarded, so that there is more to do than usual
        self._guard: threading.RLock | None = None
        self._threadside: weakref.ref[ThreadSide[T]] | None = None

    @property
    def threadside(self) -> ThreadSide[T]:
        """The same queue for other threads, whose methods block.

        To be asked for inside the running loop that the queue is used in. From then on the queue
        is guarded: everything takes a little longer, also for tasks.

        Raises:
            RuntimeError: If no event loop is running, or tasks of another open loop wait here.
        """
        if asyncio._get_running_loop() is None:
            raise RuntimeError("threadside is to be asked for inside the running event loop")
        guard = self._guard or threading.RLock()
        with guard:
            side = None if self._threadside is None else self._threadside()
            if side is None or not side.belongs_here():
                for waiters in (self._putters, self._getters, self._joiners):
                    waiters.check_loop()
                side = ThreadSide(cast("Queue[T]", self), guard)
                self._threadside = weakref.ref(side)
            return side

    def _let_threads_in(self, guard: threading.RLock) -> None:
        if self._guard is None:
            self._guard = guard
            self._is_special = True
            for waiters in (self._putters, self._getters, self._joiners):
                waiters.set_guard(guard)

    # The guard may come in the middle of a wait, and is held at its end then: so a block that waits
    # cannot be a `with` of the guard.

    def _take_guard(self) -> None:
        if self._guard is not None:
            self._guard.acquire()

    def _release_guard(self) -> None:
        if self._guard is not None:
            self._guard.release()


async def _until_shutdown(side: weakref.ref[ThreadSide[Any]]) -> AsyncGenerator[None, None]:
    """Be ended by a loop that shuts down: it ends its asynchronous generators."""
    try:
        yield
    finally:
        found = side()
        if found is not None:
            found._end()


def _begin(generator: AsyncGenerator[None, None]) -> None:
    """Run a generator up to its first yield, and so make it known to the running loop.

    Without a finalizer, which would be the loop's: the generator would keep the loop, and be ended
    by a task of the loop once it is dropped.
    """
    finalizer = sys.get_asyncgen_hooks().finalizer
    sys.set_asyncgen_hooks(finalizer=None)
    try:
        with contextlib.suppress(StopIteration):
            generator.__anext__().send(None)
    finally:
        sys.set_asyncgen_hooks(finalizer=finalizer)
