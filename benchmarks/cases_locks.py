"""Locks: held, fought over, and waited for."""

import asyncio
import time
from typing import Any

from harness import case

MODULES = {"asyncio": "asyncio", "waterspout": "waterspout.locks", "tornado": "tornado.locks"}


def _module(name: str) -> Any:
    import importlib

    return importlib.import_module(MODULES[name])


# Nobody else wants it.

held = case("async with lock", 300_000)


def _held(peer: str) -> None:
    @held.row(peer)
    async def _(count: int) -> float:
        lock = _module(peer).Lock()
        started = time.perf_counter()
        for _ in range(count):
            async with lock:
                pass
        return time.perf_counter() - started


# Two tasks that hand it to each other.

contended = case("contended lock", 50_000)


def _contended(peer: str) -> None:
    @contended.row(peer)
    async def _(count: int) -> float:
        lock = _module(peer).Lock()

        async def work() -> None:
            for _ in range(count // 2):
                async with lock:
                    await asyncio.sleep(0)

        started = time.perf_counter()
        await asyncio.gather(work(), work())
        return time.perf_counter() - started


semaphores = case("async with semaphore", 300_000)


def _semaphores(peer: str) -> None:
    @semaphores.row(peer)
    async def _(count: int) -> float:
        semaphore = _module(peer).Semaphore(3)
        started = time.perf_counter()
        for _ in range(count):
            async with semaphore:
                pass
        return time.perf_counter() - started


events = case("Event.wait when set", 300_000)


def _events(peer: str) -> None:
    @events.row(peer)
    async def _(count: int) -> float:
        event = _module(peer).Event()
        event.set()
        started = time.perf_counter()
        for _ in range(count):
            await event.wait()
        return time.perf_counter() - started


# A notification from one task to another and back.

conditions = case("condition ping-pong", 30_000)


def _conditions(peer: str) -> None:
    @conditions.row(peer)
    async def _(count: int) -> float:
        condition: Any = _module(peer).Condition()
        turn = 0

        async def play(mine: int) -> None:
            nonlocal turn
            for _ in range(count // 2):
                if peer == "tornado":  # which has no lock to it
                    while turn != mine:
                        await condition.wait()
                    turn = 1 - mine
                    condition.notify()
                else:
                    async with condition:
                        while turn != mine:
                            await condition.wait()
                        turn = 1 - mine
                        condition.notify()

        started = time.perf_counter()
        await asyncio.gather(play(0), play(1))
        return time.perf_counter() - started


for _peer in MODULES:
    for _add in (_held, _contended, _semaphores, _events, _conditions):
        _add(_peer)
