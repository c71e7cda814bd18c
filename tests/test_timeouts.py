"""What every timeout and delay of every package refuses: numbers of more than ten years.

They are wall-clock deadlines by mistake, such as `time.time() + 5`.
"""

import asyncio
import concurrent.futures
import inspect
import math
import socket
import ssl
import time
from datetime import timedelta

import pytest

from waterspout.concurrent import sleep, with_timeout
from waterspout.ioloop import IOLoop, LoopMonitor, PeriodicCallback
from waterspout.ioloop.scheduling import (
    WaitQueue,
    deadline_after,
    time_limit,
    timeout_seconds,
)
from waterspout.ioloop.testing import SimulatedLoop, cancel_everywhere, simulate
from waterspout.iostream import (
    IOStream,
    SSLIOStream,
    connect_tcp,
    connect_unix,
    open_process,
    serve_tcp,
)
from waterspout.iostream.testing import Link, ScriptedPeer, SimulatedNetwork
from waterspout.locks import BoundedSemaphore, Condition, Event, Lock, Semaphore
from waterspout.queues import Queue

TEN_YEARS = 10 * 365.25 * 86400


async def run_sync(timeout):
    """In a thread of its own, since a loop runs here."""

    def run():
        loop = IOLoop(make_current=False)
        try:
            return loop.run_sync(lambda: None, timeout)
        finally:
            loop.close()

    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        return pool.submit(run).result()


async def in_thread(func, *args):
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        return pool.submit(func, *args).result()


async def condition_wait_for(timeout):
    async with (condition := Condition()):
        await condition.wait_for(lambda: True, timeout)


async def condition_wait(timeout):
    async with (condition := Condition()):
        IOLoop.current().add_callback(condition.notify)
        await condition.wait(timeout)


async def held_lock(timeout):
    async with (lock := Lock()):
        IOLoop.current().call_later(0.01, lock.release)
        await lock.acquire(timeout)


async def empty_queue(timeout):
    queue = Queue()
    IOLoop.current().call_later(0.01, queue.put_nowait, 1)
    return await queue.get(timeout)


async def full_queue(timeout):
    (queue := Queue(1)).put_nowait(1)
    IOLoop.current().call_later(0.01, queue.get_nowait)
    await queue.put(2, timeout)


async def unjoined_queue(timeout):
    (queue := Queue()).put_nowait(1)
    queue.get_nowait()
    IOLoop.current().call_later(0.01, queue.task_done)
    await queue.join(timeout)


async def wait_queue(timeout):
    queue = WaitQueue()
    IOLoop.current().call_later(0.01, queue.wake, 1)
    await queue.wait(timeout)


def queue_of_one():
    (queue := Queue()).put_nowait(1)
    return queue


async def close_server(timeout):
    server = await serve_tcp(lambda stream: sleep(0), "127.0.0.1")
    try:
        await server.close(timeout)
    finally:
        await server.close()


async def process(method, timeout):
    async with await open_process(["true"]) as child:
        await getattr(child, method)(timeout=timeout)
        await child.wait()


async def connect(timeout):
    async def handler(stream):
        await stream.read_until_close()

    async with await serve_tcp(handler, "127.0.0.1") as server:
        stream = await connect_tcp("127.0.0.1", server.port, timeout=timeout)
        stream.close()


async def start_tls(timeout):
    ours, theirs = socket.socketpair()
    stream, context = IOStream(ours), ssl.create_default_context()
    try:
        handshake = stream.start_tls(
            False, context, server_hostname="localhost", handshake_timeout=timeout
        )
        handshake.cancel()
    finally:
        theirs.close()
        stream.close()
        await sleep(0.01)


async def tls_stream(timeout):
    ours, theirs = socket.socketpair()
    with ours, theirs:
        SSLIOStream(
            ours,
            ssl_options=ssl.create_default_context(),
            server_hostname="localhost",
            handshake_timeout=timeout,
        ).close()
        await sleep(0.01)


def limited(timeout):
    with time_limit(timeout):
        pass


def simulated(function):
    return in_thread(simulate, function)


def monitor(threshold):
    with LoopMonitor(threshold=threshold):
        pass


def call_later(delay):
    loop = IOLoop.current()
    loop.remove_timeout(loop.call_later(delay, print))


def call_at(delay):
    loop = IOLoop.current()
    loop.remove_timeout(loop.call_at(loop.time() + delay, print))


def add_timeout(delay):
    loop = IOLoop.current()
    loop.remove_timeout(
        loop.add_timeout(delay if isinstance(delay, timedelta) else loop.time() + delay, print)
    )


async def script(seconds):
    async def main():
        with SimulatedNetwork() as network:
            ScriptedPeer(network).wait(seconds)

    await simulated(main)


async def begin_to_sleep(seconds):
    task = asyncio.create_task(sleep(seconds))
    await asyncio.sleep(0)
    if task.done():
        task.result()
    task.cancel()


TAKERS = {
    "IOLoop.run_sync": run_sync,
    "IOLoop.call_later": call_later,
    "IOLoop.call_at": call_at,
    "IOLoop.add_timeout": add_timeout,
    "PeriodicCallback": lambda seconds: PeriodicCallback(print, seconds * 1000),
    "PeriodicCallback.callback_time": lambda seconds: setattr(
        PeriodicCallback(print, 1), "callback_time", seconds * 1000
    ),
    "LoopMonitor": monitor,
    "timeout_seconds": timeout_seconds,
    "deadline_after": lambda timeout: deadline_after(timeout, 0.0),
    "time_limit": limited,
    "WaitQueue.wait": wait_queue,
    "SimulatedLoop": lambda seconds: SimulatedLoop(real_wait=seconds).close(),
    "simulate": lambda seconds: in_thread(lambda: simulate(asyncio.sleep, 0, real_wait=seconds)),
    "cancel_everywhere": lambda seconds: in_thread(
        lambda: cancel_everywhere(lambda _: asyncio.sleep(0), lambda _: None, real_wait=seconds)
    ),
    "Link": lambda seconds: Link(latency=seconds),
    "Link of a range": lambda seconds: Link(latency=(0.0, seconds)),
    "ScriptedPeer.wait": script,
    "sleep": begin_to_sleep,
    "with_timeout": lambda timeout: with_timeout(timeout, sleep(0)),
    "with_timeout, cancel=False": lambda timeout: with_timeout(timeout, sleep(0), cancel=False),
    "with_timeout of a done future": lambda timeout: with_timeout(timeout, done()),
    "Lock.acquire": lambda timeout: Lock().acquire(timeout),
    "Lock.acquire, held": held_lock,
    "Semaphore.acquire": lambda timeout: Semaphore(1).acquire(timeout),
    "BoundedSemaphore.acquire": lambda timeout: BoundedSemaphore(1).acquire(timeout),
    "Event.wait": lambda timeout: set_event().wait(timeout),
    "Condition.acquire": lambda timeout: Condition().acquire(timeout),
    "Condition.wait": condition_wait,
    "Condition.wait_for": condition_wait_for,
    "Queue.put": lambda timeout: Queue().put(1, timeout),
    "Queue.put, full": full_queue,
    "Queue.get": lambda timeout: queue_of_one().get(timeout),
    "Queue.get, empty": empty_queue,
    "Queue.get_many": lambda timeout: queue_of_one().get_many(1, timeout),
    "Queue.join": lambda timeout: Queue().join(timeout),
    "Queue.join, unfinished": unjoined_queue,
    "ThreadSide.put": lambda timeout: in_thread(Queue().threadside.put, 1, timeout),
    "ThreadSide.get": lambda timeout: in_thread(queue_of_one().threadside.get, timeout),
    "ThreadSide.join": lambda timeout: in_thread(Queue().threadside.join, timeout),
    "connect_tcp": connect,
    "connect_unix": lambda timeout: no_such_file(connect_unix("/no such/socket", timeout=timeout)),
    "Server.close": close_server,
    "IOStream.start_tls": start_tls,
    "SSLIOStream": tls_stream,
    "Process.wait": lambda timeout: process("wait", timeout),
    "Process.communicate": lambda timeout: process("communicate", timeout),
}


async def no_such_file(connecting):
    with pytest.raises(FileNotFoundError):
        await connecting


def done():
    future = asyncio.get_running_loop().create_future()
    future.set_result(None)
    return future


def set_event():
    event = Event()
    event.set()
    return event


async def give(taker, value):
    result = TAKERS[taker](value)
    return await result if inspect.isawaitable(result) else result


each_taker = pytest.mark.parametrize("taker", TAKERS)
on_asyncio = pytest.mark.waterspout("asyncio")


@on_asyncio
@each_taker
async def test_a_number_over_ten_years_is_refused(taker):
    for seconds in (time.time() + 5, int(time.time()), TEN_YEARS + 1):
        with pytest.raises(ValueError, match="ten years"):
            await give(taker, seconds)


@on_asyncio
@each_taker
async def test_a_number_up_to_ten_years_is_taken(taker):
    for seconds in (0.1, TEN_YEARS - 86400):
        await give(taker, seconds)


# These are numbers, or have a bound of their own.
NO_TIMEDELTA = {
    "PeriodicCallback",
    "PeriodicCallback.callback_time",
    "LoopMonitor",
    "SimulatedLoop",
    "simulate",
    "cancel_everywhere",
    "Link",
    "Link of a range",
    "ScriptedPeer.wait",
}


@on_asyncio
@pytest.mark.parametrize("taker", [name for name in TAKERS if name not in NO_TIMEDELTA])
async def test_a_timedelta_over_ten_years_and_infinity_never_end(taker):
    for endless in (timedelta(days=3653), timedelta.max, math.inf):
        if taker != "IOLoop.call_at" or endless == math.inf:
            await give(taker, endless)
