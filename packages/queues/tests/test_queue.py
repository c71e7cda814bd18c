"""`Queue`: in order, within bounds, and nothing lost."""

import asyncio
import contextlib
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from waterspout.ioloop.testing import simulate
from waterspout.queues import PriorityQueue, Queue, QueueEmpty, QueueFull, QueueShutDown

everywhere = pytest.mark.waterspout("asyncio", "uvloop", "threaded", "simulated")
virtual = pytest.mark.waterspout("simulated")


async def settle():
    for _ in range(6):
        await asyncio.sleep(0)


async def start(*coroutines):
    """Start tasks in order, each up to its first wait."""
    tasks = []
    for coroutine in coroutines:
        tasks.append(asyncio.create_task(coroutine))
        await asyncio.sleep(0)
    return tasks


@everywhere
async def test_first_in_first_out():
    queue = Queue()
    assert queue.empty()
    for number in range(5):
        await queue.put(number)
    assert queue.qsize() == 5
    assert not queue.full()
    assert [await queue.get() for _ in range(5)] == list(range(5))
    assert queue.empty()


async def test_what_needs_no_waiting_does_not_yield():
    queue, yielded = Queue(1), []
    asyncio.get_running_loop().call_soon(yielded.append, True)
    await queue.put(1)
    assert await queue.get() == 1
    queue.task_done()
    await queue.join()
    assert yielded == []


async def test_getters_are_served_in_order():
    queue = Queue()
    tasks = await start(*(queue.get() for _ in range(3)))
    for number in range(3):
        queue.put_nowait(number)
    assert await asyncio.gather(*tasks) == [0, 1, 2]


async def test_putters_are_served_in_order():
    queue = Queue(1)
    queue.put_nowait(0)
    tasks = await start(*(queue.put(number) for number in (1, 2, 3)))
    seen = []
    for _ in range(4):
        seen.append(queue.get_nowait())
        await settle()
    assert seen == [0, 1, 2, 3]
    await asyncio.gather(*tasks)


async def test_a_woken_getter_owns_an_item():
    queue = Queue()
    [getting] = await start(queue.get())
    queue.put_nowait("x")
    assert queue.empty()
    assert queue.qsize() == 0
    with pytest.raises(QueueEmpty):
        queue.get_nowait()
    with pytest.raises(TimeoutError):
        await queue.get(timeout=0)
    assert await getting == "x"


async def test_a_woken_putter_owns_a_place():
    queue = Queue(1)
    queue.put_nowait(0)
    [putting] = await start(queue.put(1))
    assert queue.get_nowait() == 0
    assert queue.full()
    with pytest.raises(QueueFull):
        queue.put_nowait(2)
    with pytest.raises(TimeoutError):
        await queue.put(2, timeout=0)
    await putting
    assert queue.get_nowait() == 1
    assert queue.empty()


async def test_an_item_handed_to_a_cancelled_getter_goes_to_the_next():
    queue = Queue()
    first, second = await start(queue.get(), queue.get())
    queue.put_nowait("x")
    first.cancel()
    await settle()
    assert first.cancelled()
    assert await second == "x"


async def test_an_item_that_no_getter_takes_stays():
    queue = Queue()
    [getting] = await start(queue.get())
    queue.put_nowait("x")
    getting.cancel()
    await settle()
    assert queue.qsize() == 1
    assert queue.get_nowait() == "x"
    queue.task_done()
    await queue.join(timeout=0)


async def test_a_cancelled_put_has_put_nothing_and_its_place_goes_on():
    queue = Queue(1)
    queue.put_nowait(0)
    first, second = await start(queue.put(1), queue.put(2))
    assert queue.get_nowait() == 0
    first.cancel()
    await settle()
    assert first.cancelled()
    assert second.done()
    assert queue.get_nowait() == 2
    [third] = await start(queue.put(3))
    assert third.done()
    [fourth] = await start(queue.put(4))
    assert queue.get_nowait() == 3
    fourth.cancel()
    await settle()
    assert not queue.full()
    queue.put_nowait(5)


async def test_a_place_is_free_if_who_waits_for_it_was_cancelled_just_now():
    queue = Queue(1)
    queue.put_nowait(0)
    [putting] = await start(queue.put(1))
    putting.cancel()
    assert queue.get_nowait() == 0
    queue.put_nowait(2)
    await settle()
    assert putting.cancelled()
    assert queue.get_nowait() == 2
    assert queue.empty()


@virtual
async def test_timeouts():
    queue, loop = Queue(1), asyncio.get_running_loop()
    with pytest.raises(TimeoutError):
        await queue.get(timeout=3600)
    await queue.put("a", timeout=0)
    with pytest.raises(TimeoutError):
        await queue.put("b", timeout=3600)
    with pytest.raises(TimeoutError):
        await queue.join(timeout=3600)
    loop.call_later(1, queue.get_nowait)
    await queue.put("c", timeout=2)
    assert await queue.get(timeout=0) == "c"
    queue.task_done()
    loop.call_later(1, queue.task_done)
    await queue.join(timeout=2)
    await queue.join(timeout=0)


async def test_bad_arguments_change_nothing():
    with pytest.raises(TypeError, match="maxsize must be an integer, not None"):
        Queue(None)
    with pytest.raises(ValueError, match="maxsize must not be negative, not -1"):
        Queue(-1)
    queue = Queue(1)
    for _ in range(2):
        for call in (queue.get, queue.join, lambda timeout: queue.put("x", timeout)):
            with pytest.raises(TypeError, match="timeout must be seconds"):
                await call(timeout="1")
            with pytest.raises(ValueError, match="timeout must not be NaN"):
                await call(timeout=float("nan"))
        queue.put_nowait("y") if queue.empty() else None
    assert queue.qsize() == 1
    queue.get_nowait()
    queue.task_done()
    with pytest.raises(ValueError, match="called more often"):
        queue.task_done()


async def test_join_waits_for_the_work_to_be_done():
    queue, done = Queue(), []
    for number in range(3):
        queue.put_nowait(number)
    joiners = await start(queue.join(), queue.join())

    async def work():
        async for number in queue:
            await asyncio.sleep(0)
            done.append(number)
            queue.task_done()

    workers = await start(work(), work())
    await asyncio.gather(*joiners)
    assert sorted(done) == [0, 1, 2]
    queue.shutdown()
    await asyncio.gather(*workers)


async def test_shutdown_lets_what_is_there_be_taken():
    queue = Queue(2)
    queue.put_nowait(1)
    queue.put_nowait(2)
    [putting] = await start(queue.put(3))
    queue.shutdown()
    queue.shutdown()
    with pytest.raises(QueueShutDown):
        await putting
    with pytest.raises(QueueShutDown):
        queue.put_nowait(4)
    with pytest.raises(QueueShutDown):
        await queue.put(4)
    assert [item async for item in queue] == [1, 2]
    with pytest.raises(QueueShutDown):
        await queue.get()
    with pytest.raises(QueueShutDown):
        queue.get_nowait()
    with pytest.raises(TimeoutError):
        await queue.join(timeout=0)
    queue.task_done()
    queue.task_done()
    await queue.join()


async def test_shutdown_tells_those_who_wait_for_nothing():
    queue = Queue()
    tasks = await start(queue.get(), queue.get(), anext(queue, "end"))
    queue.shutdown()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert [type(result) for result in results] == [QueueShutDown, QueueShutDown, str]


async def test_immediate_shutdown_drops_the_items():
    queue = Queue()
    for number in range(3):
        queue.put_nowait(number)
    assert await queue.get() == 0
    [joining] = await start(queue.join())
    queue.shutdown(immediate=True)
    assert queue.empty()
    with pytest.raises(QueueShutDown):
        queue.get_nowait()
    assert not joining.done()
    queue.task_done()
    await joining
    queue = Queue()
    queue.put_nowait(1)
    [joining] = await start(queue.join())
    queue.shutdown(immediate=True)
    await joining


@pytest.mark.parametrize("immediate", [False, True])
async def test_shutdown_between_hand_off_and_resumption(immediate):
    queue = Queue(1)
    [getting] = await start(queue.get())
    queue.put_nowait("x")
    queue.shutdown(immediate)
    if immediate:
        with pytest.raises(QueueShutDown):
            await getting
    else:
        assert await getting == "x"
    queue = Queue(1)
    queue.put_nowait("x")
    [putting] = await start(queue.put("y"))
    assert queue.get_nowait() == "x"
    queue.shutdown(immediate)
    with pytest.raises(QueueShutDown):
        await putting
    assert queue.empty()
    assert not queue.full()


@pytest.mark.parametrize("immediate", [False, True])
async def test_cancelled_between_hand_off_and_resumption_of_a_queue_shut_down(immediate):
    queue = Queue(1)
    [getting] = await start(queue.get())
    queue.put_nowait("x")
    queue.shutdown(immediate)
    getting.cancel()
    await settle()
    assert queue.qsize() == (0 if immediate else 1)
    queue = Queue(1)
    queue.put_nowait("x")
    [putting] = await start(queue.put("y"))
    queue.get_nowait()
    queue.shutdown(immediate)
    putting.cancel()
    await settle()
    assert not queue.full()


class Picky(Queue):
    """A subclass with an order of its own: the largest first. It refuses strings."""

    def _init(self, maxsize):
        self._queue = []

    def _put(self, item):
        if isinstance(item, str):
            raise TypeError(item)
        self._queue.append(item)
        self._queue.sort()

    def _get(self):
        if self._queue[-1] == 13:
            raise LookupError(13)
        return self._queue.pop()


async def test_a_subclass_decides_the_order():
    queue = Picky()
    for item in (2, 3, 1):
        queue.put_nowait(item)
    getting = asyncio.create_task(queue.get())
    await settle()
    assert await getting == 3
    assert queue.get_nowait() == 2


async def test_an_item_that_is_refused_leaves_all_as_it_was():
    queue = Picky(1)
    [getting] = await start(queue.get())
    with pytest.raises(TypeError):
        queue.put_nowait("no")
    assert not getting.done()
    queue.put_nowait(1)
    assert await getting == 1
    queue.put_nowait(2)
    first, second = await start(queue.put("no"), queue.put(3))
    assert await queue.get() == 2
    with pytest.raises(TypeError):
        await first
    await second
    assert queue.get_nowait() == 3
    for _ in range(3):
        queue.task_done()
    await queue.join(0)


async def test_an_item_that_cannot_be_taken_goes_to_the_next():
    queue = Picky()
    first, second = await start(queue.get(), queue.get())
    queue.put_nowait(13)
    with pytest.raises(LookupError):
        await first
    with pytest.raises(LookupError):
        await second
    assert queue.qsize() == 1


def test_two_open_loops_never_wait_in_the_same_one():
    getters, putters, joiners = Queue(), Queue(1), Queue()
    putters.put_nowait(0)
    joiners.put_nowait(0)
    loop = asyncio.new_event_loop()
    tasks = loop.run_until_complete(start(getters.get(), putters.put(1), joiners.join()))

    async def intrude():
        for call in (
            lambda: getters.put_nowait(1),
            putters.get_nowait,
            joiners.task_done,
            getters.shutdown,
            putters.shutdown,
            joiners.shutdown,
        ):
            with pytest.raises(RuntimeError, match="another event loop"):
                call()

    asyncio.run(intrude())
    assert (getters.qsize(), putters.qsize(), joiners.qsize()) == (0, 1, 1)
    assert putters.get_nowait() == 0
    getters.put_nowait("x")
    joiners.get_nowait()
    joiners.task_done()
    assert loop.run_until_complete(asyncio.gather(*tasks)) == ["x", None, None]
    loop.close()


def test_it_may_be_used_in_one_loop_after_another():
    queue = Queue(1)

    async def main():
        tasks = await start(queue.get(), queue.get())
        await queue.put(1)
        await queue.put(2)
        assert await asyncio.gather(*tasks) == [1, 2]

    asyncio.run(main())
    asyncio.run(main())


async def test_repr_tells_the_state():
    queue = Queue(1)
    assert repr(queue) == "<Queue maxsize=1 items=0>"
    assert queue.maxsize == 1
    [getting] = await start(queue.get())
    assert repr(queue) == "<Queue maxsize=1 items=0 getters=1>"
    queue.put_nowait(1)
    await getting
    queue.put_nowait(2)
    [putting] = await start(queue.put(3))
    queue.get_nowait()
    await putting
    [putting] = await start(queue.put(4))
    assert repr(queue) == "<Queue maxsize=1 items=1 putters=1 unfinished=3>"
    queue.shutdown()
    await asyncio.gather(putting, return_exceptions=True)
    assert "shut down" in repr(queue)


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("put"), st.sampled_from([None, 0, 1.0])),
        st.tuples(st.just("get"), st.sampled_from([None, 0, 1.0])),
        st.tuples(st.just("put_nowait"), st.none()),
        st.tuples(st.just("get_nowait"), st.none()),
        st.tuples(st.just("cancel"), st.integers(0, 30)),
        st.tuples(st.just("settle"), st.none()),
        st.tuples(st.just("sleep"), st.sampled_from([0.5, 1.0])),
    ),
    max_size=50,
)


@given(maxsize=st.integers(0, 3), steps=STEPS)
def test_any_program_loses_and_doubles_nothing(maxsize, steps):
    """Whatever is cancelled and timed out when: what was put in is taken out once, or is there."""

    async def main():
        queue = Queue(maxsize)
        tasks, getting, got, put = [], [], [], []
        number = 0

        async def putter(item, timeout):
            with contextlib.suppress(TimeoutError):
                await queue.put(item, timeout)
                put.append(item)

        async def getter(timeout):
            with contextlib.suppress(TimeoutError):
                got.append(await queue.get(timeout))

        for step, argument in steps:
            number += 1
            if step == "put":
                tasks.append(asyncio.create_task(putter(number, argument)))
                await asyncio.sleep(0)
            elif step == "get":
                getting.append(asyncio.create_task(getter(argument)))
                tasks.append(getting[-1])
                await asyncio.sleep(0)
            elif step == "put_nowait" and not queue.full():
                queue.put_nowait(number)
                put.append(number)
            elif step == "get_nowait" and not queue.empty():
                got.append(queue.get_nowait())
            elif step == "cancel" and tasks:
                tasks[argument % len(tasks)].cancel()
            elif step == "settle":
                await settle()
            elif step == "sleep":
                await asyncio.sleep(argument)
            assert maxsize == 0 or queue.qsize() <= maxsize
        await settle()
        left = [queue.get_nowait() for _ in range(queue.qsize())]
        assert not (left and any(not task.done() for task in getting))
        while True:  # what was waiting for a place comes now
            await settle()
            if queue.empty():
                break
            left.append(queue.get_nowait())
        assert Counter(got + left) == Counter(put)
        for task in tasks:
            task.cancel()
        await settle()
        for _ in put:
            queue.task_done()
        await queue.join(0)

    simulate(main)


async def test_an_item_that_comes_back_after_a_shutdown_goes_to_who_waits():
    queue = Queue()
    first, second = await start(queue.get(), queue.get())
    queue.put_nowait("x")
    queue.shutdown()
    with pytest.raises(QueueEmpty):
        queue.get_nowait()
    late = asyncio.create_task(queue.get())
    first.cancel()
    await settle()
    assert await second == "x"
    with pytest.raises(QueueShutDown):
        await late
    queue.task_done()
    await queue.join(0)
    with pytest.raises(QueueShutDown):
        queue.get_nowait()


async def test_who_waits_is_told_when_the_last_item_is_taken_after_a_shutdown():
    queue = Queue()
    first, second = await start(queue.get(), queue.get())
    queue.put_nowait("x")
    queue.shutdown()
    assert await first == "x"
    with pytest.raises(QueueShutDown):
        await second


@pytest.mark.parametrize("collected", [True, False])
def test_what_was_reserved_in_a_loop_that_closed_is_there_again(collected):
    queue = Queue(1)
    loop = asyncio.new_event_loop()
    getting = queue.get()

    async def begin():
        getting.send(None)
        queue.put_nowait("x")

    loop.run_until_complete(begin())
    loop.close()
    if collected:
        getting.close()
    assert queue.qsize() == 0
    assert asyncio.run(queue.get(timeout=0)) == "x"
    getting.close()
    queue.put_nowait("y")
    loop = asyncio.new_event_loop()
    putting = queue.put("z")

    async def begin_putting():
        putting.send(None)
        assert queue.get_nowait() == "y"

    loop.run_until_complete(begin_putting())
    loop.close()
    assert queue.full()
    asyncio.run(queue.put("w", timeout=0))
    assert queue.get_nowait() == "w"
    putting.close()
    assert queue.empty()
    assert not queue.full()


def in_a_loop_that_closes(waiting, serve):
    """Let a coroutine wait, and close its loop once it was served, before it resumes."""

    async def main():
        waiting.send(None)
        serve()

    asyncio.run(main())


def test_what_is_reserved_for_a_loop_that_has_closed_is_there_at_once():
    queue = Queue(1)
    getting = queue.get()
    in_a_loop_that_closes(getting, lambda: queue.put_nowait("item"))
    assert queue.get_nowait() == "item"
    queue.put_nowait(1)
    putting = queue.put(2)
    in_a_loop_that_closes(putting, queue.get_nowait)
    queue.put_nowait(3)
    with pytest.raises(QueueFull):
        queue.put_nowait(4)
    getting.close()
    putting.close()
    assert queue.get_nowait() == 3


def test_dropping_what_is_there_compares_nothing():
    queue = PriorityQueue()
    for item in ((0,), (1, "a"), (1, 2)):
        queue.put_nowait(item)
    queue.shutdown(immediate=True)
    assert queue.empty()


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5])
async def test_get_many_takes_so_many_and_leaves_the_rest(count):
    queue = Queue()
    for number in range(4):
        queue.put_nowait(number)
    assert await queue.get_many(count) == list(range(4))[:count]
    assert queue.qsize() == max(0, 4 - count)


async def test_get_many_of_one_that_had_to_wait_leaves_what_came_behind():
    queue = Queue()
    getting = asyncio.create_task(queue.get_many(1))
    await asyncio.sleep(0)
    for number in range(3):
        queue.put_nowait(number)
    assert await getting == [0]
    assert [queue.get_nowait(), queue.get_nowait()] == [1, 2]
