"""Many who wait: how much dearer each becomes when there are 100,000 of them, and what stays.

The growth is the time a waiter takes among 100,000 divided by what one takes among 1,000; bare
futures, whose tasks are ended in the same way, are the yardstick. Most of theirs is the garbage
collector's and the processor caches'.
"""

import asyncio
import contextlib
import gc
import time
import tracemalloc
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeAlias

from harness import case

FEW, MANY = 1_000, 100_000

Line: TypeAlias = tuple[Callable[[float | None], Coroutine[Any, Any, Any]], Callable[[int], None]]
"""How one waits, given a timeout, and how so many are woken."""


async def _await(future: Awaitable[None]) -> None:
    await future


async def _try(waiting: Coroutine[Any, Any, Any]) -> None:
    """Keep no exception, with the frames that hang on it."""
    with contextlib.suppress(TimeoutError):
        await waiting


def _expire(future: "asyncio.Future[None]") -> None:
    if not future.done():
        future.set_exception(TimeoutError())


def _bare() -> Line:
    loop = asyncio.get_running_loop()
    futures: list[asyncio.Future[None]] = []

    def wait(timeout: float | None) -> Coroutine[Any, Any, None]:
        future = loop.create_future()
        futures.append(future)
        if timeout is not None:
            loop.call_later(timeout, _expire, future)
        return _await(future)

    def wake(count: int) -> None:
        for future in futures:
            future.set_result(None)

    return wait, wake


def _event() -> Line:
    from waterspout.locks import Event

    event = Event()
    return event.wait, lambda count: event.set()


def _condition() -> Line:
    from waterspout.locks import Condition

    condition = Condition()
    return condition.wait, lambda count: condition.notify_all()


def _semaphore() -> Line:
    from waterspout.locks import Semaphore

    semaphore = Semaphore(0)

    def wake(count: int) -> None:
        for _ in range(count):
            semaphore.release()

    return semaphore.acquire, wake


def _queue() -> Line:
    from waterspout.queues import Queue

    queue: Queue[int] = Queue()

    def wake(count: int) -> None:
        for number in range(count):
            queue.put_nowait(number)

    return queue.get, wake


LINES: dict[str, Callable[[], Line]] = {
    "bare futures": _bare,
    "waterspout Event.wait": _event,
    "waterspout Condition.wait": _condition,
    "waterspout Semaphore.acquire": _semaphore,
    "waterspout Queue.get": _queue,
}


async def _seconds(make: Callable[[], Line], count: int, end: str) -> float:
    """Processor time in which so many who wait are ended."""
    wait, wake = make()
    timeout = count / 50_000 + 0.2 if end == "timed out" else None  # longer than the start takes
    tasks = [asyncio.create_task(_try(wait(timeout))) for _ in range(count)]
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    gc.collect()
    started = time.process_time()
    if end == "woken":
        wake(count)
    elif end == "cancelled":
        for task in tasks:
            task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    return (time.process_time() - started) / count


def _growth(make: Callable[[], Line], end: str) -> float:
    few = min(asyncio.run(_seconds(make, FEW, end)) for _ in range(10))
    many = min(asyncio.run(_seconds(make, MANY, end)) for _ in range(2))
    return many / few


def _kibibytes(make: Callable[[], Line], end: str) -> float:
    async def main() -> float:
        line = make()
        await _seconds(lambda: line, MANY // 5, end)  # asyncio's set of tasks stays that large
        await asyncio.sleep(0)
        tracemalloc.start()
        before, _ = tracemalloc.get_traced_memory()
        await _seconds(lambda: line, MANY // 5, end)
        await asyncio.sleep(0.3)
        gc.collect()
        after, _ = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return (after - before) / 1024

    return asyncio.run(main())


for _end in ("woken", "cancelled", "timed out"):
    _cases = (
        (case(f"100,000 waiters are {_end}", unit="growth", loops=("asyncio",)), _growth),
        (case(f"kept once 20,000 were {_end}", unit="KiB", loops=("asyncio",)), _kibibytes),
    )
    for _case, _measure in _cases:
        for _name, _make in LINES.items():
            if _make is _bare and _measure is _kibibytes:
                continue  # it holds on to its futures
            _case.row(_name)(lambda make=_make, end=_end, measure=_measure: measure(make, end))


# Kilobytes that are held after a million waits that timed out, in simulated time.

rounds = case("memory of a million short waits for a condition", unit="KiB", loops=("asyncio",))


@rounds.row("waterspout Condition.wait")
def _() -> float:
    from waterspout.ioloop.testing import simulate
    from waterspout.locks import Condition

    async def main() -> float:
        condition = Condition()

        async def wait(count: int) -> None:
            async with condition:
                for _ in range(count):
                    await condition.wait(0.001)

        await wait(1000)
        tracemalloc.start()
        before, _ = tracemalloc.get_traced_memory()
        await wait(1_000_000)
        after, _ = tracemalloc.get_traced_memory()
        return (after - before) / 1024

    return simulate(main)
