"""What Ctrl-C and other signals meet while a loop runs."""

import asyncio
import os
import selectors
import signal
import socket
import sys
import threading

import pytest

from waterspout.ioloop import IOLoop

pytestmark = pytest.mark.only_on("linux", "darwin")


@pytest.fixture
def wakeup_fd():
    """A descriptor that signals may write to."""
    left, right = socket.socketpair()
    left.setblocking(False)
    yield left.fileno()
    signal.set_wakeup_fd(-1)
    left.close()
    right.close()


@pytest.fixture
def io_loop():
    loop = IOLoop(asyncio.SelectorEventLoop())
    yield loop
    loop.close()


def current_wakeup_fd():
    fd = signal.set_wakeup_fd(-1)
    signal.set_wakeup_fd(fd)
    return fd


@pytest.mark.parametrize("handler", ["Python's", "the program's"])
def test_a_signal_just_before_the_loop_waits(handler):
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
    interval, before = sys.getswitchinterval(), signal.getsignal(signal.SIGINT)
    sys.setswitchinterval(10)
    try:
        if handler == "Python's":
            signal.signal(signal.SIGINT, signal.default_int_handler)
            thread.start()
            with pytest.raises(KeyboardInterrupt):
                io_loop.start()
        else:
            stop = io_loop.stop
            signal.signal(signal.SIGINT, lambda *_: io_loop.add_callback_from_signal(stop))
            thread.start()
            io_loop.start()
    finally:
        sys.setswitchinterval(interval)
        signal.signal(signal.SIGINT, before)
        io_loop.close()
    thread.join()
    assert not late
    assert current_wakeup_fd() == -1


def test_signals_that_write_to_somebody_go_on_doing_that(io_loop, wakeup_fd):
    signal.set_wakeup_fd(wakeup_fd)
    assert io_loop.run_sync(current_wakeup_fd) == wakeup_fd
    assert current_wakeup_fd() == wakeup_fd


def test_who_is_written_to_from_now_on_stays_that(io_loop, wakeup_fd):
    io_loop.run_sync(lambda: signal.set_wakeup_fd(wakeup_fd) and None)
    assert current_wakeup_fd() == wakeup_fd


def test_nobody_is_written_to_who_is_closed(io_loop):
    left, right = socket.socketpair()
    left.setblocking(False)
    signal.set_wakeup_fd(left.fileno())
    left.close()
    right.close()
    assert io_loop.run_sync(current_wakeup_fd) == io_loop.asyncio_loop._csock.fileno()
    assert current_wakeup_fd() == -1


def test_one_that_is_closed_in_the_end_is_nobody(io_loop):
    read_end, write_end = os.pipe()
    os.set_blocking(write_end, False)

    def take_and_close():
        signal.set_wakeup_fd(write_end)
        os.close(write_end)

    io_loop.run_sync(take_and_close)
    os.close(read_end)
    assert current_wakeup_fd() == -1


def test_a_loop_that_cannot_be_written_to_runs(io_loop):
    io_loop.asyncio_loop._csock.setblocking(True)
    assert io_loop.run_sync(current_wakeup_fd) == -1


def test_the_loops_own_handlers_outlive_a_run(io_loop):
    async def use_signals():
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGUSR1, io_loop.stop)

    io_loop.run_sync(use_signals)
    io_loop.add_callback(signal.raise_signal, signal.SIGUSR1)
    io_loop.start()
    io_loop.asyncio_loop.remove_signal_handler(signal.SIGUSR1)
    assert current_wakeup_fd() == -1


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_forked_child_has_its_signals_for_itself(io_loop):
    before = signal.signal(signal.SIGINT, signal.default_int_handler)

    def fork():
        pid = os.fork()
        if pid:
            return os.waitpid(pid, 0)[1]
        is_raised = signal.getsignal(signal.SIGINT) is signal.default_int_handler
        os._exit(0 if is_raised and signal.set_wakeup_fd(-1) == -1 else 1)

    try:
        assert io_loop.run_sync(fork) == 0
    finally:
        signal.signal(signal.SIGINT, before)
