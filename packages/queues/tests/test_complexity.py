"""Operations take the same number of steps however many wait. Steps are counted, not seconds."""

import asyncio
import sys

import pytest

from waterspout.queues import Queue

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


def get_waits():
    queue = Queue()
    return queue, queue._getters, queue.get


def put_waits():
    queue = Queue(1)
    queue.put_nowait("x")
    return queue, queue._putters, lambda *args: queue.put("y", *args)


def join_waits():
    queue = Queue()
    queue.put_nowait("x")
    return queue, queue._joiners, queue.join


def get_waits_guarded():
    queue, line, wait = get_waits()
    queue.kept_side = queue.threadside
    return queue, line, wait


WAITS = pytest.mark.parametrize("waits", [get_waits, put_waits, join_waits, get_waits_guarded])
TIMEOUTS = pytest.mark.parametrize("timeout", [(), (30,)], ids=["for ever", "timeout"])


@WAITS
@TIMEOUTS
async def test_any_of_many_waiters_is_cancelled_in_constant_time(waits, timeout):
    steps = {}
    for count in COUNTS:
        _, line, wait = waits()
        waiting = begin(count, wait, *timeout)
        for place in (count // 2, -1, 0):
            steps.setdefault(place if place <= 0 else "middle", []).append(
                steps_of(waiting.pop(place).close)
            )
        assert len(line) == len(waiting)
        steps.setdefault("join", []).append(steps_of(begin, 1, wait, *timeout))
        end(waiting)
    for _, few, many in steps.values():
        assert many <= few + 500  # and not 20_000


def end(waiting):
    while waiting:
        waiting.pop().close()


@WAITS
async def test_all_waiters_are_cancelled_in_linear_time(waits):
    steps = []
    for count in (50, 50, 2000):
        _, line, wait = waits()
        waiting = begin(count, wait)
        waiting = waiting[::2] + waiting[1::2]
        steps.append(steps_of(end, waiting) / count)
        assert len(line) == 0
    assert steps[2] <= 1.5 * steps[1]


@pytest.mark.parametrize("guarded", [False, True])
async def test_any_number_of_waiters_is_served_in_constant_time(guarded):
    steps = {"put": [], "get": []}
    for count in COUNTS:
        queue, _, wait = get_waits_guarded() if guarded else get_waits()
        waiting = begin(count, wait)
        steps["put"].append(steps_of(queue.put_nowait, "x"))
        end(waiting)
        queue, _, wait = put_waits()
        waiting = begin(count, wait)
        steps["get"].append(steps_of(queue.get_nowait))
        end(waiting)
    for _, few, many in steps.values():
        assert many <= few + 500  # and not 20_000
