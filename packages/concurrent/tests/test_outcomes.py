"""Every outcome of a function or of a foreign future arrives: nobody waits for ever."""

import asyncio
import concurrent.futures
import functools
import itertools
import logging

import pytest

from waterspout.concurrent import (
    DummyExecutor,
    amap,
    chain_future,
    dummy_executor,
    future_set_exc_info,
    future_set_exception_unless_cancelled,
    run_on_executor,
    with_timeout,
)


class WantsAnArgument(Exception):
    def __init__(self, what):
        super().__init__(what)


class NoException(BaseException):
    pass


# What is raised or set; what arrives; and what that was caused by.
OUTCOMES = {
    "exception": (KeyError("x"), KeyError, None),
    "StopIteration": (StopIteration("x"), RuntimeError, StopIteration),
    "StopAsyncIteration": (StopAsyncIteration("x"), StopAsyncIteration, None),
    "class": (KeyError, KeyError, None),
    "class of StopIteration": (StopIteration, RuntimeError, StopIteration),
    "class that wants an argument": (WantsAnArgument, TypeError, None),
    "base exception": (NoException("x"), NoException, None),
    "CancelledError": (asyncio.CancelledError("x"), asyncio.CancelledError, None),
    "CancelledError of threads": (
        concurrent.futures.CancelledError("x"),
        asyncio.CancelledError,
        concurrent.futures.CancelledError,
    ),
    "TimeoutError": (TimeoutError("x"), TimeoutError, None),
}
outcomes = pytest.mark.parametrize("name", OUTCOMES)


def raises(outcome, _=None):
    raise outcome


def check(name, error):
    _, kind, cause = OUTCOMES[name]
    assert type(error) is kind
    if cause is not None:
        assert isinstance(error.__cause__, cause)


async def caught(awaitable):
    try:
        await asyncio.wait_for(asyncio.ensure_future(awaitable), 5)
    except BaseException as error:
        return error.with_traceback(None)
    pytest.fail("it has a result")


def failed(outcome):
    future = concurrent.futures.Future()
    future.set_exception(outcome)
    return future


@pytest.fixture
def threads():
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        yield pool


@outcomes
@pytest.mark.parametrize("name_of_executor", ["dummy", "threads"])
async def test_of_functions_on_executors(name, name_of_executor, threads):
    executor = {"dummy": dummy_executor, "threads": threads}[name_of_executor]
    function = run_on_executor(executor=executor)(raises)
    check(name, await caught(function(OUTCOMES[name][0])))


@pytest.mark.parametrize("name", [name for name in OUTCOMES if "class" not in name])
async def test_of_functions_on_the_default_executor(name):
    function = run_on_executor(raises)
    error = await caught(function(OUTCOMES[name][0]))
    if name == "CancelledError of threads":
        assert type(error) is asyncio.CancelledError
    else:
        check(name, error)


@outcomes
async def test_of_a_map_on_an_executor(name, threads):
    for executor, ordered in itertools.product((dummy_executor, threads), (True, False)):
        function = functools.partial(raises, OUTCOMES[name][0])
        results = amap(function, [1], limit=1, ordered=ordered, executor=executor)
        error = await caught(anext(results))
        if "StopAsync" in name:
            assert type(error) is RuntimeError
            assert type(error.__cause__) is StopAsyncIteration
        else:
            check(name, error)


@pytest.mark.parametrize("ordered", [True, False])
async def test_of_a_function_that_a_map_calls(ordered):
    for outcome in (StopIteration("x"), KeyError("x")):
        results = amap(functools.partial(raises, outcome), [1], limit=1, ordered=ordered)
        error = await caught(anext(results))
        assert type(error) is (RuntimeError if isinstance(outcome, StopIteration) else KeyError)


@outcomes
@pytest.mark.parametrize("cancel", [True, False])
@pytest.mark.parametrize("seconds", [None, 5])
async def test_of_a_foreign_future_with_a_limit(name, cancel, seconds):
    outcome = OUTCOMES[name][0]
    check(name, await caught(with_timeout(seconds, failed(outcome), cancel=cancel)))
    later = concurrent.futures.Future()
    asyncio.get_running_loop().call_soon(later.set_exception, outcome)
    check(name, await caught(with_timeout(seconds, later, cancel=cancel)))


@outcomes
@pytest.mark.parametrize("first", ["before", "after"])
async def test_of_the_first_of_two_futures(name, first):
    outcome = OUTCOMES[name][0]
    a, b = concurrent.futures.Future(), asyncio.get_running_loop().create_future()
    if first == "before":
        a.set_exception(outcome)
    chain_future(a, b)
    if first == "after":
        a.set_exception(outcome)
    check(name, await caught(b))


async def test_a_future_that_runs_cannot_be_cancelled_and_ends_all_the_same():
    a, b = asyncio.get_running_loop().create_future(), concurrent.futures.Future()
    b.set_running_or_notify_cancel()
    chain_future(a, b)
    a.cancel()
    await asyncio.sleep(0)
    assert type(b.exception(0)) is concurrent.futures.CancelledError


async def test_an_outcome_of_threads_stays_what_it_is_in_a_future_of_threads():
    a, b = concurrent.futures.Future(), concurrent.futures.Future()
    chain_future(a, b)
    error = concurrent.futures.CancelledError("x")
    a.set_exception(error)
    assert b.exception(0) is error


async def test_a_task_cannot_follow():
    task = asyncio.ensure_future(asyncio.sleep(0))
    with pytest.raises(TypeError, match="b must be a future that can be given an outcome"):
        chain_future(concurrent.futures.Future(), task)
    await task


@pytest.mark.parametrize("kind", ["asyncio", "threads"])
async def test_set_unless_cancelled(kind, caplog):
    def new():
        if kind == "asyncio":
            return asyncio.get_running_loop().create_future()
        return concurrent.futures.Future()

    for give in (
        future_set_exception_unless_cancelled,
        lambda future, error: future_set_exc_info(future, (type(error), error, None)),
    ):
        for error in (StopIteration("x"), NoException(), asyncio.CancelledError()):
            future = new()
            give(future, error)
            given = future.exception()
            assert given is error or given.__cause__ is error
            assert type(given) is (
                RuntimeError if isinstance(error, StopIteration) else type(error)
            )
            invalid = (asyncio.InvalidStateError, concurrent.futures.InvalidStateError)
            with pytest.raises(invalid):
                give(future, error)
            assert future.exception() is given
        future = new()
        future.cancel()
        with caplog.at_level(logging.CRITICAL + 1):
            give(future, StopIteration())
        assert future.cancelled()
        with pytest.raises(TypeError, match="exc must be an exception"):
            give(new(), KeyError) if give is future_set_exception_unless_cancelled else give(
                new(), "x"
            )


def test_a_dummy_executor_lets_out_what_is_to_end_the_program():
    for error in (KeyboardInterrupt, SystemExit):
        with pytest.raises(error):
            DummyExecutor().submit(raises, error())
    for error in (NoException(), asyncio.CancelledError(), GeneratorExit(), StopIteration()):
        assert DummyExecutor().submit(raises, error).exception() is error
