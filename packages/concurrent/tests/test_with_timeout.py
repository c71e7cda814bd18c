"""`with_timeout`: nothing runs on, no result is dropped, no cancellation is swallowed."""

import asyncio
import concurrent.futures
import gc
import math
from datetime import timedelta

import pytest

from waterspout.concurrent import sleep, with_timeout
from waterspout.ioloop.testing import simulate

everywhere = pytest.mark.waterspout("asyncio", "uvloop", "threaded", "simulated")
pytestmark = pytest.mark.waterspout("simulated")


class Awaitable:
    def __init__(self, coroutine):
        self.coroutine = coroutine

    def __await__(self):
        return self.coroutine.__await__()


async def result_after(seconds, value="result"):
    await asyncio.sleep(seconds)
    return value


FORMS = pytest.mark.parametrize(
    "form",
    [lambda c: c, asyncio.ensure_future, Awaitable],
    ids=["coroutine", "task", "awaitable"],
)
CANCEL = pytest.mark.parametrize("cancel", [True, False])


@FORMS
@CANCEL
@everywhere
async def test_a_result_in_time(form, cancel):
    assert await with_timeout(5, form(result_after(0.001)), cancel=cancel) == "result"
    assert await with_timeout(None, form(result_after(0.001)), cancel=cancel) == "result"
    assert await with_timeout(math.inf, form(result_after(0)), cancel=cancel) == "result"


@FORMS
@CANCEL
@everywhere
async def test_an_exception_in_time(form, cancel):
    async def fail():
        await asyncio.sleep(0.001)
        raise LookupError

    with pytest.raises(LookupError):
        await with_timeout(5, form(fail()), cancel=cancel)


@FORMS
@everywhere
async def test_what_takes_too_long_is_cancelled_and_its_end_waited_for(form):
    ended = []

    async def work():
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0.001)
            ended.append(True)

    with pytest.raises(TimeoutError):
        await with_timeout(0.01, form(work()))
    assert ended == [True]
    assert asyncio.current_task().cancelling() == 0


async def test_a_timedelta_will_do():
    loop = asyncio.get_running_loop()
    started = loop.time()
    with pytest.raises(TimeoutError):
        await with_timeout(timedelta(hours=1), loop.create_future())
    assert loop.time() - started == pytest.approx(3600)


async def test_a_plain_future_is_cancelled():
    future = asyncio.get_running_loop().create_future()
    with pytest.raises(TimeoutError):
        await with_timeout(1, future)
    assert future.cancelled()


@FORMS
async def test_who_has_a_result_all_the_same_gives_it(form):
    async def stubborn():
        try:
            await asyncio.sleep(10)
        except asyncio.CancelledError:
            await asyncio.sleep(10)
            return "saved"

    assert await with_timeout(1, form(stubborn())) == "saved"
    assert asyncio.current_task().cancelling() == 0
    await asyncio.sleep(0)


@pytest.mark.parametrize("result_first", [True, False])
async def test_a_result_at_the_very_moment(result_first):
    loop = asyncio.get_running_loop()
    future = loop.create_future()
    set_result = lambda: future.done() or future.set_result("just")  # noqa: E731
    if result_first:
        loop.call_at(loop.time() + 1, set_result)
        assert await with_timeout(1, future) == "just"
    else:
        waiting = asyncio.create_task(with_timeout(1, future))
        await asyncio.sleep(0)
        loop.call_at(loop.time() + 1, set_result)
        with pytest.raises(TimeoutError):
            await waiting


@FORMS
@CANCEL
@pytest.mark.parametrize("moment", [0.5, 1.0, 1.5])
async def test_a_cancellation_from_outside_is_never_swallowed(form, cancel, moment):
    async def work():
        try:
            await asyncio.sleep(3)
        finally:
            await asyncio.sleep(1)

    inner = form(work())
    outer = asyncio.create_task(with_timeout(1, inner, cancel=cancel))
    await asyncio.sleep(0)
    asyncio.get_running_loop().call_later(moment, outer.cancel)
    await asyncio.wait([outer])
    if cancel or moment <= 1:
        assert outer.cancelled()
    else:
        assert isinstance(outer.exception(), TimeoutError)
    await asyncio.sleep(10)


@FORMS
async def test_it_works_in_a_task_that_is_being_cancelled(form):
    """Clean-up after a cancellation has time limits, too."""

    async def main():
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            with pytest.raises(TimeoutError):
                await with_timeout(1, form(asyncio.sleep(10)))
            assert asyncio.current_task().cancelling() == 1
            raise

    task = asyncio.create_task(main())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_what_was_cancelled_by_others_says_so():
    future = asyncio.get_running_loop().create_future()
    asyncio.get_running_loop().call_later(1, future.cancel)
    with pytest.raises(asyncio.CancelledError):
        await with_timeout(2, future)


async def test_no_time_at_all():
    loop = asyncio.get_running_loop()
    done = loop.create_future()
    done.set_result("done")
    assert await with_timeout(0, done) == "done"
    assert await with_timeout(-1, done) == "done"
    assert await with_timeout(0, asyncio.sleep(0, "quick")) == "quick"
    with pytest.raises(TimeoutError):
        await with_timeout(0, loop.create_future())
    with pytest.raises(TimeoutError):
        await with_timeout(-1, asyncio.sleep(1))


async def test_left_running():
    ended = []

    async def work():
        await asyncio.sleep(3)
        ended.append(True)

    with pytest.raises(TimeoutError):
        await with_timeout(1, work(), cancel=False)
    gc.collect()
    await asyncio.sleep(3)
    assert ended == [True]


async def test_what_was_left_running_has_its_exception_reported():
    reports = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: reports.append(context))

    async def fail():
        await asyncio.sleep(3)
        raise LookupError

    with pytest.raises(TimeoutError):
        await with_timeout(1, fail(), cancel=False)
    left = asyncio.get_running_loop().create_future()
    with pytest.raises(TimeoutError):
        await with_timeout(1, left, cancel=False)
    left.cancel()
    await asyncio.sleep(3)
    gc.collect()
    assert [type(report["exception"]) for report in reports] == [LookupError]
    assert "_left_running" in reports[0]["message"]


async def test_a_future_left_running_is_its_holders():
    """Who retries with the same future gets its exception, and nobody else."""
    reports, timeouts = [], 0
    asyncio.get_running_loop().set_exception_handler(lambda _, context: reports.append(context))

    async def fail():
        await asyncio.sleep(10)
        raise LookupError

    task = asyncio.create_task(fail())
    while True:
        try:
            await with_timeout(3, task, cancel=False)
        except TimeoutError:
            timeouts += 1
        except LookupError:
            break
    assert timeouts == 3
    await asyncio.sleep(1)
    assert reports == []


def test_a_future_left_running_keeps_no_loop_alive():
    import weakref

    loops = []

    async def main():
        loops.append(weakref.ref(asyncio.get_running_loop()))
        with pytest.raises(TimeoutError):
            await with_timeout(1, asyncio.get_running_loop().create_future(), cancel=False)

    simulate(main)
    gc.collect()
    assert loops[0]() is None


async def test_cancel_false_keeps_a_result_of_the_very_moment():
    loop = asyncio.get_running_loop()
    future = loop.create_future()
    loop.call_later(1, future.set_result, "just")
    assert await with_timeout(1, future, cancel=False) == "just"


async def test_bad_arguments_are_refused():
    future = asyncio.get_running_loop().create_future()
    with pytest.raises(TypeError, match="future must be awaitable, not 5"):
        await with_timeout(1, 5)
    for awaitable in (future, asyncio.sleep(1)):
        with pytest.raises(TypeError, match="timeout must be seconds"):
            await with_timeout("1", awaitable)
    for awaitable in (future, asyncio.sleep(1)):
        with pytest.raises(ValueError, match="timeout must not be NaN"):
            await with_timeout(math.nan, awaitable)
    assert not future.done()


def test_without_a_task_it_says_so():
    loop = asyncio.new_event_loop()
    outcome = []

    def callback():
        try:
            with_timeout(1, loop.create_future()).send(None)
        except RuntimeError as error:
            outcome.append(str(error))

    loop.call_soon(callback)
    loop.call_soon(loop.stop)
    loop.run_forever()
    loop.close()
    assert outcome == ["with_timeout() must be awaited in a task"]


@everywhere
async def test_sleep_lets_others_run():
    loop = asyncio.get_running_loop()
    started = loop.time()
    await sleep(0.01)
    assert loop.time() - started >= 0.0099
    for duration in (0, -1, timedelta(0)):
        seen = []
        loop.call_soon(seen.append, 1)
        loop.call_soon(lambda: loop.call_soon(seen.append, 2))  # noqa: B023
        await sleep(duration)
        assert seen == [1]  # exactly one iteration
        await sleep(0)


async def test_sleep_for_ever_and_cancelled():
    for duration in (None, math.inf, 100):
        task = asyncio.create_task(sleep(duration))
        await asyncio.sleep(50)
        assert not task.done()
        task.cancel()
        await asyncio.sleep(0)
        assert task.cancelled()
    with pytest.raises(TypeError, match="duration must be seconds"):
        await sleep("1")
    with pytest.raises(ValueError, match="duration must not be NaN"):
        await sleep(math.nan)


async def test_a_sleep_that_is_over_and_cancelled_at_once():
    loop = asyncio.get_running_loop()
    task = asyncio.create_task(sleep(1))
    await asyncio.sleep(0)
    loop.call_at(loop.time() + 1, task.cancel)
    await asyncio.sleep(1.5)
    assert task.cancelled()


@pytest.mark.waterspout("simulated")
@pytest.mark.parametrize("cancel", [True, False])
async def test_futures_of_threads(cancel):
    done, slow = concurrent.futures.Future(), concurrent.futures.Future()
    done.set_result("x")
    assert await with_timeout(1, done, cancel=cancel) == "x"
    with pytest.raises(TimeoutError):
        await with_timeout(1, slow, cancel=cancel)
    assert slow.cancelled() == cancel
    with pytest.raises(ValueError, match="timeout must not be NaN"):
        await with_timeout(float("nan"), concurrent.futures.Future())
