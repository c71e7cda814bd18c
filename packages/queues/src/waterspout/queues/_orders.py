"""Queues of another order."""

from __future__ import annotations

import heapq
from collections.abc import Callable
from itertools import count
from typing import Any, TypeVar

from waterspout.queues._queue import Queue

T = TypeVar("T")

_PLAIN = {bool, bytes, float, int, str, tuple}
"""Types whose `==` and `<` agree, and which are compared fast."""


class PriorityQueue(Queue[T]):
    """A queue of which the smallest item is the next one.

    Items of equal priority leave in the order in which they came.

    What `key` or a comparison raises comes out of the operation that needed it: a `put` has added
    nothing then, and a `get` has taken nothing.

    Args:
        maxsize: How many items it holds at most; 0 for any number.
        key: Takes an item, and gives its priority, which can be compared with those of the others;
            by default, items are compared themselves.

    Raises:
        TypeError: If `maxsize` is no integer, or `key` cannot be called.
        ValueError: If `maxsize` is negative.
    """

    def __init__(self, maxsize: int = 0, key: Callable[[T], Any] | None = None) -> None:
        if key is not None and not callable(key):
            raise TypeError(f"key must be callable or None, not {key!r}")
        self._key = key
        self._number = count()
        super().__init__(maxsize)

    def _init(self, maxsize: int) -> None:
        self._queue = []

    def _put(self, item: T) -> None:
        """Add an item. One that cannot be compared raises, and is not added."""
        priority = item if self._key is None else self._key(item)
        if type(priority) not in _PLAIN:
            priority = _ByLess(priority)
        entry = (priority, next(self._number), item)
        heap = self._queue
        try:
            heapq.heappush(heap, entry)
        except BaseException:
            _take_back(heap, entry)
            raise

    def _get(self) -> T:
        heap = self._queue
        first, last = heap[0], heap[-1]
        try:
            heapq.heappop(heap)
        except BaseException:
            _bring_back(heap, first, last)
            raise
        item: T = first[2]
        return item


def _take_back(heap: list[Any], entry: Any) -> None:
    """Undo a push that was broken off: what it had moved down goes up again."""
    place = next(place for place, other in enumerate(heap) if other is entry)
    path = []
    last = len(heap) - 1
    while last != place:
        path.append(last)
        last = (last - 1) >> 1
    for below in reversed(path):
        heap[(below - 1) >> 1] = heap[below]
    heap.pop()


def _bring_back(heap: list[Any], first: Any, last: Any) -> None:
    """Undo a pop that was broken off: what had moved up to let the last one in goes down again."""
    place = next(place for place, other in enumerate(heap) if other is last)
    while place:
        above = (place - 1) >> 1
        heap[place] = heap[above]
        place = above
    heap[0] = first
    heap.append(last)


class _ByLess:
    """A priority of which only `<` is asked, also for whether two are equal.

    A tuple asks `==` first, which for a class of one's own may say something else.
    """

    __slots__ = ("value",)

    def __init__(self, value: Any) -> None:
        self.value = value

    def __lt__(self, other: Any) -> bool:
        return bool(self.value < (other.value if isinstance(other, _ByLess) else other))

    def __gt__(self, other: Any) -> bool:
        return bool((other.value if isinstance(other, _ByLess) else other) < self.value)

    def __eq__(self, other: object) -> bool:
        return not (self < other or self > other)

    __hash__ = None  # type: ignore[assignment]


class LifoQueue(Queue[T]):
    """A queue of which the item that came last is the next one.

    Args:
        maxsize: How many items it holds at most; 0 for any number.

    Raises:
        TypeError: If `maxsize` is no integer.
        ValueError: If `maxsize` is negative.
    """

    def _init(self, maxsize: int) -> None:
        self._queue = []

    def _get(self) -> T:
        item: T = self._queue.pop()
        return item
