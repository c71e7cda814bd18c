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

import contextlib
from collections import deque
from typing import Any, Final, Self, TypeVar

from waterspout.ioloop.scheduling import Timeout, WaitQueue, timeout_seconds
from waterspout.queues._errors import QueueEmpty, QueueFull, QueueShutDown
from waterspout.queues._threadside import HasThreadSide

T = TypeVar("T")

_NO_GUARD: Final = contextlib.nullcontext()


class Queue(HasThreadSide[T]):
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
        self._getters: WaitQueue[bool] = WaitQueue(Queue._reclaim_item, owner=self)
        self._putters: WaitQueue[bool] = WaitQueue(Queue._reclaim_place, owner=self)
        self._joiners: WaitQueue[None] = WaitQueue()
        self._reserved_items = 0
        self._reserved_places = 0
        self._unfinished = 0
        super().__init__()
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
        """Make the empty container `self._queue`; also when all items are to be dropped."""
        self._queue = deque()

    def _put(self, item: T) -> None:
        """Add one item to `self._queue`; if it raises, that must be unchanged."""
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
            ValueError: If `timeout` is NaN or a number of more than ten years.
        """
        if timeout is not None:
            timeout_seconds(timeout)
        putters = self._putters
        if self._is_special:
            await self._put_specially(item, timeout)
        elif not (self._maxsize and len(self._queue) + self._reserved_places >= self._maxsize):
            if self._getter_line:
                self._add(item)
            else:
                self._put(item)
                self._unfinished += 1
        elif timeout is not None:
            await self._put_specially(item, timeout)
        else:  # as there, in fewer steps
            waiter = putters.join()
            try:
                has_place = await waiter
            except BaseException:
                putters.abandon(waiter)
                raise
            if self._guard is None:
                del putters.served[waiter]
                self._put_in_turn(item, has_place)
                return
            with self._guard:
                del putters.served[waiter]
                self._put_in_turn(item, has_place)

    async def _put_specially(self, item: T, timeout: Timeout) -> None:
        self._take_guard()
        try:
            if not self._put_now(item):
                self._put_in_turn(item, await self._putters.wait(timeout))
        finally:
            self._release_guard()

    def put_nowait(self, item: T) -> None:
        """Add an item.

        Args:
            item: Anything.

        Raises:
            QueueFull: If there is no place for it.
            QueueShutDown: If the queue is shut down.
            RuntimeError: If tasks of another open loop wait for items.
        """
        if self._guard is not None:
            with self._guard:
                self._put_or_raise(item)
        elif self._getter_line or self._is_special:
            self._put_or_raise(item)
        elif self._maxsize and len(self._queue) + self._reserved_places >= self._maxsize:
            self._put_or_raise(item)  # a place may be that of a task whose loop has closed
        else:
            self._put(item)
            self._unfinished += 1

    def _put_or_raise(self, item: T) -> None:
        if not self._put_now(item):
            raise QueueFull

    def _put_now(self, item: T) -> bool:
        """Add an item, if there is a place."""
        if self._putters.served:
            self._putters.recover()
        if self._closed_for_put:
            raise QueueShutDown
        if self.full():
            return False
        self._add(item)
        return True

    def _put_in_turn(self, item: T, has_place: bool) -> None:
        """Add an item, for who has waited for a place."""
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

    def _add(self, item: T) -> None:
        getters = self._getters
        if not getters.waiting:
            self._put(item)
        else:
            here = getters.check_loop()
            self._put(item)
            if getters.hand_over(True, here):
                self._reserved_items += 1
        self._unfinished += 1

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
            ValueError: If `timeout` is NaN or a number of more than ten years.
        """
        if timeout is not None:
            timeout_seconds(timeout)
        getters = self._getters
        if self._is_special:
            return await self._get_specially(timeout)
        if len(self._queue) > self._reserved_items:
            return self._take() if self._putter_line else self._get()
        if timeout is not None:
            return await self._get_specially(timeout)
        waiter = getters.join()  # as there, in fewer steps
        try:
            has_item = await waiter
        except BaseException:
            getters.abandon(waiter)
            raise
        if self._guard is None:
            del getters.served[waiter]
            return self._get_in_turn(has_item)
        with self._guard:
            del getters.served[waiter]
            return self._get_in_turn(has_item)

    async def _get_specially(self, timeout: Timeout) -> T:
        self._take_guard()
        try:
            if self._can_get():
                return self._take()
            return self._get_in_turn(await self._getters.wait(timeout))
        finally:
            self._release_guard()

    async def get_many(self, max_items: int | None = None, timeout: Timeout = None) -> list[T]:
        """Take the next item, once there is one, and those behind it that are there by then.

        Cancelled or timed out, at any moment, it has taken nothing.

        Args:
            max_items: How many to take at most; `None` takes all that are there.
            timeout: As for `get`.

        Returns:
            The items, one or more, in the order in which `get` would have given them.

        Raises:
            TypeError: If an argument is of the wrong kind.
            ValueError: If `max_items` is not positive, or `timeout` is NaN or a number of more
                than ten years.
            TimeoutError: If there was no item in time.
            QueueShutDown: As from `get`.
            RuntimeError: If tasks of another open loop wait here.
        """
        _check_max_items(max_items)
        first = await self.get(timeout)
        with self._guard or _NO_GUARD:
            return self._take_more(first, max_items)

    def _take_more(self, first: T, max_items: int | None) -> list[T]:
        items = [first]
        while (max_items is None or len(items) < max_items) and not self.empty():
            try:
                items.append(self._take())
            except Exception:
                break  # it comes up again with the next; these are taken
        return items

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
        if self._guard is not None:
            with self._guard:
                return self._get_or_raise()
        if self._putter_line or self._is_special:
            return self._get_or_raise()
        if len(self._queue) <= self._reserved_items:
            return self._get_or_raise()  # an item may be that of a task whose loop has closed
        return self._get()

    def _get_or_raise(self) -> T:
        if not self._can_get():
            raise QueueEmpty
        return self._take()

    def _can_get(self) -> bool:
        """Whether there is an item to take."""
        if self._getters.served:
            self._getters.recover()
        if not self.empty():
            return True
        if self._is_over():
            raise QueueShutDown
        return False

    def _get_in_turn(self, has_item: bool) -> T:
        """Take an item, for who has waited for one."""
        if not has_item or self._closed_for_get:
            raise QueueShutDown
        try:
            item = self._take() if self._putter_line or self._is_special else self._get()
        except BaseException:
            self._reclaim_item(True)
            raise
        self._reserved_items -= 1
        return item

    def _is_over(self) -> bool:
        """Whether there will be no item any more."""
        return self._closed_for_put and not len(self._queue)

    def _take(self) -> T:
        putters = self._putters
        if not putters.waiting:
            item = self._get()
        else:
            here = putters.check_loop()
            item = self._get()
            if putters.hand_over(True, here):
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
        with self._guard or _NO_GUARD:
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
            ValueError: If `timeout` is NaN or a number of more than ten years.
        """
        if timeout is not None:
            timeout_seconds(timeout)
        self._take_guard()
        try:
            if self._unfinished:
                await self._joiners.wait(timeout)
        finally:
            self._release_guard()

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
        with self._guard or _NO_GUARD:
            for waiters in (self._putters, self._getters, self._joiners):
                waiters.check_loop()
            self._is_special = self._closed_for_put = True
            if immediate:
                self._closed_for_get = True
                self._drop_items()
            self._putters.wake_all(False)
            if self._is_over():
                self._getters.wake_all(False)

    def _drop_items(self) -> None:
        self._reserved_items = 0
        self._unfinished = max(0, self._unfinished - len(self._queue))
        self._init(self._maxsize)
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


def _check_max_items(max_items: int | None) -> None:
    if max_items is not None and not isinstance(max_items, int):
        raise TypeError(f"max_items must be an integer or None, not {max_items!r}")
    if max_items is not None and max_items < 1:
        raise ValueError(f"max_items must be positive, not {max_items!r}")
