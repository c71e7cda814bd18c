"""What is done is kept by nobody, and failures leave no reference cycles."""

import asyncio
import concurrent.futures
import contextlib
import contextvars
import gc
import os
import sys
import threading
import weakref

import pytest

from waterspout.concurrent import (
    DummyExecutor,
    amap,
    chain_future,
    dummy_executor,
    run_on_executor,
    sleep,
    with_timeout,
)
from waterspout.concurrent._chaining import (
    _all_followers,
    _find_followers,
    _Followers,
)
from waterspout.ioloop.testing import no_reference_cycles

MANY = 200


class Short(asyncio.Future):
    """Can be told from other futures."""


class ShortForeign(concurrent.futures.Future):
    pass


def new_asyncio():
    return asyncio.get_running_loop().create_future()


KINDS = {"asyncio": new_asyncio, "threads": concurrent.futures.Future}
long_lived = pytest.mark.parametrize("new_long", KINDS.values(), ids=KINDS)
short_lived = pytest.mark.parametrize("new_short", [Short, ShortForeign], ids=KINDS)


async def make_asyncio():
    return new_asyncio()


async def turn():
    for _ in range(3):
        await asyncio.sleep(0)


def callbacks_of(future):
    """How many callbacks are on a future."""
    if isinstance(future, asyncio.Future):
        return len(future._callbacks or ())
    return len(future._done_callbacks)


@long_lived
@short_lived
@pytest.mark.parametrize("end", ["result", "exception"])
async def test_what_is_done_otherwise_is_not_kept_by_what_it_follows(new_long, new_short, end):
    long, alive = new_long(), weakref.WeakSet()
    for _ in range(MANY):
        short = new_short()
        alive.add(short)
        chain_future(long, short)
        if end == "result":
            short.set_result("done otherwise")
        else:
            short.set_exception(KeyError())
            short.exception()
    del short
    await turn()
    assert len(alive) == 0
    assert callbacks_of(long) == 1
    assert not long.done()
    last = new_short()
    chain_future(long, last)
    long.set_result("x")
    await turn()
    assert last.result() == "x"


@long_lived
@short_lived
async def test_what_it_follows_is_not_kept_by_a_future_that_is_done(new_long, new_short):
    """The first is done or dropped; the second lives on."""
    alive, kept = weakref.WeakSet(), []
    for ends in (True, False):
        first, second = new_short(), new_long()
        alive.add(first)
        kept.append(second)
        chain_future(first, second)
        if ends:
            first.set_result("x")
            await turn()
    del first
    await turn()
    assert len(alive) == 0
    assert [second.done() for second in kept] == [True, False]


@long_lived
@short_lived
async def test_a_future_that_is_done_keeps_nothing_of_what_followed_it(new_long, new_short):
    first, second = new_long(), new_short()
    watch = weakref.ref(second)
    chain_future(first, second)
    first.set_result("x")
    await turn()
    assert second.result() == "x"
    del second
    assert watch() is None


@short_lived
@long_lived
async def test_what_is_pending_is_kept_for_those_who_wait_for_it(new_long, new_short):
    long, got = new_long(), []
    short = new_short()
    short.add_done_callback(lambda done: got.append(done.result()))
    chain_future(long, short)
    del short
    gc.collect()
    long.set_result("x")
    await turn()
    assert got == ["x"]


@long_lived
async def test_futures_of_loops_that_closed_do_not_gather(new_long):
    long, alive = new_long(), weakref.WeakSet()
    chain_future(long, await asyncio.to_thread(asyncio.run, make_asyncio()))
    assert callbacks_of(long) == 0  # it is closed already

    async def chain():
        short = Short()
        alive.add(short)
        chain_future(long, short)

    for _ in range(40):
        if isinstance(long, asyncio.Future):
            await asyncio.to_thread(asyncio.run, chain())
            await turn()
        else:
            await asyncio.to_thread(asyncio.run, chain())
    for _ in range(MANY):
        here = new_asyncio()
        chain_future(long, here)
    gc.collect()
    assert len(alive) == 0
    long.cancel()
    await turn()
    assert here.cancelled()


@long_lived
async def test_both_pending_and_dropped_they_are_freed_at_once(new_long):
    gc.disable()
    try:
        first, second = new_long(), Short()
        chain_future(first, second)
        watches = weakref.ref(first), weakref.ref(second)
        del first, second
        assert [watch() for watch in watches] == [None, None]
    finally:
        gc.enable()


@long_lived
async def test_nothing_is_remembered_of_futures_that_have_gone(new_long):
    gc.collect()
    before = len(_all_followers)
    for ends in (True, False):
        for _ in range(10):
            first, second = new_long(), new_asyncio()
            chain_future(first, second)
            if ends:
                first.set_result("x")
        await turn()
        del first, second
        assert len(_all_followers) == before


async def test_a_future_with_the_id_of_one_that_has_gone_is_another():
    first, second = new_asyncio(), new_asyncio()
    chain_future(first, second)
    kept, its_id = _find_followers(first), id(first)
    del first
    others = []
    for _ in range(10_000):
        others.append(new_asyncio())
        if id(others[-1]) == its_id:
            break
    else:
        pytest.skip("the memory was not used again")
    other = others.pop()
    assert _find_followers(other) is None
    follower = new_asyncio()
    chain_future(other, follower)
    assert _find_followers(other) is not kept
    del kept, second
    assert _find_followers(other) is not None
    other.set_result("x")
    assert await follower == "x"


async def test_first_come_first_served_behind_one_future():
    first, seen = concurrent.futures.Future(), []
    followers = [concurrent.futures.Future() for _ in range(5)]
    for number, follower in enumerate(followers):
        follower.add_done_callback(lambda _, number=number: seen.append(number))
        chain_future(first, follower)
    followers[2].set_result("mine")
    first.set_result("x")
    assert seen == [2, 0, 1, 3, 4]


async def test_many_threads_chain_behind_one_future_while_it_ends():
    for _ in range(20):
        first = concurrent.futures.Future()
        followers = [concurrent.futures.Future() for _ in range(40)]
        barrier = threading.Barrier(5)

        def chain(mine, first=first, barrier=barrier):
            barrier.wait(10)
            for follower in mine:
                chain_future(first, follower)

        def end(first=first, barrier=barrier):
            barrier.wait(10)
            first.set_result("x")

        threads = [threading.Thread(target=chain, args=[followers[n::4]]) for n in range(4)]
        threads.append(threading.Thread(target=end))
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert [follower.result(0) for follower in followers] == ["x"] * 40


async def test_behind_a_future_of_threads_callbacks_run_in_the_context_of_its_end():
    who = contextvars.ContextVar("who", default="nobody")
    first, seen = concurrent.futures.Future(), []

    async def chain():
        who.set("chains")
        follower = concurrent.futures.Future()
        follower.add_done_callback(lambda _: seen.append(who.get()))
        chain_future(first, follower)

    async def end():
        who.set("ends")
        first.set_result("x")

    await asyncio.create_task(chain())
    await asyncio.create_task(end())
    assert seen == ["ends"]


@long_lived
async def test_many_that_are_pending_are_looked_through_seldom(new_long, monkeypatch):
    long, sweeps = new_long(), []
    sweep = _Followers._sweep

    def count(self):
        sweeps.append(len(self.links))
        sweep(self)

    monkeypatch.setattr(_Followers, "_sweep", count)
    followers = [new_asyncio() for _ in range(2000)]
    for follower in followers:
        chain_future(long, follower)
    assert sum(sweeps) < 2 * len(followers)
    long.cancel()
    await turn()
    assert all(follower.cancelled() for follower in followers)


class EndsMeanwhile(concurrent.futures.Future):
    """Is done by another thread after it was asked, and before a callback is added."""

    is_near_its_end = False

    def done(self):
        done = super().done()
        if self.is_near_its_end:
            self.set_result("x")
        return done


async def test_a_future_that_ends_while_it_is_chained():
    for new in (new_asyncio, concurrent.futures.Future):
        for others in (0, 1):
            first = EndsMeanwhile()
            followers = [new() for _ in range(others + 1)]
            for follower in followers[1:]:
                chain_future(first, follower)
            first.is_near_its_end = True
            chain_future(first, followers[0])
            await turn()
            assert [follower.result() for follower in followers] == ["x"] * len(followers)


async def test_a_future_that_is_over_before_the_chain_comes_to_the_first():
    """The first is another loop's, which hears of the chain later."""
    made, over, firsts = threading.Event(), threading.Event(), []

    async def other():
        firsts.append(new_asyncio())
        made.set()
        await asyncio.to_thread(over.wait, 10)
        assert callbacks_of(firsts[0]) == 1
        [links] = [len(ref().links) for ref in _all_followers.values() if ref().first() is first]
        assert links == (1 if follows else 0)
        first.set_result("x")

    for follows in (False, True):
        made.clear()
        over.clear()
        thread = asyncio.create_task(asyncio.to_thread(asyncio.run, other()))
        await asyncio.to_thread(made.wait, 10)
        [first] = firsts
        with holding_up(first.get_loop()):
            follower = concurrent.futures.Future()
            chain_future(first, follower)
            if not follows:
                follower.set_result("mine")
        over.set()
        await thread
        assert follower.result(0) == ("x" if follows else "mine")
        firsts.clear()


@contextlib.contextmanager
def holding_up(loop):
    """Keep a loop of another thread busy for the length of a block."""
    busy, go_on = threading.Event(), threading.Event()

    def hold_up():
        busy.set()
        assert go_on.wait(10)

    loop.call_soon_threadsafe(hold_up)
    assert busy.wait(10)
    try:
        yield
    finally:
        go_on.set()


async def test_each_follower_gets_its_outcome_in_the_context_of_its_chain():
    who = contextvars.ContextVar("who", default="nobody")
    first, seen = new_asyncio(), []

    async def chain(name):
        who.set(name)
        follower = concurrent.futures.Future()
        follower.add_done_callback(lambda _: seen.append(who.get()))
        chain_future(first, follower)

    for name in "ab":
        await asyncio.create_task(chain(name))
    first.set_result("x")
    await turn()
    assert seen == ["a", "b"]


@pytest.mark.parametrize("how", ["times out", "is cancelled", "is closed"])
@pytest.mark.parametrize("cancel", [True, False])
async def test_a_limit_leaves_nothing_on_a_future_of_threads(how, cancel):
    foreign, alive = concurrent.futures.Future(), weakref.WeakSet()
    foreign.set_running_or_notify_cancel()  # it cannot be cancelled
    for _ in range(10):
        waiting = with_timeout(0 if how == "times out" else 30, foreign, cancel=cancel)
        if how == "is closed":
            waiting.send(None)
            waiting.close()
            continue
        task = asyncio.ensure_future(waiting)
        alive.add(task)
        await turn()
        if how == "is cancelled":
            task.cancel()
        with pytest.raises((TimeoutError, asyncio.CancelledError)):
            await task
    del waiting
    task = None
    await turn()
    assert len(alive) == 0
    assert callbacks_of(foreign) == 1
    assert [len(ref().links) for ref in _all_followers.values() if ref().first() is foreign] == [0]
    foreign.set_exception(KeyError())  # which nobody hears of but its holder


@pytest.mark.parametrize("cancel", [True, False])
async def test_a_limit_that_is_closed_leaves_nothing_on_a_future(cancel):
    for new in KINDS.values():
        for end in (None, asyncio.Future.cancel, lambda future: future.set_exception(KeyError())):
            future = new()
            waiting = with_timeout(None if cancel else 30, future, cancel=cancel)
            waiting.send(None)
            if end is asyncio.Future.cancel:
                future.cancel()
            elif end is not None:
                end(future)
                future.exception()
            await turn()
            waiting.close()
            await turn()
            if isinstance(future, asyncio.Future):
                assert callbacks_of(future) == 0


@pytest.mark.parametrize("cancel", [True, False])
async def test_a_limit_leaves_nothing_on_a_future(cancel):
    long = new_asyncio()
    with pytest.raises(TimeoutError):
        await with_timeout(0, asyncio.shield(long) if cancel else long, cancel=cancel)
    task = asyncio.ensure_future(with_timeout(30, long, cancel=False))
    await turn()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await turn()
    assert callbacks_of(long) == 0
    long.cancel()


# Cycles


async def fails(error=KeyError):
    await asyncio.sleep(0)
    raise error


def fails_there(_=None):
    raise KeyError


@pytest.mark.waterspout("asyncio")
@pytest.mark.parametrize("cancel", [True, False])
@pytest.mark.parametrize("form", ["coroutine", "task", "future", "threads", "done"])
@pytest.mark.parametrize("seconds", [None, 30])
async def test_a_limit_on_what_fails(form, cancel, seconds):
    async def main():
        with contextlib.suppress(KeyError):
            await with_timeout(seconds, make(), cancel=cancel)

    def make():
        if form == "coroutine":
            return fails()
        if form == "task":
            return asyncio.ensure_future(fails())
        future = concurrent.futures.Future() if form == "threads" else new_asyncio()
        if form == "done":
            future.set_exception(KeyError())
        else:
            asyncio.get_running_loop().call_soon(future.set_exception, KeyError())
        return future

    await main()
    with no_reference_cycles():
        await main()
        await turn()


@pytest.mark.waterspout("asyncio")
@pytest.mark.parametrize("cancel", [True, False])
@pytest.mark.parametrize("form", ["coroutine", "task", "future", "threads"])
async def test_a_limit_that_expires_or_is_cancelled(form, cancel):
    async def main():
        for how in ("expires", "cancelled"):
            future = make()
            limit = with_timeout(0.001 if how == "expires" else 30, future, cancel=cancel)
            task = asyncio.ensure_future(limit)
            await turn()
            if how == "cancelled":
                task.cancel()
            await asyncio.wait([task])
            assert task.cancelled() or type(task.exception()) is TimeoutError
            if form in ("task", "future", "threads"):
                future.cancel()
            await asyncio.sleep(0.002)

    def make():
        if form == "coroutine":
            return sleep(0.001)
        if form == "task":
            return asyncio.ensure_future(sleep(30))
        return concurrent.futures.Future() if form == "threads" else new_asyncio()

    await main()
    with no_reference_cycles():
        await main()
        await turn()


@pytest.mark.waterspout("asyncio")
@pytest.mark.parametrize("new_first", KINDS.values(), ids=KINDS)
@pytest.mark.parametrize("new_second", KINDS.values(), ids=KINDS)
async def test_chains_that_fail(new_first, new_second):
    async def main():
        for error in (KeyError(), StopIteration(), None):
            first, second = new_first(), new_second()
            chain_future(first, second)
            if error is None:
                first.cancel()
            elif isinstance(first, concurrent.futures.Future) or not isinstance(
                error, StopIteration
            ):
                first.set_exception(error)
            else:
                first.set_exception(ValueError())
            await turn()
            assert second.cancelled() or second.exception() is not None
        del error

    await main()
    with no_reference_cycles():
        await main()


@pytest.mark.waterspout("asyncio")
async def test_functions_on_executors_that_fail():
    async def main(executor):
        for _ in range(2):
            with contextlib.suppress(KeyError):
                await run_on_executor(executor=executor)(fails_there)()
        assert isinstance(DummyExecutor().submit(fails_there).exception(), KeyError)

    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        for executor in (pool, dummy_executor, None):
            await main(executor)
            with no_reference_cycles():
                await main(executor)
                await turn()


# CPython 3.12 and 3.13 only: the frame of a coroutine goes on to refer to the one that resumed it.
KEEPS_CALLERS = sys.version_info < (3, 14) and os.environ.get("WATERSPOUT_TASKS") == "eager"


async def failing_source():
    yield 1
    raise KeyError


@pytest.mark.waterspout("asyncio")
@pytest.mark.parametrize("ordered", [True, False])
@pytest.mark.parametrize("what", ["func", "call", "source", "executor", "left", "cancelled"])
async def test_maps_that_fail(what, ordered):
    if what in ("call", "source") and KEEPS_CALLERS:
        pytest.skip("before 3.14, an exception keeps the callers of a task that starts eagerly")

    async def consume(results):
        async with results:
            async for _ in results:
                if what == "left":
                    break

    async def main():
        func, source, executor = asyncio.sleep, [0, 0, 0.01], None
        if what == "func":
            func = lambda _: fails()  # noqa: E731
        elif what == "call":
            func = fails_there
        elif what == "source":
            source = failing_source()
        elif what == "executor":
            func, executor = fails_there, dummy_executor
        results = amap(func, source, limit=2, ordered=ordered, executor=executor)
        task = asyncio.ensure_future(consume(results))
        await asyncio.sleep(0)
        if what == "cancelled":
            for _ in range(2):
                task.cancel()
                await asyncio.sleep(0)
        await asyncio.wait([task])
        if what == "cancelled":
            assert task.cancelled()
        else:
            assert (type(task.exception()) is KeyError) == (what != "left")

    await main()
    with no_reference_cycles():
        await main()
        await turn()
