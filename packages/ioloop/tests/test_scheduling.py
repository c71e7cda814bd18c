"""The abstract interface: what is derived, which scheduler is current, and what a timeout is."""

import asyncio
import math
import subprocess
import sys
import time
from datetime import timedelta
from decimal import Decimal
from fractions import Fraction

import pytest

from waterspout.ioloop import IOLoop, PeriodicCallback
from waterspout.ioloop.scheduling import (
    Reactor,
    Scheduler,
    WaitQueue,
    current_scheduler,
    deadline_after,
    register_scheduler,
    time_limit,
    timeout_seconds,
)


class Borrowed(Scheduler):
    """A third party's scheduler: the abstract methods and nothing else."""

    def __init__(self, loop):
        self.loop = loop

    def time(self):
        return self.loop.time()

    def add_callback(self, callback, *args, **kwargs):
        self.loop.call_soon_threadsafe(lambda: callback(*args, **kwargs))

    def call_at(self, when, callback, *args, **kwargs):
        return self.loop.call_at(when, lambda: callback(*args, **kwargs))

    def remove_timeout(self, timeout):
        timeout.cancel()

    def create_future(self):
        return self.loop.create_future()

    def run_in_executor(self, executor, func, *args):
        return self.loop.run_in_executor(executor, func, *args)


virtual = pytest.mark.waterspout("simulated")


@virtual
async def test_few_methods_make_a_scheduler():
    loop = asyncio.get_running_loop()
    scheduler, seen = Borrowed(loop), []
    start = loop.time()

    def note(name, *, key):
        seen.append((name, key, round(loop.time() - start, 3)))

    scheduler.call_later(1, note, "later", key=1)
    scheduler.call_later(timedelta(seconds=2), note, "later", key=2)
    scheduler.add_timeout(start + 3, note, "timeout", key=3)
    scheduler.add_timeout(timedelta(seconds=4), note, "timeout", key=4)
    scheduler.spawn_callback(note, "spawned", key=0)
    future = scheduler.create_future()
    scheduler.add_future(future, lambda done: note(done.result(), key=0))
    future.set_result("future")
    scheduler.remove_timeout(scheduler.call_later(1, note, "never", key=0))
    await asyncio.sleep(5)
    assert seen == [
        ("spawned", 0, 0.0),
        ("future", 0, 0.0),
        ("later", 1, 1.0),
        ("later", 2, 2.0),
        ("timeout", 3, 3.0),
        ("timeout", 4, 4.0),
    ]
    with pytest.raises(TypeError, match="future must be a Future"):
        scheduler.add_future(None, print)
    with pytest.raises(TypeError, match="callback must be callable"):
        scheduler.add_future(future, None)
    for bad in ("1", None):
        with pytest.raises(TypeError, match="delay must be"):
            scheduler.call_later(bad, print)


def test_the_interfaces_are_abstract():
    for abstract in (Scheduler, Reactor):
        with pytest.raises(TypeError, match="abstract"):
            abstract()
    assert issubclass(IOLoop, Reactor)


async def test_current_scheduler_works_under_a_plain_asyncio_run():
    assert current_scheduler() is IOLoop.current()


def test_without_a_running_loop_it_is_the_threads_ioloop():
    with pytest.raises(RuntimeError, match="no event loop is running"):
        current_scheduler()
    loop = IOLoop()
    assert current_scheduler() is loop
    loop.close()
    with pytest.raises(RuntimeError, match="no event loop is running"):
        current_scheduler()


@virtual
async def test_a_registered_scheduler_is_the_current_one():
    loop = asyncio.get_running_loop()
    mine = Borrowed(loop)
    register_scheduler(loop, mine)
    register_scheduler(loop, mine)  # again is harmless
    assert current_scheduler() is mine
    with pytest.raises(RuntimeError, match="has a scheduler already"):
        register_scheduler(loop, Borrowed(loop))
    # The loop's IOLoop is another matter, and what stands on schedulers works on this one.
    assert IOLoop.current().asyncio_loop is loop
    assert current_scheduler() is mine
    ticked = asyncio.Event()
    periodic = PeriodicCallback(ticked.set, 100)
    periodic.start()
    await ticked.wait()
    periodic.stop()
    with pytest.raises(TimeoutError):
        await WaitQueue().wait(1)


async def test_register_scheduler_refuses_bad_arguments():
    with pytest.raises(TypeError, match="loop must be"):
        register_scheduler(None, IOLoop.current())
    with pytest.raises(TypeError, match="scheduler must be"):
        register_scheduler(asyncio.get_running_loop(), None)


@pytest.mark.parametrize(
    ("timeout", "seconds"),
    [
        (None, None),
        (math.inf, None),
        (0, 0.0),
        (-1, -1.0),
        (Fraction(1, 2), 0.5),
        (timedelta(minutes=1), 60.0),
        (10 * 365.25 * 86400, 10 * 365.25 * 86400.0),
        (timedelta(days=3652), 3652 * 86400.0),
        (timedelta(days=3653), None),
        (timedelta.max, None),
        (timedelta.min, timedelta.min.total_seconds()),
    ],
)
def test_timeouts_in_seconds(timeout, seconds):
    assert timeout_seconds(timeout) == seconds


def test_bad_timeouts_are_refused_by_name():
    for bad in ("1", b"1", [1], object()):
        with pytest.raises(TypeError, match="patience must be seconds, a timedelta or None"):
            timeout_seconds(bad, "patience")
    with pytest.raises(ValueError, match="patience must not be NaN"):
        timeout_seconds(math.nan, "patience")
    with pytest.raises(ValueError, match="patience is too large: 1000"):
        timeout_seconds(10**400, "patience")


@pytest.mark.parametrize(
    "number", [time.time() + 5, int(time.time()), Fraction(10**10), Decimal(10**10), 3.2e8]
)
def test_a_number_over_ten_years_is_a_wall_clock_deadline_by_mistake(number):
    with pytest.raises(ValueError, match=r"patience=.* looks like a wall-clock deadline"):
        timeout_seconds(number, "patience")
    with pytest.raises(ValueError, match=r"patience=.* looks like a wall-clock deadline"):
        deadline_after(number, 100.0, "patience")


def test_deadlines():
    assert deadline_after(2, 100.0) == 102.0
    assert deadline_after(-2, 100.0) == 98.0
    ten_years = deadline_after(None, 100.0)
    assert ten_years == deadline_after(math.inf, 100.0) == deadline_after(timedelta.max, 100.0)
    assert 9.9 < (ten_years - 100) / 86400 / 365 < 10.1


@virtual
async def test_time_limit_cancels_what_is_inside():
    with pytest.raises(TimeoutError):
        with time_limit(10):
            await asyncio.sleep(20)
    with time_limit(10):
        await asyncio.sleep(5)
    with time_limit(None):
        await asyncio.sleep(1000)
    assert asyncio.current_task().cancelling() == 0
    await asyncio.sleep(100)  # no timer is left to cancel it


@virtual
async def test_time_limit_lets_the_block_end_well_all_the_same():
    with time_limit(1):
        try:
            await asyncio.sleep(2)
        except asyncio.CancelledError:
            await asyncio.sleep(2)
    assert asyncio.current_task().cancelling() == 0


@virtual
@pytest.mark.parametrize("moment", [0.5, 1.0, 1.5])
async def test_time_limit_never_takes_a_cancellation_for_its_own(moment):
    async def main():
        with time_limit(1):
            try:
                await asyncio.sleep(5)
            finally:
                await asyncio.sleep(1)

    task = asyncio.create_task(main())
    await asyncio.sleep(0)
    asyncio.get_running_loop().call_later(moment, task.cancel)
    with pytest.raises(asyncio.CancelledError):
        await task
    assert task.cancelled()


@virtual
async def test_time_limits_nest():
    with pytest.raises(TimeoutError):
        with time_limit(1):
            try:
                with time_limit(2):
                    await asyncio.sleep(5)
            except TimeoutError:
                pytest.fail("the inner limit has not passed")
    with pytest.raises(LookupError):
        with time_limit(1):
            raise LookupError


def test_time_limit_lets_go_also_when_its_coroutine_is_closed():
    loop = IOLoop()

    async def limited():
        with time_limit(5):
            await asyncio.Event().wait()

    coroutine = limited()

    async def begin():
        asyncio.current_task()
        coroutine.send(None)

    loop.run_sync(begin)
    coroutine.close()
    assert len(loop._alarm.timers) == 0
    loop.close()


async def test_time_limit_refuses_bad_arguments_and_a_second_entry():
    with pytest.raises(TypeError, match="seconds must be seconds"):
        time_limit("x")
    with pytest.raises(ValueError, match="seconds must not be NaN"):
        time_limit(math.nan)
    limit = time_limit(timedelta(seconds=5))
    with limit:
        pass
    with pytest.raises(RuntimeError, match="only once"):
        with limit:
            pass


async def test_time_limit_needs_a_task():
    outcome = asyncio.get_running_loop().create_future()

    def callback():
        try:
            with time_limit(1):
                pass
        except RuntimeError as error:
            outcome.set_result(str(error))

    asyncio.get_running_loop().call_soon(callback)
    assert "inside a task" in await outcome


def test_import_has_no_side_effects():
    code = """
import asyncio, sys, threading, warnings
import waterspout.ioloop, waterspout.ioloop.scheduling
assert threading.active_count() == 1
policy = asyncio.events._event_loop_policy
assert policy is None, policy
assert "uvloop" not in sys.modules
import logging
assert not logging.getLogger().handlers
"""
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True)


def test_numbers_beyond_any_float():
    assert timeout_seconds(-(10**400), "patience") == -math.inf
    with pytest.raises(ValueError, match="patience is too large$"):
        timeout_seconds(10**6000, "patience")
