"""`Queue`, and the rules by which items and places change hands.

Of the items in the queue, so many are reserved for getters that were woken and have not resumed;
what is left can be taken by anybody. Getters wait only while nothing is left. Of the places, so
many are reserved for woken putters, and putters wait only while nothing is left of those. Every
change that leaves an item or a place over therefore wakes one waiter, and that is enough.

A hand-off says `True` for a reservation, and `False` where the queue was shut down: then there
is nothing to take or give back. Getters are told that only once the last item is gone, since one
that is reserved may yet come back.
"""

from __future__ import annotations

from collections import deque
from typing import Any, Generic, Self, TypeVar

from waterspout.ioloop.scheduling import Timeout, WaitQueue, timeout_seconds

T = TypeVar("T")


class QueueEmpty(Exception):
    """`Queue.get_nowait` found nothing to take."""


class QueueFull(Exception):
    """`Queue.put_nowait` found no place."""


class QueueShutDown(Exception):
    """The queue was shut down: it takes no items, and has none for the caller."""


class Queue(Generic[T]):
    """A first-in, first-out queue.

    Iterating over it takes items until it is shut down and empty::

        async for item in queue:
            ...
            queue.task_done()

    Args:
        maxsize: How many items it holds at most; 0 for any number.

    Raises:
        TypeError: If `maxsize` is no integer.
        ValueError: If `maxsize` is negative.
    """

    _queue: Any

    def __init__(self, maxsize: int = 0) -> None:
        if not isinstance(maxsize, int):
            raise TypeError(f"maxsize must be an integer, not {maxsize!r}")
        if maxsize < 0:
            raise ValueError(f"maxsize must not be negative, not {maxsize!r}")
        self._maxsize = maxsize
        self._getters: WaitQueue[bool] = WaitQueue(self._reclaim_item)
        self._putters: WaitQueue[bool] = WaitQueue(self._reclaim_place)
        self._joiners: WaitQueue[None] = WaitQueue()
        self._reserved_items = 0
        self._reserved_places = 0
        self._unfinished = 0
        self._closed_for_put = False
        self._closed_for_get = False
        # Whether anybody waits is asked at every put and get.
        self._getter_line = self._getters.waiting
        self._putter_line = self._putters.waiting
        self._init(maxsize)

    def __repr__(self) -> str:
        parts = [f"maxsize={self._maxsize}", f"items={len(self._queue)}"]
        parts += [
            f"{name}={len(waiters)}"
            for name, waiters in (("getters", self._getters), ("putters", self._putters))
            if waiters
        ]
        if self._unfinished:
            parts.append(f"unfinished={self._unfinished}")
        if self._closed_for_put:
            parts.append("shut down")
        return f"<{type(self).__name__} {' '.join(parts)}>"

    # What a subclass may replace: the order of items. `_queue` is anything with a length.

    def _init(self, maxsize: int) -> None:
        """Make the empty container `self._queue`."""
        self._queue = deque()

    def _put(self, item: T) -> None:
        """Add an item to `self._queue`; if it raises, that must be unchanged."""
        self._queue.append(item)

    def _get(self) -> T:
        """Take the next item out of `self._queue`, which is not empty."""
        item: T = self._queue.popleft()
        return item

    # State

    @property
    def maxsize(self) -> int:
        """How many items it holds at most; 0 for any number."""
        return self._maxsize

    def qsize(self) -> int:
        """How many items `get_nowait` could take: those that no woken getter has reserved."""
        return len(self._queue) - self._reserved_items

    def empty(self) -> bool:
        """Whether `get_nowait` could take nothing."""
        return len(self._queue) == self._reserved_items

    def full(self) -> bool:
        """Whether `put_nowait` would find no place: those reserved by woken putters count."""
        return 0 < self._maxsize <= len(self._queue) + self._reserved_places

    # Putting

    async def put(self, item: T, timeout: Timeout = None) -> None:
        """Add an item, once there is a place for it.

        Cancelled or timed out, at any moment, it has not added the item.

        Args:
            item: Anything.
            timeout: Seconds from now, or a `timedelta`; `None` waits for ever, and zero or less
                adds the item only if that needs no waiting.

        Raises:
            TimeoutError: If there was no place in time.
            QueueShutDown: If the queue is shut down, or was before there was a place.
            RuntimeError: If tasks of another open loop wait here.
            TypeError: If `timeout` is no number, `timedelta` or `None`.
            ValueError: If `timeout` is NaN.
        """
        if (
            not self._getter_line
            and not self._closed_for_put
            and (not self._maxsize or len(self._queue) + self._reserved_places < self._maxsize)
        ):
            if timeout is not None:
                timeout_seconds(timeout)
            self._put(item)
            self._unfinished += 1
            return
        if timeout is not None:
            timeout_seconds(timeout)
        putters = self._putters
        if putters.served:
            putters.recover()
        if self._closed_for_put or not self.full():
            self.put_nowait(item)
            return
        if timeout is None:
            waiter = putters.join()
            try:
                has_place = await waiter
            except BaseException:
                putters.abandon(waiter)
                raise
            del putters.served[waiter]
        else:
            has_place = await putters.wait(timeout)
        if not has_place:
            raise QueueShutDown
        if self._closed_for_put:
            self._reserved_places -= 1
            raise QueueShutDown
        try:
            self._add(item)
        except BaseException:
            self._reclaim_place(True)
            raise
        self._reserved_places -= 1

    def put_nowait(self, item: T) -> None:
        """Add an item.

        Args:
            item: Anything.

        Raises:
            QueueFull: If there is no place for it.
            QueueShutDown: If the queue is shut down.
            RuntimeError: If tasks of another open loop wait for items.
        """
        if self._closed_for_put:
            raise QueueShutDown
        if self._maxsize and len(self._queue) + self._reserved_places >= self._maxsize:
            raise QueueFull
        if self._getter_line:
            self._add(item)
        else:
            self._put(item)
            self._unfinished += 1

    def _add(self, item: T) -> None:
        getters = self._getters
        here = getters.check_loop()
        self._put(item)
        self._unfinished += 1
        if getters.waiting and getters.hand_over(True, here):
            self._reserved_items += 1

    # Getting

    async def get(self, timeout: Timeout = None) -> T:
        """Take the next item, once there is one.

        Cancelled or timed out, at any moment, it has taken nothing.

        Args:
            timeout: Seconds from now, or a `timedelta`; `None` waits for ever, and zero or less
                takes an item only if that needs no waiting.

        Returns:
            The item.

        Raises:
            TimeoutError: If there was no item in time.
            QueueShutDown: If the queue is shut down and has no item left, or was before there
                was one.
            RuntimeError: If tasks of another open loop wait here.
            TypeError: If `timeout` is no number, `timedelta` or `None`.
            ValueError: If `timeout` is NaN.
        """
        if (
            not self._putter_line
            and not self._closed_for_put
            and len(self._queue) > self._reserved_items
        ):
            if timeout is not None:
                timeout_seconds(timeout)
            return self._get()
        if timeout is not None:
            timeout_seconds(timeout)
        getters = self._getters
        if getters.served:
            getters.recover()
        if not self.empty() or self._is_over():
            return self.get_nowait()
        if timeout is None:
            waiter = getters.join()
            try:
                has_item = await waiter
            except BaseException:
                getters.abandon(waiter)
                raise
            del getters.served[waiter]
        else:
            has_item = await getters.wait(timeout)
        if not has_item:
            raise QueueShutDown
        if self._closed_for_get:
            raise QueueShutDown
        try:
            item = self._take()
        except BaseException:
            self._reclaim_item(True)
            raise
        self._reserved_items -= 1
        return item

    def get_nowait(self) -> T:
        """Take the next item.

        Returns:
            The item.

        Raises:
            QueueEmpty: If there is none.
            QueueShutDown: If there is none and the queue is shut down. (While woken getters
                own the last items it is `QueueEmpty`: one may come back.)
            RuntimeError: If tasks of another open loop wait for places.
        """
        if len(self._queue) <= self._reserved_items:
            raise QueueShutDown if self._is_over() else QueueEmpty
        if self._putter_line or self._closed_for_put:
            return self._take()
        return self._get()

    def _is_over(self) -> bool:
        """Whether there will be no item any more."""
        return self._closed_for_put and not len(self._queue)

    def _take(self) -> T:
        putters = self._putters
        here = putters.check_loop()
        item = self._get()
        if putters.waiting and putters.hand_over(True, here):
            self._reserved_places += 1
        if self._closed_for_put and self._is_over():
            self._getters.wake_all(False)
        return item

    # The end of the work

    def task_done(self) -> None:
        """Say that the work on one item that was taken is done.

        Raises:
            ValueError: If it was called more often than items were put in.
            RuntimeError: If tasks of another open loop wait in `join`.
        """
        if self._unfinished <= 0:
            raise ValueError("task_done() called more often than items were put in")
        if self._unfinished == 1:
            self._joiners.wake_all(None)
        self._unfinished -= 1

    async def join(self, timeout: Timeout = None) -> None:
        """Wait until `task_done` was called for every item that was put in.

        Cancelling it changes nothing.

        Args:
            timeout: Seconds from now, or a `timedelta`; `None` waits for ever, and zero or less
                not at all.

        Raises:
            TimeoutError: If the work was not done in time.
            RuntimeError: If tasks of another open loop wait in `join`.
            TypeError: If `timeout` is no number, `timedelta` or `None`.
            ValueError: If `timeout` is NaN.
        """
        if self._unfinished:
            await self._joiners.wait(timeout)
        elif timeout is not None:
            timeout_seconds(timeout)

    def shutdown(self, immediate: bool = False) -> None:
        """Take no more items. Whoever waits in `put`, and in `get` for nothing, is told.

        What is in the queue can still be taken; `get` raises `QueueShutDown` once it is empty.

        Args:
            immediate: Whether to drop what is in the queue, as if it had been taken and worked
                on, so that `get` raises at once and `join` returns when the work that was
                begun is done.

        Raises:
            RuntimeError: If tasks of another open loop wait here; then nothing was done.
        """
        for waiters in (self._putters, self._getters, self._joiners):
            waiters.check_loop()
        self._closed_for_put = True
        if immediate:
            self._closed_for_get = True
            self._drop_items()
        self._putters.wake_all(False)
        if self._is_over():
            self._getters.wake_all(False)

    def _drop_items(self) -> None:
        self._reserved_items = 0
        while len(self._queue):
            self._get()
            self._unfinished = max(0, self._unfinished - 1)
        if not self._unfinished:
            self._joiners.wake_all(None)

    # Iteration

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> T:
        """Take the next item, as `get` does; ends when the queue is shut down and empty."""
        try:
            return await self.get()
        except QueueShutDown:
            raise StopAsyncIteration from None

    # Reservations that come back

    def _reclaim_item(self, reserved: bool) -> None:
        if reserved and not self._closed_for_get and not self._getters.wake(True):
            self._reserved_items -= 1

    def _reclaim_place(self, reserved: bool) -> None:
        if reserved and not self._putters.wake(True):
            self._reserved_places -= 1
