"""The loop: callbacks, timers, what watching costs, memory, and import."""

import asyncio
import os
import subprocess
import sys
import threading
import time
import tracemalloc
from collections.abc import Callable
from typing import Any

from harness import case

# One callback after another: each adds the next, so each takes an iteration of the loop.

chain = case("callback chain", 100_000)


async def _chain(count: int, add: Callable[[Callable[[], None]], object]) -> float:
    done = asyncio.get_running_loop().create_future()
    left = count

    def callback() -> None:
        nonlocal left
        left -= 1
        if left:
            add(callback)
        else:
            done.set_result(None)

    started = time.perf_counter()
    add(callback)
    await done
    return time.perf_counter() - started


@chain.row("loop.call_soon")
async def _(count: int) -> float:
    return await _chain(count, asyncio.get_running_loop().call_soon)


@chain.row("waterspout add_callback")
async def _(count: int) -> float:
    from waterspout.ioloop import IOLoop

    return await _chain(count, IOLoop.current().add_callback)


@chain.row("tornado add_callback")
async def _(count: int) -> float:
    from tornado.ioloop import IOLoop

    return await _chain(count, IOLoop.current().add_callback)


# A thousand callbacks at a time: the cost of one without the loop's own iteration.

burst = case("callback burst", 200_000)


async def _burst(count: int, add: Callable[..., object]) -> float:
    loop = asyncio.get_running_loop()
    started = time.perf_counter()
    for _ in range(count // 1000):
        done = loop.create_future()
        for _ in range(999):
            add(_nothing)
        add(done.set_result, None)
        await done
    return time.perf_counter() - started


def _nothing() -> None:
    pass


@burst.row("loop.call_soon")
async def _(count: int) -> float:
    return await _burst(count, asyncio.get_running_loop().call_soon)


@burst.row("waterspout add_callback")
async def _(count: int) -> float:
    from waterspout.ioloop import IOLoop

    return await _burst(count, IOLoop.current().add_callback)


@burst.row("tornado add_callback")
async def _(count: int) -> float:
    from tornado.ioloop import IOLoop

    return await _burst(count, IOLoop.current().add_callback)


# A timeout that does not expire: set, and removed.

timers = case("timer set and removed", 100_000)


async def _timers(
    count: int, set_timer: Callable[..., Any], remove: Callable[[Any], object]
) -> float:
    started = time.perf_counter()
    for _ in range(count // 100):
        for handle in [set_timer(30, _nothing) for _ in range(100)]:
            remove(handle)
        await asyncio.sleep(0)
    return time.perf_counter() - started


@timers.row("loop.call_later, cancel")
async def _(count: int) -> float:
    def remove(handle: asyncio.TimerHandle) -> None:
        handle.cancel()

    return await _timers(count, asyncio.get_running_loop().call_later, remove)


@timers.row("waterspout call_later, remove_timeout")
async def _(count: int) -> float:
    from waterspout.ioloop import IOLoop

    loop = IOLoop.current()
    return await _timers(count, loop.call_later, loop.remove_timeout)


@timers.row("tornado call_later, remove_timeout")
async def _(count: int) -> float:
    from tornado.ioloop import IOLoop

    loop = IOLoop.current()
    return await _timers(count, loop.call_later, loop.remove_timeout)


# From another thread: a ping to the loop and a pong back.

threads = case("callback from a thread, and back", 5_000)


async def _from_thread(count: int, add: Callable[..., object]) -> float:
    done = asyncio.get_running_loop().create_future()
    pong = threading.Event()

    def work() -> None:
        for _ in range(count):
            pong.clear()
            add(pong.set)
            pong.wait()
        add(done.set_result, None)

    thread = threading.Thread(target=work)
    started = time.perf_counter()
    thread.start()
    await done
    elapsed = time.perf_counter() - started
    thread.join()
    return elapsed


@threads.row("loop.call_soon_threadsafe")
async def _(count: int) -> float:
    return await _from_thread(count, asyncio.get_running_loop().call_soon_threadsafe)


@threads.row("waterspout add_callback")
async def _(count: int) -> float:
    from waterspout.ioloop import IOLoop

    return await _from_thread(count, IOLoop.current().add_callback)


@threads.row("tornado add_callback")
async def _(count: int) -> float:
    from tornado.ioloop import IOLoop

    return await _from_thread(count, IOLoop.current().add_callback)


# What it costs to be watched: the same chain, with the monitor off and on.

watched = case("callback chain, watched", 200_000)


@watched.row("never watched")
async def _(count: int) -> float:
    from waterspout.ioloop import IOLoop

    IOLoop.current()  # which the other rows have, too
    return await _chain(count, asyncio.get_running_loop().call_soon)


@watched.row("another thread has run once")
async def _(count: int) -> float:
    from waterspout.ioloop import IOLoop

    IOLoop.current()
    # The C library spares itself some locking until a process starts its first thread.
    await asyncio.to_thread(_nothing)
    return await _chain(count, asyncio.get_running_loop().call_soon)


@watched.row("monitor off again")
async def _(count: int) -> float:
    from waterspout.ioloop import LoopMonitor

    with LoopMonitor():
        await asyncio.sleep(0.05)
    return await _chain(count, asyncio.get_running_loop().call_soon)


@watched.row("monitor on")
async def _(count: int) -> float:
    from waterspout.ioloop import LoopMonitor

    with LoopMonitor():
        return await _chain(count, asyncio.get_running_loop().call_soon)


@watched.row("asyncio debug mode")
async def _(count: int) -> float:
    asyncio.get_running_loop().set_debug(True)
    return await _chain(count, asyncio.get_running_loop().call_soon)


# Kilobytes that are held after a million timers were set and removed, one after another, without
# the loop having had a turn.

memory = case("memory of a million removed timers", unit="KiB", loops=("asyncio",))


def _memory(get: Callable[[], tuple[Callable[..., Any], Callable[[Any], object]]]) -> float:
    async def main() -> float:
        set_timer, remove = get()
        tracemalloc.start()
        before, _ = tracemalloc.get_traced_memory()
        for _ in range(1_000_000):
            remove(set_timer(30, _nothing))
        after, _ = tracemalloc.get_traced_memory()
        return (after - before) / 1024

    return asyncio.run(main())


@memory.row("loop.call_later, cancel")
def _() -> float:
    def get() -> Any:
        return asyncio.get_running_loop().call_later, lambda handle: handle.cancel()

    return _memory(get)


@memory.row("waterspout call_later, remove_timeout")
def _() -> float:
    def get() -> Any:
        from waterspout.ioloop import IOLoop

        return IOLoop.current().call_later, IOLoop.current().remove_timeout

    return _memory(get)


# Milliseconds to import, without the start of the interpreter; from compiled files.

imports = case("import", unit="ms", loops=("asyncio",))


def _import(statement: str) -> float:
    code = f"import time; t = time.perf_counter(); {statement}; print(time.perf_counter() - t)"
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}

    def run() -> float:
        command = [sys.executable, "-c", code]
        done = subprocess.run(command, check=True, capture_output=True, env=environment)
        return float(done.stdout)

    return min(run() for _ in range(6)) * 1000


@imports.row("asyncio")
def _() -> float:
    return _import("import asyncio")


@imports.row("asyncio, waterspout.ioloop")
def _() -> float:
    return _import("import asyncio, waterspout.ioloop")


@imports.row("asyncio, tornado.ioloop")
def _() -> float:
    return _import("import asyncio, tornado.ioloop")
