"""`amap`: so many at a time, in order or not, and nothing left behind."""

import asyncio
import concurrent.futures
import gc
import threading

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from waterspout.concurrent import DummyExecutor, amap
from waterspout.ioloop.testing import cancel_everywhere, explore, simulate


class Counting:
    """Work that takes a while, and counts how much of it goes on at a time."""

    def __init__(self):
        self.running, self.most, self.begun = 0, 0, []

    async def __call__(self, item):
        self.begun.append(item)
        self.running += 1
        self.most = max(self.most, self.running)
        try:
            await asyncio.sleep(item)
            if item == 13:
                raise ZeroDivisionError
            return item * 10
        finally:
            self.running -= 1


async def sourced(items, delay=0):
    for item in items:
        await asyncio.sleep(delay)
        yield item


@pytest.mark.waterspout("simulated")
@pytest.mark.parametrize("make", [list, sourced], ids=["iterable", "asynchronous"])
async def test_results_come_in_order_or_as_they_are_ready(make):
    work = Counting()
    assert [r async for r in amap(work, make([3, 1, 2]), limit=3)] == [30, 10, 20]
    assert [r async for r in amap(work, make([3, 1, 2]), limit=3, ordered=False)] == [10, 20, 30]
    assert [r async for r in amap(work, make([]), limit=3)] == []


@pytest.mark.waterspout("simulated")
@pytest.mark.parametrize("ordered", [True, False])
@pytest.mark.parametrize("make", [list, sourced], ids=["iterable", "asynchronous"])
async def test_never_more_than_so_many_are_open(make, ordered):
    work = Counting()
    results = amap(work, make(range(10)), limit=3, ordered=ordered)
    assert work.begun == []  # nothing starts unasked
    assert await anext(results) == 0
    await asyncio.sleep(100)
    assert len(work.begun) <= 4  # a slow consumer holds the source back
    assert [r async for r in results] == [n * 10 for n in range(1, 10)]
    assert work.most <= 3
    with pytest.raises(StopAsyncIteration):
        await anext(results)


@pytest.mark.waterspout("simulated")
@pytest.mark.parametrize("ordered", [True, False])
async def test_an_exception_stops_it_in_its_place(ordered):
    work, got = Counting(), []
    results = amap(work, [20, 13, 30, 1, 1], limit=3, ordered=ordered)
    with pytest.raises(ZeroDivisionError):
        async for result in results:
            got += [result]
    assert got == ([200] if ordered else [])
    assert work.running == 0
    assert work.begun == [20, 13, 30]  # nothing was begun after it
    with pytest.raises(StopAsyncIteration):
        await anext(results)


@pytest.mark.waterspout("simulated")
async def test_so_does_one_of_the_source():
    def failing():
        yield 2
        yield 1
        raise ZeroDivisionError

    async def failing_later():
        for item in failing():
            yield item

    for make in (failing, failing_later):
        for ordered in (True, False):
            work, got = Counting(), []
            with pytest.raises(ZeroDivisionError):
                async for result in amap(work, make(), limit=5, ordered=ordered):
                    got += [result]
            assert not ordered or got == [20, 10]
            assert work.running == 0


@pytest.mark.waterspout("simulated")
@pytest.mark.parametrize("ordered", [True, False])
async def test_a_call_that_raises_at_once_or_gives_nothing_to_await(ordered):
    work = Counting()

    def call(item):
        if item == 3:
            raise ZeroDivisionError
        return work(item) if item < 3 else item

    for items, error in (([2, 1, 3, 1], ZeroDivisionError), ([2, 4], TypeError)):
        got = []
        with pytest.raises(error):
            async for result in amap(call, items, limit=5, ordered=ordered):
                got += [result]
        assert not ordered or got == [item * 10 for item in items if item < 3][: len(got)]
        assert work.running == 0


async def test_an_end_that_is_none():
    async def end(item):
        raise StopAsyncIteration

    with pytest.raises(RuntimeError, match="func raised StopAsyncIteration"):
        await anext(amap(end, [1], limit=1))


@pytest.mark.waterspout("simulated")
async def test_leaving_the_block_leaves_nothing_running():
    work = Counting()
    async with amap(work, range(1, 100), limit=5) as results:
        async for _ in results:
            break
        assert work.running > 0
    assert work.running == 0
    assert [r async for r in results] == []


@pytest.mark.waterspout("simulated")
async def test_a_generator_is_closed_and_heard():
    async def source():
        try:
            while True:
                yield 1
        finally:
            await asyncio.sleep(1)
            raise KeyError("as it closes")

    with pytest.raises(KeyError, match="as it closes"):
        async with amap(Counting(), source(), limit=2) as results:
            await anext(results)


@pytest.mark.waterspout("simulated")
async def test_cancelled_again_and_again_it_waits_all_the_same():
    async def stubborn(item):
        try:
            await asyncio.sleep(100)
        except asyncio.CancelledError:
            await asyncio.sleep(1)
            ended.append(item)
            raise

    async def consume():
        async with amap(stubborn, sourced([1, 2]), limit=2) as results:
            await anext(results)

    ended = []
    task = asyncio.create_task(consume())
    await asyncio.sleep(1)
    while not task.done():
        task.cancel()
        await asyncio.sleep(0.3)
    assert sorted(ended) == [1, 2]


@pytest.mark.waterspout("simulated")
async def test_a_consumer_that_is_cancelled_leaves_nothing_running():
    work = Counting()
    results = amap(work, [100, 200], limit=2)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(1):
            await anext(results)
    assert work.running == 0


@pytest.mark.waterspout("simulated")
async def test_an_iterator_that_is_dropped_leaves_nothing_running():
    work = Counting()
    async for _ in amap(work, range(1, 100), limit=5):
        break
    gc.collect()
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert work.running == 0


async def test_also_if_it_is_dropped_in_another_thread():
    work = Counting()
    kept = [amap(work, [0, 60], limit=2)]
    await anext(kept[0])
    thread = threading.Thread(target=kept.clear)
    thread.start()
    thread.join()
    while work.running:
        await asyncio.sleep(0)


def test_or_when_its_loop_has_closed():
    async def main():
        results = amap(Counting(), [0, 60], limit=2)
        await anext(results)
        return results

    results = asyncio.run(main())
    del results


@pytest.mark.waterspout("simulated")
async def test_one_task_at_a_time_may_ask():
    results = amap(Counting(), [5, 1], limit=1)
    first = asyncio.create_task(anext(results))
    await asyncio.sleep(0)
    with pytest.raises(RuntimeError, match="another task waits"):
        await anext(results)
    assert await first == 50
    assert await anext(results) == 10


@pytest.mark.parametrize("ordered", [True, False])
async def test_on_an_executor(ordered):
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        results = amap(str, range(100), limit=8, ordered=ordered, executor=pool)
        assert sorted([r async for r in results]) == sorted(map(str, range(100)))
    assert [r async for r in amap(str, [1, 2], limit=1, executor=DummyExecutor())] == ["1", "2"]


async def test_what_an_executor_has_not_begun_is_cancelled():
    go_on, begun = threading.Event(), []

    def work(item):
        begun.append(item)
        go_on.wait(10)

    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        async with amap(work, range(10), limit=5, executor=pool) as results:
            waiting = asyncio.ensure_future(anext(results))
            while not begun:
                await asyncio.sleep(0.001)
            waiting.cancel()
            await asyncio.sleep(0.01)
            assert not waiting.done()  # what has begun is waited for
            go_on.set()
            with pytest.raises(asyncio.CancelledError):
                await waiting
    assert begun == [0]


def test_bad_arguments_are_refused():
    for bad in ("f", None):
        with pytest.raises(TypeError, match="func must be callable"):
            amap(bad, [], limit=1)
    with pytest.raises(TypeError, match="limit must be an integer"):
        amap(print, [], limit=1.0)
    with pytest.raises(ValueError, match="limit must be positive, not 0"):
        amap(print, [], limit=0)
    with pytest.raises(TypeError, match="executor must be an Executor"):
        amap(print, [], limit=1, executor="pool")
    with pytest.raises(TypeError, match="iterable must be iterable, not 5"):
        amap(print, 5, limit=1)


@pytest.mark.slow
@pytest.mark.parametrize("ordered", [True, False])
@pytest.mark.parametrize("make", [list, sourced], ids=["iterable", "asynchronous"])
def test_cancelled_anywhere_it_leaves_nothing_running(make, ordered):
    async def scenario(work):
        async with amap(work, make([3, 1, 2, 1]), limit=2, ordered=ordered) as results:
            async for _ in results:
                await asyncio.sleep(0)

    def check(work):
        assert work.running == 0

    cancel_everywhere(scenario, check, state=Counting)


@pytest.mark.slow
@pytest.mark.parametrize("ordered", [True, False])
def test_in_every_order_all_results_come_once(ordered):
    async def scenario():
        async def work(item):
            await asyncio.sleep(0)
            return item

        got = [r async for r in amap(work, sourced(range(3)), limit=2, ordered=ordered)]
        assert sorted(got) == [0, 1, 2]
        assert not ordered or got == [0, 1, 2]

    explore(scenario, max_schedules=1000)


@settings(max_examples=100)
@given(
    st.lists(st.sampled_from([0, 1, 2, 5, 13]), max_size=10),
    st.integers(1, 4),
    st.booleans(),
    st.booleans(),
)
def test_it_is_a_map(items, limit, ordered, asynchronous):
    async def main():
        work, got = Counting(), []
        source = sourced(items, 0.5) if asynchronous else items
        try:
            async for result in amap(work, source, limit=limit, ordered=ordered):
                got += [result]
        except ZeroDivisionError:
            assert 13 in items
        expected = [item * 10 for item in items]
        if 13 not in items:
            assert (got if ordered else sorted(got)) == (expected if ordered else sorted(expected))
        elif ordered:
            assert got == expected[: items.index(13)]
        assert work.most <= limit
        assert work.running == 0

    simulate(main)


@pytest.mark.parametrize("has_block", [False, True])
async def test_a_coroutine_that_is_closed_while_it_waits_cancels_what_runs(has_block):
    cancelled = []

    async def works(_):
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.append(True)

    async def plain():
        async for _ in amap(works, range(3), limit=2):
            pass

    async def block():
        async with amap(works, range(3), limit=2) as results:
            async for _ in results:
                pass

    consumer = block() if has_block else plain()
    consumer.send(None)
    await asyncio.sleep(0)
    consumer.close()
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert cancelled == [True, True]
