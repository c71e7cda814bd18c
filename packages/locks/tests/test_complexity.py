"""Operations take the same number of steps however many wait. Steps are counted, not seconds."""

import asyncio
import sys

import pytest

from waterspout.locks import BoundedSemaphore, Condition, Event, Lock, Semaphore

pytestmark = [pytest.mark.slow, pytest.mark.waterspout("asyncio")]

COUNTS = (10, 10, 20_000)
"""The first round is not looked at: the interpreter counts only code that it has seen."""


class Counting(asyncio.Future):
    """Counts how often a waiter is compared or looked up, also in C."""

    looks = 0

    def __hash__(self):
        Counting.looks += 1
        return id(self) >> 4

    def __eq__(self, other):
        Counting.looks += 1
        return self is other


def steps_of(function, *args):
    """How many steps a call takes: of Python's interpreter, and looks at waiters."""
    steps = 0

    def trace(frame, event, arg):
        nonlocal steps
        frame.f_trace_opcodes = True
        frame.f_trace_lines = False
        steps += event == "opcode"
        return trace

    Counting.looks = 0
    before = sys.gettrace()
    sys.settrace(trace)
    try:
        function(*args)
    finally:
        sys.settrace(before)
    return steps + Counting.looks


@pytest.fixture(autouse=True)
def counted(monkeypatch):
    monkeypatch.setattr(asyncio, "Future", Counting)


def begin(count, wait, *args):
    waiting = [wait(*args) for _ in range(count)]
    for one in waiting:
        one.send(None)
    return waiting


async def lock_waits(make, *args):
    lock = make()
    await lock.acquire()
    return lock, lock.acquire


async def condition_waits():
    condition = Condition()
    return condition, condition.wait


async def held_condition_waits():
    """Each waits with the lock, and takes it again as it is closed."""
    condition = Condition()

    async def wait(*args):
        async with condition:
            await condition.wait(*args)

    return condition, wait


async def event_waits():
    event = Event()
    return event, event.wait


WAITS = pytest.mark.parametrize(
    "waits",
    [
        lambda: lock_waits(Lock),
        lambda: lock_waits(Semaphore),
        lambda: lock_waits(BoundedSemaphore),
        condition_waits,
        held_condition_waits,
        event_waits,
    ],
    ids=["lock", "semaphore", "bounded semaphore", "condition", "held condition", "event"],
)
TIMEOUTS = pytest.mark.parametrize("timeout", [(), (30,)], ids=["for ever", "timeout"])


@WAITS
@TIMEOUTS
async def test_any_of_many_waiters_is_cancelled_in_constant_time(waits, timeout):
    steps = {}
    for count in COUNTS:
        lock, wait = await waits()
        waiting = begin(count, wait, *timeout)
        for place in (count // 2, -1, 0):
            steps.setdefault(place if place <= 0 else "middle", []).append(
                steps_of(waiting.pop(place).close)
            )
        assert lock.statistics().waiters == len(waiting)
        steps.setdefault("join", []).append(steps_of(begin, 1, wait, *timeout))
        end(waiting)
    for _, few, many in steps.values():
        assert many <= few + 500  # and not 20_000


def end(waiting):
    while waiting:
        waiting.pop().close()


@WAITS
@TIMEOUTS
async def test_all_waiters_are_cancelled_in_linear_time(waits, timeout):
    steps = []
    for count in (50, 50, 2000):
        lock, wait = await waits()
        waiting = begin(count, wait, *timeout)
        waiting = waiting[::2] + waiting[1::2]
        steps.append(steps_of(end, waiting) / count)
        assert lock.statistics().waiters == 0
    assert steps[2] <= 1.5 * steps[1]


@pytest.mark.parametrize("make", [Lock, Semaphore, BoundedSemaphore])
async def test_any_number_of_waiters_is_served_in_constant_time(make):
    steps = []
    for count in COUNTS:
        lock, wait = await lock_waits(make)
        waiting = begin(count, wait)
        steps.append(steps_of(lock.release))
        with pytest.raises(StopIteration):
            waiting.pop(0).send(None)
        end(waiting)
    assert steps[2] <= steps[1] + 500  # and not 20_000


async def test_one_of_many_is_notified_in_constant_time():
    steps = []
    for count in COUNTS:
        condition = Condition()
        waiting = begin(count, condition.wait)
        steps.append(steps_of(condition.notify))
        end(waiting)
    assert steps[2] <= steps[1] + 500  # and not 20_000
