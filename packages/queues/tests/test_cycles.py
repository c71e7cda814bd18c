"""No queue is a reference cycle, however it was used: it is freed as soon as it is dropped."""

import asyncio
import contextlib
import gc
import threading
import weakref

import pytest

from waterspout.ioloop.testing import no_reference_cycles
from waterspout.queues import LifoQueue, PriorityQueue, Queue, QueueEmpty, QueueFull, QueueShutDown

pytestmark = pytest.mark.waterspout("asyncio")  # each takes a while, and the loop matters little

EVERY = pytest.mark.parametrize("make", [Queue, LifoQueue, PriorityQueue])


async def settle():
    for _ in range(6):
        await asyncio.sleep(0)


@EVERY
def test_it_is_freed_when_it_is_dropped(make):
    gc.disable()
    try:
        queue = make(1)
        queue.put_nowait("x")
        watch = weakref.ref(queue)
        del queue
        assert watch() is None
    finally:
        gc.enable()


@EVERY
async def test_after_it_was_used_and_waited_for(make):
    async def use(queue):
        async with asyncio.TaskGroup() as group:
            putting = group.create_task(_put(queue, 5))
            for _ in range(2):
                group.create_task(_take(queue))
            await putting
            await queue.join()
            queue.shutdown()

    await use(make(1))
    with no_reference_cycles():
        queue = make(1)
        watch = weakref.ref(queue)
        await use(queue)
        del queue
        assert watch() is None


async def _put(queue, count):
    for number in range(count):
        await queue.put(number)


async def _take(queue):
    async for _ in queue:
        queue.task_done()


@EVERY
@pytest.mark.parametrize("granted", [False, True])
async def test_after_waits_were_cancelled_timed_out_and_closed(make, granted):
    async def main():
        full, empty = make(1), make(1)
        full.put_nowait("x")
        waits = [full.put("y"), full.put("z"), empty.get(), empty.get(30), full.join()]
        tasks = [asyncio.create_task(wait) for wait in waits]
        closed = [full.put("y"), empty.get(), full.join(), empty.get_many(2)]
        for one in closed:
            one.send(None)
        await settle()
        if granted:
            full.get_nowait()
            empty.put_nowait("a")
        for task in tasks:
            task.cancel()
        del closed, one
        for task in tasks:
            with pytest.raises(asyncio.CancelledError):
                await task
        with contextlib.suppress(QueueFull):
            full.put_nowait("x")
        for wait in (full.put("y", 0.001), empty.get(0.001), full.put("y", 0)):
            with contextlib.suppress(TimeoutError):
                await wait

    await main()
    with no_reference_cycles():
        await main()


@EVERY
async def test_exceptions_that_are_raised(make):
    async def main():
        queue = make(1)
        with pytest.raises(QueueEmpty):
            queue.get_nowait()
        queue.put_nowait("x")
        with pytest.raises(QueueFull):
            queue.put_nowait("y")
        putting = asyncio.create_task(queue.put("y"))
        await settle()
        queue.shutdown(immediate=True)
        await asyncio.wait([putting])
        assert type(putting.exception()) is QueueShutDown
        for call in (lambda: queue.put("y"), queue.get, queue.get_many):
            with pytest.raises(QueueShutDown):
                await call()
        with pytest.raises(ValueError, match="more often"):
            queue.task_done()

    await main()
    with no_reference_cycles():
        await main()


async def test_priorities_that_cannot_be_compared():
    async def main():
        queue = PriorityQueue()
        queue.put_nowait(1)
        with pytest.raises(TypeError):
            await queue.put("x")

    await main()
    with no_reference_cycles():
        await main()


def test_a_threadside_is_freed_with_its_queue():
    async def main():
        queue = Queue()
        side = queue.threadside
        watches = weakref.ref(queue), weakref.ref(side)
        side.put_nowait("x")
        del queue, side
        return [watch() for watch in watches]

    async def twice():
        first = await main()
        with no_reference_cycles():
            return first, await main()

    assert asyncio.run(twice()) == ([None, None], [None, None])


async def test_a_threadside_is_made_anew_where_it_was_dropped():
    queue = Queue()
    first = weakref.ref(queue.threadside)
    assert first() is None
    side = queue.threadside
    assert queue.threadside is side
    await asyncio.to_thread(side.put, "x")
    assert await queue.get() == "x"


def test_the_end_of_a_loop_leaves_no_cycle_of_threads_that_waited():
    errors = []

    def wait(call, *args):
        try:
            call(*args)
        except (RuntimeError, TimeoutError, QueueShutDown) as error:
            errors.append(type(error))

    async def main():
        empty, shut = Queue(), Queue()
        side, other = empty.threadside, shut.threadside
        threads = [
            threading.Thread(target=wait, args=args)
            for args in ((side.get,), (side.get, 0.001), (other.get,))
        ]
        for thread in threads:
            thread.start()
        while len(empty._getters) + len(shut._getters) < 2:
            await asyncio.sleep(0.001)
        threads[1].join()
        shut.shutdown()
        return threads

    def run():
        for thread in asyncio.run(main()):
            thread.join()

    run()
    errors.clear()
    with no_reference_cycles(ignore=lambda one: "waterspout" not in type(one).__module__):
        run()
    assert sorted(map(str, errors)) == sorted(map(str, (RuntimeError, TimeoutError, QueueShutDown)))
