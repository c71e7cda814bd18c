"""`run_in_executor` and `set_default_executor`."""

import asyncio
import contextvars
import os
import threading
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing import get_context

import pytest

from waterspout.ioloop import IOLoop

variable = contextvars.ContextVar("variable", default="unset")


class OtherExecutor(Executor):
    """One of which nothing is known."""

    def submit(self, fn, /, *args, **kwargs):
        future = Future()
        future.set_result(contextvars.Context().run(fn, *args, **kwargs))
        return future


async def test_the_default_runs_it_in_a_thread_with_the_callers_context():
    variable.set("caller")
    thread, value = await IOLoop.current().run_in_executor(
        None, lambda: (threading.get_ident(), variable.get())
    )
    assert thread != threading.get_ident()
    assert value == "caller"


async def test_any_executor_will_do():
    variable.set("caller")
    loop = IOLoop.current()
    with ThreadPoolExecutor(1, thread_name_prefix="mine") as pool:
        name = await loop.run_in_executor(pool, lambda: threading.current_thread().name)
        assert name.startswith("mine")
        assert await loop.run_in_executor(pool, variable.get) == "caller"
    # Elsewhere the context may not be of any use: it is not sent.
    assert await loop.run_in_executor(OtherExecutor(), variable.get) == "unset"


@pytest.mark.slow
async def test_so_will_processes():
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        assert await IOLoop.current().run_in_executor(pool, os.getpid) != os.getpid()
        with pytest.raises(ValueError, match="math domain"):
            await IOLoop.current().run_in_executor(pool, __import__("math").sqrt, -1)


async def test_set_default_executor():
    loop, used = IOLoop.current(), []

    class Noting(OtherExecutor):
        def submit(self, fn, /, *args, **kwargs):
            used.append(fn)
            return super().submit(fn, *args, **kwargs)

    loop.set_default_executor(Noting())
    assert await loop.run_in_executor(None, max, 1, 2) == 2
    assert used == [max]


def test_a_default_pool_of_threads_is_shut_down_with_the_loop(loop_factory):
    pool = ThreadPoolExecutor(1)

    async def main():
        IOLoop.current().set_default_executor(pool)
        await IOLoop.current().run_in_executor(None, max, 1, 2)

    with asyncio.Runner(loop_factory=loop_factory) as runner:
        runner.run(main())
    with pytest.raises(RuntimeError, match="after shutdown"):
        pool.submit(print)


async def test_cancelling_keeps_it_from_starting():
    started = threading.Event()
    release = threading.Event()
    ran = []
    with ThreadPoolExecutor(1) as pool:
        loop = IOLoop.current()

        def block():
            started.set()
            release.wait(10)

        first = loop.run_in_executor(pool, block)
        second = loop.run_in_executor(pool, ran.append, 1)
        await asyncio.to_thread(started.wait, 10)
        second.cancel()
        await asyncio.sleep(0)
        release.set()
        await first
    assert ran == []


async def test_stop_iteration_is_an_error_and_no_hang():
    with pytest.raises(RuntimeError, match="raised StopIteration"):
        await asyncio.wait_for(IOLoop.current().run_in_executor(None, next, iter([])), 10)


async def test_an_executor_that_looks_empty_is_used_all_the_same():
    class Empty(OtherExecutor):
        used = 0

        def __len__(self):
            return 0

        def submit(self, fn, /, *args, **kwargs):
            self.used += 1
            return super().submit(fn, *args, **kwargs)

    executor = Empty()
    await IOLoop.current().run_in_executor(executor, print)
    assert executor.used == 1


async def test_bad_arguments_are_refused():
    loop = IOLoop.current()
    for bad in (5, 0, "", False):
        with pytest.raises(TypeError, match="executor must be an Executor or None"):
            loop.run_in_executor(bad, print)
    with pytest.raises(TypeError, match="func must be callable"):
        loop.run_in_executor(None, None)
    with pytest.raises(TypeError, match="executor must be an Executor"):
        loop.set_default_executor(None)
    pool = ThreadPoolExecutor(1)
    pool.shutdown()
    with pytest.raises(RuntimeError, match="after shutdown"):
        loop.run_in_executor(pool, print)


def test_a_closed_loop_runs_nothing_anywhere():
    loop, ran = IOLoop(make_current=False), []
    loop.close()
    with ThreadPoolExecutor(1) as pool:
        for executor in (None, pool, OtherExecutor()):
            with pytest.raises(RuntimeError, match="the event loop is closed"):
                loop.run_in_executor(executor, ran.append, 1)
    assert ran == []
