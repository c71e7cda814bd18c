"""In every order, and cancelled everywhere: time limits, chains, and functions on executors.

The executor here completes its jobs when a test says so, so that each can be at each moment.
"""

import asyncio
import concurrent.futures
import contextlib
from collections import deque

import pytest

from waterspout.concurrent import amap, chain_future, run_on_executor, with_timeout
from waterspout.ioloop.testing import cancel_everywhere, explore

pytestmark = pytest.mark.proof


class Chosen(concurrent.futures.Executor):
    """Runs a job when it is told to."""

    def __init__(self):
        self.waiting = deque()
        self.futures = []

    def submit(self, function, /, *args, **kwargs):
        future = concurrent.futures.Future()
        self.futures.append(future)
        self.waiting.append((future, lambda: function(*args, **kwargs)))
        return future

    def run_next(self):
        future, call = self.waiting.popleft()
        if future.set_running_or_notify_cancel():
            try:
                future.set_result(call())
            except Exception as error:
                future.set_exception(error)

    def run_waiting(self):
        while self.waiting:
            self.run_next()


class Worker:
    """A method on such an executor, and what it has run."""

    def __init__(self):
        self.executor = Chosen()
        self.ran = []

    @run_on_executor
    def work(self, item):
        self.ran.append(item)
        if item < 0:
            raise LookupError(item)
        return item * 10


async def outcome(awaitable):
    try:
        return await awaitable
    except (Exception, asyncio.CancelledError) as error:
        return type(error)


@pytest.mark.parametrize(("item", "end"), [(1, 10), (-1, LookupError)])
def test_a_function_on_an_executor_with_a_cancellation(item, end):
    async def scenario():
        worker = Worker()
        call = worker.work(item)
        awaiting = asyncio.create_task(outcome(call))

        async def complete():
            worker.executor.run_next()

        async def cancel():
            call.cancel()

        await asyncio.gather(complete(), cancel())
        result = await awaiting
        assert result in (end, asyncio.CancelledError)
        if worker.executor.futures[0].cancelled():
            assert (worker.ran, result) == ([], asyncio.CancelledError)
        else:
            assert worker.ran == [item]

    assert explore(scenario, max_schedules=1000).exhaustive


def test_a_function_on_an_executor_cancelled_everywhere():
    async def scenario(worker):
        loop = asyncio.get_running_loop()
        for seconds in (1, 2, 3):
            loop.call_later(seconds, worker.executor.run_waiting)
        assert await worker.work(1) == 10
        assert await asyncio.create_task(as_coroutine(worker.work(2))) == 20

    def check(worker):
        worker.executor.run_waiting()
        assert all(future.done() for future in worker.executor.futures)
        submitted = [not future.cancelled() for future in worker.executor.futures]
        assert worker.ran == [n + 1 for n, kept in enumerate(submitted) if kept]

    cancel_everywhere(scenario, check, state=Worker)


@pytest.mark.parametrize("ordered", [True, False])
def test_a_map_on_an_executor_in_every_order(ordered):
    async def scenario():
        executor = Chosen()

        async def complete():
            for _ in range(3):
                while not executor.waiting:
                    await asyncio.sleep(1)
                executor.run_next()

        completing = asyncio.create_task(complete())
        results = amap(lambda n: n * 10, [1, 2, 3], limit=2, ordered=ordered, executor=executor)
        got = [result async for result in results]
        await completing
        assert sorted(got) == [10, 20, 30]
        assert not ordered or got == [10, 20, 30]

    explore(scenario, max_schedules=500)


def as_task(future):
    async def wait():
        return await future

    return asyncio.ensure_future(wait())


async def as_coroutine(future):
    return await future


KINDS = {"future": lambda future: future, "task": as_task, "coroutine": as_coroutine}


@pytest.mark.parametrize("cancel", [True, False])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("cancelled", [False, True])
def test_a_result_a_limit_and_a_cancellation_at_one_moment(kind, cancel, cancelled):
    async def scenario():
        future = asyncio.get_running_loop().create_future()

        async def finish():
            await asyncio.sleep(1)
            if not future.done():
                future.set_result("result")

        async def interrupt():
            await asyncio.sleep(1)
            if cancelled:
                limited.cancel()

        limited = asyncio.create_task(with_timeout(1, KINDS[kind](future), cancel=cancel))
        result, *_ = await asyncio.gather(outcome(limited), finish(), interrupt())
        assert result in ("result", TimeoutError, asyncio.CancelledError)
        if cancel and result is TimeoutError:
            assert future.cancelled()
        if not cancelled:
            assert result != asyncio.CancelledError
            assert not cancel or (result == "result") != future.cancelled()

    explore(scenario, max_schedules=1000)


class Counting:
    """How many works are under way."""

    running = 0

    async def work(self):
        self.running += 1
        try:
            await asyncio.sleep(2)
        finally:
            self.running -= 1


@pytest.mark.parametrize("seconds", [1, 3])
@pytest.mark.parametrize("kind", ["task", "coroutine"])
def test_a_limit_cancelled_everywhere_leaves_nothing_running(seconds, kind):
    async def scenario(counting):
        work = counting.work()
        limited = with_timeout(seconds, asyncio.ensure_future(work) if kind == "task" else work)
        with contextlib.suppress(TimeoutError):
            await limited

    def check(counting):
        assert counting.running == 0

    cancel_everywhere(scenario, check, state=Counting)


def new_future(kind):
    if kind == "asyncio":
        return asyncio.get_running_loop().create_future()
    return concurrent.futures.Future()


@pytest.mark.parametrize("first", ["asyncio", "concurrent"])
@pytest.mark.parametrize("second", ["asyncio", "concurrent"])
def test_a_chain_of_both_kinds_with_a_cancellation(first, second):
    async def scenario():
        a, b = new_future(first), new_future(second)
        chain_future(a, b)

        async def finish():
            if not a.done():
                a.set_result("result")

        async def cancel():
            b.cancel()

        await asyncio.gather(finish(), cancel())
        while not (a.done() and b.done()):
            await asyncio.sleep(1)
        assert b.cancelled() or (b.result() == "result" and a.result() == "result")

    explore(scenario, max_schedules=500)


def test_who_awaits_a_chain_is_cancelled_everywhere():
    class Chain:
        def __init__(self):
            self.a, self.b = new_future("asyncio"), new_future("asyncio")
            chain_future(self.a, self.b)

    async def scenario(chain):
        loop = asyncio.get_running_loop()
        loop.call_later(1, lambda: chain.a.done() or chain.a.set_result("result"))
        assert await chain.b == "result"

    async def check(chain):
        await asyncio.sleep(0)
        if chain.b.cancelled():
            assert chain.a.done()
        elif chain.a.done():
            assert chain.b.result() == "result"

    cancel_everywhere(scenario, check, state=Chain)
