"""The abstract scheduling interface: the one door between a loop and what runs on it.

Locks, queues, streams and future utilities import this module and nothing else of
`waterspout.ioloop`. Like `collections.abc`, it asks an implementation for few methods and
derives the rest.

Rules that every implementation keeps:

1.  One thread. All methods but `Scheduler.add_callback` are called from the thread that runs
    the loop, or from any one thread while no loop runs.
2.  One clock. Deadlines are values of `Scheduler.time`, in seconds; it never goes backwards.
3.  Order. Callbacks run in the order in which they were added; timers by deadline, and those of
    one deadline in the order in which they were created.
4.  Errors. An `Exception` that a callback lets out is reported by the loop and stops nothing.
5.  Futures are asyncio futures of the running loop, so that tasks can await them.
"""

from waterspout.ioloop.scheduling._interface import (
    ERROR,
    READ,
    WRITE,
    EventCallback,
    FileDescriptor,
    Reactor,
    Scheduler,
    TimeoutCallback,
    TimeoutHandle,
)
from waterspout.ioloop.scheduling._outcomes import fail, settle
from waterspout.ioloop.scheduling._registry import current_scheduler, register_scheduler
from waterspout.ioloop.scheduling._seconds import Timeout, deadline_after, timeout_seconds
from waterspout.ioloop.scheduling._timelimit import time_limit
from waterspout.ioloop.scheduling._waitqueue import WaitQueue

__all__ = [
    "ERROR",
    "READ",
    "WRITE",
    "EventCallback",
    "FileDescriptor",
    "Reactor",
    "Scheduler",
    "Timeout",
    "TimeoutCallback",
    "TimeoutHandle",
    "WaitQueue",
    "current_scheduler",
    "deadline_after",
    "fail",
    "register_scheduler",
    "settle",
    "time_limit",
    "timeout_seconds",
]
