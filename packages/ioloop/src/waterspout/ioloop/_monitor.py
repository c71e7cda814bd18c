"""`LoopMonitor`: how late the loop is, and what keeps it.

It works on any loop, without its debug mode, by two means that cost nothing while it is off:

-   A *beat*: a timer that sets itself again. How late it comes is how long the loop was kept from
    an iteration: the lag.
-   A *watcher*: a thread that looks at the beat from outside. When it is overdue by the threshold,
    the watcher looks at the stack of the loop's thread: whatever the loop has called, and has not
    returned, is what keeps it.

The beat comes four times in a threshold, so lags are measured to that accuracy, and one that is
reported has lasted a threshold at least.
"""

from __future__ import annotations

import sys
import threading
import time
import traceback
from bisect import bisect_left
from collections.abc import Callable
from dataclasses import dataclass, replace
from types import FrameType, TracebackType
from typing import Self

from waterspout.ioloop.scheduling import (
    Scheduler,
    TimeoutHandle,
    current_scheduler,
    timeout_seconds,
)

BOUNDS = (0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.064, 0.128, 0.256, 0.512, 1.0, 2.0, 4.0)
"""The upper bounds of the classes of lag, in seconds; what is more is in one more class."""

_LOOP_MODULES = ("asyncio", "uvloop", "waterspout.ioloop")


@dataclass(frozen=True)
class SlowCallback:
    """A callback that kept the loop from going on.

    Attributes:
        name: What the loop had called: module, qualified name, and the line where it was.
        seconds: How long the loop was kept; of several times, the longest.
        count: How often.
        stack: Where it was, as text, the innermost frame last; of the longest time.
    """

    name: str
    seconds: float
    count: int
    stack: str


@dataclass(frozen=True)
class LoopStatistics:
    """What a `LoopMonitor` has seen.

    Attributes:
        beats: How often it has measured.
        longest_stall: The longest lag, in seconds.
        histogram: How many lags were at most so many seconds, and more than the class before:
            pairs of bound and count. The last bound is infinite.
        slow: The callbacks that kept the loop for the threshold or longer, the longest first.
    """

    beats: int
    longest_stall: float
    histogram: tuple[tuple[float, int], ...]
    slow: tuple[SlowCallback, ...]


class LoopMonitor:
    """Measures how late the loop is, and finds what keeps it::

        with LoopMonitor(on_slow=print) as monitor:
            ...
        print(monitor.statistics())

    All methods belong to the loop's thread; `statistics` may be called from any.

    Args:
        io_loop: The loop; `None` takes the current one at `start`.
        threshold: Seconds for which the loop must be kept to be called stalled.
        on_slow: Called on the loop after each stall with the `SlowCallback` (its `count` is 1), in
            a copy of the context of `start`. An exception it raises is reported by the loop.

    Raises:
        TypeError: If an argument is of the wrong kind.
        ValueError: If `threshold` is not positive and finite, or more than ten years.
    """

    def __init__(
        self,
        io_loop: Scheduler | None = None,
        *,
        threshold: float = 0.1,
        on_slow: Callable[[SlowCallback], object] | None = None,
    ) -> None:
        if io_loop is not None and not isinstance(io_loop, Scheduler):
            raise TypeError(f"io_loop must be a Scheduler or None, not {io_loop!r}")
        if not isinstance(threshold, int | float):
            raise TypeError(f"threshold must be seconds, not {threshold!r}")
        if not 0 < threshold < float("inf"):
            raise ValueError(f"threshold must be positive and finite, not {threshold!r}")
        timeout_seconds(threshold, "threshold")
        if on_slow is not None and not callable(on_slow):
            raise TypeError(f"on_slow must be callable, not {on_slow!r}")
        self._io_loop = io_loop
        self._threshold = threshold
        self._interval = threshold / 4
        self._on_slow = on_slow
        self._scheduler: Scheduler | None = None
        self._timer: TimeoutHandle = None
        self._due = 0.0  # when the next beat is to come, by time.perf_counter
        self._beats = 0
        self._longest = 0.0
        self._counts = [0] * (len(BOUNDS) + 1)
        self._slow: dict[str, SlowCallback] = {}
        self._seen: tuple[str, str] | None = None  # what the watcher saw of the present stall
        self._stop = threading.Event()
        self._watcher: threading.Thread | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_val: BaseException | None,
        exc_tb: TracebackType | None,
    ) -> None:
        self.stop()

    def start(self) -> None:
        """Start measuring, in the loop's thread. Does nothing if it measures.

        Raises:
            RuntimeError: If no `io_loop` was given and there is no current one, the loop is closed,
                or no thread can be started.
        """
        if self._scheduler is not None:
            return
        scheduler = current_scheduler() if self._io_loop is None else self._io_loop
        watcher = threading.Thread(
            target=self._watch,
            args=(threading.current_thread(),),
            name="waterspout-monitor",
            daemon=True,
        )
        self._arm(scheduler)
        self._stop.clear()
        try:
            watcher.start()
        except BaseException:
            scheduler.remove_timeout(self._timer)
            raise
        self._scheduler, self._watcher = scheduler, watcher

    def stop(self) -> None:
        """Stop measuring; the statistics stay. Does nothing if it does not measure."""
        if self._scheduler is None:
            return
        self._scheduler.remove_timeout(self._timer)
        self._scheduler = None
        self._stop.set()
        assert self._watcher is not None
        self._watcher.join()

    def is_running(self) -> bool:
        """Whether it measures."""
        return self._scheduler is not None

    def statistics(self) -> LoopStatistics:
        """Give what was seen since it was made."""
        return LoopStatistics(
            beats=self._beats,
            longest_stall=self._longest,
            histogram=tuple(zip((*BOUNDS, float("inf")), self._counts, strict=True)),
            slow=tuple(sorted(self._slow.values(), key=lambda slow: -slow.seconds)),
        )

    # The beat, in the loop

    def _arm(self, scheduler: Scheduler) -> None:
        self._due = time.perf_counter() + self._interval
        self._timer = scheduler.call_later(self._interval, self._beat, scheduler)

    def _beat(self, scheduler: Scheduler) -> None:
        lag = max(0.0, time.perf_counter() - self._due)
        seen, self._seen = self._seen, None
        self._arm(scheduler)
        self._beats += 1
        self._counts[bisect_left(BOUNDS, lag)] += 1
        self._longest = max(self._longest, lag)
        if seen is not None and lag >= self._threshold:
            self._note(SlowCallback(seen[0], lag, 1, seen[1]))

    def _note(self, slow: SlowCallback) -> None:
        known = self._slow.get(slow.name)
        if known is None:
            self._slow[slow.name] = slow
        else:
            longer = max(known, slow, key=lambda one: one.seconds)
            self._slow[slow.name] = replace(longer, count=known.count + 1)
        if self._on_slow is not None:
            self._on_slow(slow)

    # The watcher, in its thread

    def _watch(self, thread: threading.Thread) -> None:
        # It looks when a beat that had just come would be overdue, and not before: a thread that
        # wakes takes the interpreter from the loop.
        while not self._stop.wait(max(self._wait_for(), self._interval)) and thread.is_alive():
            overdue = time.perf_counter() - self._due
            if overdue >= self._threshold and self._seen is None:
                self._seen = _describe(sys._current_frames().get(thread.ident or 0))

    def _wait_for(self) -> float:
        return self._due + self._threshold - time.perf_counter()


def _describe(frame: FrameType | None) -> tuple[str, str]:
    """Give the name of what the loop called, and the stack from there on."""
    frames = []
    current = frame
    while current is not None and not _belongs_to_a_loop(current):
        frames.append(current)
        current = current.f_back
    if not frames:
        return "the event loop", ""
    called = frames[-1]
    name = f"{called.f_globals.get('__name__')}.{called.f_code.co_qualname}"
    stack = traceback.StackSummary.extract((one, one.f_lineno) for one in reversed(frames))
    return f"{name}, line {called.f_lineno}", "".join(stack.format())


def _belongs_to_a_loop(frame: FrameType) -> bool:
    name = frame.f_globals.get("__name__", "")
    return any(name == module or name.startswith(f"{module}.") for module in _LOOP_MODULES)
