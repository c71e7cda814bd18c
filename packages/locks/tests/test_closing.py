"""Coroutines that are closed wherever they wait: what they hold is released once, and no more.

A coroutine is closed by `close()`, or by the garbage collector, in any thread.
"""

import asyncio
import itertools
import threading
from collections.abc import Coroutine

import pytest

from waterspout.ioloop.testing import no_reference_cycles, simulate
from waterspout.locks import BoundedSemaphore, Condition, Event, Lock, Semaphore

LOCKS = pytest.mark.parametrize("make", [Lock, Semaphore, BoundedSemaphore])


async def settle():
    for _ in range(6):
        await asyncio.sleep(0)


async def by_block(condition, wait=Condition.wait):
    async with condition:
        await wait(condition)


async def by_hand(condition, wait=Condition.wait):
    await condition.acquire()
    try:
        await wait(condition)
    finally:
        condition.release()


async def by_helper(condition, wait=Condition.wait):
    async def helper():
        await wait(condition)

    await condition.acquire()
    try:
        await helper()
    finally:
        condition.release()


async def for_something(condition):
    await condition.wait_for(lambda: False)


async def for_a_while(condition):
    await condition.wait(30)


USES = pytest.mark.parametrize("use", [by_block, by_hand, by_helper])
WAITS = pytest.mark.parametrize("wait", [Condition.wait, for_something, for_a_while])


def holder(condition):
    return condition.statistics().lock.holder


@USES
@WAITS
async def test_closed_in_wait_it_leaves_the_lock_to_its_holder(use, wait):
    condition = Condition()
    waiting = use(condition, wait)
    waiting.send(None)
    async with condition:
        waiting.close()
        assert condition.locked()
        assert holder(condition) == asyncio.current_task().get_name()
        assert condition.statistics().waiters == 0
    assert not condition.locked()


@USES
async def test_closed_in_a_task_of_its_own_it_leaves_the_lock_to_its_holder(use):
    condition = Condition()
    waiting = use(condition)
    task = asyncio.create_task(waiting)
    await settle()
    async with condition:
        waiting.close()
        assert condition.locked()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        assert condition.locked()
    assert not condition.locked()


@USES
async def test_a_block_that_is_closed_later_releases_its_lock(use):
    condition = Condition()

    async def hold():
        async with condition:
            await asyncio.sleep(30)

    waiting = use(condition)
    waiting.send(None)
    async with condition:
        waiting.close()
    holding = hold()
    holding.send(None)
    assert condition.locked()
    holding.close()
    assert not condition.locked()


@USES
async def test_several_that_are_closed_while_another_task_holds_the_lock(use):
    condition = Condition()
    waiting = [use(condition) for _ in range(3)]
    for one in waiting:
        one.send(None)
    async with condition:
        for one in waiting:
            one.close()
            assert condition.locked()
    assert not condition.locked()


@USES
async def test_closed_in_wait_it_holds_a_free_lock_until_its_block_is_left(use):
    condition, seen = Condition(), []

    async def wait(condition):
        try:
            await condition.wait()
        finally:
            seen.append((condition.locked(), holder(condition)))

    waiting = use(condition, wait)
    waiting.send(None)
    waiting.close()
    assert seen == [(True, asyncio.current_task().get_name())]
    assert not condition.locked()
    assert holder(condition) is None


@USES
@pytest.mark.parametrize("granted", [False, True])
@pytest.mark.parametrize("follower", [False, True])
async def test_closed_while_it_waits_for_the_lock_again(use, granted, follower):
    condition = Condition()
    waiting = use(condition)
    task = asyncio.create_task(waiting)
    await settle()
    await condition.acquire()
    condition.notify()
    await settle()  # now it waits for the lock
    assert condition.statistics().lock.waiters == 1
    following = asyncio.create_task(condition.acquire()) if follower else None
    await settle()
    if granted:
        condition.release()
    waiting.close()
    assert condition.locked() == (follower or not granted)
    if not granted:
        condition.release()
    if following is not None:
        await following
        condition.release()
    assert not condition.locked()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


@USES
@pytest.mark.parametrize("moment", ["notified", "waits for the lock", "was granted the lock"])
async def test_closed_after_it_was_notified_it_passes_the_notification_on(use, moment):
    condition = Condition()
    waiting = [use(condition) for _ in range(2)]
    tasks = [asyncio.create_task(one) for one in waiting]
    await settle()
    await condition.acquire()
    condition.notify()
    if moment != "notified":
        await settle()
    if moment == "was granted the lock":
        condition.release()
    waiting[0].close()
    if moment != "was granted the lock":
        condition.release()
    await tasks[1]
    tasks[0].cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert not condition.locked()


async def test_a_coroutine_that_goes_on_after_it_was_closed_keeps_its_hold():
    condition = Condition()

    async def clean_up_first():
        await condition.acquire()
        try:
            await condition.wait()
        finally:
            await asyncio.sleep(0)  # which a coroutine that is closed must not do
            condition.release()

    waiting = clean_up_first()
    waiting.send(None)
    await condition.acquire()
    with pytest.raises(RuntimeError, match="ignored GeneratorExit"):
        waiting.close()
    condition.release()
    assert condition.locked()  # by the coroutine, which goes on
    with pytest.raises(GeneratorExit):
        waiting.send(None)
    assert not condition.locked()


async def test_a_grant_that_is_not_used_is_not_taken_from_a_coroutine_that_goes_on():
    condition = Condition()

    async def clean_up_first():
        await condition.acquire()
        try:
            await condition.wait()
        finally:
            await asyncio.sleep(0)
            condition.release()

    waiting = clean_up_first()
    waiting.send(None)
    await condition.acquire()
    granted = asyncio.create_task(condition.acquire())
    await settle()
    condition.release()
    with pytest.raises(RuntimeError, match="ignored GeneratorExit"):
        waiting.close()
    granted.cancel()
    await asyncio.gather(granted, return_exceptions=True)
    assert condition.locked()
    with pytest.raises(GeneratorExit):
        waiting.send(None)
    assert not condition.locked()


async def test_the_lock_may_be_released_by_another_task_meanwhile():
    condition = Condition()
    waiting = by_block(condition)
    waiting.send(None)
    await condition.acquire()
    waiting.close()

    async def release():
        condition.release()

    await asyncio.create_task(release())
    assert not condition.locked()
    with pytest.raises(RuntimeError, match="not locked"):
        condition.release()


def test_a_wait_that_cannot_take_the_lock_again_holds_it_all_the_same():
    """Its block would release what another task holds otherwise."""
    condition = Condition()
    loop = asyncio.new_event_loop()
    waiting, following = by_block(condition), condition.acquire()

    async def begin():
        await condition.acquire()
        following.send(None)  # it waits for the lock in this loop

    async def go_on():
        with pytest.raises(RuntimeError, match="another event loop"):
            waiting.throw(KeyError)
        assert condition.locked()

    async def begin_to_wait():
        waiting.send(None)

    asyncio.run(begin_to_wait())
    loop.run_until_complete(begin())
    asyncio.run(go_on())
    condition.release()
    with pytest.raises(StopIteration):
        following.send(None)
    condition.release()
    assert not condition.locked()
    loop.close()


@LOCKS
@pytest.mark.parametrize("waiters", [0, 2])
async def test_a_block_that_is_closed_releases_once(make, waiters):
    lock = make()

    async def hold():
        async with lock:
            await asyncio.sleep(30)

    holding = hold()
    holding.send(None)
    tasks = [asyncio.create_task(lock.acquire()) for _ in range(waiters)]
    await settle()
    holding.close()
    for task in tasks:
        assert lock.locked()
        await task
        lock.release()
    assert not lock.locked()
    await lock.acquire(timeout=0)
    with pytest.raises(TimeoutError):
        await lock.acquire(timeout=0)


@LOCKS
async def test_a_block_that_is_dropped_releases_without_the_garbage_collector(make):
    lock = make()

    async def hold():
        async with lock:
            await asyncio.sleep(30)

    with no_reference_cycles():
        holding = hold()
        holding.send(None)
        del holding
        assert not lock.locked()


def close_in_thread(coroutine):
    """Close it as the garbage collector may do it: in a thread that knows nothing of its loop."""
    call_in_thread(coroutine.close)


def close_in_another_loop(coroutine):
    async def close():
        coroutine.close()

    call_in_thread(lambda: asyncio.run(close()))


def call_in_thread(function):
    errors = []

    def call():
        try:
            function()
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=call)
    thread.start()
    thread.join()
    assert errors == []


CLOSERS = pytest.mark.parametrize("close", [close_in_thread, close_in_another_loop])


async def hold_in_block(lock):
    async with lock:
        await asyncio.sleep(30)


async def hold_by_hand(lock):
    await lock.acquire()
    try:
        await asyncio.sleep(30)
    finally:
        lock.release()


@LOCKS
@CLOSERS
@pytest.mark.parametrize("hold", [hold_in_block, hold_by_hand])
async def test_a_block_that_is_closed_in_another_thread_serves_the_next(make, close, hold):
    lock = make()
    holding = hold(lock)
    holding.send(None)
    tasks = [asyncio.create_task(lock.acquire()) for _ in range(2)]
    await settle()
    close(holding)
    assert lock.locked()
    await tasks[0]
    assert not tasks[1].done()
    lock.release()
    await tasks[1]
    lock.release()
    assert not lock.locked()


@LOCKS
@CLOSERS
@pytest.mark.parametrize("granted", [False, True])
async def test_a_wait_for_a_lock_that_is_closed_in_another_thread(make, close, granted):
    lock = make()
    await lock.acquire()
    waiting = lock.acquire()
    waiting.send(None)
    following = asyncio.create_task(lock.acquire())
    await settle()
    if granted:
        lock.release()
    close(waiting)
    await settle()
    assert lock.statistics().waiters == (not granted)
    if not granted:
        lock.release()
    await following
    lock.release()
    assert not lock.locked()


@CLOSERS
@USES
@pytest.mark.parametrize("notified", [False, True])
async def test_a_wait_for_a_condition_that_is_closed_in_another_thread(close, use, notified):
    condition = Condition()
    waiting = use(condition)
    waiting.send(None)
    following = asyncio.create_task(use(condition))
    await settle()
    await condition.acquire()
    if notified:
        condition.notify()
    close(waiting)
    await settle()
    assert condition.locked()
    if not notified:
        condition.notify()
    condition.release()
    await following
    assert not condition.locked()
    assert condition.statistics().waiters == 0


@CLOSERS
@USES
async def test_a_wait_for_the_lock_again_that_is_closed_in_another_thread(close, use):
    condition = Condition()
    waiting = use(condition)
    task = asyncio.create_task(waiting)
    following = asyncio.create_task(use(condition))
    await settle()
    await condition.acquire()
    condition.notify()
    await settle()
    close(waiting)
    await settle()
    condition.release()
    await following
    assert not condition.locked()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


@LOCKS
def test_closed_in_another_thread_it_serves_nobody_in_a_loop_that_closes_first(make):
    lock = make()
    loop = asyncio.new_event_loop()
    holding, waiting = hold_in_block(lock), lock.acquire()

    async def begin():
        holding.send(None)
        waiting.send(None)
        close_in_thread(holding)
        assert lock.locked()

    loop.run_until_complete(begin())
    loop.close()

    async def take():
        await lock.acquire(timeout=0)
        with pytest.raises(TimeoutError):
            await lock.acquire(timeout=0)

    asyncio.run(take())
    waiting.close()


async def test_a_wait_for_an_event_that_is_closed_in_another_thread():
    event = Event()
    waiting = event.wait()
    waiting.send(None)
    close_in_thread(waiting)
    await settle()
    assert event.statistics().waiters == 0


# Proofs


class Closed(Coroutine):
    """A task's coroutine, of which the inner one is closed at one point."""

    def __init__(self, coroutine, point, how):
        self.coroutine, self.point, self.how = coroutine, point, how
        self.steps, self.task = 0, None

    def send(self, value):
        if self.point == (self.steps, "goes on"):
            self.coroutine.close()
            raise StopIteration
        result = self.coroutine.send(value)
        self.steps += 1
        if self.point == (self.steps, "waits"):
            self.close_now()
        return result

    def throw(self, *error):
        return self.coroutine.throw(*error)

    def close(self):
        self.coroutine.close()

    def __await__(self):
        raise NotImplementedError

    def close_now(self):
        task = asyncio.current_task()

        def close():
            self.coroutine.close()
            task.cancel()

        async def close_in_task():
            close()

        if self.how == "callback":
            asyncio.get_running_loop().call_soon(close)
        else:
            helpers.append(asyncio.create_task(close_in_task()))


helpers = []


class State:
    def __init__(self, make):
        self.lock = make()
        self.inside = self.given = self.woken = 0


async def hold(state):
    async with state.lock:
        await inside(state)


async def hold_by_acquire(state):
    await state.lock.acquire()
    try:
        await inside(state)
    finally:
        state.lock.release()


async def inside(state):
    state.inside += 1
    try:
        assert state.inside == 1
        await asyncio.sleep(0)
    finally:
        state.inside -= 1


async def wait_in_block(state):
    async with state.lock:
        await state.lock.wait()
        state.woken += 1
        await inside(state)


async def wait_by_acquire(state):
    await state.lock.acquire()
    try:
        await state.lock.wait()
        state.woken += 1
        await inside(state)
    finally:
        state.lock.release()


async def wait_a_while(state):
    async with state.lock:
        if await state.lock.wait(3):
            state.woken += 1
        await inside(state)


async def notify(state):
    async with state.lock:
        state.given += state.lock.statistics().waiters > 1  # one may be closed, and not both
        state.lock.notify()
        await inside(state)


def close_everywhere(make, operations):
    """Run it once for each point at which a task can be closed; give how many there were."""

    def run(victim, point, how, seed):
        async def main():
            state = State(make)
            tasks = []
            for number, operation in enumerate(operations):
                coroutine = operation(state)
                if number == victim:
                    closed = coroutine = Closed(coroutine, point, how)
                tasks.append(asyncio.Task(coroutine))
            await asyncio.wait(tasks, timeout=10)
            await asyncio.sleep(0)
            waiting = [task for task in tasks if not task.done()]
            assert not state.lock.locked()
            assert state.inside == 0
            statistics = state.lock.statistics()
            assert statistics.waiters == len(waiting)
            if waiting:  # then no notification was lost
                assert state.woken >= state.given
            for task in waiting:
                task.cancel()
            await asyncio.wait(tasks)
            for task in tasks:
                error = None if task.cancelled() else task.exception()
                # What was closed cannot be resumed, by its cancellation for instance.
                assert error is None or "already awaited" in str(error), repr(error)
            assert not state.lock.locked()
            await state.lock.acquire(timeout=0)
            with pytest.raises(TimeoutError):
                await state.lock.acquire(timeout=0)
            return closed.steps

        helpers.clear()
        return simulate(main, seed=seed)

    runs = 0
    for seed, victim in itertools.product((None, 1, 2), range(len(operations))):
        steps = run(victim, None, "callback", seed)
        points = [(step, "goes on") for step in range(steps)]
        for point in points:
            run(victim, point, "callback", seed)
        for step, how in itertools.product(range(1, steps + 1), ("callback", "task")):
            run(victim, (step, "waits"), how, seed)
        runs += 3 * steps
    return runs


@pytest.mark.proof
@LOCKS
@pytest.mark.parametrize(
    "operations",
    [*itertools.product([hold, hold_by_acquire], repeat=3)],
    ids=lambda names: "-".join(name.__name__ for name in names),
)
def test_closed_anywhere_all_permits_come_back(make, operations):
    assert close_everywhere(make, operations) > 15


@pytest.mark.proof
@pytest.mark.parametrize(
    "operations",
    [
        (first, second, third, fourth)
        for first, second in itertools.product([wait_in_block, wait_by_acquire], repeat=2)
        for third, fourth in [
            (notify, hold),
            (hold, notify),
            (notify, notify),
            (wait_a_while, notify),
        ]
    ],
    ids=lambda names: "-".join(name.__name__ for name in names),
)
def test_closed_anywhere_the_lock_is_free_and_no_notification_is_lost(operations):
    assert close_everywhere(Condition, operations) > 30
