"""Futures with a time limit or chained together, and functions that run off the loop.

Rules:

1.  A wait that ends by its time limit has ended what it waited for, unless told to leave it.
2.  A result is never dropped for the limit: one that is there by the time it is noticed is
    returned.
3.  A cancellation from outside is never taken for the time limit.
"""

from asyncio import Future

from waterspout.concurrent._amap import AsyncMap, amap
from waterspout.concurrent._chaining import (
    chain_future,
    future_add_done_callback,
    future_set_exc_info,
    future_set_exception_unless_cancelled,
    future_set_result_unless_cancelled,
)
from waterspout.concurrent._dummy import DummyExecutor, dummy_executor
from waterspout.concurrent._executor import run_on_executor
from waterspout.concurrent._futures import is_future, sleep
from waterspout.concurrent._timeout import with_timeout

__all__ = [
    "AsyncMap",
    "DummyExecutor",
    "Future",
    "amap",
    "chain_future",
    "dummy_executor",
    "future_add_done_callback",
    "future_set_exc_info",
    "future_set_exception_unless_cancelled",
    "future_set_result_unless_cancelled",
    "is_future",
    "run_on_executor",
    "sleep",
    "with_timeout",
]
