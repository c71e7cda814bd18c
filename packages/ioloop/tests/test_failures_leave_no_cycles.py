"""What fails is freed at once, with the local variables of the functions that it came through."""

import asyncio
import concurrent.futures
import contextlib
import socket
import threading

import pytest

from waterspout.ioloop import READ, IOLoop, PeriodicCallback
from waterspout.ioloop.scheduling import WaitQueue, fail, settle, time_limit
from waterspout.ioloop.testing import (
    CancelledRunError,
    DeadlockError,
    ScheduleError,
    cancel_everywhere,
    explore,
    no_reference_cycles,
    simulate,
)


class Wrong(Exception):
    pass


class NoError(Exception):
    """Never raised."""


def failing(*args):
    raise Wrong


async def failing_later(*args):
    await asyncio.sleep(0)
    raise Wrong


async def some_turns():
    """Let callbacks run that wait for a thread, a descriptor or a millisecond."""
    for _ in range(3):
        await asyncio.sleep(0.002)


def add_handler(loop):
    ours, theirs = socket.socketpair()
    ours.setblocking(False)

    def handler(fd, events):
        loop.remove_handler(fd)
        ours.close()
        theirs.close()
        raise Wrong

    loop.add_handler(ours, handler, READ)
    theirs.send(b"x")


def failed_future(loop):
    future = loop.create_future()
    loop.add_future(future, failing)
    future.set_result(None)


WAYS = {
    "add_callback": lambda loop: loop.add_callback(failing),
    "add_callback of a coroutine": lambda loop: loop.add_callback(failing_later),
    "spawn_callback": lambda loop: loop.spawn_callback(failing_later),
    "call_later": lambda loop: loop.call_later(0.001, failing),
    "call_later of a coroutine": lambda loop: loop.call_later(0.001, failing_later),
    "add_handler": add_handler,
    "add_future": failed_future,
}


def note_reports():
    kinds = []
    asyncio.get_running_loop().set_exception_handler(
        lambda _, context: kinds.append(type(context["exception"]))
    )
    return kinds


@pytest.mark.parametrize("way", WAYS)
async def test_a_callback_that_fails(way):
    loop, kinds = IOLoop.current(), note_reports()
    WAYS[way](loop)
    await some_turns()  # what is made once, is made now
    with no_reference_cycles():
        WAYS[way](loop)
        await some_turns()
    assert kinds == [Wrong, Wrong]


@pytest.mark.parametrize("callback", [failing, failing_later])
async def test_a_tick_that_fails(callback):
    kinds = note_reports()

    def tick():
        ticking.stop()
        return callback()

    ticking = PeriodicCallback(tick, 1)
    with no_reference_cycles():
        ticking.start()
        await some_turns()
    assert kinds == [Wrong]


async def too_long():
    await asyncio.Event().wait()


@pytest.mark.parametrize(
    ("main", "error", "timeout"),
    [
        (failing, Wrong, None),
        (failing_later, Wrong, None),
        (failing_later, Wrong, 10),
        (too_long, TimeoutError, 0.001),
    ],
)
@pytest.mark.parametrize("loop_name", ["asyncio", "uvloop", "threaded"])
def test_run_sync_that_fails(loop_factory, main, error, timeout):
    loop = IOLoop(loop_factory(), make_current=False)
    with contextlib.suppress(error):
        loop.run_sync(main, timeout)
    with no_reference_cycles(), contextlib.suppress(error):
        loop.run_sync(main, timeout)
    loop.close()


class Inline(concurrent.futures.Executor):
    """Calls functions at once; leaves no cycle itself."""

    def submit(self, fn, /, *args, **kwargs):
        future = concurrent.futures.Future()
        try:
            future.set_result(fn(*args, **kwargs))
        except BaseException as error:
            future.set_exception(error.with_traceback(None))
        return future


@pytest.mark.parametrize("executor", ["default", "threads", "inline"])
async def test_run_in_executor_that_fails(executor):
    loop = IOLoop.current()
    with concurrent.futures.ThreadPoolExecutor(1) as threads:
        chosen = {"default": None, "threads": threads, "inline": Inline()}[executor]
        for error in (Wrong, StopIteration):

            def job(error=error):
                raise error

            with contextlib.suppress(Wrong, RuntimeError):
                await loop.run_in_executor(chosen, job)
            await asyncio.sleep(0.005)  # the thread lets go of it
            with no_reference_cycles():
                with contextlib.suppress(Wrong, RuntimeError):
                    await loop.run_in_executor(chosen, job)
                await asyncio.sleep(0.005)


async def test_run_in_executor_that_is_cancelled():
    loop, release, started = IOLoop.current(), threading.Event(), threading.Event()

    def block():
        started.set()
        release.wait(10)

    with concurrent.futures.ThreadPoolExecutor(1) as threads:
        with no_reference_cycles():
            running = loop.run_in_executor(threads, block)
            waiting = loop.run_in_executor(threads, block)
            await asyncio.to_thread(started.wait, 10)
            for future in (running, waiting):
                future.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await running
            del running, waiting, future
            await asyncio.sleep(0)
            release.set()
            await asyncio.to_thread(threads.shutdown)
            await some_turns()


@pytest.mark.parametrize("limit", ["time_limit", "WaitQueue.wait", "cancelled"])
async def test_a_wait_that_ends_by_its_limit(limit):
    async def wait():
        with contextlib.suppress(TimeoutError, asyncio.CancelledError):
            if limit == "time_limit":
                with time_limit(0.001):
                    await asyncio.Event().wait()
            elif limit == "WaitQueue.wait":
                await WaitQueue().wait(0.001)
            else:
                waiting = asyncio.ensure_future(asyncio.Event().wait())
                IOLoop.current().call_later(0.001, waiting.cancel)
                await waiting

    await wait()
    with no_reference_cycles():
        await wait()


async def test_futures_that_fail():
    def end(future):
        assert fail(future, StopIteration())
        assert not fail(future, "no exception")
        assert not settle(future, 1)
        future.exception()

    with no_reference_cycles():
        for future in (IOLoop.current().create_future(), concurrent.futures.Future()):
            end(future)
        del future


# The testing kit


async def stuck():
    await asyncio.Event().wait()


async def never_at_rest():
    while True:
        await asyncio.sleep(0)


async def race():
    order = []

    async def step(name):
        await asyncio.sleep(0)
        order.append(name)

    await asyncio.gather(step(1), step(2))
    assert order == [1, 2]


async def keeps_a_lock(lock):
    await lock.acquire()
    await asyncio.sleep(0)
    lock.release()


def is_free(lock):
    assert not lock.locked()


RUNS = {
    "simulate": (lambda: simulate(failing_later), Wrong),
    "simulate with a seed": (lambda: simulate(failing_later, seed=5), Wrong),
    "simulate, stuck": (lambda: simulate(stuck), DeadlockError),
    "explore": (lambda: explore(race), ScheduleError),
    "explore, stuck": (lambda: explore(stuck), ScheduleError),
    "explore, endless": (lambda: explore(never_at_rest, max_turns=50), ScheduleError),
    "explore, well": (lambda: explore(lambda: asyncio.sleep(0)), NoError),
    "cancel_everywhere": (
        lambda: cancel_everywhere(keeps_a_lock, is_free, state=asyncio.Lock),
        CancelledRunError,
    ),
    "cancel_everywhere, stuck": (
        lambda: cancel_everywhere(lambda _: stuck(), lambda _: None),
        DeadlockError,
    ),
}


@pytest.mark.parametrize("run", RUNS)
def test_a_run_that_fails(run):
    function, error = RUNS[run]

    def call():
        with contextlib.suppress(error):
            function()
            assert error is NoError

    call()
    with no_reference_cycles():
        call()
