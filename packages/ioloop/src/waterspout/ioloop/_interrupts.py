"""Ctrl-C and other signals while a loop runs.

Python's own handler raises `KeyboardInterrupt` wherever the program happens to be, also in the
middle of the loop's bookkeeping. While `IOLoop.start` or `run_sync` runs in the main thread, the
first Ctrl-C is therefore taken as a request, met by the loop at the next safe moment. A second one
raises at once, for a program that does not come to one. A handler that the program set stays.

Python runs a signal's handler between two steps of the main thread. One that comes when Python has
last looked for signals, and the loop has not begun to wait, or that another thread is interrupted
by, ends no wait; a loop with nothing else to do would never hear of it. So meanwhile signals also
write to what wakes the loop from other threads (`signal.set_wakeup_fd`), unless they write to
somebody's already. asyncio itself has it so while a loop has signal handlers, and has them write to
nothing again when the last of these is removed.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager
from types import FrameType
from typing import Any


class _Ours:
    """What is set while a loop runs in the main thread, so that a forked child can take it back."""

    wakeup_fd = -1
    on_interrupt: Any = None


@contextmanager
def first_interrupt_calls(request: Callable[[], object]) -> Generator[None, None, None]:
    """Have the first Ctrl-C in a block call a function; then raise `KeyboardInterrupt` at its end.

    Args:
        request: Called inside the signal handler; makes the block end.
    """
    interrupted = False

    def on_interrupt(number: int, frame: FrameType | None) -> None:
        nonlocal interrupted
        if interrupted:
            raise KeyboardInterrupt
        interrupted = True
        request()

    if not _take_interrupts(on_interrupt):
        yield
        return
    try:
        yield
    except (asyncio.CancelledError, KeyboardInterrupt):
        if not interrupted:
            raise
    finally:
        _let_interrupts_raise(on_interrupt)
    if interrupted:
        raise KeyboardInterrupt


@contextmanager
def interrupts_told_apart() -> Generator[Callable[[], bool], None, None]:
    """Tell a Ctrl-C in a block, which raises as ever, from a `KeyboardInterrupt` of other origin.

    Yields:
        A function that tells whether there was a Ctrl-C.
    """
    interrupted = False

    def on_interrupt(number: int, frame: FrameType | None) -> None:
        nonlocal interrupted
        interrupted = True
        raise KeyboardInterrupt

    if not _take_interrupts(on_interrupt):
        yield lambda: False
        return
    try:
        yield lambda: interrupted
    finally:
        _let_interrupts_raise(on_interrupt)


def _take_interrupts(on_interrupt: Any) -> bool:
    """Have Ctrl-C call a function, if it is this thread's and Python's own handler has it."""
    if (
        threading.current_thread() is not threading.main_thread()
        or signal.getsignal(signal.SIGINT) is not signal.default_int_handler
    ):
        return False
    _Ours.on_interrupt = on_interrupt
    signal.signal(signal.SIGINT, on_interrupt)
    return True


def _let_interrupts_raise(on_interrupt: Any) -> None:
    """Give Ctrl-C back to Python, if it is a handler of ours that has it."""
    if signal.getsignal(signal.SIGINT) is on_interrupt:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    _Ours.on_interrupt = None


@contextmanager
def signals_wake(loop: asyncio.AbstractEventLoop) -> Generator[None, None, None]:
    """Have signals end the wait of a loop that runs in a block.

    Args:
        loop: One of asyncio's own; uvloop does all this itself.
    """
    waker = getattr(loop, "_csock", None)
    if waker is None or not _take_wakeup_fd(waker.fileno()):
        yield
        return
    fd = _Ours.wakeup_fd = waker.fileno()
    try:
        yield
    finally:
        # The handlers that the loop has got meanwhile need it as long as they are there.
        if not getattr(loop, "_signal_handlers", None):
            _leave_wakeup_fd(fd)
        _Ours.wakeup_fd = -1


def _take_wakeup_fd(fd: int) -> bool:
    """Have signals write to a descriptor, if they write to nobody's."""
    try:
        before = signal.set_wakeup_fd(fd, warn_on_full_buffer=False)
    except (OSError, ValueError):  # not the main thread, or nothing that can be written to
        return False
    if before == -1:
        return True
    with contextlib.suppress(OSError, ValueError):
        signal.set_wakeup_fd(before)
        return False
    return True  # it was closed


def _leave_wakeup_fd(fd: int) -> None:
    """Have signals write to nothing, if they still write to that descriptor."""
    now = signal.set_wakeup_fd(-1)
    if now not in (-1, fd):
        with contextlib.suppress(OSError, ValueError):  # it was closed
            signal.set_wakeup_fd(now)


def take_back() -> None:  # pragma: no cover (in a forked child)
    """Undo, in a forked child, what was done for a loop of the parent that ran."""
    if _Ours.wakeup_fd != -1:
        _leave_wakeup_fd(_Ours.wakeup_fd)
    if _Ours.on_interrupt is not None:
        _let_interrupts_raise(_Ours.on_interrupt)
