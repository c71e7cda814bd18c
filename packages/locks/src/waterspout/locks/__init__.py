"""Locks for coroutines: fair, cancellable at any moment, and never left behind.

Rules that all of them keep:

1.  First come, first served. A released permit goes to whoever waited longest; nobody who comes
    later overtakes.
2.  A wait that raises did nothing. A permit handed to a task that is cancelled before it resumes
    goes to the next in line.
3.  What needs no waiting does not yield to the event loop.
4.  They may be made anywhere, also before there is a loop, and used in one loop after another;
    tasks of two open loops never wait in the same one (`RuntimeError`). They are not
    thread-safe: use one from one thread at a time.
5.  What was taken is released once for each time that it was taken, whoever does it. A coroutine
    that is closed (`close`, or the garbage collector, in any thread) releases it as its blocks are
    left. It cannot wait. So, if it is closed in `Condition.wait`, which returns and raises only
    with the lock held, it holds the lock at once: beside the task that holds it then, if there is
    one. The lock is free again when both have released it, in whichever order.
"""

from waterspout.locks._condition import Condition, ConditionStatistics
from waterspout.locks._event import Event, EventStatistics
from waterspout.locks._lock import Lock, LockStatistics
from waterspout.locks._semaphore import BoundedSemaphore, Semaphore, SemaphoreStatistics

__all__ = [
    "BoundedSemaphore",
    "Condition",
    "ConditionStatistics",
    "Event",
    "EventStatistics",
    "Lock",
    "LockStatistics",
    "Semaphore",
    "SemaphoreStatistics",
]
