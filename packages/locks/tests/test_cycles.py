"""No lock is a reference cycle, however it was used: it is freed as soon as it is dropped."""

import asyncio
import gc
import weakref

import pytest

from waterspout.ioloop.testing import no_reference_cycles
from waterspout.locks import BoundedSemaphore, Condition, Event, Lock, Semaphore

pytestmark = pytest.mark.waterspout("asyncio")  # each takes a while, and the loop matters little

EVERY = pytest.mark.parametrize("make", [Lock, Semaphore, BoundedSemaphore, Condition, Event])
LOCKS = pytest.mark.parametrize("make", [Lock, Semaphore, BoundedSemaphore, Condition])


async def settle():
    for _ in range(6):
        await asyncio.sleep(0)


@EVERY
def test_it_is_freed_when_it_is_dropped(make):
    gc.disable()
    try:
        one = make()
        watch = weakref.ref(one)
        del one
        assert watch() is None
    finally:
        gc.enable()


@LOCKS
async def test_after_it_was_held_and_waited_for(make):
    async def hold(lock):
        async with lock:
            await asyncio.sleep(0)

    with no_reference_cycles():
        lock = make()
        for _ in range(3):
            asyncio.create_task(hold(lock))  # noqa: RUF006
        await settle()
        await settle()
        watch = weakref.ref(lock)
        del lock
        assert watch() is None


@EVERY
@pytest.mark.parametrize("granted", [False, True])
async def test_after_waits_were_cancelled(make, granted):
    async def main():
        lock = make()
        if make is Event:
            wait, grant = lock.wait, lock.set
        else:
            await lock.acquire()
            wait, grant = lock.acquire, lock.release
        tasks = [asyncio.create_task(wait()) for _ in range(3)]
        await settle()
        if granted:
            grant()
        for task in tasks:
            task.cancel()
        for task in tasks:
            with pytest.raises(asyncio.CancelledError):
                await task

    await main()
    with no_reference_cycles():
        await main()


@EVERY
async def test_after_waits_have_timed_out(make):
    async def main():
        lock = make()
        if make is Event:
            assert not await lock.wait(0.001)
            return
        await lock.acquire()
        for timeout in (0, 0.001):
            with pytest.raises(TimeoutError):
                await lock.acquire(timeout)

    with no_reference_cycles():
        await main()


@EVERY
async def test_after_waits_were_closed(make):
    with no_reference_cycles():
        lock = make()
        if make is not Event:
            await lock.acquire()
        waiting = lock.wait() if make is Event else lock.acquire()
        waiting.send(None)
        watch = weakref.ref(lock)
        del lock, waiting
        assert watch() is None


async def test_a_condition_after_waits_that_were_notified_timed_out_cancelled_and_closed():
    async def main():
        condition = Condition()

        async def wait(timeout=None):
            async with condition:
                await condition.wait_for(lambda: False, timeout)

        tasks = [asyncio.create_task(wait()) for _ in range(3)]
        tasks.append(asyncio.create_task(wait(0.001)))
        closed = wait()
        closed.send(None)
        await settle()
        async with condition:
            condition.notify()
            closed.close()
            del closed
            await settle()  # one waits for the lock
            for _ in range(2):
                tasks[0].cancel()
                await settle()
        for task in tasks[:2]:
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        tasks[2].cancel()
        await asyncio.wait(tasks)

    await main()
    with no_reference_cycles():
        await main()


async def test_mistakes():
    with no_reference_cycles():
        for wrong in (lambda: Lock().release(), lambda: BoundedSemaphore().release()):
            with pytest.raises((RuntimeError, ValueError)):
                wrong()
        condition = Condition()
        await condition.acquire()

        async def intrude():
            with pytest.raises(RuntimeError):
                await condition.wait()

        await asyncio.create_task(intrude())


@LOCKS
def test_an_owner_that_has_gone_reclaims_nothing(make):
    """What is granted to a task of a loop that closed is nobody's once the lock has gone."""
    loop = asyncio.new_event_loop()
    lock = make()
    waiting = lock.acquire()

    async def begin(lock, waiting):
        await lock.acquire()
        waiting.send(None)
        lock.release()

    loop.run_until_complete(begin(lock, waiting))
    loop.close()
    waiting.close()
    watch = weakref.ref(lock)
    del lock, waiting
    assert watch() is None
