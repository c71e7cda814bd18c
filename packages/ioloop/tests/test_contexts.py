"""Whose context a callback runs in: a copy of that in which it was given (PEP 567)."""

import asyncio
import concurrent.futures
import contextvars
import signal
import socket
import threading
import time
from datetime import timedelta

import pytest

from waterspout.ioloop import READ, WRITE, IOLoop, LoopMonitor, PeriodicCallback

request = contextvars.ContextVar("request", default="nobody")


class Given:
    """A callback that notes its context, and changes it."""

    def __init__(self):
        self.seen = asyncio.Queue()
        self.loop = IOLoop.current()
        self.cleanup = []

    def __call__(self, *args):
        self.seen.put_nowait(request.get())
        request.set("changed by the callback")

    async def coroutine(self, *args):
        await asyncio.sleep(0)
        self()


def in_thread(function, *args):
    """Call a function in a thread, which has the context of the caller."""
    context = contextvars.copy_context()
    thread = threading.Thread(target=context.run, args=(function, *args))
    thread.start()
    thread.join()


def add_handler(given, events):
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    given.loop.add_handler(ours, given, events)
    given.cleanup += [lambda: given.loop.remove_handler(ours), ours.close, theirs.close]
    return ours, theirs


def readable(given):
    _, theirs = add_handler(given, READ)
    return lambda: theirs.send(b"x")


def updated(given):
    ours, _ = add_handler(given, READ)
    return lambda: given.loop.update_handler(ours, WRITE)


def add_future(given, future, finish):
    given.loop.add_future(future, given)
    return lambda: finish(future)


def set_result(future):
    future.set_result(None)


def set_result_in_thread(future):
    thread = threading.Thread(target=set_result, args=(future,))
    thread.start()
    thread.join()


def own_future(given):
    return add_future(given, given.loop.create_future(), set_result)


def failing_future(given):
    def end(future):
        future.set_exception(ZeroDivisionError())
        future.exception()

    return add_future(given, given.loop.create_future(), end)


def cancelled_future(given):
    return add_future(given, given.loop.create_future(), lambda future: future.cancel())


def done_future(given):
    future = given.loop.create_future()
    future.set_result(None)
    return add_future(given, future, lambda future: None)


def concurrent_future(given):
    return add_future(given, concurrent.futures.Future(), set_result_in_thread)


def foreign_future(given):
    other = asyncio.new_event_loop()
    future = other.create_future()

    def run():
        other.call_soon(set_result, future)
        other.run_until_complete(future)

    thread = threading.Thread(target=run)
    given.cleanup += [thread.join, other.close]
    given.loop.add_future(future, given)
    return thread.start


def periodic(given, callback):
    periodic = PeriodicCallback(callback, 1)
    periodic.start()
    given.cleanup.append(periodic.stop)


def retimed_periodic(given):
    periodic = PeriodicCallback(given, 3_600_000)
    periodic.start()
    given.cleanup.append(periodic.stop)

    def change():
        periodic.callback_time = 1

    return change


def monitor(given):
    monitor = LoopMonitor(threshold=0.01, on_slow=given)
    monitor.start()
    given.cleanup.append(monitor.stop)
    given.loop.call_later(0.01, time.sleep, 0.05)
    given.loop.call_later(0.1, time.sleep, 0.05)


def from_signal(given):
    old = signal.signal(signal.SIGUSR1, lambda *_: given.loop.add_callback_from_signal(given))
    signal.raise_signal(signal.SIGUSR1)
    signal.signal(signal.SIGUSR1, old)


def on_executor(given):
    pool = concurrent.futures.ThreadPoolExecutor(1)
    given.cleanup.append(pool.shutdown)
    given.loop.run_in_executor(pool, given.loop.add_callback, given)


WAYS = {
    "add_callback": lambda given: given.loop.add_callback(given),
    "add_callback of a coroutine": lambda given: given.loop.add_callback(given.coroutine),
    "add_callback in a thread": lambda given: in_thread(given.loop.add_callback, given),
    "spawn_callback": lambda given: given.loop.spawn_callback(given),
    "spawn_callback of a coroutine": lambda given: given.loop.spawn_callback(given.coroutine),
    "add_callback_from_signal": from_signal,
    "call_later": lambda given: given.loop.call_later(0.001, given),
    "call_later of a coroutine": lambda given: given.loop.call_later(0.001, given.coroutine),
    "call_at": lambda given: given.loop.call_at(given.loop.time(), given),
    "add_timeout": lambda given: given.loop.add_timeout(timedelta(milliseconds=1), given),
    "add_handler": readable,
    "update_handler": updated,
    "add_future": own_future,
    "add_future that fails": failing_future,
    "add_future that is cancelled": cancelled_future,
    "add_future that is done": done_future,
    "add_future of a thread's": concurrent_future,
    "add_future of another loop": foreign_future,
    "PeriodicCallback": lambda given: periodic(given, given),
    "PeriodicCallback of a coroutine": lambda given: periodic(given, given.coroutine),
    "PeriodicCallback.callback_time": retimed_periodic,
    "LoopMonitor": monitor,
    "run_in_executor": on_executor,
}
# A handler is registered in one copy of the context, as by asyncio, and keeps what it sets there.
REPEATED = {
    "PeriodicCallback",
    "PeriodicCallback of a coroutine",
    "PeriodicCallback.callback_time",
    "LoopMonitor",
}


@pytest.mark.every_watcher
@pytest.mark.only_on("linux", "darwin")
@pytest.mark.parametrize("way", WAYS)
async def test_a_callback_runs_in_the_context_in_which_it_was_given(way):
    given = Given()

    async def giver():
        request.set("the giver")
        trigger = WAYS[way](given)
        assert request.get() == "the giver"
        return trigger

    async def somebody(trigger):
        request.set("somebody else")
        if trigger is not None and callable(trigger):
            trigger()
        seen = [await asyncio.wait_for(given.seen.get(), 10)]
        if way in REPEATED:
            seen.append(await asyncio.wait_for(given.seen.get(), 10))
        assert request.get() == "somebody else"
        return seen

    try:
        trigger = await asyncio.create_task(giver())
        assert set(await asyncio.create_task(somebody(trigger))) == {"the giver"}
    finally:
        for clean in given.cleanup:
            clean()
