"""Every lock, cancelled and timed out everywhere, and in every order."""

import asyncio
import itertools
import sys

import pytest

from waterspout.ioloop.testing import cancel_everywhere, explore, simulate
from waterspout.locks import BoundedSemaphore, Event, Lock, Semaphore

pytestmark = pytest.mark.proof

LOCKS = [Lock, Semaphore, BoundedSemaphore, lambda: Semaphore(2)]
by_lock = pytest.mark.parametrize(
    "make", LOCKS, ids=["lock", "semaphore", "bounded semaphore", "semaphore of 2"]
)


async def hold(lock):
    async with lock:
        await asyncio.sleep(0)


async def hold_longer(lock):
    async with lock:
        await asyncio.sleep(3)


async def hold_if_in_time(lock):
    try:
        await lock.acquire(timeout=2)
    except TimeoutError:
        return
    try:
        await asyncio.sleep(0)
    finally:
        lock.release()


async def hold_within_a_timeout(lock):
    try:
        async with asyncio.timeout(2):
            async with lock:
                await asyncio.sleep(3)
    except TimeoutError:
        pass


async def hold_by_wait_for(lock):
    try:
        await asyncio.wait_for(hold_longer(lock), 2)
    except TimeoutError:
        pass


OPERATIONS = [hold, hold_longer, hold_if_in_time, hold_within_a_timeout, hold_by_wait_for]
PAIRS = list(itertools.combinations_with_replacement(OPERATIONS, 2))
TRIPLES = list(itertools.combinations_with_replacement(OPERATIONS, 3))


def names(operations):
    return "-".join(operation.__name__ for operation in operations)


def permits(lock):
    """How many are free."""
    return getattr(lock, "_value", None) if hasattr(lock, "_value") else int(not lock.locked())


@by_lock
@pytest.mark.parametrize("operations", PAIRS + TRIPLES, ids=names)
def test_cancelled_anywhere_all_permits_come_back(make, operations):
    free = permits(make())

    async def scenario(lock):
        tasks = [asyncio.create_task(operation(lock)) for operation in operations]
        await asyncio.wait(tasks)

    def check(lock):
        assert permits(lock) == free
        assert lock.statistics().waiters == 0

    cancel_everywhere(scenario, check, state=make)


@by_lock
@pytest.mark.parametrize("operations", PAIRS + TRIPLES, ids=names)
def test_in_every_order_of_a_task_group_all_permits_come_back(make, operations):
    free = permits(make())

    async def scenario():
        lock = make()

        async def fail():
            await asyncio.sleep(0)
            raise ZeroDivisionError

        with pytest.raises(ExceptionGroup):
            async with asyncio.TaskGroup() as group:
                for operation in operations:
                    group.create_task(operation(lock))
                group.create_task(fail())
        assert permits(lock) == free
        assert lock.statistics().waiters == 0

    explore(scenario, max_schedules=500 if len(operations) == 2 else 100)


@by_lock
def test_permits_go_to_whoever_came_first(make):
    """In every order, and whoever is cancelled: those who are served are served in order."""

    async def scenario():
        lock, came, served = make(), [], []

        async def take(number):
            came.append(number)
            async with lock:
                served.append(number)
                await asyncio.sleep(0)

        tasks = [asyncio.create_task(take(number)) for number in range(3)]

        async def cancel():
            tasks[1].cancel()

        await asyncio.wait([*tasks, asyncio.create_task(cancel())])
        assert served == [number for number in came if number in served]
        assert {0, 2} <= set(served)

    explore(scenario, max_schedules=3000)


def test_events_wake_everybody_who_waited():
    async def scenario(state):
        state.event, state.woken = Event(), []

        async def wait(number, timeout):
            if await state.event.wait(timeout):
                state.woken.append(number)

        tasks = [
            asyncio.create_task(wait(number, timeout))
            for number, timeout in enumerate([None, 1, 5])
        ]
        await asyncio.sleep(2)
        state.event.set()
        state.event.clear()
        await asyncio.wait(tasks)
        state.lost = [n for n in (0, 2) if n not in state.woken and not tasks[n].cancelled()]
        state.lost = [n for n in state.lost if tasks[n].exception() is None]

    def check(state):
        assert not getattr(state, "lost", [])
        assert 1 not in getattr(state, "woken", [])
        if hasattr(state, "event"):
            assert state.event.statistics().waiters == 0

    cancel_everywhere(scenario, check)


class Flag:
    """An event, and a plain model of who is owed a wake-up."""

    def __init__(self):
        self.event, self.waiting, self.owed, self.woken = Event(), set(), set(), set()

    async def wait(self):
        me = asyncio.current_task()
        if self.event.is_set():
            self.owed.add(me)
        else:
            self.waiting.add(me)
        if await self.event.wait():
            self.woken.add(me)

    async def set(self):
        self.event.set()
        self.owed |= self.waiting
        self.waiting.clear()

    async def clear(self):
        self.event.clear()

    async def set_and_clear(self):
        await self.set()
        await self.clear()


FLAG_OPERATIONS = [Flag.wait, Flag.set, Flag.clear, Flag.set_and_clear]


@pytest.mark.parametrize(
    "operations",
    [
        operations
        for count in (2, 3)
        for operations in itertools.combinations_with_replacement(FLAG_OPERATIONS, count)
    ],
    ids=names,
)
def test_in_every_order_with_a_cancellation_an_event_wakes_who_waited(operations):
    async def scenario():
        flag = Flag()
        tasks = [asyncio.create_task(flag.wait()) for _ in range(2)]
        tasks += [asyncio.create_task(operation(flag)) for operation in operations]

        async def cancel():
            tasks[0].cancel()

        await asyncio.wait([asyncio.create_task(cancel()), *tasks[2:]], timeout=1)
        cancelled = {task for task in tasks if task.cancelled()}
        assert flag.woken - cancelled == flag.owed - cancelled
        left = [task for task in tasks if not task.done()]
        assert flag.event.statistics().waiters == len(left)
        for task in left:
            task.cancel()
        await asyncio.wait(tasks)

    explore(scenario, max_schedules=500 if len(operations) == 2 else 100)


@by_lock
def test_cancel_scopes_that_cancel_again_and_again(make):
    anyio = pytest.importorskip("anyio")
    free = permits(make())

    async def main():
        lock = make()
        await lock.acquire()
        for _ in range(free - 1):
            await lock.acquire()

        async def wait():
            async with lock:
                pass

        async with anyio.create_task_group() as group:
            with anyio.move_on_after(1):
                async with anyio.create_task_group() as inner:
                    for _ in range(3):
                        inner.start_soon(wait)
            group.start_soon(wait)
            for _ in range(free):
                lock.release()
        assert permits(lock) == free

    for seed in (None, *range(10)):
        simulate(main, seed=seed)


@pytest.mark.skipif(sys.version_info < (3, 12), reason="eager tasks came with 3.12")
@by_lock
def test_eager_tasks_lose_nothing(make):
    free = permits(make())

    async def scenario(lock):
        asyncio.get_running_loop().set_task_factory(asyncio.eager_task_factory)
        tasks = [asyncio.create_task(hold(lock)) for _ in range(4)]
        await asyncio.wait([*tasks, asyncio.create_task(asyncio.sleep(0))])

    def check(lock):
        assert permits(lock) == free

    cancel_everywhere(scenario, check, state=make, seeds=range(3))
