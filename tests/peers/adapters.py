"""What stands between the peers' own tests and ours: thin, and only where the interfaces differ.

Tornado's coroutines begin when they are called, its numeric timeouts are points in time, its
timeouts raise an exception of its own, and what `acquire` gives can be released by a block.
"""

import asyncio
import contextlib
import sys
import types
import unittest

import pytest
import tornado.log
from tornado.util import TimeoutError as TornadoTimeout

from waterspout.ioloop import IOLoop, PeriodicCallback


def collect(module, namespace, not_followed, skipped=()):
    """Put a module's test classes into a namespace, with what is not followed marked.

    Args:
        module: The peer's test module.
        namespace: The globals of the test module here.
        not_followed: Reasons by `Class.test`: these tests must fail.
        skipped: Reasons by `Class` or `Class.test`: these are not run.
    """
    unknown = set(not_followed) | set(skipped)
    for name, cls in list(vars(module).items()):
        if not (isinstance(cls, type) and issubclass(cls, unittest.TestCase)):
            continue
        if cls.__module__ != module.__name__ or name in skipped:
            unknown.discard(name)
            continue
        for method in [method for method in dir(cls) if method.startswith("test_")]:
            key = f"{name}.{method}"
            unknown.discard(key)
            if key in skipped:
                mark = pytest.mark.skip(reason=skipped[key])
            elif key in not_followed:
                mark = pytest.mark.xfail(reason=not_followed[key], strict=True)
            else:
                continue
            original = getattr(cls, method)
            setattr(cls, method, mark(_copy(original)))
        namespace[name] = cls
    assert not unknown, f"{module.__name__} has no tests {unknown}"


def _copy(function):
    """A function of its own, so that a mark does not reach a class that shares it."""
    if not isinstance(function, types.FunctionType):
        return function
    copy = types.FunctionType(
        function.__code__,
        function.__globals__,
        function.__name__,
        function.__defaults__,
        function.__closure__,
    )
    copy.__dict__.update(function.__dict__)
    return copy


def at_once(coroutine):
    """Start a coroutine now, up to its first wait, and give a future of its result."""
    loop = asyncio.get_running_loop() if _running() else IOLoop.current().asyncio_loop
    try:
        first = coroutine.send(None)
    except StopIteration as stop:
        future = loop.create_future()
        future.set_result(stop.value)
        return future
    except Exception as error:
        future = loop.create_future()
        future.set_exception(error)
        return future
    task = asyncio.ensure_future(_rest(coroutine, first), loop=loop)
    task.add_done_callback(lambda done: done.cancelled() or done.exception())  # nobody need look
    task._log_destroy_pending = False  # Tornado's futures may be left, and its tests leave some
    return task


def _running():
    return asyncio._get_running_loop() is not None


@types.coroutine
def _rest(coroutine, waits_for):
    while True:
        try:
            sent = yield waits_for
        except BaseException as error:
            step, argument = coroutine.throw, error
        else:
            step, argument = coroutine.send, sent
        try:
            waits_for = step(argument)
        except StopIteration as stop:
            return stop.value


def seconds(timeout):
    """Tornado's timeout as ours."""
    return timeout - IOLoop.current().time() if isinstance(timeout, int | float) else timeout


async def translated(coroutine):
    """Await, with timeouts as Tornado's."""
    try:
        return await coroutine
    except TimeoutError as error:
        raise TornadoTimeout from error


class AdaptedLoop(IOLoop):
    """Reports errors to the log that Tornado's tests look at."""

    def handle_callback_exception(self, callback):
        tornado.log.app_log.error("Exception in callback %r", callback, exc_info=True)

    @property
    def selector_loop(self):
        """The name of Tornado's classes for it."""
        return self.asyncio_loop

    def _register_task(self, task):
        """Tornado's coroutines ask their loop to hold tasks."""

    def _unregister_task(self, task):
        """And to let them go."""


class AdaptedPeriodicCallback(PeriodicCallback):
    """Takes Tornado's arguments."""

    def __init__(self, callback, callback_time, jitter=0):
        super().__init__(callback, callback_time, jitter=jitter)


class Releasing:
    """What Tornado's `acquire` gives."""

    def __init__(self, lock):
        self._lock = lock

    def __enter__(self):
        return None

    def __exit__(self, *exc_info):
        self._lock.release()


@contextlib.contextmanager
def replaced(*places):
    """Replace attributes of modules: `(module, name, value)` each."""
    with pytest.MonkeyPatch.context() as patch:
        for module, name, value in places:
            patch.setattr(module, name, value)
        yield


def everywhere(original, ours):
    """The places for `replaced` where Tornado's modules have a name for something of theirs."""
    return [
        (module, name, ours)
        for module in list(sys.modules.values())
        if module.__name__.partition(".")[0] == "tornado"
        for name, value in list(vars(module).items())
        if value is original
    ]
