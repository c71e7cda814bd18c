"""`settle` and `fail`: every outcome can be given to a future that is not done."""

import asyncio
import concurrent.futures
import threading

import pytest

from waterspout.ioloop.scheduling import fail, settle

FUTURES = [
    pytest.param(lambda: asyncio.get_running_loop().create_future(), id="asyncio"),
    pytest.param(concurrent.futures.Future, id="concurrent"),
]
each_kind = pytest.mark.parametrize("new_future", FUTURES)


class Wanting(Exception):
    """Cannot be made without an argument."""

    def __init__(self, what):
        super().__init__(what)


class Ended(StopIteration):
    pass


@each_kind
async def test_a_pending_future_gets_its_outcome(new_future):
    future = new_future()
    assert settle(future, 1)
    assert future.result() == 1
    error, future = ZeroDivisionError(), new_future()
    assert fail(future, error)
    assert future.exception() is error


@each_kind
async def test_a_done_future_keeps_its_outcome(new_future):
    cancelled = new_future()
    cancelled.cancel()
    assert not settle(cancelled, 1)
    assert not fail(cancelled, ZeroDivisionError())
    assert cancelled.cancelled()
    done = new_future()
    done.set_result("first")
    assert not settle(done, 1)
    assert not fail(done, ZeroDivisionError())
    assert done.result() == "first"


def test_a_future_that_another_thread_ends_meanwhile_keeps_that_outcome():
    class Slow(concurrent.futures.Future):
        """Is cancelled by another thread after it was asked whether it is done."""

        def done(self):
            done = super().done()
            thread = threading.Thread(target=self.cancel)
            thread.start()
            thread.join()
            return done

    for give in (lambda future: settle(future, 1), lambda future: fail(future, ValueError())):
        future = Slow()
        assert not give(future)
        assert future.cancelled()


@each_kind
@pytest.mark.parametrize(
    ("error", "kind", "cause"),
    [
        (StopIteration(1), RuntimeError, StopIteration),
        (StopIteration, RuntimeError, StopIteration),
        (Ended(2), RuntimeError, Ended),
        (StopAsyncIteration(), StopAsyncIteration, None),
        (ZeroDivisionError, ZeroDivisionError, None),
        (Wanting, TypeError, None),
        (Wanting("it"), Wanting, None),
        ("text", TypeError, None),
        (KeyboardInterrupt(), KeyboardInterrupt, None),
        (GeneratorExit(), GeneratorExit, None),
        (asyncio.InvalidStateError("x"), asyncio.InvalidStateError, None),
        (asyncio.CancelledError("x"), asyncio.CancelledError, None),
    ],
    ids=repr,
)
async def test_every_exception_can_be_given(new_future, error, kind, cause):
    future = new_future()
    assert fail(future, error)
    given = future.exception()
    assert type(given) is kind
    assert type(given.__cause__) is (cause or type(None))
    if cause is None and isinstance(error, BaseException):
        assert given is error


@pytest.mark.parametrize("name", ["CancelledError", "InvalidStateError"])
async def test_asyncio_futures_get_exceptions_of_asyncio(name):
    error = getattr(concurrent.futures, name)("said why")
    future = asyncio.get_running_loop().create_future()
    assert fail(future, error)
    given = future.exception()
    assert type(given) is getattr(asyncio, name)
    assert given.args == ("said why",)
    assert given.__cause__ is error
    future = concurrent.futures.Future()
    assert fail(future, error)
    assert future.exception() is error
