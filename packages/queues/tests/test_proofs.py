"""Every queue, cancelled and timed out everywhere, and in every order."""

import asyncio
import itertools
import sys

import pytest

from waterspout.ioloop.testing import cancel_everywhere, explore, simulate
from waterspout.queues import LifoQueue, PriorityQueue, Queue, QueueShutDown

pytestmark = pytest.mark.proof
by_kind = pytest.mark.parametrize("kind", [Queue, LifoQueue, PriorityQueue])


class Ledger:
    """A queue, and what its users say they did."""

    def __init__(self, queue):
        self.queue = queue
        self.put_in = []
        self.got = []
        self.numbers = itertools.count()

    async def put(self, timeout=None):
        number = next(self.numbers)
        try:
            await self.queue.put(number, timeout)
        except (TimeoutError, QueueShutDown):
            return
        self.put_in.append(number)

    async def get(self, timeout=None):
        try:
            self.got.append(await self.queue.get(timeout))
        except (TimeoutError, QueueShutDown):
            return
        self.queue.task_done()

    def check(self):
        """What was put in was got, once, or is still there."""
        while not self.queue.empty():
            self.got.append(self.queue.get_nowait())
            self.queue.task_done()
        assert sorted(self.got) == sorted(self.put_in)
        assert self.queue._unfinished == 0
        assert self.queue._reserved_items == self.queue._reserved_places == 0
        lines = (self.queue._getters, self.queue._putters, self.queue._joiners)
        assert [len(line) for line in lines] == [0, 0, 0]


async def put(ledger):
    await ledger.put()


async def put_in_time(ledger):
    await ledger.put(timeout=2)


async def get(ledger):
    await ledger.get()


async def get_in_time(ledger):
    await ledger.get(timeout=2)


async def get_some(ledger):
    try:
        items = await ledger.queue.get_many(2)
    except QueueShutDown:
        return
    ledger.got += items
    for _ in items:
        ledger.queue.task_done()


async def get_within_a_timeout(ledger):
    try:
        await asyncio.wait_for(ledger.get(), 2)
    except TimeoutError:
        pass


async def join(ledger):
    try:
        await ledger.queue.join(timeout=3)
    except TimeoutError:
        assert ledger.queue._unfinished


OPERATIONS = [put, put_in_time, get, get_in_time, get_some, get_within_a_timeout]
PAIRS = list(itertools.combinations_with_replacement(OPERATIONS, 2))
TRIPLES = list(itertools.combinations_with_replacement([*OPERATIONS, join], 3))


def names(operations):
    return "-".join(operation.__name__ for operation in operations)


async def work(ledger, operations, end):
    """Run operations, and let time bring about what they wait for; then end what is left."""
    tasks = [asyncio.create_task(operation(ledger)) for operation in operations]
    await asyncio.sleep(1)
    for _ in range(2):
        await asyncio.sleep(1)
        if not ledger.queue.empty():
            await ledger.get()
    if end == "shutdown":
        ledger.queue.shutdown()
    await asyncio.sleep(5)
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)


@by_kind
@pytest.mark.parametrize("maxsize", [0, 1])
@pytest.mark.parametrize("operations", PAIRS + TRIPLES, ids=names)
def test_cancelled_anywhere_nothing_is_lost_or_doubled(kind, maxsize, operations):
    async def scenario(ledger):
        await work(ledger, operations, "shutdown" if len(operations) == 2 else "cancel")

    def make():
        ledger = Ledger(kind(maxsize))
        if maxsize:
            ledger.queue.put_nowait(100)
            ledger.put_in.append(100)
        return ledger

    cancel_everywhere(scenario, Ledger.check, state=make)


@by_kind
@pytest.mark.parametrize("operations", PAIRS + TRIPLES, ids=names)
def test_in_every_order_with_a_cancellation_nothing_is_lost_or_doubled(kind, operations):
    async def scenario():
        ledger = Ledger(kind(1))
        tasks = [asyncio.create_task(operation(ledger)) for operation in (*operations, put, get)]

        async def cancel():
            tasks[0].cancel()

        canceller = asyncio.create_task(cancel())
        await asyncio.sleep(10)
        ledger.queue.shutdown()
        await asyncio.wait([*tasks, canceller])
        ledger.check()

    explore(scenario, max_schedules=400 if len(operations) == 2 else 100)


def test_items_leave_in_order_whoever_is_cancelled():
    async def scenario():
        queue, got = Queue(), []

        async def take():
            got.append(await queue.get())

        tasks = [asyncio.create_task(take()) for _ in range(3)]

        async def cancel():
            tasks[1].cancel()

        async def give():
            for number in range(3):
                await queue.put(number)

        others = [asyncio.create_task(cancel()), asyncio.create_task(give())]
        await asyncio.sleep(10)
        await asyncio.wait([*tasks, *others])
        rest = [queue.get_nowait() for _ in range(queue.qsize())]
        assert got + rest == [0, 1, 2]

    explore(scenario, max_schedules=3000)


@by_kind
def test_cancel_scopes_that_cancel_again_and_again(kind):
    anyio = pytest.importorskip("anyio")

    async def main():
        ledger = Ledger(kind(1))
        async with anyio.create_task_group() as group:
            with anyio.move_on_after(1):
                async with anyio.create_task_group() as inner:
                    for _ in range(3):
                        inner.start_soon(ledger.get)
                    inner.start_soon(ledger.put)
            with anyio.move_on_after(1):
                async with anyio.create_task_group() as inner:
                    for _ in range(3):
                        inner.start_soon(ledger.put)
            group.start_soon(ledger.get)
            group.start_soon(ledger.put)
        ledger.check()

    for seed in (None, *range(10)):
        simulate(main, seed=seed)


@pytest.mark.skipif(sys.version_info < (3, 12), reason="eager tasks came with 3.12")
@by_kind
def test_eager_tasks_lose_nothing(kind):
    async def scenario(ledger):
        asyncio.get_running_loop().set_task_factory(asyncio.eager_task_factory)
        await work(ledger, (get, put, get_in_time, put_in_time), "shutdown")

    cancel_everywhere(scenario, Ledger.check, state=lambda: Ledger(kind(1)), seeds=range(2))
