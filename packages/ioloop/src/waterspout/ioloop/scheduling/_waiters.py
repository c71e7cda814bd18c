"""Who waits in a `WaitQueue`: futures, which tasks await, and threads."""

from __future__ import annotations

import asyncio
import sys
import threading
from enum import Enum
from typing import Any, TypeAlias


class Mark(Enum):
    """What a waiter has instead of a value."""

    EXPIRED = "its time was up"


class ThreadWaiter:
    """A thread in the line, with what the line asks of a future."""

    __slots__ = ("_gate",)

    def __init__(self) -> None:
        self._gate = threading.Lock()
        self._gate.acquire()

    def done(self) -> bool:
        """A thread that gives up leaves the line at once, under the guard."""
        return False

    def wait(self, seconds: float) -> None:
        """Wait until `resume` is called, or was since the last time."""
        self._gate.acquire(timeout=seconds)

    def resume(self) -> None:
        """End the thread's wait. To be called under the guard."""
        if self._gate.locked():
            self._gate.release()

    def set_result(self, value: object) -> None:
        self.resume()

    def get_loop(self) -> None:
        """It waits in none."""


class SteadfastFuture(asyncio.Future[Any]):
    """A future that is not cancelled with the task that awaits it.

    The task notes that it is to be cancelled, and raises that when the future is done.

    Attributes:
        is_abandoned: Whether it can be cancelled: its coroutine was closed beneath the task, which
            could not be ended otherwise.
    """

    is_abandoned = False

    def cancel(self, msg: object = None) -> bool:
        return self.is_abandoned and super().cancel(msg)


Waiter: TypeAlias = "asyncio.Future[Any] | ThreadWaiter"


def _set_result(waiter: "asyncio.Future[Any]", value: object) -> None:
    if not waiter.done():
        waiter.set_result(value)


def is_dead(waiter: Waiter) -> bool:
    """Whether its task can never resume."""
    return not isinstance(waiter, ThreadWaiter) and waiter.get_loop().is_closed()


def is_told(waiter: "asyncio.Future[Any]", value: object) -> bool:
    """Have a loop serve one of its tasks, from a thread; whether that loop is still there."""
    try:
        waiter.get_loop().call_soon_threadsafe(_set_result, waiter, value)
    except RuntimeError:
        return False
    return True


def is_being_closed() -> bool:
    """Whether the caller runs because a coroutine is being closed: a `GeneratorExit` is handled."""
    error = sys.exception()
    while error is not None:
        if isinstance(error, GeneratorExit):
            return True
        error = error.__context__
    return False


def is_closed_elsewhere(loop: asyncio.AbstractEventLoop) -> bool:
    """Whether the caller is being closed in another thread than that in which its loop runs."""
    return is_being_closed() and asyncio._get_running_loop() is not loop and loop.is_running()
