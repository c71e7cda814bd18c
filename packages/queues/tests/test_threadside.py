"""A queue with threads on the other side."""

import asyncio
import gc
import random
import threading
import time
import weakref

import pytest

from waterspout.ioloop import IOLoop
from waterspout.queues import PriorityQueue, Queue, QueueEmpty, QueueFull, QueueShutDown


async def in_thread(function, *args):
    return await asyncio.to_thread(function, *args)


async def waits(queue, count, who="getters"):
    line = getattr(queue, f"_{who}")
    while len(line) != count:
        await asyncio.sleep(0.001)


def is_free(queue):
    """Whether nobody has kept the guard."""
    free = queue._guard.acquire(blocking=False)
    if free:
        queue._guard.release()
    return free


async def test_threads_put_and_tasks_get():
    queue = Queue(2)
    side = queue.threadside
    assert queue.threadside is side
    assert "ThreadSide of <Queue" in repr(side)

    def produce():
        for number in range(100):
            side.put(number)
        side.shutdown()

    producing = asyncio.create_task(in_thread(produce))
    assert [item async for item in queue] == list(range(100))
    await producing


async def test_tasks_put_and_threads_get():
    queue = Queue(2)
    side = queue.threadside

    def consume():
        items = []
        for item in side:
            items.append(item)
            side.task_done()
        return items

    consuming = asyncio.create_task(in_thread(consume))
    for number in range(100):
        await queue.put(number)
    await queue.join()
    queue.shutdown()
    assert await consuming == list(range(100))


async def test_threads_and_tasks_stand_in_one_line():
    queue = Queue()
    side = queue.threadside
    waiting = []
    for number in range(6):
        getting = queue.get() if number % 2 else in_thread(side.get)
        waiting.append(asyncio.create_task(getting))
        await waits(queue, number + 1)
    for number in range(6):
        if number < 3:
            queue.put_nowait(number)
        else:
            await in_thread(side.put, number)
        assert await waiting[number] == number


async def test_a_side_taken_while_tasks_wait_already():
    """They began without a guard, and go on with one."""
    queue = Queue(1)
    getting = [asyncio.create_task(queue.get(timeout)) for timeout in (None, 30)]
    await waits(queue, 2)
    side = queue.threadside
    for number in range(2):
        await in_thread(side.put, number)
    assert await asyncio.gather(*getting) == [0, 1]
    assert await in_thread(is_free, queue)
    full = Queue(1)
    full.put_nowait("first")
    putting = [asyncio.create_task(full.put(number)) for number in range(2)]
    joining = asyncio.create_task(full.join())
    await waits(full, 2, "putters")
    side = full.threadside
    putting[0].cancel()
    assert await in_thread(side.get) == "first"
    await putting[1]
    assert await in_thread(side.get) == 1
    full.task_done()
    await in_thread(side.task_done)
    await joining
    assert await in_thread(is_free, full)


async def test_timeouts_and_what_does_not_wait():
    queue = Queue(1)
    side = queue.threadside
    for timeout in (0, 0.01):
        with pytest.raises(TimeoutError):
            await in_thread(side.get, timeout)
    with pytest.raises(QueueEmpty):
        side.get_nowait()
    side.put_nowait("a")
    with pytest.raises(QueueFull):
        side.put_nowait("b")
    for timeout in (0, 0.01):
        with pytest.raises(TimeoutError):
            await in_thread(side.put, "b", timeout)
        with pytest.raises(TimeoutError):
            await in_thread(side.join, timeout)
    assert (side.qsize(), side.empty(), side.full()) == (1, False, True)
    assert side.get_nowait() == "a"
    side.task_done()
    await in_thread(side.join)
    with pytest.raises(ValueError, match="more often"):
        side.task_done()
    with pytest.raises(TypeError, match="timeout must be"):
        await in_thread(side.get, "1")


async def test_a_thread_that_waits_in_join_is_told():
    queue = Queue()
    side = queue.threadside
    queue.put_nowait("a")
    joining = asyncio.create_task(in_thread(side.join, 30))
    await waits(queue, 1, "joiners")
    await queue.get()
    queue.task_done()
    await joining


@pytest.mark.parametrize("by_thread", [False, True])
async def test_a_shutdown_tells_everybody(by_thread):
    queue, full = Queue(), Queue(1)
    side, full_side = queue.threadside, full.threadside
    full.put_nowait("x")
    waiting = [
        asyncio.create_task(in_thread(side.get)),
        asyncio.create_task(queue.get()),
        asyncio.create_task(in_thread(full_side.put, "y")),
        asyncio.create_task(full.put("z")),
    ]
    await waits(queue, 2)
    await waits(full, 2, "putters")
    for one, its_side in ((queue, side), (full, full_side)):
        if by_thread:
            await in_thread(its_side.shutdown)
        else:
            one.shutdown()
    outcomes = await asyncio.gather(*waiting, return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [QueueShutDown] * 4
    assert await in_thread(full_side.get) == "x"
    with pytest.raises(QueueShutDown):
        await in_thread(full_side.get)
    with pytest.raises(QueueShutDown):
        side.put_nowait("x")


def test_a_loop_that_ends_first_is_a_clear_error():
    errors, sides = [], []

    async def main():
        sides.extend(queue.threadside for queue in (Queue(), Queue(1), Queue()))
        sides[1].put_nowait("x")
        sides[2].put_nowait("x")

        def wait(call, *args):
            try:
                call(*args)
            except RuntimeError as error:
                errors.append(str(error))

        threads = [
            threading.Thread(target=wait, args=args)
            for args in ((sides[0].get,), (sides[1].put, "y"), (sides[2].join,))
        ]
        for thread in threads:
            thread.start()
        await waits(sides[0]._queue, 1)
        await waits(sides[1]._queue, 1, "putters")
        await waits(sides[2]._queue, 1, "joiners")
        return threads

    for thread in asyncio.run(main()):
        thread.join(10)
        assert not thread.is_alive()
    assert errors == ["the event loop of the queue has ended"] * 3
    with pytest.raises(RuntimeError, match="has ended"):
        sides[0].put("z")

    async def again():
        side = sides[0]._queue.threadside
        assert side is not sides[0]
        await in_thread(side.put, "z")
        assert await sides[0]._queue.get() == "z"

    asyncio.run(again())


async def test_mistakes_are_told():
    queue = Queue()
    side = queue.threadside
    with pytest.raises(RuntimeError, match="would block the event loop"):
        side.get()

    def without_a_loop():
        with pytest.raises(RuntimeError, match="inside the running event loop"):
            _ = Queue().threadside

    await in_thread(without_a_loop)


async def test_what_a_thread_gives_to_a_cancelled_task_is_there_for_others():
    queue = Queue()
    side = queue.threadside
    for _ in range(50):
        task = asyncio.create_task(queue.get())
        await waits(queue, 1)
        thread = threading.Thread(target=side.put, args=("item",))
        thread.start()
        thread.join()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert queue.get_nowait() == "item"
    assert queue.qsize() == 0


async def test_it_works_for_every_order():
    queue = PriorityQueue()
    side = queue.threadside
    for item in (3, 1, 2):
        await in_thread(side.put, item)
    assert [side.get_nowait() for _ in range(3)] == [1, 2, 3]
    assert await in_thread(lambda: [side.put(9), *side._queue._queue][1][0]) == 9
    assert await queue.get_many() == [9]


@pytest.mark.slow
@pytest.mark.waterspout("asyncio", "uvloop")
async def test_nothing_is_lost_or_doubled_between_threads_and_tasks():
    """Counted and checksummed, with timeouts and cancellations on the way."""
    queue = Queue(50)
    side = queue.threadside
    count, got = 4000, []

    def produce(first):
        for number in range(first, first + count):
            while True:
                try:
                    side.put(number, random.choice([None, 0, 0.0001]))
                    break
                except TimeoutError:
                    pass

    def consume():
        while True:
            try:
                got.append(side.get(random.choice([None, 0, 0.0001])))
            except TimeoutError:
                pass
            except QueueShutDown:
                return

    async def consume_in_task():
        while True:
            getting = asyncio.create_task(queue.get())
            await asyncio.wait([getting], timeout=random.choice([0, 0.0005]))
            getting.cancel()
            try:
                got.append(await getting)
            except asyncio.CancelledError:
                pass
            except QueueShutDown:
                return

    producers = [threading.Thread(target=produce, args=(n * count,)) for n in range(4)]
    consumers = [threading.Thread(target=consume) for _ in range(4)]
    tasks = [asyncio.create_task(consume_in_task()) for _ in range(2)]
    for thread in producers + consumers:
        thread.start()
    for thread in producers:
        await in_thread(thread.join)
    queue.shutdown()
    await asyncio.gather(*tasks)
    for thread in consumers:
        await in_thread(thread.join)
    assert sorted(got) == list(range(4 * count))


def test_a_queue_that_is_dropped_leaves_nothing():
    async def main():
        queue = Queue()
        side = queue.threadside
        await in_thread(side.put, 1)
        del queue, side
        gc.collect()
        await asyncio.sleep(0)
        await asyncio.sleep(0)

    asyncio.run(main())


def test_the_end_of_an_old_loop_is_nothing_to_threads_of_the_new():
    queue = Queue()

    async def side():
        return queue.threadside

    old, new = asyncio.new_event_loop(), asyncio.new_event_loop()
    old.run_until_complete(side())
    got = []
    thread = threading.Thread(
        target=lambda s: got.append(s.get()), args=[new.run_until_complete(side())]
    )
    thread.start()
    old.run_until_complete(old.shutdown_asyncgens())
    old.close()
    new.run_until_complete(queue.put("item"))
    thread.join()
    assert got == ["item"]
    new.run_until_complete(new.shutdown_asyncgens())
    new.close()


async def test_asked_for_in_a_thread_it_raises_and_touches_nothing():
    queue = Queue()
    side = queue.threadside
    got = asyncio.create_task(asyncio.to_thread(side.get))

    def ask():
        with pytest.raises(RuntimeError, match="inside the running event loop"):
            queue.threadside  # noqa: B018

    for _ in range(100):
        await asyncio.to_thread(ask)
    await queue.put("item")
    assert await got == "item"


# The end of the loop


def begin_to_wait(loop, ready):
    """Let threads wait in the sides of queues of a loop, and give what becomes of them."""
    outcomes = []

    def wait(call, *args):
        try:
            outcomes.append(call(*args))
        except RuntimeError as error:
            outcomes.append(str(error))

    async def main():
        empty, full, unfinished = Queue(), Queue(1), Queue()
        full.put_nowait("x")
        unfinished.put_nowait("x")
        calls = [(empty.threadside.get,), (full.threadside.put, "y"), (unfinished.threadside.join,)]
        threads = [threading.Thread(target=wait, args=call, daemon=True) for call in calls]
        for thread in threads:
            thread.start()
        for queue, who in ((empty, "getters"), (full, "putters"), (unfinished, "joiners")):
            await waits(queue, 1, who)
        await ready(empty)
        return threads

    return loop.run_until_complete(main()), outcomes


def all_have_ended(threads, outcomes):
    for thread in threads:
        thread.join(5)
        assert not thread.is_alive()
    assert outcomes == ["the event loop of the queue has ended"] * 3


async def nothing(queue):
    pass


async def a_task_has_waited(queue):
    """The queue belongs to the loop since."""
    waiting = asyncio.create_task(queue.get())
    await waits(queue, 2)
    waiting.cancel()
    await asyncio.wait([waiting])


READY = pytest.mark.parametrize("ready", [nothing, a_task_has_waited])


def new_loops():
    factories = [asyncio.new_event_loop]
    try:
        import uvloop
    except ImportError:
        pass
    else:
        factories.append(uvloop.new_event_loop)
    return factories


LOOPS = pytest.mark.parametrize("new_loop", new_loops())


@pytest.mark.slow
@LOOPS
@READY
def test_threads_notice_that_the_loop_is_closed_by_hand(new_loop, ready):
    loop = new_loop()
    threads, outcomes = begin_to_wait(loop, ready)
    loop.close()
    all_have_ended(threads, outcomes)


@pytest.mark.slow
@LOOPS
def test_threads_notice_that_the_loop_is_closed_after_an_exception(new_loop):
    loop = new_loop()
    threads, outcomes = begin_to_wait(loop, nothing)

    def interrupt():
        raise KeyboardInterrupt

    loop.call_soon(interrupt)
    with pytest.raises(KeyboardInterrupt):
        loop.run_forever()
    loop.close()
    all_have_ended(threads, outcomes)


@pytest.mark.slow
@READY
def test_threads_notice_that_the_loop_was_collected(ready):
    loop = asyncio.new_event_loop()
    threads, outcomes = begin_to_wait(loop, ready)
    watch = weakref.ref(loop)
    del loop

    def is_closed():
        loop = watch()
        return loop is None or loop.is_closed()

    def collect():
        for _ in range(50):  # until each thread has looked, and let go of it
            gc.collect()
            if is_closed():
                break
            time.sleep(0.1)

    with pytest.warns(ResourceWarning, match="unclosed event loop"):
        collect()
    all_have_ended(threads, outcomes)


@pytest.mark.parametrize("shut_down", ["run", "runner", "ioloop"])
def test_threads_are_told_at_once_by_a_loop_that_is_shut_down(shut_down, monkeypatch):
    monkeypatch.setattr("waterspout.ioloop.scheduling._threadline.CHECK_INTERVAL", 60)
    if shut_down == "ioloop":
        io_loop = IOLoop(make_current=False)
        threads, outcomes = begin_to_wait(io_loop.asyncio_loop, nothing)
        io_loop.close()
    else:
        with asyncio.Runner() as runner:
            threads, outcomes = begin_to_wait(runner.get_loop(), nothing)
    all_have_ended(threads, outcomes)


def test_a_thread_waits_for_a_loop_that_is_stopped_and_may_run_again(monkeypatch):
    monkeypatch.setattr("waterspout.ioloop.scheduling._threadline.CHECK_INTERVAL", 0.001)
    loop, got = asyncio.new_event_loop(), []
    queue = Queue()

    async def side():
        return queue.threadside

    thread = threading.Thread(
        target=lambda side: got.append(side.get()), args=[loop.run_until_complete(side())]
    )
    thread.start()
    asyncio.run(waits(queue, 1))
    loop.run_until_complete(queue.put("item"))
    thread.join(10)
    assert got == ["item"]
    loop.close()


def test_in_the_executor_of_the_loop_it_does_not_hold_up_its_end():
    async def main():
        side = Queue().threadside
        waiting = asyncio.get_running_loop().run_in_executor(None, outcome, side.get)
        await waits(side._queue, 1)
        return waiting

    def outcome(call):
        try:
            call()
        except RuntimeError as error:
            errors.append(str(error))

    errors = []
    asyncio.run(main())
    assert errors == ["the event loop of the queue has ended"]


def test_a_thread_keeps_its_place_and_its_time_while_it_looks(monkeypatch):
    monkeypatch.setattr("waterspout.ioloop.scheduling._threadline.CHECK_INTERVAL", 0.001)

    async def main():
        queue = Queue()
        side = queue.threadside
        with pytest.raises(TimeoutError):
            await in_thread(side.get, 0.02)
        first = asyncio.create_task(in_thread(side.get, 60))
        await waits(queue, 1)
        second = asyncio.create_task(queue.get())
        await waits(queue, 2)
        third = asyncio.create_task(in_thread(side.get))
        await waits(queue, 3)
        await asyncio.sleep(0.01)  # they look some times
        for task in (first, second, third):
            queue.put_nowait(task)
            assert await task is task

    asyncio.run(main())
