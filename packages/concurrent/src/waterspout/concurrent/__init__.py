"""Futures with a time limit, and functions that run off the loop.

Rules:

1.  A wait that ends by its time limit has ended what it waited for, unless told to leave it.
2.  A result is never dropped for the limit: one that is there by the time it is noticed is
    returned.
3.  A cancellation from outside is never taken for the time limit.
"""

from asyncio import Future

from waterspout.concurrent._executor import run_on_executor
from waterspout.concurrent._futures import is_future, sleep
from waterspout.concurrent._timeout import with_timeout

__all__ = ["Future", "is_future", "run_on_executor", "sleep", "with_timeout"]
