"""Futures chained together, across kinds, loops and threads; and the small setters."""

import asyncio
import concurrent.futures
import itertools
import logging
import threading

import pytest

from waterspout.concurrent import (
    DummyExecutor,
    chain_future,
    dummy_executor,
    future_add_done_callback,
    future_set_exc_info,
    future_set_exception_unless_cancelled,
    future_set_result_unless_cancelled,
    run_on_executor,
)
from waterspout.ioloop.testing import explore


def new_asyncio():
    return asyncio.get_running_loop().create_future()


KINDS = {"asyncio": new_asyncio, "threads": concurrent.futures.Future}
pairings = pytest.mark.parametrize(
    ("new_a", "new_b"),
    list(itertools.product(KINDS.values(), repeat=2)),
    ids=["-".join(pair) for pair in itertools.product(KINDS, repeat=2)],
)
ENDS = {
    "result": lambda future: future.set_result("x"),
    "exception": lambda future: future.set_exception(ZeroDivisionError()),
    "cancelled": lambda future: future.cancel(),
}


async def until_done(future):
    while not future.done():
        await asyncio.sleep(0.0001)


def outcome(future):
    if future.cancelled():
        return "cancelled"
    return "exception" if future.exception() is not None else "result"


@pairings
@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("moment", ["before", "after"])
async def test_one_ends_as_the_other(new_a, new_b, end, moment):
    a, b = new_a(), new_b()
    if moment == "before":
        ENDS[end](a)
        chain_future(a, b)
        assert b.done()
    else:
        chain_future(a, b)
        ENDS[end](a)
    await until_done(b)
    assert outcome(b) == outcome(a) == end


@pairings
async def test_cancelling_the_second_cancels_the_first(new_a, new_b):
    a, b = new_a(), new_b()
    chain_future(a, b)
    b.cancel()
    await until_done(a)
    assert a.cancelled()


@pairings
async def test_one_that_is_done_otherwise_is_left_alone(new_a, new_b):
    a, b = new_a(), new_b()
    chain_future(a, b)
    b.set_result("mine")
    a.set_result("theirs")
    await asyncio.sleep(0.001)
    assert b.result() == "mine"


@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("first", ["a", "b"])
async def test_across_loops_in_other_threads(end, first):
    """Whichever of the two is at home in the other loop."""
    theirs, made, over = [], threading.Event(), threading.Event()

    async def other():
        theirs.append(asyncio.get_running_loop().create_future())
        made.set()
        await asyncio.to_thread(over.wait, 10)

    thread = threading.Thread(target=asyncio.run, args=(other(),))
    thread.start()
    await asyncio.to_thread(made.wait, 10)
    [there] = theirs
    here = asyncio.get_running_loop().create_future()
    a, b = (here, there) if first == "a" else (there, here)
    chain_future(a, b)
    a.get_loop().call_soon_threadsafe(ENDS[end], a)
    await until_done(b)

    async def look():
        return outcome(b)

    if b is here:
        assert await look() == end
    else:  # where nothing else is being done to it
        looking = asyncio.run_coroutine_threadsafe(look(), there.get_loop())
        assert await asyncio.wrap_future(looking) == end
    over.set()
    thread.join()


def test_a_loop_that_has_closed_is_nobody():
    async def make():
        return asyncio.get_running_loop().create_future()

    dead = asyncio.run(make())

    async def main():
        alive = await make()
        chain_future(alive, dead)
        alive.set_result("x")
        await asyncio.sleep(0)
        assert not dead.done()
        alive = await make()
        chain_future(dead, alive)
        alive.cancel()
        await asyncio.sleep(0)
        assert not dead.done()

    asyncio.run(main())


async def test_two_threads_that_end_it_at_once():
    """Whoever comes second has done nothing."""
    for _ in range(200):
        a, b = concurrent.futures.Future(), concurrent.futures.Future()
        chain_future(a, b)
        barrier = threading.Barrier(2)

        def end(future, value, barrier=barrier):
            barrier.wait(10)
            try:
                future.set_result(value)
            except concurrent.futures.InvalidStateError:
                assert future.done()

        threads = [threading.Thread(target=end, args=pair) for pair in ((a, "theirs"), (b, "mine"))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert b.result() in ("theirs", "mine")


async def test_what_a_future_of_asyncio_cannot_hold():
    a, b = concurrent.futures.Future(), new_asyncio()
    chain_future(a, b)
    a.set_exception(StopIteration(5))
    with pytest.raises(RuntimeError, match="a future cannot hold StopIteration"):
        await b


async def test_bad_arguments_are_refused():
    future = new_asyncio()
    with pytest.raises(TypeError, match="a must be a Future, not 5"):
        chain_future(5, future)
    with pytest.raises(TypeError, match="b must be a Future, not None"):
        chain_future(future, None)
    with pytest.raises(ValueError, match="two futures"):
        chain_future(future, future)
    for call in (
        lambda: future_set_result_unless_cancelled("x", 1),
        lambda: future_set_exception_unless_cancelled("x", ValueError()),
        lambda: future_add_done_callback("x", print),
    ):
        with pytest.raises(TypeError, match="future must be a Future, not 'x'"):
            call()
    with pytest.raises(TypeError, match="callback must be callable, not 5"):
        future_add_done_callback(future, 5)
    with pytest.raises(TypeError, match="exc must be an exception, not 'x'"):
        future_set_exception_unless_cancelled(future, "x")
    with pytest.raises(ValueError, match="exc_info must have an exception"):
        future_set_exc_info(future, (None, None, None))
    assert not future.done()


@pytest.mark.slow
@pytest.mark.parametrize("end", ENDS)
def test_in_every_order_with_a_cancellation(end):
    async def scenario():
        a, b = new_asyncio(), new_asyncio()
        chain_future(a, b)

        async def finish():
            if not a.done():
                ENDS[end](a)

        async def cancel():
            b.cancel()

        await asyncio.gather(finish(), cancel())
        await asyncio.wait([a, b])
        assert outcome(b) in (end, "cancelled")
        assert outcome(a) in (end, "cancelled")
        if not b.cancelled():
            assert outcome(a) == outcome(b)

    explore(scenario, max_schedules=500)


@pytest.mark.parametrize("new", KINDS.values(), ids=KINDS)
async def test_the_setters(new, caplog):
    future = new()
    future_set_result_unless_cancelled(future, "x")
    assert future.result() == "x"
    future = new()
    future_set_exception_unless_cancelled(future, ZeroDivisionError())
    assert isinstance(future.exception(), ZeroDivisionError)
    future = new()
    error = KeyError("lost")
    future_set_exc_info(future, (KeyError, error, None))
    assert future.exception() is error
    future = new()
    future.cancel()
    future_set_result_unless_cancelled(future, "x")
    with caplog.at_level(logging.CRITICAL + 1):
        future_set_exception_unless_cancelled(future, error)
    assert future.cancelled()


async def test_an_exception_that_comes_too_late_is_logged():
    records = []
    handler = logging.Handler()
    handler.emit = records.append
    log = logging.getLogger("waterspout.concurrent")
    log.addHandler(handler)
    log.propagate = False
    try:
        future = new_asyncio()
        future.cancel()
        future_set_exception_unless_cancelled(future, KeyError("late"))
    finally:
        log.removeHandler(handler)
        log.propagate = True
    [record] = records
    assert record.exc_info[0] is KeyError


@pytest.mark.parametrize("new", KINDS.values(), ids=KINDS)
async def test_callbacks_of_what_is_done_are_called_at_once(new):
    seen = []
    future = new()
    future_add_done_callback(future, seen.append)
    assert seen == []
    future.set_result("x")
    await asyncio.sleep(0)
    assert seen == [future]
    future_add_done_callback(future, seen.append)
    assert seen == [future, future]


async def test_an_executor_that_goes_nowhere():
    with DummyExecutor() as executor:
        assert executor.submit(divmod, 7, 2).result() == (3, 1)
        failed = executor.submit(divmod, 7, 0)
        assert isinstance(failed.exception(), ZeroDivisionError)
        assert list(executor.map(abs, [-1, 2])) == [1, 2]
        with pytest.raises(KeyboardInterrupt):
            executor.submit(interrupt)
    assert dummy_executor.submit(threading.get_ident).result() == threading.get_ident()

    @run_on_executor(executor=dummy_executor)
    def double(number):
        return number * 2

    assert await double(4) == 8


def interrupt():
    raise KeyboardInterrupt
