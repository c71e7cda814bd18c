"""What Ctrl-C and other signals meet while a loop waits."""

import asyncio
import selectors
import signal
import socket
import sys
import threading

import pytest

from waterspout.ioloop import IOLoop

pytestmark = pytest.mark.only_on("linux", "darwin")


def test_ctrl_c_just_before_the_loop_waits():
    """Sent by a thread, which can run as soon as the selector lets go of the interpreter."""
    about_to_wait, late = threading.Event(), []

    class Selector(selectors.DefaultSelector):
        def select(self, timeout=None):
            if timeout is None or timeout > 1:
                about_to_wait.set()
            return super().select(timeout)

    def interrupt():
        about_to_wait.wait(10)
        signal.pthread_kill(threading.get_ident(), signal.SIGINT)

    io_loop = IOLoop(asyncio.SelectorEventLoop(Selector()))
    io_loop.call_later(5, late.append, True)
    thread = threading.Thread(target=interrupt)
    interval, handler = sys.getswitchinterval(), signal.getsignal(signal.SIGINT)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.setswitchinterval(10)
    try:
        thread.start()
        with pytest.raises(KeyboardInterrupt):
            io_loop.start()
    finally:
        sys.setswitchinterval(interval)
        signal.signal(signal.SIGINT, handler)
        io_loop.close()
    thread.join()
    assert not late
    assert signal.set_wakeup_fd(-1) == -1


def test_what_signals_write_to_is_as_it_was():
    io_loop = IOLoop(asyncio.SelectorEventLoop())
    left, right = socket.socketpair()
    left.setblocking(False)
    seen = []
    signal.set_wakeup_fd(left.fileno())
    try:
        io_loop.run_sync(lambda: None)
        assert signal.set_wakeup_fd(left.fileno()) == left.fileno()

        async def use_signals():
            loop = asyncio.get_running_loop()
            loop.add_signal_handler(signal.SIGUSR1, seen.append, "handled")

        io_loop.run_sync(use_signals)  # and the next run has them, too
        io_loop.add_callback(signal.raise_signal, signal.SIGUSR1)
        io_loop.call_later(0.05, io_loop.stop)
        io_loop.start()
        assert seen == ["handled"]
        io_loop.asyncio_loop.remove_signal_handler(signal.SIGUSR1)
        signal.set_wakeup_fd(left.fileno())
        io_loop.run_sync(left.close)  # closed meanwhile
        assert signal.set_wakeup_fd(-1) == -1
    finally:
        signal.set_wakeup_fd(-1)
        io_loop.close()
        right.close()
