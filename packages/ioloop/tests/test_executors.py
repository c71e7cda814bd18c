"""`run_in_executor` and `set_default_executor`."""

import asyncio
import contextvars
import os
import socket
import threading
from concurrent.futures import (
    CancelledError,
    Executor,
    Future,
    InvalidStateError,
    ProcessPoolExecutor,
    ThreadPoolExecutor,
)
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from pickle import PicklingError

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
        with pytest.raises(ValueError, match="invalid literal.*'none'"):
            await IOLoop.current().run_in_executor(pool, int, "none")


async def test_set_default_executor():
    loop, used = IOLoop.current(), []

    class Noting(OtherExecutor):
        def submit(self, fn, /, *args, **kwargs):
            used.append(fn)
            return super().submit(fn, *args, **kwargs)

    loop.set_default_executor(Noting())
    assert await loop.run_in_executor(None, max, 1, 2) == 2
    assert used == [max]


def where_am_i():
    return os.getpid()


@pytest.mark.slow
@pytest.mark.usefixtures("importable_tests")
async def test_a_pool_of_processes_can_be_the_default():
    loop = IOLoop.current()
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        loop.set_default_executor(pool)
        assert await loop.run_in_executor(None, where_am_i) != os.getpid()
        # asyncio hands its own default what cannot be pickled.
        assert await asyncio.to_thread(lambda: os.getpid()) == os.getpid()
        running = asyncio.get_running_loop()
        assert await running.getaddrinfo("127.0.0.1", 80, type=socket.SOCK_STREAM)
        with ThreadPoolExecutor(1) as threads:
            loop.set_default_executor(threads)
            assert await loop.run_in_executor(None, lambda: os.getpid()) == os.getpid()
        loop.set_default_executor(pool)
        assert await loop.run_in_executor(None, where_am_i) != os.getpid()


@pytest.mark.parametrize("fails", [False, True])
def test_what_is_done_at_once_by_a_loops_own_executor_is_done_a_turn_later(fails):
    class Hasty(asyncio.SelectorEventLoop):
        def run_in_executor(self, executor, func, *args):
            future = self.create_future()
            try:
                future.set_result(func(*args))
            except Exception as error:
                future.set_exception(error)
            return future

    async def main():
        future = IOLoop.current().run_in_executor(None, divmod, 7, 0 if fails else 2)
        assert not future.done()
        await asyncio.wait([future])
        return future

    loop = IOLoop(Hasty(), make_current=False)
    future = loop.run_sync(main)
    loop.close()
    if fails:
        assert isinstance(future.exception(), ZeroDivisionError)
    else:
        assert future.result() == (3, 1)


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


class Prepared(Executor):
    """Gives futures that have an outcome already, or get it from a thread."""

    def __init__(self, prepare, *, late):
        self.prepare = prepare
        self.late = late
        self.threads = []

    def submit(self, fn, /, *args, **kwargs):
        future = Future()
        if self.late:
            self.threads.append(threading.Thread(target=self.prepare, args=(future,)))
            asyncio.get_running_loop().call_soon(self.threads[-1].start)
        else:
            self.prepare(future)
        return future

    def shutdown(self, wait=True, *, cancel_futures=False):
        for thread in self.threads:
            thread.join()


class Wanting(Exception):
    """Cannot be made without an argument, and so not be unpickled."""

    def __init__(self, what):
        super().__init__()


class Falsy(Exception):
    def __bool__(self):
        return False


class Ended(StopIteration):
    pass


def cancelled(future):
    future.cancel()
    future.set_running_or_notify_cancel()


@pytest.mark.parametrize("late", [False, True], ids=["done", "late"])
@pytest.mark.parametrize(
    ("error", "seen"),
    [
        (StopIteration("end"), RuntimeError),
        (Ended(), RuntimeError),
        (StopIteration, RuntimeError),
        (StopAsyncIteration(), StopAsyncIteration),
        (CancelledError(), asyncio.CancelledError),
        (asyncio.CancelledError(), asyncio.CancelledError),
        (InvalidStateError(), asyncio.InvalidStateError),
        (asyncio.InvalidStateError(), asyncio.InvalidStateError),
        (TimeoutError(), TimeoutError),
        (BrokenProcessPool(), BrokenProcessPool),
        (ZeroDivisionError, ZeroDivisionError),
        (Wanting, TypeError),
        (Falsy(), Falsy),
        ("no exception", TypeError),
        (GeneratorExit(), GeneratorExit),
        (cancelled, asyncio.CancelledError),
    ],
    ids=lambda value: getattr(value, "__name__", None) or repr(value),
)
async def test_every_outcome_of_an_executors_future_arrives(error, seen, late):
    def prepare(future):
        if error is cancelled:
            cancelled(future)
        else:
            future.set_exception(error)

    with Prepared(prepare, late=late) as executor:
        future = IOLoop.current().run_in_executor(executor, print)
        assert not future.done()  # however fast the executor is
        await asyncio.wait([future], timeout=10)
        with pytest.raises(seen) as caught:
            future.result()
    assert type(caught.value) is seen
    assert future.cancelled() == (error is cancelled)
    if isinstance(error, StopIteration):
        assert caught.value.__cause__ is error


@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit])
def test_an_executors_exit_ends_the_program(kind, loop_factory):
    async def main():
        with Prepared(lambda future: future.set_exception(kind()), late=False) as executor:
            await IOLoop.current().run_in_executor(executor, print)

    loop = IOLoop(loop_factory(), make_current=False)
    with pytest.raises(kind):
        loop.run_sync(main)
    loop.close()


def test_a_job_that_ends_after_its_loop_was_closed_ends_in_silence(loop_factory):
    loop = IOLoop(loop_factory(), make_current=False)
    started, release = threading.Event(), threading.Event()
    with ThreadPoolExecutor(1) as pool:

        def job():
            started.set()
            return release.wait(10)

        async def main():
            return [loop.run_in_executor(pool, job)]

        (future,) = loop.run_sync(main)
        assert started.wait(10)
        loop.close()
        release.set()
    assert not future.done()


async def test_what_cannot_be_awaited_is_refused():
    class Wrong(Executor):
        def submit(self, fn, /, *args, **kwargs):
            return fn(*args, **kwargs)

    class Broken(Executor):
        def submit(self, fn, /, *args, **kwargs):
            raise BrokenProcessPool("lost")

    loop = IOLoop.current()
    with pytest.raises(TypeError, match="must return a concurrent.futures.Future, not 3"):
        loop.run_in_executor(Wrong(), abs, -3)
    with pytest.raises(BrokenProcessPool, match="lost"):
        loop.run_in_executor(Broken(), abs, -3)


def raise_wanting():
    raise Wanting("an argument")


def end():
    next(iter(()))


@pytest.mark.slow
@pytest.mark.usefixtures("importable_tests")
async def test_processes_report_every_failure():
    context = get_context("spawn")
    loop = IOLoop.current()
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        with pytest.raises(RuntimeError, match="cannot hold StopIteration"):
            await asyncio.wait_for(loop.run_in_executor(pool, end), 30)
        # Neither the one function nor the result of the other can be pickled.
        for job in (lambda: 1, threading.Lock):
            with pytest.raises((AttributeError, TypeError, PicklingError)):
                await asyncio.wait_for(loop.run_in_executor(pool, job), 30)
    with ProcessPoolExecutor(1, mp_context=context) as pool, pytest.raises(BrokenProcessPool):
        await asyncio.wait_for(loop.run_in_executor(pool, raise_wanting), 30)


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
