"""`PeriodicCallback`: a function called at regular times."""

from __future__ import annotations

import asyncio
import contextvars
import inspect
import math
import random
from collections.abc import Callable
from datetime import timedelta
from typing import Any

from waterspout.ioloop.scheduling import Scheduler, TimeoutHandle, current_scheduler
from waterspout.ioloop.scheduling._seconds import TEN_YEARS

SHORTEST = 1e-6
"""The shortest period, in seconds."""


class PeriodicCallback:
    """Call a function every so often, on a grid that starts when it is started.

    The n-th tick is due n periods after `start`: lateness never adds up. Ticks that have passed
    by the time the loop comes to them are skipped, and so is one that finds the coroutine of an
    earlier tick unfinished: the callback never overlaps itself. What it raises is reported by
    the loop, and the next tick still comes. Each tick runs in a copy of the context of `start`. All
    methods belong to the loop's thread.

    Args:
        callback: A function or coroutine function without arguments.
        callback_time: The period: milliseconds, or a `timedelta`.
        io_loop: The loop to run on; `None` takes the current one at `start`.
        jitter: How far a tick may lie off its place on the grid, as a share of the period: with
            0.1, up to 5 % of it to either side, at random. Keeps many processes from acting at
            the same moment.

    Raises:
        TypeError: If `callback` cannot be called, or another argument is of the wrong kind.
        ValueError: If `callback_time` is not from a microsecond to ten years, or `jitter` not
            from 0 to 1.
    """

    def __init__(
        self,
        callback: Callable[[], object],
        callback_time: float | timedelta,
        io_loop: Scheduler | None = None,
        *,
        jitter: float = 0.0,
    ) -> None:
        if io_loop is not None and not isinstance(io_loop, Scheduler):
            raise TypeError(f"io_loop must be a Scheduler or None, not {io_loop!r}")
        self._callback = _checked_callback(callback)
        self._period = _period_of(callback_time)
        self._jitter = _checked_jitter(jitter)
        self._io_loop = io_loop
        self._scheduler: Scheduler | None = None
        self._timer: TimeoutHandle = None
        self._due: TimeoutHandle = None  # the timer whose tick is being run
        self._origin = 0.0
        self._tick = 0
        self._last = 0.0  # the place on the grid of the last tick, or the start
        self._running: asyncio.Future[Any] | None = None  # of the last tick
        self._context = contextvars.copy_context()

    @property
    def callback(self) -> Callable[[], object]:
        """The function that is called. Another one is called from the next tick on.

        Raises:
            TypeError: If what is assigned cannot be called.
        """
        return self._callback

    @callback.setter
    def callback(self, callback: Callable[[], object]) -> None:
        self._callback = _checked_callback(callback)

    @property
    def callback_time(self) -> float:
        """The period in milliseconds; may be assigned, also as a `timedelta`.

        The next tick then comes one new period after the last one (or after `start`), and if that
        has passed, at the next place of the new grid. Assign it in the loop's thread.

        Raises:
            TypeError: If what is assigned is neither.
            ValueError: If it is not from a microsecond to ten years.
        """
        return self._period * 1000

    @callback_time.setter
    def callback_time(self, callback_time: float | timedelta) -> None:
        period = _period_of(callback_time)
        if period == self._period:
            return  # assigned again and again, it would disturb the grid
        self._period = period
        self._origin, self._tick = self._last, 0
        # A tick that is being run sets the next timer itself, once the callback has returned.
        if self.is_running() and self._timer is not self._due:
            assert self._scheduler is not None
            self._scheduler.remove_timeout(self._timer)
            self._arm(self._scheduler)

    @property
    def jitter(self) -> float:
        """How far a tick may lie off its place, as a share of the period.

        Another value is taken from the next tick that is planned on.

        Raises:
            TypeError: If what is assigned is no number.
            ValueError: If it is not from 0 to 1.
        """
        return self._jitter

    @jitter.setter
    def jitter(self, jitter: float) -> None:
        self._jitter = _checked_jitter(jitter)

    @property
    def io_loop(self) -> Scheduler | None:
        """The loop on which it runs or will run; without one, `None` until `start`."""
        return self._io_loop if self._scheduler is None else self._scheduler

    def __repr__(self) -> str:
        state = "running" if self.is_running() else "stopped"
        return f"<{type(self).__name__} {state} every {self._period} s {self._callback!r}>"

    def start(self) -> None:
        """Start ticking; the first tick comes one period from now. Does nothing if it ticks.

        Raises:
            RuntimeError: If no `io_loop` was given and there is no current one, or the loop is
                closed.
        """
        if self.is_running():
            return
        scheduler = current_scheduler() if self._io_loop is None else self._io_loop
        self._context = contextvars.copy_context()
        self._origin = self._last = scheduler.time()
        self._tick = 0
        self._arm(scheduler)
        self._scheduler = scheduler

    def stop(self) -> None:
        """Stop ticking. A coroutine of the callback that has started runs to its end."""
        if self._scheduler is not None:
            self._scheduler.remove_timeout(self._timer)
            self._scheduler = self._timer = None

    def is_running(self) -> bool:
        """Whether it was started and not stopped, and its loop is open."""
        return self._scheduler is not None and not _is_closed(self._scheduler)

    def _arm(self, scheduler: Scheduler) -> None:
        """Set the timer for the next place on the grid that has not passed."""
        passed = math.floor((scheduler.time() - self._origin) / self._period)
        # At least one further: with jitter, or a clock that went back, a tick may come early.
        self._tick = max(self._tick, passed) + 1
        offset = self._jitter * (random.random() - 0.5)
        when = self._origin + (self._tick + offset) * self._period
        # From the context of `start`: what one tick sets in its context is not the next one's.
        self._timer = self._context.run(scheduler.call_at, when, self._on_tick, scheduler)

    def _on_tick(self, scheduler: Scheduler) -> None:
        timer = self._due = self._timer
        self._last = self._origin + self._tick * self._period
        try:
            if not self._is_busy():
                result = self._callback()
                if inspect.isawaitable(result):
                    self._running = running = asyncio.ensure_future(result)
                    scheduler.spawn_callback(lambda: running)  # to be held, and its errors reported
        except (KeyboardInterrupt, SystemExit):
            self.stop()  # or the next tick ends the loop again while its tasks finish
            raise
        finally:
            # Unless the callback stopped it, or stopped and started it again.
            if self._timer is timer:
                self._arm(scheduler)
            self._due = None

    def _is_busy(self) -> bool:
        running = self._running
        return running is not None and not running.done() and not running.get_loop().is_closed()


def _checked_callback(callback: Callable[[], object]) -> Callable[[], object]:
    if not callable(callback):
        raise TypeError(f"callback must be callable, not {callback!r}")
    return callback


def _period_of(callback_time: float | timedelta) -> float:
    """Give a period in seconds."""
    if isinstance(callback_time, timedelta):
        period = callback_time.total_seconds()
    elif isinstance(callback_time, int | float):
        period = float(max(min(callback_time, 1e30), -1e30)) / 1000
    else:
        raise TypeError(f"callback_time must be milliseconds or a timedelta, not {callback_time!r}")
    if not SHORTEST <= period <= TEN_YEARS:
        raise ValueError(
            f"callback_time must be positive, from a microsecond to ten years, "
            f"not {callback_time!r}"
        )
    return period


def _checked_jitter(jitter: float) -> float:
    if not isinstance(jitter, int | float):
        raise TypeError(f"jitter must be a number, not {jitter!r}")
    if not 0 <= jitter <= 1:
        raise ValueError(f"jitter must be from 0 to 1, not {jitter!r}")
    return jitter


def _is_closed(scheduler: Scheduler) -> bool:
    return scheduler.create_future().get_loop().is_closed()
