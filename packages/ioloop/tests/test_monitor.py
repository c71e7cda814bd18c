"""`LoopMonitor`: it finds what keeps the loop, on any loop."""

import asyncio
import threading
import time

import pytest

from waterspout.ioloop import IOLoop, LoopMonitor

pytestmark = pytest.mark.slow

THRESHOLD = 0.1  # a busy machine may take something from a loop that does nothing


def block():
    time.sleep(0.2)  # not to wait for something: this is what is to be found


async def deep():
    block()


async def task():
    await deep()


async def beat(monitor):
    """Let the loop run until it has been measured again."""
    beats = monitor.statistics().beats
    while monitor.statistics().beats < beats + 2:
        await asyncio.sleep(0.001)


async def test_a_slow_callback_is_named():
    slow = []
    with LoopMonitor(threshold=THRESHOLD, on_slow=slow.append) as monitor:
        assert monitor.is_running()
        await beat(monitor)
        asyncio.get_running_loop().call_soon(block)
        await beat(monitor)
        IOLoop.current().add_callback(block)
        await beat(monitor)
        await asyncio.create_task(task())
        await beat(monitor)
    assert not monitor.is_running()
    names = [one.name.partition(",")[0].rpartition(".")[2] for one in slow]
    assert names == ["block", "block", "task"]
    for one in slow:
        assert one.seconds >= THRESHOLD
        assert "time.sleep" in one.stack
    assert ", line " in slow[2].name
    assert "in deep" in slow[2].stack
    statistics = monitor.statistics()
    assert statistics.longest_stall >= 0.05
    assert {one.name: one.count for one in statistics.slow} == {slow[0].name: 2, slow[2].name: 1}
    assert [one.seconds for one in statistics.slow] == sorted(
        (one.seconds for one in statistics.slow), reverse=True
    )
    assert sum(count for _, count in statistics.histogram) == statistics.beats
    assert sum(count for bound, count in statistics.histogram if bound > 0.05) >= 3
    assert statistics.histogram[-1][0] == float("inf")


async def test_a_loop_that_keeps_going_is_not_accused():
    slow = []
    with LoopMonitor(threshold=5.0, on_slow=slow.append) as monitor:
        block()
        await asyncio.sleep(0)
        monitor.start()  # twice is harmless
    monitor.stop()
    assert slow == []
    assert monitor.statistics().slow == ()


async def test_it_needs_no_hook():
    with LoopMonitor(threshold=THRESHOLD) as monitor:
        await beat(monitor)
        block()
        await beat(monitor)
    assert len(monitor.statistics().slow) == 1


async def test_it_ends_with_the_thread_that_it_watches():
    def run():
        async def main():
            LoopMonitor(threshold=0.01).start()

        asyncio.run(main())

    thread = threading.Thread(target=run)
    thread.start()
    await asyncio.to_thread(thread.join)
    while any(thread.name == "waterspout-monitor" for thread in threading.enumerate()):
        await asyncio.sleep(0.005)


async def test_it_can_be_started_again_and_adds_up():
    monitor = LoopMonitor(IOLoop.current(), threshold=THRESHOLD)
    for _ in range(2):
        with monitor:
            await beat(monitor)
    assert monitor.statistics().beats >= 4


async def test_an_error_of_the_hook_is_reported():
    reports = []
    asyncio.get_running_loop().set_exception_handler(lambda _, c: reports.append(c["exception"]))

    def fail(slow):
        raise LookupError

    with LoopMonitor(threshold=THRESHOLD, on_slow=fail) as monitor:
        await beat(monitor)
        block()
        await beat(monitor)
    assert [type(report) for report in reports] == [LookupError]


async def test_off_it_leaves_nothing_behind():
    timers = len(IOLoop.current()._alarm.timers)
    with LoopMonitor(threshold=THRESHOLD) as monitor:
        await beat(monitor)
    assert len(IOLoop.current()._alarm.timers) == timers
    assert not any(thread.name == "waterspout-monitor" for thread in threading.enumerate())


def test_the_loop_itself_may_be_slow():
    """What runs beneath no callback of ours is put down to the loop."""
    from waterspout.ioloop._monitor import _describe

    frame = type("", (), {"f_globals": {"__name__": "asyncio.events"}})()
    assert _describe(frame) == ("the event loop", "")
    assert _describe(None) == ("the event loop", "")


async def test_a_start_that_fails_leaves_nothing_behind(monkeypatch):
    def fail(thread):
        raise RuntimeError("can't start new thread")

    monitor, timers = LoopMonitor(), len(IOLoop.current()._alarm.timers)
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", fail)
        with pytest.raises(RuntimeError, match="can't start"):
            monitor.start()
    assert not monitor.is_running()
    assert len(IOLoop.current()._alarm.timers) == timers
    with monitor:
        assert monitor.is_running()


def test_it_does_not_start_on_a_closed_loop():
    loop = IOLoop(make_current=False)
    loop.close()
    monitor = LoopMonitor(loop)
    with pytest.raises(RuntimeError, match="closed"):
        monitor.start()
    assert not monitor.is_running()


def test_bad_arguments_are_refused():
    for bad in (0, -1, float("inf"), float("nan")):
        with pytest.raises(ValueError, match="threshold must be positive"):
            LoopMonitor(threshold=bad)
    with pytest.raises(TypeError, match="threshold must be seconds"):
        LoopMonitor(threshold="1")
    with pytest.raises(TypeError, match="on_slow must be callable"):
        LoopMonitor(on_slow=1)
    with pytest.raises(TypeError, match="io_loop must be a Scheduler"):
        LoopMonitor(5)
    with pytest.raises(RuntimeError, match="no event loop is running"):
        LoopMonitor().start()
