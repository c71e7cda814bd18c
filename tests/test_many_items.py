"""Two million items through one queue, between eight threads and a loop."""

import asyncio
import random
import threading

import pytest

from waterspout.queues import Queue, QueueShutDown

ITEMS = 2_000_000


@pytest.mark.slow
def test_eight_threads_and_a_loop_lose_nothing():
    """Counted and checksummed, with timeouts, cancellations, and a shutdown at any moment."""

    async def main():
        queue = Queue(1000)
        side = queue.threadside
        put, got = [], []

        def produce(seed):
            dice, count, total = random.Random(seed), 0, 0
            for number in range(seed, ITEMS, 4):
                while True:
                    try:
                        side.put(number, None if dice.random() < 0.99 else 0)
                        break
                    except TimeoutError:
                        pass
                    except QueueShutDown:
                        put.append((count, total))
                        return
                count += 1
                total += number
            put.append((count, total))

        def consume(seed):
            dice, count, total = random.Random(seed), 0, 0
            while True:
                try:
                    total += side.get(None if dice.random() < 0.99 else 0)
                    count += 1
                except TimeoutError:
                    pass
                except QueueShutDown:
                    got.append((count, total))
                    return

        async def consume_in_task():
            count, total = 0, 0
            while True:
                getting = asyncio.ensure_future(queue.get_many())
                await asyncio.sleep(0)
                getting.cancel()
                try:
                    items = await getting
                except asyncio.CancelledError:
                    continue
                except QueueShutDown:
                    got.append((count, total))
                    return
                count += len(items)
                total += sum(items)

        producers = [threading.Thread(target=produce, args=(seed,)) for seed in range(4)]
        consumers = [threading.Thread(target=consume, args=(seed,)) for seed in range(4)]
        task = asyncio.ensure_future(consume_in_task())
        for thread in producers + consumers:
            thread.start()
        for thread in producers:
            await asyncio.to_thread(thread.join)
        queue.shutdown()
        await task
        for thread in consumers:
            await asyncio.to_thread(thread.join)
        assert sum(count for count, _ in got) == sum(count for count, _ in put) == ITEMS
        assert sum(total for _, total in got) == sum(total for _, total in put)

    asyncio.run(main())


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(5))
def test_a_shutdown_at_any_moment_loses_nothing(seed):
    async def main():
        queue = Queue(10)
        side = queue.threadside
        put, got = [], []

        def produce(first):
            for number in range(first, 10**9, 4):
                try:
                    side.put(number)
                except QueueShutDown:
                    return
                put.append(number)

        threads = [threading.Thread(target=produce, args=(first,)) for first in range(4)]
        threads += [threading.Thread(target=lambda: got.extend(side)) for _ in range(4)]
        for thread in threads:
            thread.start()
        while len(put) < random.Random(seed).randrange(2000):
            got.append(await queue.get())
        queue.shutdown()
        got.extend([item async for item in queue])
        for thread in threads:
            await asyncio.to_thread(thread.join)
        assert sorted(got) == sorted(put)

    asyncio.run(main())
