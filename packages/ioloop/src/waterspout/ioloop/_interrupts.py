"""Ctrl-C while a loop runs.

Python's own handler raises `KeyboardInterrupt` wherever the program happens to be, also in the
middle of the loop's bookkeeping. While `IOLoop.start` or `run_sync` runs in the main thread, the
first Ctrl-C is therefore taken as a request, met by the loop at the next safe moment. A second one
raises at once, for a program that does not come to one. A handler that the program set stays.

Python runs a signal's handler between two steps of the main thread. One that comes when Python has
last looked for signals, and the loop has not begun to wait, or that another thread is interrupted
by, ends no wait; a loop with nothing else to do would never hear of it. So meanwhile signals also
write to what wakes the loop from other threads (`signal.set_wakeup_fd`).
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def first_interrupt_calls(
    loop: asyncio.AbstractEventLoop, request: Callable[[], object]
) -> Generator[None, None, None]:
    """Have the first Ctrl-C in a block call a function; then raise `KeyboardInterrupt` at its end.

    Args:
        loop: What runs inside of the block.
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
        with _signals_wake(loop):
            yield
    except (asyncio.CancelledError, KeyboardInterrupt):
        if not interrupted:
            raise
    finally:
        if signal.getsignal(signal.SIGINT) is on_interrupt:
            signal.signal(signal.SIGINT, signal.default_int_handler)
    if interrupted:
        raise KeyboardInterrupt


@contextmanager
def _signals_wake(loop: asyncio.AbstractEventLoop) -> Generator[None, None, None]:
    """Have signals end the wait of a loop that runs in a block."""
    waker = getattr(loop, "_csock", None)  # asyncio's; uvloop does all this itself
    if waker is None:
        yield
        return
    before = signal.set_wakeup_fd(waker.fileno(), warn_on_full_buffer=False)
    try:
        yield
    finally:
        if not getattr(loop, "_signal_handlers", None):  # these need it as long as they are there
            signal.set_wakeup_fd(-1)
            if before != -1:
                with contextlib.suppress(OSError, ValueError):  # it was closed
                    signal.set_wakeup_fd(before, warn_on_full_buffer=False)
