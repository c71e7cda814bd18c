"""`sleep`, and executors that are given to methods."""

import asyncio
import concurrent.futures
import math

import pytest

from waterspout.concurrent import run_on_executor, sleep
from waterspout.ioloop.testing import explore


@pytest.mark.waterspout("simulated")
@pytest.mark.parametrize("duration", [None, math.inf])
async def test_for_ever(duration):
    sleeping = asyncio.create_task(sleep(duration))
    await asyncio.sleep(10**6)
    assert not sleeping.done()
    sleeping.cancel()
    with pytest.raises(asyncio.CancelledError):
        await sleeping


@pytest.mark.waterspout("simulated")
async def test_cancelled_at_the_moment_it_ends():
    sleeping = asyncio.ensure_future(sleep(5))
    asyncio.get_running_loop().call_later(5, sleeping.cancel)
    await asyncio.wait([sleeping])
    assert asyncio.get_running_loop().time() == pytest.approx(5, abs=0.01)


def test_cancelled_in_every_order_with_its_end():
    async def scenario():
        sleeping = asyncio.ensure_future(sleep(1))

        async def cancel():
            await asyncio.sleep(1)
            sleeping.cancel()

        await asyncio.wait([sleeping, asyncio.ensure_future(cancel())])

    explore(scenario, max_schedules=200)


async def test_an_executor_that_is_given_to_a_method():
    with concurrent.futures.ThreadPoolExecutor(1, thread_name_prefix="given") as pool:

        class Parser:
            executor = None

            @run_on_executor(executor=pool)
            def where(self):
                import threading

                return threading.current_thread().name

        assert (await Parser().where()).startswith("given")
