"""A map ends when all that it began has ended, on executors as well, however it is left."""

import asyncio
import concurrent.futures
import contextvars
import threading

import pytest

from waterspout.concurrent import DummyExecutor, amap, run_on_executor, with_timeout

who = contextvars.ContextVar("who", default="nobody")


class Jobs:
    """Functions on threads, which run until they are let go."""

    def __init__(self, threads=2):
        self.executor = concurrent.futures.ThreadPoolExecutor(threads)
        self.let_go, self.slow_begun = threading.Event(), threading.Event()
        self.begun, self.ended = [], []

    def __call__(self, item):
        self.begun.append(item)
        try:
            if item == "fails":
                assert self.slow_begun.wait(20)
                raise KeyError
            if item != "quick":
                self.slow_begun.set()
                assert self.let_go.wait(20)
        finally:
            self.ended.append(item)
        return item

    @run_on_executor
    def decorated(self, item):
        return self(item)

    async def are_begun(self, count):
        while len(self.begun) < count:
            await asyncio.sleep(0.001)

    def __enter__(self):
        return self

    def __exit__(self, *exc_info):
        self.let_go.set()
        self.executor.shutdown()


WAYS = {
    "executor": lambda jobs, items, **kwargs: amap(jobs, items, executor=jobs.executor, **kwargs),
    "decorated": lambda jobs, items, **kwargs: amap(jobs.decorated, items, **kwargs),
}
ways = pytest.mark.parametrize("way", WAYS)
orders = pytest.mark.parametrize("ordered", [True, False])


async def leave_by_exception(results, jobs):
    async with results:
        await jobs.are_begun(2)
        raise ZeroDivisionError


async def leave_by_break(results, jobs):
    async with results:
        await jobs.are_begun(2)


async def leave_by_failure(results, jobs):
    async with results:
        async for _ in results:
            pass


async def leave_by_aclose(results, jobs):
    await jobs.are_begun(2)
    await results.aclose()


async def leave_by_timeout(results, jobs):
    async with asyncio.timeout(0.01), results:
        await jobs.are_begun(2)
        await asyncio.sleep(60)


async def leave_by_limit(results, jobs):
    async def consume():
        async with results:
            await jobs.are_begun(2)
            await asyncio.sleep(60)

    await with_timeout(0.01, consume())


async def leave_by_generator(results, jobs):
    async def generator():
        async with results:
            await jobs.are_begun(2)
            yield

    generating = generator()
    await anext(generating)
    await generating.aclose()


LEAVES = {
    leave_by_exception: ZeroDivisionError,
    leave_by_break: None,
    leave_by_failure: KeyError,
    leave_by_aclose: None,
    leave_by_timeout: TimeoutError,
    leave_by_limit: TimeoutError,
    leave_by_generator: None,
}


def begin(results):
    """Ask for the first result, and so begin."""
    return asyncio.ensure_future(anext(results))


@ways
@orders
@pytest.mark.parametrize("leave", LEAVES, ids=lambda leave: leave.__name__)
async def test_what_has_begun_is_waited_for_and_the_rest_is_dropped(leave, way, ordered):
    with Jobs() as jobs:
        items = ["quick", "slow", "fails", *range(10)]
        if leave is not leave_by_failure:
            items.remove("fails")
        results = WAYS[way](jobs, iter(items), limit=5, ordered=ordered)
        assert await anext(results) == "quick"
        leaving = asyncio.ensure_future(leave(results, jobs))
        await jobs.are_begun(2)
        await asyncio.sleep(0.03)
        assert not leaving.done()
        assert len(jobs.ended) < len(jobs.begun)
        jobs.let_go.set()
        await asyncio.wait([leaving])
        assert jobs.ended[:1] == ["quick"]
        assert sorted(map(str, jobs.ended)) == sorted(map(str, jobs.begun))
        count = len(jobs.begun)
        assert count < len(items)
        error = leaving.exception()
        assert (error if error is None else type(error)) is LEAVES[leave]
        await asyncio.sleep(0.01)
        assert len(jobs.begun) == count
        assert await anext(results, "over") == "over"


@ways
async def test_cancelled_again_and_again_it_waits_and_is_cancelled_at_last(way):
    with Jobs() as jobs:

        async def consume():
            async with WAYS[way](jobs, range(10), limit=4) as results:
                async for _ in results:
                    pass

        task = asyncio.ensure_future(consume())
        await jobs.are_begun(2)
        for _ in range(3):
            task.cancel()
            await asyncio.sleep(0.002)
            assert not task.done()
        jobs.let_go.set()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert sorted(jobs.ended) == sorted(jobs.begun)
        assert len(jobs.begun) == 2


@ways
async def test_the_first_failure_is_raised_when_the_others_have_ended(way):
    with Jobs() as jobs:
        task = begin(WAYS[way](jobs, ["fails", 1], limit=2))
        await jobs.are_begun(2)
        await asyncio.sleep(0.01)
        assert not task.done()
        jobs.let_go.set()
        with pytest.raises(KeyError):
            await task
        assert jobs.ended == ["fails", 1]


async def test_two_that_close_it_both_wait():
    with Jobs() as jobs:
        results = amap(jobs, range(5), limit=2, executor=jobs.executor)
        asking = begin(results)
        await jobs.are_begun(2)
        closing = [asyncio.ensure_future(results.aclose()) for _ in range(2)]
        await asyncio.sleep(0.01)
        assert not any(task.done() for task in closing)
        jobs.let_go.set()
        await asyncio.gather(*closing)
        with pytest.raises(StopAsyncIteration):
            await asking


async def test_a_function_on_the_default_executor_is_waited_for():
    with Jobs() as jobs:
        function = run_on_executor(jobs.__call__)
        results = amap(function, range(5), limit=2)
        asking = begin(results)
        await jobs.are_begun(2)
        asking.cancel()
        await asyncio.sleep(0.01)
        assert not asking.done()
        jobs.let_go.set()
        with pytest.raises(asyncio.CancelledError):
            await asking
        assert sorted(jobs.ended) == [0, 1]


async def test_a_coroutine_function_is_cancelled_where_it_awaits_an_executor():
    with Jobs() as jobs:

        async def work(item):
            return await jobs.decorated(item)

        async with amap(work, range(5), limit=2) as results:
            asking = begin(results)
            await jobs.are_begun(2)
            asking.cancel()
            with pytest.raises(asyncio.CancelledError):
                await asking
        assert jobs.ended == []


async def test_a_task_that_a_function_returns_is_cancelled():
    with Jobs() as jobs:

        async def work(item):
            await jobs.decorated(item)

        results = amap(lambda item: asyncio.ensure_future(work(item)), [1], limit=1)
        asking = begin(results)
        await jobs.are_begun(1)
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
        assert jobs.ended == []


@pytest.mark.parametrize("in_thread", [False, True])
async def test_dropped_without_a_block_it_drops_what_has_not_begun(in_thread):
    with Jobs(threads=1) as jobs:
        kept = [amap(jobs, ["quick", *range(5)], limit=3, executor=jobs.executor)]
        assert await anext(kept[0]) == "quick"
        await jobs.are_begun(2)
        if in_thread:  # as the garbage collector may do it
            thread = threading.Thread(target=kept.clear)
            thread.start()
            thread.join()
        else:
            kept.clear()
        jobs.let_go.set()
        assert await asyncio.wrap_future(jobs.executor.submit(lambda: "next")) == "next"
        assert jobs.ended == ["quick", 0]


@ways
async def test_context_variables_go_along_to_threads(way):
    class Reading(Jobs):
        def __call__(self, item):
            return who.get()

    with Reading() as jobs:
        who.set("me")
        assert [r async for r in WAYS[way](jobs, range(3), limit=2)] == ["me"] * 3


async def test_an_executor_that_is_shut_down_is_an_error():
    with Jobs() as jobs:
        jobs.executor.shutdown()
        with pytest.raises(RuntimeError, match="shutdown"):
            await anext(amap(jobs, [1], limit=1, executor=jobs.executor))


async def test_an_executor_that_runs_functions_at_once():
    with Jobs() as jobs:
        items = ["quick"] * 5
        results = amap(jobs, items, limit=2, executor=DummyExecutor())
        assert [item async for item in results] == items


@pytest.mark.waterspout("simulated")
@ways
async def test_a_simulated_loop_refuses_threads_still(way):
    with Jobs() as jobs:
        with pytest.raises(RuntimeError, match="real_wait"):
            await anext(WAYS[way](jobs, ["quick"], limit=1))
