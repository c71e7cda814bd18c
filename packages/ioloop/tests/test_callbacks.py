"""Callbacks and futures: order, threads, errors, contexts, and who holds a task."""

import asyncio
import concurrent.futures
import contextvars
import gc
import signal
import socket
import sys
import threading

import pytest

from waterspout.ioloop import READ, IOLoop

variable = contextvars.ContextVar("variable", default="unset")


class Reports:
    """Collects what reaches the loop's exception handler."""

    def __init__(self):
        self.errors = []
        asyncio.get_running_loop().set_exception_handler(self)

    def __call__(self, loop, context):
        self.errors.append(context["exception"])


async def idle(iterations=3):
    for _ in range(iterations):
        await asyncio.sleep(0)


async def test_callbacks_run_in_order_with_their_arguments():
    seen = []
    loop = IOLoop.current()
    for number in range(5):
        loop.add_callback(lambda *args, **kwargs: seen.append((args, kwargs)), number, key=number)
    assert seen == []
    await idle()
    assert seen == [((number,), {"key": number}) for number in range(5)]


async def test_threads_wake_the_loop_and_keep_their_order():
    loop = IOLoop.current()
    seen, done = [], asyncio.Event()

    def work():
        for number in range(1000):
            loop.add_callback(seen.append, number)
        loop.add_callback(done.set)

    thread = threading.Thread(target=work)
    thread.start()
    await asyncio.wait_for(done.wait(), 10)
    thread.join()
    assert seen == list(range(1000))


async def test_another_loops_thread_is_another_thread():
    loop, done = IOLoop.current(), asyncio.Event()

    async def elsewhere():
        loop.add_callback(done.set)

    thread = threading.Thread(target=asyncio.run, args=(elsewhere(),))
    thread.start()
    await asyncio.wait_for(done.wait(), 10)
    thread.join()


@pytest.mark.only_on("linux", "darwin")
async def test_a_signal_handler_can_add_a_callback():
    loop, done = IOLoop.current(), asyncio.Event()
    old = signal.signal(signal.SIGUSR1, lambda *_: loop.add_callback_from_signal(done.set))
    try:
        signal.raise_signal(signal.SIGUSR1)
        await asyncio.wait_for(done.wait(), 10)
    finally:
        signal.signal(signal.SIGUSR1, old)
    with pytest.raises(TypeError, match="callback must be callable"):
        loop.add_callback_from_signal(None)


async def test_an_error_is_reported_and_stops_nothing():
    reports, seen = Reports(), []

    def fail():
        raise LookupError("lost")

    async def fail_later():
        await asyncio.sleep(0)
        raise KeyError("later")

    loop = IOLoop.current()
    loop.add_callback(fail)
    loop.add_callback(fail_later)
    loop.add_callback(seen.append, 1)
    loop.call_later(0, fail)
    loop.call_later(0, seen.append, 2)
    while len(reports.errors) < 3 or len(seen) < 2:
        await asyncio.sleep(0.001)
    assert [type(error) for error in reports.errors] == [LookupError, LookupError, KeyError]
    assert seen == [1, 2]


async def test_the_default_report_is_a_log_record(caplog):
    IOLoop.current().add_callback(lambda: 1 / 0)
    await idle()
    assert "Exception in callback" in caplog.text
    assert "ZeroDivisionError" in caplog.text
    caplog.clear()


async def test_the_hook_gets_every_error():
    seen = []

    class MyLoop(IOLoop):
        def handle_callback_exception(self, callback):
            seen.append((callback, sys.exception()))

    def run():
        loop = MyLoop()

        def fail():
            raise LookupError

        async def fail_too():
            raise KeyError

        loop.add_callback(fail)
        loop.add_callback(fail_too)
        loop.call_later(0.02, loop.stop)
        loop.start()
        loop.close()
        return fail, fail_too

    fail, fail_too = await asyncio.to_thread(run)
    assert [callback for callback, _ in seen] == [fail, fail_too]
    assert [type(error) for _, error in seen] == [LookupError, KeyError]


async def test_a_cancelled_callback_is_no_error():
    reports = Reports()

    async def cancelled():
        raise asyncio.CancelledError

    IOLoop.current().add_callback(cancelled)
    await idle()
    assert reports.errors == []


@pytest.mark.parametrize("when", ["before", "after"])
async def test_a_hook_that_is_replaced_on_the_instance_gets_every_error(monkeypatch, when):
    """Also if it is replaced after the callback was added, or its task has started."""
    loop, reports, go_on = IOLoop.current(), [], asyncio.Event()
    left, right = socket.socketpair()

    def report(callback):
        reports.append((callback, type(sys.exception())))

    def replace():
        monkeypatch.setattr(loop, "handle_callback_exception", report)

    def plain():
        raise LookupError

    async def coroutine():
        await go_on.wait()
        raise LookupError

    def handler(source, events):
        loop.remove_handler(source)
        raise LookupError

    failed = asyncio.get_running_loop().create_future()

    def gives_a_future():
        return failed

    if when == "before":
        replace()
    loop.add_callback(plain)
    loop.add_callback(coroutine)
    loop.add_callback(gives_a_future)
    loop.call_later(0.001, plain)
    loop.call_later(0, coroutine)
    with left, right:
        loop.add_handler(left, handler, READ)
        if when == "after":
            replace()
        failed.set_exception(LookupError())
        go_on.set()
        right.send(b"x")
        async with asyncio.timeout(10):
            while len(reports) < 6:
                await asyncio.sleep(0.001)
    expected = [plain, coroutine, gives_a_future, plain, coroutine, handler]
    assert {id(callback) for callback, _ in reports} == {id(one) for one in expected}
    assert {error for _, error in reports} == {LookupError}
    assert len(reports) == 6


async def test_tasks_of_callbacks_are_held_until_done():
    done = []

    async def work():
        # Nothing but this coroutine holds the future that it waits for.
        future = asyncio.get_running_loop().create_future()
        waiting.append(future.get_loop().call_later(0.005, future.set_result, None))
        waiting.clear()
        await future
        done.append(True)

    waiting = []
    loop = IOLoop.current()
    loop.spawn_callback(work)
    loop.add_callback(work)
    await idle()
    gc.collect()
    while len(done) < 2:
        await asyncio.sleep(0.001)


async def test_a_callback_that_returns_a_future_has_its_error_reported():
    reports = Reports()
    future = asyncio.get_running_loop().create_future()
    IOLoop.current().add_callback(lambda: future)
    await idle()
    future.set_exception(LookupError())
    await idle()
    assert [type(error) for error in reports.errors] == [LookupError]


async def test_callbacks_run_in_the_callers_context():
    loop, seen = IOLoop.current(), []
    variable.set("caller")
    loop.add_callback(lambda: seen.append(variable.get()))
    loop.call_later(0, lambda: seen.append(variable.get()))
    done = concurrent.futures.Future()
    loop.add_future(done, lambda _: seen.append(variable.get()))
    variable.set("changed")
    thread = threading.Thread(target=done.set_result, args=(None,))
    thread.start()
    thread.join()
    while len(seen) < 3:
        await asyncio.sleep(0.001)
    assert seen == ["caller", "caller", "caller"]


@pytest.mark.parametrize("kind", ["result", "exception", "cancelled"])
@pytest.mark.parametrize("make", [asyncio.Future, concurrent.futures.Future])
async def test_add_future_calls_back_however_it_ends(make, kind):
    future, seen = make(), asyncio.Queue()
    IOLoop.current().add_future(future, seen.put)
    if kind == "result":
        future.set_result(5)
    elif kind == "exception":
        future.set_exception(LookupError())
    else:
        future.cancel()
    done = await asyncio.wait_for(seen.get(), 10)
    assert done is future
    if kind == "exception":
        assert isinstance(future.exception(), LookupError)


async def test_a_pending_future_calls_back_together_with_its_own_callbacks():
    loop, order = IOLoop.current(), []
    future = loop.create_future()
    future.add_done_callback(lambda _: order.append("before"))
    loop.add_future(future, lambda _: order.append("added"))
    future.add_done_callback(lambda _: order.append("after"))
    future.set_result(None)
    assert order == []
    await asyncio.sleep(0)
    assert order == ["before", "added", "after"]


async def test_a_done_future_calls_back_in_a_later_iteration():
    loop, order = IOLoop.current(), []
    future = loop.create_future()
    future.set_result(None)
    loop.add_future(future, order.append)
    assert order == []
    await asyncio.sleep(0)
    assert order == [future]


async def test_a_task_calls_back_and_its_exception_is_the_callbacks():
    loop, seen = IOLoop.current(), []

    async def fail():
        raise LookupError

    task = asyncio.create_task(fail())
    loop.add_future(task, lambda done: seen.append(type(done.exception())))
    await asyncio.wait([task])
    await asyncio.sleep(0)
    assert seen == [LookupError]


async def test_what_a_futures_callback_raises_is_reported():
    loop, reports = IOLoop.current(), Reports()

    async def fail(future):
        raise LookupError

    for callback in (lambda _: 1 / 0, fail):
        future = loop.create_future()
        loop.add_future(future, callback)
        future.set_result(None)
    await idle()
    assert [type(error) for error in reports.errors] == [ZeroDivisionError, LookupError]


def test_a_future_of_a_stopped_loop_calls_back_when_it_runs():
    loop, seen = IOLoop(make_current=False), []
    future = loop.create_future()
    loop.add_future(future, seen.append)
    future.set_result(None)
    loop.run_sync(lambda: asyncio.sleep(0))
    loop.close()
    assert seen == [future]


async def test_a_thread_leaves_a_future_of_the_running_loop_to_it():
    loop, seen = IOLoop.current(), asyncio.Queue()
    future = loop.create_future()
    await asyncio.to_thread(loop.add_future, future, seen.put_nowait)
    future.set_result(5)
    assert (await asyncio.wait_for(seen.get(), 10)).result() == 5


async def test_add_future_takes_a_future_of_another_loop():
    loop, seen = IOLoop.current(), asyncio.Event()

    async def elsewhere():
        future = asyncio.get_running_loop().create_future()
        loop.add_future(future, lambda _: seen.set())
        future.set_result(None)
        await asyncio.sleep(0)

    await asyncio.to_thread(asyncio.run, elsewhere())
    await asyncio.wait_for(seen.wait(), 10)


async def test_a_future_of_a_loop_that_runs_in_another_thread_is_left_to_that():
    loop, results = IOLoop.current(), asyncio.Queue()
    futures, ready = [], threading.Event()

    def elsewhere():
        other = asyncio.new_event_loop()
        other.set_debug(True)  # it would notice
        futures.append(other.create_future())
        futures.append(other)
        other.call_soon(ready.set)
        other.run_forever()
        other.close()

    thread = threading.Thread(target=elsewhere)
    thread.start()
    await asyncio.to_thread(ready.wait, 10)
    future, other = futures
    loop.add_future(future, results.put_nowait)
    other.call_soon_threadsafe(future.set_result, 5)
    assert (await asyncio.wait_for(results.get(), 10)).result() == 5
    loop.add_future(future, results.put_nowait)  # done already
    assert (await asyncio.wait_for(results.get(), 10)).result() == 5
    other.call_soon_threadsafe(other.stop)
    await asyncio.to_thread(thread.join, 10)


async def test_bad_arguments_are_refused():
    loop = IOLoop.current()
    with pytest.raises(TypeError, match="callback must be callable, not None"):
        loop.add_callback(None)
    with pytest.raises(TypeError, match="callback must be callable"):
        loop.spawn_callback("no")
    with pytest.raises(TypeError, match="future must be a Future"):
        loop.add_future(5, print)
    with pytest.raises(TypeError, match="callback must be callable"):
        loop.add_future(loop.create_future(), None)


async def test_create_future_belongs_to_the_loop():
    assert IOLoop.current().create_future().get_loop() is asyncio.get_running_loop()
