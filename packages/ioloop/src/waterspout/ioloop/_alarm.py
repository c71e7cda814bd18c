"""One timer of the loop beneath, armed for the earliest of ours.

A timer that is removed leaves the alarm armed: it then rings for nothing, once, which is cheaper
than setting it anew at every removal.

uvloop counts in whole milliseconds, and may ring before the time. Then the alarm is set a
millisecond ahead, since one set for less would ring at once, again and again.
"""

from __future__ import annotations

import asyncio
import contextvars
import math
import time
from collections.abc import Callable
from typing import Any

from waterspout.ioloop._timers import Timer, Timers

_CLOCK_RESOLUTION = time.get_clock_info("monotonic").resolution


class Alarm:
    """Runs timers when they are due.

    Args:
        loop: The loop beneath.
        run: Calls a callback with its arguments and reports what it raises.
    """

    __slots__ = ("_armed", "_armed_when", "_loop", "_run", "timers")

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        run: Callable[[Callable[..., object], tuple[Any, ...], dict[str, Any]], None],
    ) -> None:
        self.timers = Timers()
        self._loop = loop
        self._run = run
        self._armed: asyncio.TimerHandle | None = None
        self._armed_when = 0.0

    def add(
        self,
        when: float,
        callback: Callable[..., object],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> Timer:
        """Add a timer."""
        if (self._armed is None or when < self._armed_when) and when < math.inf:
            self._arm(when)
        return self.timers.add(when, callback, args, kwargs)

    def _arm(self, when: float) -> None:
        if self._armed is not None:
            self._armed.cancel()
        # An empty context: each timer runs in its own.
        self._armed = self._loop.call_at(when, self._ring, context=contextvars.Context())
        self._armed_when = when

    def _ring(self) -> None:
        """Run what is due; what is added meanwhile waits for the loop to have had its turn."""
        self._armed = None
        timers = self.timers
        now = self._loop.time()
        end = now + _CLOCK_RESOLUTION  # as near as asyncio itself calls due
        last = timers.created
        try:
            while timer := timers.pop_due(end, last):
                context, callback, args, kwargs = timer.take()
                context.run(self._run, callback, args, kwargs)
        finally:
            when = timers.next_deadline()
            if when is None or when == math.inf:
                pass  # a timer that never comes may be removed, so it is kept
            elif self._armed is None or when < self._armed_when:
                early = end < self._armed_when and self._armed is None
                self._arm(max(when, now + 0.001) if early else when)
