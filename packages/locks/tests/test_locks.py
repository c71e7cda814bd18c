"""Locks, semaphores and events: fair, cancellable at every moment, tied to no loop."""

import asyncio
import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from waterspout.ioloop.testing import simulate
from waterspout.locks import BoundedSemaphore, Event, Lock, LockStatistics, Semaphore

everywhere = pytest.mark.waterspout("asyncio", "uvloop", "threaded", "simulated")
virtual = pytest.mark.waterspout("simulated")


async def settle():
    for _ in range(6):
        await asyncio.sleep(0)


async def start(count, func, *args):
    """Start tasks in order, each up to its first wait."""
    tasks = []
    for _ in range(count):
        tasks.append(asyncio.create_task(func(*args)))
        await asyncio.sleep(0)
    return tasks


LOCKS = pytest.mark.parametrize("make", [Lock, Semaphore, BoundedSemaphore])


@LOCKS
@everywhere
async def test_one_at_a_time_first_come_first_served(make):
    lock, seen = make(), []

    async def work(name):
        async with lock as entered:
            assert entered is lock
            seen.append(f"{name} in")
            await asyncio.sleep(0)
            seen.append(f"{name} out")

    await asyncio.gather(*(work(name) for name in "abc"))
    assert seen == ["a in", "a out", "b in", "b out", "c in", "c out"]
    assert not lock.locked()


@LOCKS
async def test_what_needs_no_waiting_does_not_yield(make):
    lock, yielded = make(), []
    asyncio.get_running_loop().call_soon(yielded.append, True)
    assert await lock.acquire() is True
    assert lock.locked()
    lock.release()
    async with lock:
        pass
    assert yielded == []


@LOCKS
async def test_nobody_overtakes(make):
    lock, seen = make(), []

    async def work(name):
        async with lock:
            seen.append(name)

    await lock.acquire()
    first = (await start(1, work, "first"))[0]
    lock.release()
    # The lock is the first one's already, though its task has not resumed.
    assert lock.locked()
    with pytest.raises(TimeoutError):
        await lock.acquire(timeout=0)
    await work("second")
    await first
    assert seen == ["first", "second"]


@LOCKS
async def test_a_permit_handed_to_a_cancelled_task_goes_to_the_next(make):
    lock = make()
    await lock.acquire()
    first, second = await start(2, lock.acquire)
    lock.release()
    first.cancel()
    await settle()
    assert first.cancelled()
    assert second.done()
    lock.release()
    assert not lock.locked()


@LOCKS
async def test_a_permit_that_nobody_takes_is_put_back(make):
    lock = make()
    await lock.acquire()
    [waiting] = await start(1, lock.acquire)
    lock.release()
    waiting.cancel()
    await settle()
    assert not lock.locked()
    await lock.acquire(timeout=0)


@LOCKS
@pytest.mark.parametrize("moment", ["waiting", "served"])
async def test_a_block_that_is_cancelled_before_it_is_entered_passes_its_permit_on(make, moment):
    lock, entered = make(), []

    async def work():
        async with lock:
            entered.append(asyncio.current_task())

    await lock.acquire()
    first, second = await start(2, work)
    if moment == "served":
        lock.release()
    first.cancel()
    if moment == "waiting":
        lock.release()
    await second
    assert first.cancelled()
    assert entered == [second]
    assert not lock.locked()


@LOCKS
@virtual
async def test_timeouts(make):
    lock = make()
    await lock.acquire(timeout=0)
    loop = asyncio.get_running_loop()
    started = loop.time()
    with pytest.raises(TimeoutError):
        await lock.acquire(timeout=3600)
    assert loop.time() - started == pytest.approx(3600)
    loop.call_later(1, lock.release)
    await lock.acquire(timeout=2)
    lock.release()
    await asyncio.sleep(5)
    assert not lock.locked()


@LOCKS
async def test_bad_timeouts_change_nothing(make):
    lock = make()
    for _ in ("free", "taken"):
        with pytest.raises(TypeError, match="timeout must be seconds"):
            await lock.acquire("1")
        with pytest.raises(ValueError, match="timeout must not be NaN"):
            await lock.acquire(float("nan"))
        await lock.acquire(0) if not lock.locked() else None
    assert lock.locked()
    lock.release()


@LOCKS
@everywhere
async def test_under_the_time_limits_of_asyncio(make):
    lock = make()
    await lock.acquire()
    for _ in range(3):
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(lock.acquire(), 0.001)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.001):
                await lock.acquire()
    lock.release()
    assert not lock.locked()


@LOCKS
def test_it_may_be_used_in_one_loop_after_another(make):
    lock = make()

    async def main():
        async def work():
            async with lock:
                await asyncio.sleep(0)

        await asyncio.gather(work(), work())

    asyncio.run(main())
    asyncio.run(main())


@LOCKS
def test_two_open_loops_never_wait_for_the_same_one(make):
    lock = make()
    first, second = asyncio.new_event_loop(), asyncio.new_event_loop()

    async def hold_and_queue():
        await lock.acquire()
        return (await start(1, lock.acquire))[0]

    async def intrude():
        with pytest.raises(RuntimeError, match="another event loop"):
            await lock.acquire()
        with pytest.raises(RuntimeError, match="another event loop"):
            lock.release()
        assert lock.locked()

    waiting = first.run_until_complete(hold_and_queue())
    second.run_until_complete(intrude())
    lock.release()
    assert first.run_until_complete(waiting)
    first.close()
    second.close()


def test_release_of_an_unlocked_lock():
    with pytest.raises(RuntimeError, match="not locked"):
        Lock().release()


async def test_semaphores_count():
    semaphore = Semaphore(2)
    await semaphore.acquire()
    assert not semaphore.locked()
    await semaphore.acquire()
    assert semaphore.locked()
    for _ in range(4):
        semaphore.release()
    for _ in range(4):
        await semaphore.acquire(0)
    assert semaphore.locked()
    assert Semaphore(0).locked()


async def test_a_bounded_semaphore_knows_its_bound():
    semaphore = BoundedSemaphore(2)
    with pytest.raises(ValueError, match="no permit is taken"):
        semaphore.release()
    await semaphore.acquire()
    semaphore.release()
    with pytest.raises(ValueError, match="no permit is taken"):
        semaphore.release()
    await semaphore.acquire(0)
    await semaphore.acquire(0)
    assert semaphore.locked()


@pytest.mark.parametrize("make", [Semaphore, BoundedSemaphore])
def test_bad_values_are_refused(make):
    with pytest.raises(ValueError, match="value must not be negative, not -1"):
        make(-1)
    with pytest.raises(TypeError, match="value must be an integer, not None"):
        make(None)


async def test_statistics_tell_the_state():
    lock, semaphore, event = Lock(), Semaphore(2), Event()
    await lock.acquire()
    tasks = [*await start(1, lock.acquire), *await start(3, semaphore.acquire)]
    tasks += await start(2, event.wait)
    assert (lock.statistics().locked, lock.statistics().waiters) == (True, 1)
    assert (semaphore.statistics().value, semaphore.statistics().waiters) == (0, 1)
    assert (event.statistics().is_set, event.statistics().waiters) == (False, 2)
    event.set()
    semaphore.release()
    lock.release()
    await asyncio.gather(*tasks)
    assert event.statistics().is_set


@pytest.mark.parametrize("by_hand", [False, True])
async def test_statistics_name_the_holder_that_had_waited_and_nobody_after_it(by_hand):
    lock, seen = Lock(), []

    async def in_block():
        async with lock:
            seen.append(lock.statistics().holder)

    async def hold():
        await lock.acquire()
        seen.append(lock.statistics().holder)
        lock.release()

    await lock.acquire()
    assert lock.statistics().holder is None  # not known, since it had not to wait
    tasks = [asyncio.create_task(hold() if by_hand else in_block(), name=name) for name in "ab"]
    await settle()
    lock.release()
    assert lock.statistics().holder is None  # it has not resumed
    await asyncio.wait(tasks)
    assert seen == ["a", "b"]
    assert lock.statistics() == LockStatistics(locked=False, holder=None, waiters=0)
    await lock.acquire()
    assert lock.statistics().holder is None
    lock.release()


async def test_reprs_tell_the_state():
    lock, semaphore, event = Lock(), Semaphore(2), Event()
    assert repr(lock) == "<Lock unlocked waiters=0>"
    assert repr(semaphore) == "<Semaphore value=2 waiters=0>"
    assert repr(event) == "<Event unset waiters=0>"
    await lock.acquire()
    [waiting] = await start(1, lock.acquire)
    assert repr(lock) == "<Lock locked waiters=1>"
    lock.release()
    await waiting
    event.set()
    assert repr(event) == "<Event set waiters=0>"


@everywhere
async def test_an_event_wakes_everybody():
    event = Event()
    tasks = await start(3, event.wait)
    assert not event.is_set()
    event.set()
    event.clear()  # whoever was woken stays woken
    assert await asyncio.gather(*tasks) == [True] * 3
    assert not event.is_set()
    event.set()
    event.set()
    yielded = []
    asyncio.get_running_loop().call_soon(yielded.append, True)
    assert await event.wait() is True
    assert await event.wait(timeout=0) is True
    assert yielded == []


@virtual
async def test_waiting_for_an_event_times_out():
    event = Event()
    assert await event.wait(timeout=0) is False
    assert await event.wait(timeout=10) is False
    asyncio.get_running_loop().call_later(5, event.set)
    assert await event.wait(timeout=10) is True
    with pytest.raises(TypeError, match="timeout must be"):
        await event.wait("1")
    event.clear()
    [waiting] = await start(1, event.wait)
    waiting.cancel()
    await settle()
    assert repr(event) == "<Event unset waiters=0>"


def test_an_event_is_not_set_from_another_loop():
    event = Event()
    loop = asyncio.new_event_loop()
    [waiting] = loop.run_until_complete(start(1, event.wait))

    async def intrude():
        with pytest.raises(RuntimeError, match="another event loop"):
            event.set()
        assert not event.is_set()

    asyncio.run(intrude())
    event.set()
    assert loop.run_until_complete(waiting)
    loop.close()


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("acquire"), st.sampled_from([None, 0, 1.0, 2.0])),
        st.tuples(st.just("release"), st.none()),
        st.tuples(st.just("cancel"), st.integers(0, 30)),
        st.tuples(st.just("settle"), st.none()),
        st.tuples(st.just("sleep"), st.sampled_from([0.5, 1.0])),
    ),
    max_size=40,
)


@given(permits=st.integers(0, 3), steps=STEPS)
def test_any_program_keeps_every_permit(permits, steps):
    """Whatever is cancelled, timed out and released when: permits are conserved, in order."""

    async def main():
        semaphore = Semaphore(permits)
        tasks, resumed, released = [], [], 0

        async def acquire(number, timeout):
            with contextlib.suppress(TimeoutError):
                await semaphore.acquire(timeout)
                resumed.append(number)

        for step, argument in steps:
            if step == "acquire":
                tasks.append(asyncio.create_task(acquire(len(tasks), argument)))
                await asyncio.sleep(0)
            elif step == "release":
                semaphore.release()
                released += 1
            elif step == "cancel" and tasks:
                tasks[argument % len(tasks)].cancel()
            elif step == "settle":
                await settle()
            elif step == "sleep":
                await asyncio.sleep(argument)
        await settle()
        free = permits + released - len(resumed)
        waiting = [task for task in tasks if not task.done()]
        assert free >= 0
        assert not (free and waiting), "somebody waits for a permit that is there"
        if not any(task.cancelled() for task in tasks):
            assert resumed == sorted(resumed)
        for _ in range(free):
            await semaphore.acquire(0)
        assert semaphore.locked()
        for task in waiting:
            task.cancel()
        await settle()

    simulate(main)


@LOCKS
def test_a_permit_handed_over_in_a_loop_that_closed_is_there_again(make):
    lock = make()
    loop = asyncio.new_event_loop()
    waiting = lock.acquire()

    async def begin():
        await lock.acquire()
        waiting.send(None)
        lock.release()

    loop.run_until_complete(begin())
    loop.close()
    assert lock.locked()
    asyncio.run(lock.acquire(timeout=0))
    waiting.close()  # changes nothing any more
    assert lock.locked()
    lock.release()
    assert not lock.locked()


@LOCKS
def test_nobody_waits_behind_a_task_of_another_loop_that_was_handed_it(make):
    lock = make()
    old = asyncio.new_event_loop()
    waiting = lock.acquire()

    async def begin():
        await lock.acquire()
        waiting.send(None)
        lock.release()

    old.run_until_complete(begin())

    async def main():
        with pytest.raises(RuntimeError, match="another event loop"):
            await lock.acquire()
        old.close()
        await lock.acquire()
        await asyncio.to_thread(waiting.close)  # as the garbage collector may do it
        lock.release()
        assert not lock.locked()

    asyncio.run(main())


@LOCKS
async def test_a_block_takes_and_gives_as_a_subclass_says(make):
    calls = []

    class Counting(type(make())):
        async def acquire(self, timeout=None):
            calls.append("acquire")
            return await super().acquire(timeout)

        def release(self):
            calls.append("release")
            super().release()

    async with Counting() as lock:
        assert lock.locked()
    assert not lock.locked()
    assert calls == ["acquire", "release"]
