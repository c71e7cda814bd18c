"""What the testing kit finds in Tornado and in the standard library, and does not find in ours.

Each scenario is plain use of a lock or queue by a few tasks, and each check says what must hold
whoever was cancelled. Nothing here knows where the faults are.
"""

import asyncio
import sys
from types import SimpleNamespace

import pytest

from waterspout import locks, queues
from waterspout.ioloop.testing import (
    CancelledRunError,
    DeadlockError,
    ScheduleError,
    cancel_everywhere,
    explore,
)

tornado_locks = pytest.importorskip("tornado.locks")
tornado_queues = pytest.importorskip("tornado.queues")


# A permit must be free again when nobody holds it.


def permits(make):
    async def hold(lock):
        await lock.acquire()
        try:
            await asyncio.sleep(0)
        finally:
            lock.release()

    async def scenario(lock):
        await asyncio.gather(hold(lock), hold(lock), hold(lock), return_exceptions=True)

    async def check(lock):
        async with asyncio.timeout(1):
            await lock.acquire()

    return cancel_everywhere(scenario, check, state=make)


@pytest.mark.parametrize("make", [tornado_locks.Lock, tornado_locks.Semaphore])
def test_tornado_keeps_the_permit_of_a_cancelled_waiter(make):
    with pytest.raises(CancelledRunError) as caught:
        permits(make)
    assert isinstance(caught.value.__cause__, DeadlockError)
    assert caught.value.point.startswith("is cancelled just before it goes on")


@pytest.mark.parametrize(
    "make", [asyncio.Lock, asyncio.Semaphore, locks.Lock, locks.Semaphore, locks.BoundedSemaphore]
)
def test_a_permit_passes_on(make):
    assert permits(make).points > 10


# The same, with the cancellation as a part of the scenario: some order is fatal.


def permits_in_every_order(make):
    async def scenario():
        lock = make()

        async def hold():
            await lock.acquire()
            try:
                await asyncio.sleep(0)
            finally:
                lock.release()

        first = asyncio.create_task(hold(), name="first")
        second = asyncio.create_task(hold(), name="second")

        async def cancel():
            await asyncio.sleep(0)
            second.cancel()

        await asyncio.create_task(cancel(), name="cancel")
        await asyncio.wait([first, second])
        async with asyncio.timeout(1):
            await lock.acquire()

    return explore(scenario)


def test_tornado_keeps_the_permit_in_some_order():
    with pytest.raises(ScheduleError) as caught:
        permits_in_every_order(tornado_locks.Lock)
    assert isinstance(caught.value.__cause__, TimeoutError)
    assert len(caught.value.schedule.split()) <= 2


@pytest.mark.parametrize("make", [asyncio.Lock, locks.Lock, locks.Semaphore])
def test_a_permit_passes_on_in_every_order(make):
    assert permits_in_every_order(make).exhaustive


# A notification must reach one of those who wait.


def notifications(make, lock_of=None):
    async def wait(state):
        if lock_of is None:
            await state.condition.wait()
        else:
            async with lock_of(state.condition):
                await state.condition.wait()
        state.woken += 1

    async def scenario(state):
        state.condition, state.woken = make(), 0
        state.waiters = [asyncio.create_task(wait(state)) for _ in range(2)]
        await asyncio.sleep(1)
        if lock_of is None:
            state.condition.notify()
        else:
            async with lock_of(state.condition):
                state.condition.notify()
        state.notified = True
        await asyncio.sleep(1)

    def check(state):
        if hasattr(state, "notified"):
            assert state.woken == 1, "the notification reached nobody"

    return cancel_everywhere(scenario, check)


def test_tornado_loses_the_notification_of_a_cancelled_waiter():
    with pytest.raises(CancelledRunError, match="the notification reached nobody"):
        notifications(tornado_locks.Condition)


@pytest.mark.parametrize("lock_of", [None, lambda condition: condition])
def test_a_notification_reaches_another(lock_of):
    assert notifications(locks.Condition, lock_of).points > 5


def test_asyncio_lost_it_too():
    """Until 3.11.8, 3.12.2 and 3.13 (python/cpython issue 112202)."""
    version = sys.version_info
    mended = version >= (3, 13) or (version[:2] == (3, 12) and version >= (3, 12, 2))
    mended = mended or (version[:2] == (3, 11) and version >= (3, 11, 8))

    def run():
        notifications(asyncio.Condition, lock_of=lambda condition: condition)

    if mended:
        run()
    else:
        with pytest.raises(CancelledRunError, match="the notification reached nobody"):
            run()


# What was put is got once, or is still there.


def items(make):
    async def get(state):
        state.got.append(await state.queue.get())
        state.queue.task_done()

    async def scenario(state):
        state.queue, state.got, state.put = make(), [], []
        tasks = [asyncio.create_task(get(state)) for _ in range(2)]
        await asyncio.sleep(1)
        for number in range(2):
            state.queue.put_nowait(number)
            state.put.append(number)
        await asyncio.wait(tasks)

    async def check(state):
        while state.queue.qsize():
            state.got.append(state.queue.get_nowait())
            state.queue.task_done()
        assert sorted(state.got) == state.put, "an item was lost"
        async with asyncio.timeout(1):
            await state.queue.join()

    def start():
        return SimpleNamespace(queue=make(), got=[], put=[])

    return cancel_everywhere(scenario, check, state=start)


def test_tornado_loses_the_item_of_a_cancelled_get():
    with pytest.raises(CancelledRunError, match="an item was lost|TimeoutError"):
        items(tornado_queues.Queue)


@pytest.mark.parametrize("make", [asyncio.Queue, queues.Queue])
def test_an_item_is_got_by_another(make):
    assert items(make).points > 5


# A put that raises has put nothing.


def places(make):
    async def put(state, number):
        await state.queue.put(number)
        state.put.append(number)

    async def scenario(state):
        state.queue.put_nowait("first")
        tasks = [asyncio.create_task(put(state, number)) for number in range(2)]
        await asyncio.sleep(1)
        state.got.append(state.queue.get_nowait())
        await asyncio.sleep(1)
        state.got.append(state.queue.get_nowait())
        await asyncio.wait(tasks)

    def check(state):
        while state.queue.qsize():
            state.got.append(state.queue.get_nowait())
        assert state.got in ([], ["first", *state.put]), "what was put is not what was there"

    def start():
        return SimpleNamespace(queue=make(1), got=[], put=[])

    return cancel_everywhere(scenario, check, state=start)


def test_tornado_puts_what_a_cancelled_put_has():
    with pytest.raises(CancelledRunError, match="what was put is not what was there"):
        places(tornado_queues.Queue)


@pytest.mark.parametrize("make", [asyncio.Queue, queues.Queue])
def test_a_cancelled_put_puts_nothing(make):
    assert places(make).points > 5
