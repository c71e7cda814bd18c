"""What is known of executors, and of what runs on them."""

import concurrent.futures
from collections.abc import Callable
from typing import Any, TypeVar

T = TypeVar("T")


def shares_our_memory(executor: concurrent.futures.Executor) -> bool:
    """Whether an executor is known to run functions in this process and interpreter."""
    if not isinstance(executor, concurrent.futures.ThreadPoolExecutor):
        return False
    elsewhere = getattr(concurrent.futures, "InterpreterPoolExecutor", None)
    return elsewhere is None or not isinstance(executor, elsewhere)


def call_off_loop(func: Callable[..., T], *args: Any) -> T:
    """Call a function whose outcome goes into a future.

    A future cannot have `StopIteration` (PEP 479 tells why); before Python 3.12 asyncio leaves
    such a future pending for ever.
    """
    try:
        return func(*args)
    except StopIteration as error:
        raise RuntimeError(f"{func!r} raised StopIteration") from error
