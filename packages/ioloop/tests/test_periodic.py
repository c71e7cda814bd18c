"""`PeriodicCallback`, on a clock that jumps."""

import asyncio
import contextvars
import os
import sys
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from waterspout.ioloop import IOLoop, PeriodicCallback
from waterspout.ioloop.testing import no_reference_cycles, simulate

pytestmark = pytest.mark.waterspout("simulated")


class Ticks:
    """Notes when it was called, in seconds since it was made."""

    def __init__(self):
        self.clock = IOLoop.current().time
        self.start = self.clock()
        self.seen = []

    def __call__(self):
        self.seen.append(round(self.clock() - self.start, 6))


async def test_it_ticks_on_its_grid():
    ticks = Ticks()
    periodic = PeriodicCallback(ticks, 100)
    assert not periodic.is_running()
    periodic.start()
    periodic.start()  # twice is harmless
    assert periodic.is_running()
    assert "running every 0.1 s" in repr(periodic)
    await asyncio.sleep(0.55)
    periodic.stop()
    periodic.stop()
    assert not periodic.is_running()
    await asyncio.sleep(1)
    assert ticks.seen == [0.1, 0.2, 0.3, 0.4, 0.5]


async def test_a_timedelta_will_do():
    ticks = Ticks()
    periodic = PeriodicCallback(ticks, timedelta(hours=1))
    assert periodic.callback_time == 3_600_000
    periodic.start()
    await asyncio.sleep(7201)
    periodic.stop()
    assert ticks.seen == [3600, 7200]


async def test_lateness_does_not_add_up_and_missed_ticks_are_skipped():
    ticks, loop = Ticks(), asyncio.get_running_loop()
    blocked = iter([0.03, 0.0, 0.35, 0.0])

    def callback():
        ticks()
        loop.advance(next(blocked, 0.0))

    periodic = PeriodicCallback(callback, 100)
    periodic.start()
    await asyncio.sleep(0.95)
    periodic.stop()
    assert ticks.seen == [0.1, 0.2, 0.3, 0.7, 0.8, 0.9]


async def test_a_coroutine_never_overlaps_itself():
    ticks, running = Ticks(), 0

    async def callback():
        nonlocal running
        ticks()
        running += 1
        assert running == 1
        await asyncio.sleep(0.25)
        running -= 1

    periodic = PeriodicCallback(callback, 100)
    periodic.start()
    await asyncio.sleep(0.95)
    periodic.stop()
    assert ticks.seen == [0.1, 0.4, 0.7]
    await asyncio.sleep(0.1)  # the last one runs to its end
    assert running == 0


async def test_not_even_when_it_is_stopped_and_started_again():
    ticks = Ticks()

    async def callback():
        ticks()
        await asyncio.sleep(0.25)

    periodic = PeriodicCallback(callback, 100)
    periodic.start()
    await asyncio.sleep(0.15)
    periodic.stop()
    periodic.start()
    await asyncio.sleep(0.35)
    periodic.stop()
    await asyncio.sleep(1)
    assert ticks.seen == [0.1, 0.45]


async def test_errors_are_reported_and_the_next_tick_comes():
    ticks, reports = Ticks(), []
    asyncio.get_running_loop().set_exception_handler(
        lambda _, context: reports.append(type(context["exception"]))
    )

    def fail():
        ticks()
        raise LookupError

    async def fail_later():
        ticks()
        await asyncio.sleep(0.01)
        raise KeyError

    for callback in (fail, fail_later):
        periodic = PeriodicCallback(callback, 100)
        periodic.start()
        await asyncio.sleep(0.25)
        periodic.stop()
    assert reports == [LookupError, LookupError, KeyError, KeyError]
    assert len(ticks.seen) == 4


async def test_it_can_stop_itself():
    ticks = Ticks()

    def callback():
        ticks()
        periodic.stop()

    periodic = PeriodicCallback(callback, 100)
    periodic.start()
    await asyncio.sleep(1)
    assert ticks.seen == [0.1]
    assert not periodic.is_running()


async def test_it_can_start_itself_anew():
    ticks = Ticks()

    def callback():
        ticks()
        asyncio.get_running_loop().advance(0.05)
        periodic.stop()
        periodic.start()

    periodic = PeriodicCallback(callback, 100)
    periodic.start()
    await asyncio.sleep(0.5)
    periodic.stop()
    assert ticks.seen == [0.1, 0.25, 0.4]


async def test_a_clock_that_goes_back_does_no_harm():
    ticks, loop = Ticks(), asyncio.get_running_loop()

    def callback():
        ticks()
        if len(ticks.seen) == 2:
            loop._now -= 0.15

    periodic = PeriodicCallback(callback, 100)
    periodic.start()
    await asyncio.sleep(0.45)
    periodic.stop()
    assert ticks.seen == [0.1, 0.2, 0.3, 0.4]


@given(jitter=st.floats(0, 1), seconds=st.floats(0.01, 100))
def test_jitter_stays_near_the_grid_and_never_drifts(jitter, seconds):
    async def main():
        ticks = Ticks()
        periodic = PeriodicCallback(ticks, seconds * 1000, jitter=jitter)
        periodic.start()
        await asyncio.sleep(seconds * 10.9)
        periodic.stop()
        assert len(ticks.seen) in (10, 11)
        for number, seen in enumerate(ticks.seen, 1):
            assert abs(seen / seconds - number) <= jitter / 2 + 0.001

    simulate(main)


@pytest.mark.waterspout("simulated", real_wait=10)
async def test_it_runs_on_the_loop_that_it_is_given():
    ran = asyncio.Event()
    loop = IOLoop.current()

    def elsewhere():
        periodic = PeriodicCallback(ran.set, 10, loop)
        with pytest.raises(RuntimeError, match="no event loop is running"):
            PeriodicCallback(ran.set, 10).start()
        return periodic

    periodic = await asyncio.to_thread(elsewhere)
    periodic.start()
    await ran.wait()
    periodic.stop()


async def test_an_assigned_period_counts_from_the_last_tick():
    ticks = Ticks()
    periodic = PeriodicCallback(ticks, 100)
    periodic.start()
    await asyncio.sleep(0.25)
    periodic.callback_time = 1000
    assert periodic.callback_time == 1000
    assert "every 1.0 s" in repr(periodic)
    await asyncio.sleep(3)  # until 3.25
    periodic.callback_time = timedelta(milliseconds=100)
    await asyncio.sleep(0.2)
    periodic.stop()
    # The last tick was at 2.2. On a grid of 0.1 from there, 3.3 is the first place after 3.25.
    assert ticks.seen == [0.1, 0.2, 1.2, 2.2, 3.2, 3.3, 3.4]


async def test_a_period_can_be_assigned_before_the_first_tick_and_while_it_is_stopped():
    ticks = Ticks()
    periodic = PeriodicCallback(ticks, 100)
    periodic.callback_time = 3_600_000
    periodic.start()
    await asyncio.sleep(10)
    periodic.callback_time = 15_000
    await asyncio.sleep(6)
    periodic.stop()
    assert ticks.seen == [15]
    periodic.callback_time = 1000
    await asyncio.sleep(4)
    assert ticks.seen == [15]
    periodic.start()  # at 20
    await asyncio.sleep(2.5)
    periodic.stop()
    assert ticks.seen == [15, 21, 22]


@pytest.mark.parametrize("is_coroutine", [False, True])
async def test_a_callback_can_assign_its_period(is_coroutine):
    ticks = Ticks()
    periods = iter([300, 300, 50])

    def assign():
        ticks()
        periodic.callback_time = next(periods, 50)

    async def assign_later():
        await asyncio.sleep(0)
        assign()

    periodic = PeriodicCallback(assign_later if is_coroutine else assign, 100)
    periodic.start()
    await asyncio.sleep(0.825)
    periodic.stop()
    assert ticks.seen == [0.1, 0.4, 0.7, 0.75, 0.8]


async def test_a_callback_that_takes_long_skips_ticks_of_the_period_it_assigns():
    ticks, loop = Ticks(), asyncio.get_running_loop()

    def callback():
        ticks()
        periodic.callback_time = 10
        loop.advance(0.055)

    periodic = PeriodicCallback(callback, 100)
    periodic.start()
    await asyncio.sleep(0.23)
    periodic.stop()
    assert ticks.seen == [0.1, 0.16, 0.22]


async def test_a_callback_can_start_anew_with_another_period():
    ticks = Ticks()

    def callback():
        ticks()
        if len(ticks.seen) == 1:
            periodic.stop()
            periodic.start()
            periodic.callback_time = 50

    periodic = PeriodicCallback(callback, 100)
    periodic.start()
    await asyncio.sleep(0.225)
    periodic.stop()
    assert ticks.seen == [0.1, 0.15, 0.2]


async def test_assigning_the_same_or_ever_other_periods_delays_no_tick():
    ticks = Ticks()
    periodic = PeriodicCallback(ticks, 100)
    periodic.start()
    for _ in range(10):
        await asyncio.sleep(0.03)
        periodic.callback_time = 100
    for count in range(10):
        await asyncio.sleep(0.03)
        periodic.callback_time = 100 + count % 2
    periodic.stop()
    assert len(ticks.seen) == 5


async def test_what_was_given_can_be_read_and_assigned():
    seen, loop = [], IOLoop.current()
    periodic = PeriodicCallback(lambda: seen.append(1), 100, jitter=0.5)
    assert periodic.io_loop is None
    periodic.start()
    assert periodic.io_loop is loop
    await asyncio.sleep(0.15)
    assert periodic.jitter == 0.5
    periodic.callback, periodic.jitter = (lambda: seen.append(2)), 0
    assert periodic.callback() is None
    await asyncio.sleep(0.1)
    periodic.stop()
    assert seen == [1, 2, 2]
    assert PeriodicCallback(print, 1, loop).io_loop is loop
    with pytest.raises(AttributeError):
        periodic.io_loop = loop
    with pytest.raises(TypeError, match="callback must be callable"):
        periodic.callback = None
    with pytest.raises(TypeError, match="jitter must be a number"):
        periodic.jitter = "1"
    with pytest.raises(ValueError, match="jitter must be from 0 to 1"):
        periodic.jitter = 2
    for bad, error in ((0, ValueError), (float("nan"), ValueError), ("1", TypeError)):
        with pytest.raises(error, match="callback_time must be"):
            periodic.callback_time = bad
    assert (periodic.callback_time, periodic.jitter) == (100, 0)


def test_a_period_can_be_assigned_when_the_loop_is_closed():
    async def main():
        periodic = PeriodicCallback(print, 1000)
        periodic.start()
        return periodic

    periodic = simulate(main)
    periodic.callback_time = 5
    assert periodic.callback_time == 5


async def test_bad_arguments_are_refused():
    for bad in (0, -1, float("inf"), float("nan"), 1e-320, 10**400, timedelta(0), timedelta(4000)):
        with pytest.raises(ValueError, match="callback_time must be positive"):
            PeriodicCallback(print, bad)
    with pytest.raises(TypeError, match="callback_time must be milliseconds"):
        PeriodicCallback(print, "1")
    with pytest.raises(TypeError, match="callback must be callable"):
        PeriodicCallback(None, 1)
    with pytest.raises(TypeError, match="io_loop must be a Scheduler"):
        PeriodicCallback(print, 1, asyncio.get_running_loop())
    with pytest.raises(TypeError, match="jitter must be a number"):
        PeriodicCallback(print, 1, jitter="1")
    for bad in (-0.1, 1.1, float("nan")):
        with pytest.raises(ValueError, match="jitter must be from 0 to 1"):
            PeriodicCallback(print, 1, jitter=bad)


def test_it_can_be_started_in_one_loop_after_another():
    ticked = []

    async def tick():
        ticked.append(True)
        await asyncio.sleep(1000)

    periodic = PeriodicCallback(tick, 100)

    async def main():
        periodic.start()
        assert periodic.is_running()
        await asyncio.sleep(0.15)

    for count in (1, 2):
        _run_and_leave(main)
        assert not periodic.is_running()
        assert len(ticked) == count


def _run_and_leave(main):
    """Run on a loop of its own and close that, with tasks left to be cancelled."""
    loop = IOLoop(make_current=False)
    loop.run_sync(main)
    loop.close()


@pytest.mark.waterspout("simulated", real_wait=10)
async def test_a_tick_that_never_came_to_run_does_not_keep_others_from_it():
    ticked, periodic = [], None

    async def tick():
        ticked.append(True)

    def stopping():
        periodic.stop()
        asyncio.get_running_loop().stop()
        return tick()

    def run():
        nonlocal periodic
        loop = IOLoop(make_current=False)
        periodic = PeriodicCallback(stopping, 1)
        loop.add_callback(periodic.start)
        loop.asyncio_loop.run_forever()
        loop.close()
        assert ticked == []
        periodic._callback = tick
        loop = IOLoop(make_current=False)
        loop.add_callback(periodic.start)
        loop.call_later(0.05, loop.stop)
        loop.start()
        periodic.stop()
        loop.close()

    await asyncio.to_thread(run)
    assert ticked


async def test_each_tick_runs_in_the_context_of_start():
    variable = contextvars.ContextVar("variable", default=0)
    seen = []

    def tick():
        seen.append(variable.get())
        variable.set(variable.get() + 1)

    variable.set(5)
    periodic = PeriodicCallback(tick, 100)
    periodic.start()
    variable.set(7)
    await asyncio.sleep(0.35)
    periodic.stop()
    assert seen == [5, 5, 5]


@pytest.mark.skipif(
    sys.version_info < (3, 14) and os.environ.get("WATERSPOUT_TASKS") == "eager",
    reason="before 3.14, an exception keeps the callers of a task that starts eagerly",
)
@pytest.mark.waterspout("asyncio")
async def test_failed_ticks_leave_no_cycles():
    async def fails():
        ended.set()
        raise ZeroDivisionError

    async def main():
        periodic = PeriodicCallback(fails, 1)
        periodic.start()
        await ended.wait()
        periodic.stop()
        await asyncio.sleep(0)
        await asyncio.sleep(0)

    asyncio.get_running_loop().set_exception_handler(lambda *_: None)
    ended = asyncio.Event()
    await main()
    ended.clear()
    with no_reference_cycles():
        await main()


@pytest.mark.parametrize("error", [SystemExit, KeyboardInterrupt])
def test_a_callback_that_ends_the_program_does_not_tick_again(error):
    ended, ticks = [], []

    async def works():
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0.03)
            ended.append(True)

    def leave():
        ticks.append(1)
        raise error

    async def main():
        task = asyncio.ensure_future(works())
        await asyncio.sleep(0)
        PeriodicCallback(leave, 5).start()
        await task

    with pytest.raises(error):
        asyncio.run(main())
    assert (ended, ticks) == ([True], [1])


@pytest.mark.parametrize("period", [-(10**400), 10**400])
def test_a_period_beyond_any_float_is_a_value_error(period):
    with pytest.raises(ValueError, match="callback_time must be positive"):
        PeriodicCallback(print, period)
