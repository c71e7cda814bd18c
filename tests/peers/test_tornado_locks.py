"""Tornado's own tests of its locks, from its wheel, run against ours."""

import sys
import types
from pathlib import Path

import pytest

pytest.importorskip("tornado")
sys.path.insert(0, str(Path(__file__).parent))

import tornado.test.locks_test as tornado_tests
from adapters import Releasing, at_once, collect, replaced, seconds, translated

from waterspout import locks

pytestmark = [pytest.mark.filterwarnings("default"), pytest.mark.slow]

LATER = (
    "asks for the outcome inside of the call that brings it about; ours are coroutine functions, "
    "and have it when they resume"
)
SHOWN = "asks for Tornado's representation"
NOT_FOLLOWED = {
    "ConditionTest.test_garbage_collection": LATER,
    "ConditionTest.test_nested_notify": LATER,
    "ConditionTest.test_notify_1": LATER,
    "ConditionTest.test_notify_all_with_timeout": LATER,
    "ConditionTest.test_notify_n_with_timeout": LATER,
    "ConditionTest.test_repr": SHOWN,
    "EventTest.test_event": LATER,
    "EventTest.test_event_wait_clear": LATER,
    "EventTest.test_repr": SHOWN,
    "SemaphoreTest.test_acquire": LATER,
    "SemaphoreTest.test_acquire_timeout": LATER,
    "SemaphoreTest.test_garbage_collection": LATER,
    "SemaphoreTest.test_repr": SHOWN,
    "SemaphoreContextManagerTest.test_context_manager_async_await": (
        "async with gives the semaphore, as the specification says; Tornado's gives None"
    ),
    "SemaphoreContextManagerTest.test_context_manager_misuse": (
        "a plain with is a TypeError of Python's, as for any object without the protocol"
    ),
    "BoundedSemaphoreTest.test_release_unacquired": LATER,
    "LockTests.test_acquire_release": LATER,
    "LockTests.test_context_manager_misuse": "as for the semaphore",
}
SKIPPED = {
    "ConditionTest.test_notify_all": LATER + ", and its tasks are cancelled with an error logged",
    "ConditionTest.test_notify_n": LATER + ", and its tasks are cancelled with an error logged",
}


class Condition(locks.Condition):
    def wait(self, timeout=None):
        return at_once(super().wait(seconds(timeout)))


class Event(locks.Event):
    def wait(self, timeout=None):
        return at_once(_wait(super().wait(seconds(timeout))))


async def _wait(coroutine):
    from tornado.util import TimeoutError as TornadoTimeout

    if not await coroutine:
        raise TornadoTimeout


class Acquiring:
    def acquire(self, timeout=None):
        return at_once(self._acquire(seconds(timeout)))

    async def _acquire(self, timeout):
        await translated(super().acquire(timeout))
        return Releasing(self)


class Lock(Acquiring, locks.Lock):
    pass


class Semaphore(Acquiring, locks.Semaphore):
    pass


class BoundedSemaphore(Acquiring, locks.BoundedSemaphore):
    pass


@pytest.fixture(autouse=True, scope="module")
def _adapted():
    ours = types.SimpleNamespace(
        Condition=Condition,
        Event=Event,
        Lock=Lock,
        Semaphore=Semaphore,
        BoundedSemaphore=BoundedSemaphore,
    )
    with replaced((tornado_tests, "locks", ours)):
        yield


collect(tornado_tests, globals(), NOT_FOLLOWED, SKIPPED)
