"""A closed loop is freed without the garbage collector, and so is what was on it."""

import asyncio
import contextlib
import gc
import socket
import sys
import weakref

import pytest

from waterspout.ioloop import ERROR, READ, WRITE, IOLoop, PeriodicCallback
from waterspout.ioloop.scheduling import Scheduler, current_scheduler, register_scheduler
from waterspout.ioloop.testing import no_reference_cycles

every_loop = pytest.mark.parametrize(
    "loop_name", ["asyncio", "uvloop", "threaded", "asyncio-readers", "uvloop-readers"]
)


async def ask():
    assert IOLoop.current() is IOLoop.current() is current_scheduler()


async def call_back():
    loop, done = IOLoop.current(), asyncio.Event()
    loop.add_callback(done.set)
    await done.wait()


async def fail_in_callback():
    loop, reports = IOLoop.current(), []  # an event would refer to the loop that refers to it
    asyncio.get_running_loop().set_exception_handler(lambda loop, context: reports.append(True))

    async def fail_later():
        await asyncio.sleep(0)
        raise ZeroDivisionError

    def fail(*args):
        raise ZeroDivisionError

    loop.add_callback(fail)
    loop.add_callback(fail_later)
    loop.call_later(0, fail)
    while len(reports) < 3:
        await asyncio.sleep(0)


async def leave_timers():
    loop, done = IOLoop.current(), asyncio.Event()
    loop.call_later(3600, done.set)
    loop.call_later(0.001, done.set)
    await done.wait()


async def leave_a_periodic_callback():
    done = asyncio.Event()
    PeriodicCallback(done.set, 1).start()
    await done.wait()


async def use_handlers():
    loop, done = IOLoop.current(), asyncio.Event()
    left, right = socket.socketpair()
    with left, right:
        loop.add_handler(left, lambda fd, events: done.set(), WRITE)
        await done.wait()
        loop.remove_handler(left)


async def leave_handlers():
    loop, done = IOLoop.current(), asyncio.Event()
    left, right = socket.socketpair()
    loop.add_handler(left, lambda fd, events: done.set(), WRITE)
    loop.add_handler(right, lambda fd, events: (loop, done), READ | ERROR)
    left.send(b"x")
    await done.wait()
    kept.extend([left, right])


async def leave_a_handler_with_unread_bytes():
    """A timer asks whether such a descriptor was hung up."""
    loop = IOLoop.current()
    left, right = socket.socketpair()
    loop.add_handler(left, lambda fd, events: loop, ERROR)
    right.send(b"x")
    for _ in range(5):
        await asyncio.sleep(0)
    kept.extend([left, right])


async def leave_tasks():
    loop = IOLoop.current()

    async def forever():
        await asyncio.Event().wait()
        loop.stop()

    loop.spawn_callback(forever)
    task = asyncio.create_task(forever())
    await asyncio.sleep(0)
    del task


kept = []


@pytest.fixture(autouse=True, scope="module")
def let_the_collector_look_at_new_objects_alone():
    """Some hundred collections of everything that the test session holds would take long."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture(autouse=True)
def close_kept():
    yield
    for one in kept:
        one.close()
    kept.clear()


MAINS = [
    ask,
    call_back,
    fail_in_callback,
    leave_timers,
    leave_a_periodic_callback,
    use_handlers,
    leave_handlers,
    leave_a_handler_with_unread_bytes,
]
CLOSING_MAINS = list(MAINS)
if sys.version_info[:2] not in ((3, 12), (3, 13)):  # there, a cancelled task is a cycle itself
    CLOSING_MAINS.append(leave_tasks)


@every_loop
@pytest.mark.parametrize("main", CLOSING_MAINS)
def test_after_asyncio_run(loop_factory, main):
    with no_reference_cycles():
        with asyncio.Runner(loop_factory=loop_factory) as runner:
            runner.run(main())
        del runner


@every_loop
@pytest.mark.parametrize("main", CLOSING_MAINS)
def test_after_close(loop_factory, main):
    with no_reference_cycles():
        loop = IOLoop(loop_factory())
        loop.run_sync(main)
        loop.close()
        del loop


@every_loop
@pytest.mark.parametrize("main", MAINS)
def test_after_the_asyncio_loop_alone_was_closed(loop_factory, main):
    with no_reference_cycles():
        loop = IOLoop(loop_factory(), make_current=False)
        loop.run_sync(main)
        loop.asyncio_loop.close()
        del loop


@every_loop
def test_a_loop_that_never_ran(loop_factory):
    with no_reference_cycles():
        loop = IOLoop(loop_factory(), make_current=False)
        left, right = socket.socketpair()
        with left, right:
            loop.add_handler(left, loop.stop, READ)
            loop.add_callback(loop.stop)
            loop.call_later(1, loop.stop)
            loop.asyncio_loop.close()
        del loop


def test_what_is_on_a_closed_loop_is_freed_though_its_ioloop_is_kept():
    class Callback:
        def __call__(self, *args):
            pass

    loop = IOLoop(asyncio.new_event_loop(), make_current=False)
    callbacks = [Callback(), Callback(), Callback()]
    references = [weakref.ref(one) for one in callbacks]
    left, right = socket.socketpair()
    with left, right, no_reference_cycles():
        loop.add_handler(left, callbacks[0], READ)
        loop.call_later(1, callbacks[1])
        loop.add_callback(callbacks[2])
        callbacks.clear()
        loop.asyncio_loop.close()
        assert [reference() for reference in references] == [None] * 3
    assert loop.asyncio_loop.is_closed()
    with pytest.raises(RuntimeError, match="closed"):
        loop.add_callback(print)


@every_loop
def test_a_pending_task_goes_with_a_loop_that_is_closed_alone(loop_factory, caplog):
    loop = IOLoop(loop_factory(), make_current=False)
    started = []

    async def forever():
        started.append(weakref.ref(asyncio.current_task()))
        await loop.create_future()

    loop.spawn_callback(forever)
    loop.run_sync(lambda: asyncio.sleep(0.001))
    loop.asyncio_loop.close()
    gc.collect()  # a task and the future that it waits for refer to each other
    assert started[0]() is None
    assert "Task was destroyed but it is pending" in caplog.text
    caplog.clear()


@every_loop
def test_a_loop_that_cannot_be_closed_stays_as_it_is(loop_factory):
    async def main():
        loop = IOLoop.current()
        with pytest.raises(RuntimeError):
            asyncio.get_running_loop().close()
        assert IOLoop.current() is loop
        await use_handlers()

    with asyncio.Runner(loop_factory=loop_factory) as runner:
        runner.run(main())


def test_a_close_that_somebody_else_has_replaced_is_called():
    loop = asyncio.new_event_loop()
    closed = []

    def close():
        closed.append(True)
        asyncio.SelectorEventLoop.close(loop)

    loop.close = close
    IOLoop(loop, make_current=False).close()
    assert closed == [True]
    assert loop.close is close
    assert not hasattr(loop, "_waterspout_ioloop")


def test_a_close_that_somebody_replaces_later_is_left_alone():
    loop = asyncio.new_event_loop()
    io_loop = IOLoop(loop, make_current=False)
    ours = loop.close

    def close():
        ours()

    loop.close = close
    io_loop.close()
    assert loop.close is close
    assert loop.is_closed()


def test_a_close_that_does_not_close_changes_nothing():
    class Kept(asyncio.SelectorEventLoop):
        is_kept = True

        def close(self):
            if not self.is_kept:
                super().close()

    io_loop = IOLoop(Kept(), make_current=False)
    io_loop.asyncio_loop.close()
    assert io_loop.run_sync(lambda: IOLoop.current()) is io_loop
    io_loop.asyncio_loop.is_kept = False
    io_loop.asyncio_loop.close()
    assert not hasattr(io_loop.asyncio_loop, "_waterspout_ioloop")


def test_a_scheduler_of_somebody_elses_stays_registered():
    class Other(IOLoop):
        def __init__(self):
            pass

    loop, other = asyncio.new_event_loop(), Other()
    register_scheduler(loop, other)
    io_loop = IOLoop(loop, make_current=False)
    assert isinstance(io_loop, Scheduler)
    io_loop.close()
    assert loop._waterspout_scheduler is other


@pytest.mark.filterwarnings("ignore:unclosed event loop:ResourceWarning")
def test_a_loop_that_is_dropped_open_leaves_no_descriptors():
    with contextlib.ExitStack() as stack:
        left, right = map(stack.enter_context, socket.socketpair())
        loop = IOLoop(asyncio.new_event_loop(), make_current=False)
        loop.add_handler(left, print, READ)
        epoll = loop._handlers._poller._epoll
        reference = weakref.ref(loop)
        del loop
        gc.collect()
        assert reference() is None
        assert epoll.closed


def test_a_loop_that_was_made_is_closed_if_it_cannot_be_used(monkeypatch):
    made = []

    def factory():
        made.append(asyncio.new_event_loop())
        return made[-1]

    def fail(loop):
        raise LookupError("no current loops here")

    monkeypatch.setattr(asyncio, "set_event_loop", fail)
    monkeypatch.setattr(IOLoop, "_factory", staticmethod(factory))
    with pytest.raises(LookupError, match="no current loops"):
        IOLoop()
    monkeypatch.setattr("waterspout.ioloop._ioloop.register_scheduler", fail)
    given = asyncio.new_event_loop()
    with pytest.raises(RuntimeError):
        IOLoop(made[0])
    with pytest.raises(TypeError):
        IOLoop(given)
    assert made[0].is_closed()
    assert not given.is_closed()
    given.close()


def test_a_loop_whose_close_raises_in_the_end_is_freed_all_the_same():
    class Loop(asyncio.SelectorEventLoop):
        def close(self):
            super().close()
            raise OSError("too late")

    def run():
        loop = Loop()
        IOLoop(loop, make_current=False).call_later(100, print)
        with pytest.raises(OSError, match="too late"):
            loop.close()
        loop.__class__ = asyncio.SelectorEventLoop  # which its finalizer does not fail for
        assert not hasattr(loop, "_waterspout_ioloop")

    run()
