"""Who waits in a `WaitQueue`: futures, which tasks await, and threads."""

from __future__ import annotations

import asyncio
import threading
from enum import Enum
from typing import Any, TypeAlias


class Mark(Enum):
    """What a waiter has instead of a value."""

    EXPIRED = "its time was up"


class ThreadWaiter:
    """A thread in the line, with what the line asks of a future.

    Attributes:
        error: What the thread is to raise when it goes on, if that is not `None`.
    """

    __slots__ = ("_gate", "error")

    def __init__(self) -> None:
        self.error: BaseException | None = None
        self._gate = threading.Lock()
        self._gate.acquire()

    def done(self) -> bool:
        """A thread that gives up leaves the line at once, under the guard."""
        return False

    def wait(self, seconds: float | None) -> None:
        self._gate.acquire(timeout=-1 if seconds is None else min(seconds, threading.TIMEOUT_MAX))

    def set_result(self, value: object) -> None:
        self._gate.release()

    def get_loop(self) -> None:
        """It waits in none."""


class SteadfastFuture(asyncio.Future[Any]):
    """A future that is not cancelled with the task that awaits it.

    The task notes that it is to be cancelled, and raises that when the future is done.
    """

    def cancel(self, msg: object = None) -> bool:
        return False


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
