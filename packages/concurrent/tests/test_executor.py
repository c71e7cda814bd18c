"""`run_on_executor` in every form, on threads and processes; `is_future`."""

import asyncio
import contextvars
import functools
import math
import os
import pickle
import subprocess
import sys
import textwrap
import threading
import types
from concurrent.futures import Executor, Future, ThreadPoolExecutor

import pytest

from waterspout.concurrent import Future as ExportedFuture
from waterspout.concurrent import is_future, run_on_executor
from waterspout.ioloop import IOLoop

variable = contextvars.ContextVar("variable", default="unset")


@pytest.fixture
def pool():
    with ThreadPoolExecutor(1, thread_name_prefix="mine") as pool:
        yield pool


def thread_name():
    return threading.current_thread().name


class Worker:
    def __init__(self, executor=None):
        if executor is not None:
            self.executor = executor
            self.other = executor

    @run_on_executor
    def plain(self, a, *, b=0):
        """Adds."""
        return thread_name(), a + b

    @run_on_executor()
    def called(self):
        return thread_name()

    @run_on_executor(executor="other")
    def named(self):
        return thread_name()

    @run_on_executor
    def fail(self):
        raise LookupError("lost")

    @run_on_executor
    def context(self):
        return variable.get()


async def test_a_method_runs_on_the_executor_of_its_object(pool):
    worker = Worker(pool)
    future = worker.plain(1, b=2)
    assert isinstance(future, asyncio.Future)
    name, total = await future
    assert name.startswith("mine")
    assert total == 3
    assert (await worker.called()).startswith("mine")
    assert (await worker.named()).startswith("mine")
    assert Worker.plain.__doc__ == "Adds."


async def test_without_one_it_runs_on_the_loops_default():
    name = await Worker().called()
    assert name != thread_name()
    assert not name.startswith("mine")


async def test_functions_and_given_executors(pool):
    @run_on_executor(pool)
    def given():
        return thread_name()

    @run_on_executor(executor=pool, io_loop=IOLoop.current())
    def both(thing):
        return thread_name()

    class HasExecutor:
        executor = "not one"

    @run_on_executor
    def function(thing):
        return thread_name()

    assert (await given()).startswith("mine")
    assert (await both(1)).startswith("mine")
    # The first argument of a function is nobody's self.
    assert not (await function(HasExecutor())).startswith("mine")


async def test_errors_come_through(pool):
    with pytest.raises(LookupError, match="lost"):
        await Worker(pool).fail()


async def test_context_variables_go_along(pool):
    variable.set("caller")
    assert await Worker(pool).context() == "caller"
    assert await Worker().context() == "caller"


async def test_it_starts_when_it_is_called(pool):
    started = threading.Event()

    @run_on_executor(pool)
    def begin():
        started.set()

    future = begin()
    assert started.wait(10)
    await future


async def test_cancelling_keeps_it_from_starting(pool):
    release, ran = threading.Event(), []

    @run_on_executor(pool)
    def block():
        release.wait(10)

    @run_on_executor(pool)
    def note():
        ran.append(True)

    first, second = block(), note()
    second.cancel()
    await asyncio.sleep(0)
    release.set()
    await first
    assert ran == []


async def test_missing_and_shut_down_executors(pool):
    with pytest.raises(AttributeError, match="other"):
        Worker().named()
    worker = Worker(pool)
    worker.other = "pool"
    with pytest.raises(TypeError, match="other of .* must be an Executor, not 'pool'"):
        worker.named()
    pool.shutdown()
    with pytest.raises(RuntimeError, match="after shutdown"):
        worker.called()


def test_without_a_loop_it_says_so():
    with pytest.raises(RuntimeError, match="no event loop is running"):
        Worker().called()


def test_bad_arguments_are_refused():
    with pytest.raises(TypeError, match="executor must be an Executor"):
        run_on_executor(5)
    with pytest.raises(TypeError, match="io_loop must be a Scheduler"):
        run_on_executor(io_loop=5)
    with pytest.raises(TypeError, match="decorates a function"):
        run_on_executor()(5)
    with pytest.raises(TypeError, match="io_loop must be a Scheduler"):
        run_on_executor(print, io_loop=5)
    with pytest.raises(TypeError, match="executor must be an Executor"):
        run_on_executor(ThreadPoolExecutor)
    for kind in (staticmethod, classmethod):
        with pytest.raises(TypeError, match=f"goes beneath {kind.__name__}"):
            run_on_executor()(kind(plain))

    class Callable:
        async def __call__(self):
            pass

    with pytest.raises(TypeError, match="coroutine function"):
        run_on_executor(Callable())
    with pytest.raises(TypeError, match="coroutine function"):

        @run_on_executor
        async def coroutine():
            pass


class Pickling(Executor):
    """Hands everything over as another process would."""

    def submit(self, fn, /, *args, **kwargs):
        future = Future()
        data = pickle.dumps((fn, args, kwargs))
        fn, args, kwargs = pickle.loads(data)
        future.set_result(fn(*args, **kwargs))
        return future


class PicklingWhole(Pickling):
    """Makes one piece of a call before, as many executors do that stand before another."""

    def submit(self, fn, /, *args, **kwargs):
        return super().submit(functools.partial(fn, *args, **kwargs))


def plain(number, more=1):
    return number + more


decorated_elsewhere = run_on_executor(Pickling())(plain)


@run_on_executor(PicklingWhole())
def decorated_whole(number, more=1):
    return number + more


def log(func):
    @functools.wraps(func)
    def wrapper(*args, **kwargs):
        return func(*args, **kwargs)

    return wrapper


class Remote:
    executor = Pickling()

    @run_on_executor
    def __private(self, number):
        return number * 2

    def call_private(self, number):
        return self.__private(number)

    @log
    @run_on_executor
    def logged(self, number):
        return number * 3

    @classmethod
    @run_on_executor
    def of_class(cls, number):
        return cls.__name__, number

    @staticmethod
    @run_on_executor(executor=Pickling())
    def static(thing):
        return thing

    @run_on_executor
    def overridden(self):
        return "base"


class Derived(Remote):
    @run_on_executor
    def overridden(self):
        return "derived"


async def test_functions_are_found_by_their_names(monkeypatch):
    monkeypatch.setitem(sys.modules, __name__, sys.modules.get(__name__) or _this_module())
    assert await decorated_elsewhere(1) == 2
    assert await decorated_whole(1) == 2
    assert await decorated_whole(1, more=2) == 3
    remote = Remote()
    assert await remote.call_private(2) == 4
    assert await remote.logged(2) == 6
    assert await remote.of_class(5) == ("Remote", 5)
    assert await remote.static("x") == "x"
    assert await Derived().overridden() == "derived"
    assert await Remote.overridden(remote) == "base"
    assert await run_on_executor(Pickling())(math.factorial)(5) == 120
    assert await run_on_executor(Pickling())(functools.partial(plain, 5))() == 6
    assert "plain" in repr(decorated_elsewhere)


def _this_module():
    module = types.ModuleType(__name__)
    vars(module).update(globals())
    return module


def test_a_name_that_leads_nowhere_raises_when_called_and_not_before():
    from waterspout.concurrent._executor import _find

    for module, name, error in [
        ("no_such_module", "x", ModuleNotFoundError),
        ("math", "factorial", LookupError),
        ("math", "no_such_function", LookupError),
    ]:
        missing = _find(module, name)
        with pytest.raises(error):
            missing(1)


class Config:
    executor = "thread"


class Misleading:
    @staticmethod
    @run_on_executor
    def static(config):
        return thread_name()

    @run_on_executor(executor="pool")
    def named(self):
        return thread_name()


async def test_only_a_method_has_a_self(pool):
    assert await Misleading.static(Config()) != thread_name()
    assert await Misleading().static(Config()) != thread_name()
    worker = Misleading()
    worker.pool = pool
    assert (await Misleading.named(worker)).startswith("mine")
    free = run_on_executor(executor="pool")(lambda self: thread_name())
    assert (await free(worker)).startswith("mine")
    with pytest.raises(TypeError, match=r"takes its executor from self\.pool"):
        free()


async def test_what_no_other_process_can_find_says_so():
    @run_on_executor(Pickling())
    def local():
        pass

    with pytest.raises((pickle.PicklingError, AttributeError), match="local"):
        local()


SCRIPT = """
import asyncio, os, sys
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from waterspout.concurrent import run_on_executor

class Worker:
    executor = None

    def __init__(self, factor):
        self.factor = factor

    @run_on_executor
    def multiply(self, number, *, more=0):
        return os.getpid(), self.factor * number + more

    @staticmethod
    @run_on_executor(executor=None)
    def static(number):
        return os.getpid(), number

@run_on_executor
def function(number):
    return os.getpid(), number

async def main():
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        Worker.executor = pool
        pid, product = await Worker(3).multiply(7, more=1)
        assert pid != os.getpid() and product == 22, (pid, product)
        from waterspout.ioloop import IOLoop
        IOLoop.current().set_default_executor(pool)
        for call in (function, Worker.static):
            pid, number = await call(5)
            assert pid != os.getpid() and number == 5

if __name__ == "__main__":
    asyncio.run(main())
"""


@pytest.mark.slow
def test_other_processes(tmp_path):
    (tmp_path / "script.py").write_text(textwrap.dedent(SCRIPT))
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONSAFEPATH"}
    subprocess.run(
        [sys.executable, "-W", "error", "script.py"], cwd=tmp_path, check=True, env=environment
    )


async def test_is_future():
    future = asyncio.get_running_loop().create_future()
    assert is_future(future)
    assert is_future(Future())
    task = asyncio.ensure_future(asyncio.sleep(0))
    assert is_future(task)
    await task
    coroutine = asyncio.sleep(0)
    assert not is_future(coroutine)
    assert not is_future(None)
    await coroutine
    assert ExportedFuture is asyncio.Future
