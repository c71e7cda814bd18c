"""Queues: filled and emptied, and handed across."""

import asyncio
import importlib
import time
from typing import Any

from harness import case

MODULES = {"asyncio": "asyncio", "waterspout": "waterspout.queues", "tornado": "tornado.queues"}


def _queue(peer: str, *args: int) -> Any:
    return importlib.import_module(MODULES[peer]).Queue(*args)


# A hundred in, a hundred out; nobody waits.

filled = case("queue of 100, put and get", 200_000)


def _filled(peer: str) -> None:
    @filled.row(peer)
    async def _(count: int) -> float:
        queue = _queue(peer, 100)
        started = time.perf_counter()
        for _ in range(count // 100):
            for number in range(100):
                await queue.put(number)
            for _ in range(100):
                await queue.get()
        return time.perf_counter() - started


nowait = case("put_nowait and get_nowait", 200_000)


def _nowait(peer: str) -> None:
    @nowait.row(peer)
    async def _(count: int) -> float:
        queue = _queue(peer, 100)
        started = time.perf_counter()
        for _ in range(count // 100):
            for number in range(100):
                queue.put_nowait(number)
            for _ in range(100):
                queue.get_nowait()
        return time.perf_counter() - started


# One task asks, the other answers.

pingpong = case("queue ping-pong", 30_000)


def _pingpong(peer: str) -> None:
    @pingpong.row(peer)
    async def _(count: int) -> float:
        there, back = _queue(peer), _queue(peer)

        async def answer() -> None:
            for _ in range(count):
                await back.put(await there.get())

        task = asyncio.ensure_future(answer())
        started = time.perf_counter()
        for number in range(count):
            await there.put(number)
            await back.get()
        elapsed = time.perf_counter() - started
        await task
        return elapsed


# A producer that is held back by a consumer, one place at a time.

tight = case("queue of 1, producer and consumer", 50_000)


def _tight(peer: str) -> None:
    @tight.row(peer)
    async def _(count: int) -> float:
        queue = _queue(peer, 1)

        async def produce() -> None:
            for number in range(count):
                await queue.put(number)

        task = asyncio.ensure_future(produce())
        started = time.perf_counter()
        for _ in range(count):
            await queue.get()
        elapsed = time.perf_counter() - started
        await task
        return elapsed


for _peer in MODULES:
    for _add in (_filled, _nowait, _pingpong, _tight):
        _add(_peer)
