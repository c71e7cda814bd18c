"""An event loop with Tornado's interface, over any asyncio event loop.

`IOLoop` is the loop, `PeriodicCallback` a function called at regular times, `LoopMonitor` tells
what keeps the loop, and `scheduling` is the abstract interface on which the other Waterspout
packages stand.
"""

from waterspout.ioloop._ioloop import IOLoop
from waterspout.ioloop._monitor import LoopMonitor, LoopStatistics, SlowCallback
from waterspout.ioloop._periodic import PeriodicCallback
from waterspout.ioloop.scheduling import (
    ERROR,
    READ,
    WRITE,
    EventCallback,
    FileDescriptor,
    TimeoutCallback,
    TimeoutHandle,
)

__all__ = [
    "ERROR",
    "READ",
    "WRITE",
    "EventCallback",
    "FileDescriptor",
    "IOLoop",
    "LoopMonitor",
    "LoopStatistics",
    "PeriodicCallback",
    "SlowCallback",
    "TimeoutCallback",
    "TimeoutHandle",
]
