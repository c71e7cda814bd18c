"""Which scheduler goes with which loop.

The scheduler of an asyncio loop is kept on the loop itself, so that both live equally long and
looking it up costs one attribute.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from waterspout.ioloop.scheduling._interface import Scheduler

_ATTRIBUTE = "_waterspout_scheduler"


class Defaults:
    """How the schedulers nobody registered come to be; `waterspout.ioloop` fills it in."""

    for_loop: Callable[[asyncio.AbstractEventLoop], Scheduler]
    for_thread: Callable[[], Scheduler | None]


defaults = Defaults()


def current_scheduler() -> Scheduler:
    """Give the scheduler of the running loop.

    It works under a plain `asyncio.run` as well: the loop gets its scheduler when first asked.

    Returns:
        The running loop's scheduler; where no loop runs, the current IOLoop of this thread.

    Raises:
        RuntimeError: If no loop runs and this thread has no current IOLoop.
    """
    loop = asyncio._get_running_loop()
    if loop is not None:
        try:
            return loop._waterspout_scheduler  # type: ignore[attr-defined,no-any-return]
        except AttributeError:
            return defaults.for_loop(loop)
    scheduler = defaults.for_thread()
    if scheduler is None:
        raise RuntimeError("no event loop is running and this thread has no current IOLoop")
    return scheduler


def register_scheduler(loop: asyncio.AbstractEventLoop, scheduler: Scheduler) -> None:
    """Make a scheduler the one that `current_scheduler` gives inside a loop.

    Args:
        loop: An asyncio event loop.
        scheduler: The scheduler that runs on it.

    Raises:
        TypeError: If an argument is of the wrong kind.
        RuntimeError: If the loop has another scheduler already.
    """
    if not isinstance(loop, asyncio.AbstractEventLoop):
        raise TypeError(f"loop must be an asyncio event loop, not {loop!r}")
    if not isinstance(scheduler, Scheduler):
        raise TypeError(f"scheduler must be a Scheduler, not {scheduler!r}")
    if getattr(loop, _ATTRIBUTE, scheduler) is not scheduler:
        raise RuntimeError(f"{loop!r} has a scheduler already")
    setattr(loop, _ATTRIBUTE, scheduler)
