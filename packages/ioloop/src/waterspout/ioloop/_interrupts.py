"""Ctrl-C while a loop runs.

Python's own handler raises `KeyboardInterrupt` wherever the program happens to be, also in the
middle of the loop's bookkeeping. While `IOLoop.start` or `run_sync` runs in the main thread, the
first Ctrl-C is therefore taken as a request, met by the loop at the next safe moment. A second one
raises at once, for a program that does not come to one. A handler that the program set stays.
"""

from __future__ import annotations

import asyncio
import signal
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def first_interrupt_calls(request: Callable[[], object]) -> Generator[None, None, None]:
    """Have the first Ctrl-C in a block call a function; then raise `KeyboardInterrupt` at its end.

    Args:
        request: Called inside the signal handler; makes the block end.
    """
    if (
        threading.current_thread() is not threading.main_thread()
        or signal.getsignal(signal.SIGINT) is not signal.default_int_handler
    ):
        yield
        return
    interrupted = False

    def on_interrupt(number: int, frame: FrameType | None) -> None:
        nonlocal interrupted
        if interrupted:
            raise KeyboardInterrupt
        interrupted = True
        request()

    signal.signal(signal.SIGINT, on_interrupt)
    try:
        yield
    except (asyncio.CancelledError, KeyboardInterrupt):
        if not interrupted:
            raise
    finally:
        if signal.getsignal(signal.SIGINT) is on_interrupt:
            signal.signal(signal.SIGINT, signal.default_int_handler)
    if interrupted:
        raise KeyboardInterrupt
