"""The timers of one loop, in a heap: no I/O, no clock of its own.

A loop needs to be armed for the earliest deadline alone, so any number of timers share one
timer of the loop beneath. Adding is O(log n) in C (tuples compare without calling Python),
removing is O(1): a removed timer lets go of what it held at once, and its entry is swept out
together with the others when they are more than half of the heap. Memory is therefore bounded by
twice the timers that are pending, however many are added and removed.

Timers of one deadline run in the order in which they were added.
"""

from __future__ import annotations

import contextvars
from collections.abc import Callable
from heapq import heapify, heappop, heappush
from typing import Any

_SWEEP_FROM = 64
"""Removed entries that are not worth a sweep."""


class Timer:
    """One call to make; what `IOLoop.call_at` returns."""

    __slots__ = ("args", "callback", "context", "kwargs", "owner", "when")

    def __init__(
        self,
        owner: "Timers",
        when: float,
        callback: Callable[..., object],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> None:
        self.owner = owner
        self.when = when
        self.callback: Callable[..., object] | None = callback
        self.args = args
        self.kwargs = kwargs
        self.context = contextvars.copy_context()

    def __repr__(self) -> str:
        state = "done" if self.callback is None else repr(self.callback)
        return f"<{type(self).__name__} when={self.when:.6f} {state}>"

    def take(
        self,
    ) -> tuple[contextvars.Context, Callable[..., object], tuple[Any, ...], dict[str, Any]]:
        """Give what is to be run, and let go of it."""
        assert self.callback is not None
        taken = self.context, self.callback, self.args, self.kwargs
        self.clear()
        return taken

    def clear(self) -> None:
        """Let go of everything; the timer never runs again."""
        self.callback = None
        self.args = ()
        self.kwargs = {}
        del self.context


class Timers:
    """Pending timers by deadline."""

    __slots__ = ("_created", "_heap", "_removed")

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, Timer]] = []
        self._created = 0
        self._removed = 0

    def __len__(self) -> int:
        """How many are pending. O(1)."""
        return len(self._heap) - self._removed

    def pending(self) -> list[Timer]:
        """Give the pending ones, in no order. O(n)."""
        return [timer for _, _, timer in self._heap if timer.callback is not None]

    @property
    def created(self) -> int:
        """How many were ever added: the next one's number. O(1)."""
        return self._created

    def add(
        self,
        when: float,
        callback: Callable[..., object],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> Timer:
        """Add a timer. O(log n)."""
        timer = Timer(self, when, callback, args, kwargs)
        heappush(self._heap, (when, self._created, timer))
        self._created += 1
        return timer

    def remove(self, timer: Timer) -> None:
        """Make a timer of this heap never run, if it has not. O(1) amortised."""
        if timer.callback is None:
            return
        timer.clear()
        self._removed += 1
        if self._removed > _SWEEP_FROM and self._removed * 2 > len(self._heap):
            self._heap = [entry for entry in self._heap if entry[2].callback is not None]
            heapify(self._heap)
            self._removed = 0

    def next_deadline(self) -> float | None:
        """The earliest deadline, or `None` without timers. O(log n) per removed one passed."""
        heap = self._heap
        while heap:
            if heap[0][2].callback is not None:
                return heap[0][0]
            heappop(heap)
            self._removed -= 1
        return None

    def pop_due(self, end: float, before: int) -> Timer | None:
        """Take out the earliest timer, if it is due. O(log n).

        Args:
            end: It is due with a deadline up to this.
            before: And if its number is less than this.
        """
        when = self.next_deadline()
        if when is None or when > end or self._heap[0][1] >= before:
            return None
        return heappop(self._heap)[2]

    def clear(self) -> None:
        """Remove all."""
        for _, _, timer in self._heap:
            if timer.callback is not None:
                timer.clear()
        self._heap.clear()
        self._removed = 0
