"""Time limits, functions off the loop, and maps."""

import asyncio
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from harness import case

# A limit that does not expire, on a future that another callback ends in the next iteration.

limits = case("with_timeout of a pending future", 30_000)


async def _limited(count: int, wait: Any) -> float:
    loop = asyncio.get_running_loop()
    started = time.perf_counter()
    for _ in range(count):
        future = loop.create_future()
        loop.call_soon(future.set_result, None)
        await wait(future)
    return time.perf_counter() - started


@limits.row("asyncio.wait_for")
async def _(count: int) -> float:
    return await _limited(count, lambda future: asyncio.wait_for(future, 30))


@limits.row("waterspout")
async def _(count: int) -> float:
    from waterspout.concurrent import with_timeout

    return await _limited(count, lambda future: with_timeout(30, future))


@limits.row("tornado")
async def _(count: int) -> float:
    from datetime import timedelta

    from tornado.gen import with_timeout

    limit = timedelta(seconds=30)
    return await _limited(count, lambda future: with_timeout(limit, future))


@limits.row("no limit")
async def _(count: int) -> float:
    async def wait(future: "asyncio.Future[None]") -> None:
        await future

    return await _limited(count, wait)


offloaded = case("run_on_executor on a thread", 10_000)


@offloaded.row("loop.run_in_executor")
async def _(count: int) -> float:
    loop = asyncio.get_running_loop()
    with ThreadPoolExecutor(1) as pool:
        started = time.perf_counter()
        for number in range(count):
            await loop.run_in_executor(pool, abs, number)
        return time.perf_counter() - started


@offloaded.row("waterspout")
async def _(count: int) -> float:
    from waterspout.concurrent import run_on_executor

    with ThreadPoolExecutor(1) as pool:
        function = run_on_executor(executor=pool)(abs)
        started = time.perf_counter()
        for number in range(count):
            await function(number)
        return time.perf_counter() - started


mapped = case("a map's overhead an item", 30_000)


async def _work(item: int) -> int:
    await asyncio.sleep(0)
    return item


@mapped.row("bare tasks, 100 at a time")
async def _(count: int) -> float:
    started = time.perf_counter()
    for _ in range(count // 100):
        tasks = [asyncio.create_task(_work(number)) for number in range(100)]
        for task in tasks:
            await task
    return time.perf_counter() - started


async def _map(count: int, ordered: bool) -> float:
    from waterspout.concurrent import amap

    started = time.perf_counter()
    async for _ in amap(_work, range(count), limit=100, ordered=ordered):
        pass
    return time.perf_counter() - started


@mapped.row("waterspout amap")
async def _(count: int) -> float:
    return await _map(count, True)


@mapped.row("waterspout amap, not ordered")
async def _(count: int) -> float:
    return await _map(count, False)
