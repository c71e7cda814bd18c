"""Every exception of every package survives pickling and copying, and so processes.

All of them are looked for, so that a new one is tested as well.
"""

import asyncio
import copy
import importlib
import inspect
import multiprocessing
import pickle
import pkgutil
import socket
from concurrent.futures import ProcessPoolExecutor

import pytest

from waterspout.ioloop.testing import (
    CancelledRunError,
    DeadlockError,
    ScheduleError,
    cancel_everywhere,
    explore,
    simulate,
)
from waterspout.iostream import IOStream, StreamClosedError
from waterspout.iostream.testing import ScriptedPeer, ScriptError, SimulatedNetwork


def all_exceptions():
    """Find the classes of exceptions of the five packages."""
    found = set()
    for package in ("ioloop", "concurrent", "locks", "queues", "iostream"):
        root = importlib.import_module(f"waterspout.{package}")
        names = [one.name for one in pkgutil.walk_packages(root.__path__, f"{root.__name__}.")]
        for module in map(importlib.import_module, [root.__name__, *names]):
            for one in vars(module).values():
                is_exception = inspect.isclass(one) and issubclass(one, BaseException)
                if is_exception and one.__module__.startswith("waterspout."):
                    found.add(one)
    return sorted(found, key=lambda one: f"{one.__module__}.{one.__qualname__}")


class UnpicklableError(Exception):
    """Is pickled, but cannot be unpickled."""

    def __init__(self, one, two):
        super().__init__(one)


# Of those that are not made from a message.
MAKERS = {
    CancelledRunError: lambda cls: cls(ValueError("why"), "task#1", "is cancelled at line 5"),
    DeadlockError: lambda cls: cls([]),
    ScheduleError: lambda cls: cls(ValueError("why"), "3:2 7:1", 12, "1. first\n2. second"),
    StreamClosedError: lambda cls: cls(ConnectionResetError(104, "reset"), partial=b"some"),
}


def make(cls):
    error = MAKERS.get(cls, lambda cls: cls("the message"))(cls)
    error.add_note("a note")
    error.more = ["an attribute"]
    return error


def same(one, other):
    if isinstance(one, BaseException):
        return type(one) is type(other) and one.args == other.args
    return one == other


WAYS = {
    "copy": copy.copy,
    "deepcopy": copy.deepcopy,
    **{
        f"pickle {protocol}": lambda error, protocol=protocol: pickle.loads(
            pickle.dumps(error, protocol)
        )
        for protocol in range(pickle.HIGHEST_PROTOCOL + 1)
    },
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("cls", all_exceptions(), ids=lambda cls: cls.__qualname__)
def test_an_exception_survives(cls, way):
    error = make(cls)
    again = WAYS[way](error)
    assert again is not error
    assert type(again) is cls
    assert again.args == error.args
    assert str(again) == str(error)
    assert vars(again).keys() == vars(error).keys()
    for name, value in vars(error).items():
        assert same(value, getattr(again, name)), name


class Mine(ScheduleError):
    """A user's own subclass, made in another way."""

    def __init__(self):
        super().__init__(ValueError("why"), "1:1", 1, "trace")
        self.lock = asyncio.Lock


def test_a_subclass_that_is_made_otherwise_survives():
    again = pickle.loads(pickle.dumps(Mine()))
    assert type(again) is Mine
    assert again.schedule == "1:1"
    assert again.lock is asyncio.Lock


async def stuck():
    await asyncio.Event().wait()


def test_tasks_become_text_when_they_are_pickled_and_stay_when_they_are_copied():
    with pytest.raises(DeadlockError) as caught:
        simulate(stuck)
    error = caught.value
    (task,) = error.tasks
    assert copy.copy(error).tasks == [task]
    for again in (pickle.loads(pickle.dumps(error)), copy.deepcopy(error)):
        assert str(again) == str(error)
        assert again.tasks == [repr(task)]


def test_an_error_that_cannot_be_pickled_becomes_text():
    for real_error in (UnpicklableError(1, 2), ValueError(lambda: None)):
        error = StreamClosedError(real_error)
        assert copy.copy(error).real_error is real_error
        again = pickle.loads(pickle.dumps(error))
        assert type(again.real_error) is Exception  # and not None: that would be a clean end
        assert str(again.real_error) == repr(real_error)
        assert str(again) == str(error)


# Jobs for other processes, that fail


async def race():
    order = []

    async def step(name):
        await asyncio.sleep(0)
        order.append(name)

    await asyncio.gather(step(1), step(2))
    assert order == [1, 2]


def explores():
    explore(race)


def deadlocks():
    simulate(stuck, seed=5)


async def loses_a_lock(lock):
    await lock.acquire()
    await asyncio.sleep(0)
    lock.release()


async def is_free(lock):
    async with asyncio.timeout(1):
        await lock.acquire()


def cancels():
    cancel_everywhere(loses_a_lock, is_free, state=asyncio.Lock)


async def does_not_follow_the_script():
    with SimulatedNetwork() as network:
        async with ScriptedPeer(network).expect(b"A").end() as stream:
            await stream.write(b"B")
            await stream.read_bytes(1)


def follows_a_script():
    simulate(does_not_follow_the_script)


async def reads_on():
    left, right = map(IOStream, socket.socketpair())
    await left.write(b"not al")
    left.close()
    try:
        await right.read_until(b"\n")
    finally:
        right.close()


def reads_to_the_end():
    asyncio.run(reads_on())


JOBS = {
    explores: (ScheduleError, "replay='"),
    deadlocks: (DeadlockError, "stuck tasks:\nstuck"),
    cancels: (CancelledRunError, "TimeoutError"),
    follows_a_script: (ScriptError, "b'B'"),
    reads_to_the_end: (StreamClosedError, "closed by the other end"),
}


def run_on_executor(jobs, context):
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        return [future.exception() for future in [pool.submit(job) for job in jobs]]


def run_on_pool(jobs, context):
    def error_of(result):
        try:
            result.get(60)
        except Exception as error:
            return error

    with context.Pool(1) as pool:
        results = [pool.apply_async(job) for job in jobs]
        errors = [error_of(result) for result in results]
        pool.close()
        pool.join()
    return errors


@pytest.mark.slow
@pytest.mark.usefixtures("importable_tests")
@pytest.mark.parametrize("run", [run_on_executor, run_on_pool])
def test_exceptions_come_from_other_processes_as_what_they_are(run):
    for error, (kind, message) in zip(
        run(JOBS, multiprocessing.get_context("spawn")), JOBS.values(), strict=True
    ):
        assert type(error) is kind
        assert message in str(error)
