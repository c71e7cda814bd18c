"""Timers: order, clocks, removal, and a heap that stays small."""

import asyncio
import math
import sys
import time
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from waterspout.ioloop import IOLoop
from waterspout.ioloop._timers import Timers
from waterspout.ioloop.testing import DeadlockError, simulate

virtual = pytest.mark.waterspout("simulated")
everywhere = pytest.mark.waterspout("asyncio", "uvloop", "threaded", "simulated")


@everywhere
async def test_timers_run_by_deadline_then_by_creation():
    loop, seen = IOLoop.current(), []
    now = loop.time()
    for name, delay in [("c", 0.02), ("a", 0.01), ("d", 0.02), ("b", 0.01), ("past", -1.0)]:
        loop.call_at(now + delay, seen.append, name)
    while len(seen) < 5:
        await asyncio.sleep(0.01)
    assert seen == ["past", "a", "b", "c", "d"]


@everywhere
async def test_a_timer_does_not_run_before_its_deadline():
    loop = IOLoop.current()
    when = loop.time() + 0.0105
    ran = asyncio.get_running_loop().create_future()
    loop.call_at(when, lambda: ran.set_result(loop.time()))
    resolution = time.get_clock_info("monotonic").resolution
    assert await ran >= when - resolution


@virtual
async def test_the_ways_to_say_when():
    loop, seen = IOLoop.current(), []
    start = loop.time()

    def note(name, *, key):
        seen.append((name, key, loop.time() - start))

    loop.call_at(start + 1, note, "at", key=1)
    loop.call_later(2, note, "later", key=2)
    loop.call_later(timedelta(seconds=3), note, "later, timedelta", key=3)
    loop.add_timeout(start + 4, note, "timeout", key=4)
    loop.add_timeout(timedelta(seconds=5), note, "timeout, timedelta", key=5)
    await asyncio.sleep(6)
    assert [(name, key) for name, key, _ in seen] == [
        ("at", 1),
        ("later", 2),
        ("later, timedelta", 3),
        ("timeout", 4),
        ("timeout, timedelta", 5),
    ]
    assert [when for _, _, when in seen] == pytest.approx([1, 2, 3, 4, 5])


@virtual
async def test_a_removed_timer_never_runs_and_others_do():
    loop, seen = IOLoop.current(), []
    handles = [loop.call_later(number, seen.append, number) for number in range(1, 5)]
    loop.remove_timeout(handles[0])
    loop.remove_timeout(handles[2])
    loop.remove_timeout(handles[2])  # twice is harmless
    await asyncio.sleep(10)
    assert seen == [2, 4]
    loop.remove_timeout(handles[1])  # so is one that ran
    assert "done" in repr(handles[1])


@virtual
async def test_a_timer_can_remove_and_add_others_as_it_runs():
    loop, seen = IOLoop.current(), []
    start = loop.time()

    def first():
        loop.remove_timeout(second)
        loop.call_at(start + 0.5, seen.append, "overdue")
        loop.call_at(start + 1, seen.append, "same")
        seen.append("first")

    loop.call_at(start + 1, first)
    second = loop.call_at(start + 1, seen.append, "second")
    await asyncio.sleep(2)
    assert seen == ["first", "overdue", "same"]


async def test_a_timer_that_sets_itself_again_does_not_starve_the_loop():
    loop, count = IOLoop.current(), 0

    def again():
        nonlocal count
        count += 1
        loop.call_later(0, again) if count < 10_000 else None

    again()
    await asyncio.sleep(0.001)
    assert count < 10_000
    count = 10_000
    await asyncio.sleep(0.005)


def test_timers_that_are_due_survive_an_exit():
    loop, seen = IOLoop(), []

    def leave():
        raise KeyboardInterrupt

    loop.call_later(0, leave)
    loop.call_later(0, seen.append, 1)
    loop.call_later(0.001, loop.asyncio_loop.stop)
    with pytest.raises(KeyboardInterrupt):
        loop.asyncio_loop.run_forever()
    assert seen == []
    loop.start()
    assert seen == [1]
    loop.close()


@virtual
async def test_a_coroutine_function_becomes_a_task():
    done = asyncio.Event()

    async def work():
        await asyncio.sleep(0)
        done.set()

    IOLoop.current().call_later(3600, work)
    await done.wait()


@virtual
async def test_what_never_comes_is_no_error():
    loop = IOLoop.current()
    handles = [
        loop.call_later(math.inf, print),
        loop.call_later(timedelta.max, print),
        loop.call_at(math.inf, print),
    ]
    await asyncio.sleep(3600 * 24 * 365)
    for handle in handles:
        loop.remove_timeout(handle)


@virtual
async def test_what_never_comes_does_not_come_in_eleven_years_either():
    loop, ran = IOLoop.current(), []
    late = timedelta(days=3653)
    handles = [
        loop.call_later(late, ran.append, 1),
        loop.call_later(math.inf, ran.append, 2),
        loop.add_timeout(late, ran.append, 3),
        loop.add_timeout(math.inf, ran.append, 4),
        loop.call_at(math.inf, ran.append, 5),
    ]
    loop.call_later(timedelta(days=3652), ran.append, "in time")
    await asyncio.sleep(11 * 366 * 86400)
    assert ran == ["in time"]
    for handle in handles:
        loop.remove_timeout(handle)


def test_a_timer_that_never_comes_is_no_way_out_of_a_deadlock():
    async def main():
        future = asyncio.get_running_loop().create_future()
        IOLoop.current().call_later(timedelta.max, future.set_result, None)
        await future

    with pytest.raises(DeadlockError):
        simulate(main)


async def test_a_timer_makes_the_loop_turn_a_few_times_only():
    """uvloop may ring early; that must not make it ring again and again until it is time."""
    loop = IOLoop.current()
    rings, real = 0, loop._alarm._ring

    def ring():
        nonlocal rings
        rings += 1
        real()

    type(loop._alarm)._ring, original = lambda self: ring(), type(loop._alarm)._ring
    try:
        for number in range(20):
            done = asyncio.Event()
            loop.call_later(0.0014 + number * 1e-5, done.set)
            await done.wait()
    finally:
        type(loop._alarm)._ring = original
    assert rings <= 60


async def test_bad_times_are_refused():
    loop = IOLoop.current()
    with pytest.raises(ValueError, match=r"when=.* lies more than ten years ahead .*time\.time"):
        loop.call_at(loop.time() + 11 * 365 * 86400, print)
    with pytest.raises(ValueError, match=r"deadline=.* lies more than ten years ahead"):
        loop.add_timeout(loop.time() + 11 * 365 * 86400, print)
    with pytest.raises(ValueError, match="when must not be NaN"):
        loop.call_at(math.nan, print)
    with pytest.raises(ValueError, match="delay must not be NaN"):
        loop.call_later(math.nan, print)
    with pytest.raises(ValueError, match=r"delay=.* looks like a wall-clock deadline"):
        loop.call_later(time.time() + 5, print)
    for bad in ("1", None, b"1", [1]):
        with pytest.raises(TypeError, match="when must be a number"):
            loop.call_at(bad, print)
    for bad in ("1", None):
        with pytest.raises(TypeError, match="delay must be seconds"):
            loop.call_later(bad, print)
    with pytest.raises(ValueError, match="delay is too large"):
        loop.call_later(10**400, print)
    with pytest.raises(ValueError, match="when is too large"):
        loop.call_at(10**400, print)
    with pytest.raises(TypeError, match="callback must be callable"):
        loop.call_later(1, None)
    with pytest.raises(TypeError, match="timeout must be what call_at"):
        loop.remove_timeout(None)


def test_a_million_removed_timers_leave_nothing():
    loop = IOLoop()
    timers = loop._alarm.timers
    keep = loop.call_later(3600, print)
    sizes = set()
    for number in range(100_000):
        loop.remove_timeout(loop.call_later(10 + number % 50, print))
        sizes.add(len(timers._heap))
    assert max(sizes) < 200
    assert len(timers) == 1
    loop.remove_timeout(keep)
    loop.close()


def test_a_removed_timer_lets_go_of_what_it_held():
    class Thing:
        pass

    loop, thing = IOLoop(), Thing()
    before = sys.getrefcount(thing)
    handle = loop.call_later(10, print, thing, key=thing)
    loop.remove_timeout(handle)
    assert sys.getrefcount(thing) == before
    loop.call_later(10, print, thing)
    loop.close()
    assert sys.getrefcount(thing) == before


class TimersMachine(RuleBasedStateMachine):
    """The heap against a list that is sorted every time."""

    def __init__(self):
        super().__init__()
        self.timers = Timers()
        self.model = []  # (deadline, number, timer)
        self.added = []

    @rule(when=st.integers(0, 20))
    def add(self, when):
        number = self.timers.created
        timer = self.timers.add(when, print, (number,), {})
        self.model.append((when, number, timer))
        self.added.append(timer)

    @rule(data=st.data())
    def remove(self, data):
        if self.added:
            timer = data.draw(st.sampled_from(self.added))
            self.timers.remove(timer)
            self.model = [entry for entry in self.model if entry[2] is not timer]

    @rule(when=st.integers(0, 20), data=st.data())
    def remove_many(self, when, data):
        for _ in range(data.draw(st.integers(60, 200))):
            self.timers.remove(self.timers.add(when, print, (), {}))

    @rule(end=st.integers(0, 20), before=st.integers(0, 2000))
    def pop(self, end, before):
        self.model.sort(key=lambda entry: entry[:2])
        expected = None
        if self.model and self.model[0][0] <= end and self.model[0][1] < before:
            expected = self.model.pop(0)[2]
        timer = self.timers.pop_due(end, before)
        assert timer is expected
        if timer is not None:
            timer.take()

    @rule()
    def clear(self):
        self.timers.clear()
        self.model.clear()

    @invariant()
    def agrees(self):
        assert len(self.timers) == len(self.model)
        first = min(self.model, key=lambda entry: entry[:2], default=None)
        assert self.timers.next_deadline() == (None if first is None else first[0])
        assert len(self.timers._heap) <= 2 * len(self.model) + 65


TestTimersMachine = TimersMachine.TestCase


@given(st.lists(st.floats(0, 100, allow_nan=False), max_size=30))
def test_any_deadlines_run_in_order(delays):
    async def main():
        loop, seen = IOLoop.current(), []
        now = loop.time()
        for number, delay in enumerate(delays):
            loop.call_at(now + delay, seen.append, (now + delay, number))
        await asyncio.sleep(101)
        assert seen == sorted(seen)
        assert len(seen) == len(delays)

    simulate(main)
