"""What every test of the house runs under.

-   An `async def` test runs once on each of the loops it names with `@pytest.mark.loops`, by
    default on asyncio's, uvloop's, and one that leaves descriptors to a thread. `virtual` is
    asyncio's with a clock that jumps to the next timer whenever nothing else is ready, so that an
    hour's timeout takes no time.
-   With `WATERSPOUT_TASKS=eager`, tasks start eagerly (Python 3.12 and newer).
-   A test marked `@pytest.mark.only_on("linux", "darwin")` is skipped on other systems.
-   A task or thread that is left behind fails the test that left it, and so does a log record of
    a warning or worse; one that is expected is taken out by `caplog.clear()`. Unclosed sockets
    and the like are warnings, and these are errors.
"""

import asyncio
import gc
import inspect
import logging
import os
import selectors
import sys
import threading
from typing import Any

import pytest

try:
    import uvloop
except ImportError:  # there is none for Windows
    uvloop = None


class _JumpingSelector(selectors.DefaultSelector):
    loop: "VirtualLoop"

    def select(self, timeout: float | None = None) -> Any:
        # Threads may still be at work for a loop that has nothing to do itself.
        ready = super().select(0 if timeout is not None else 10.0)
        if not ready:
            if timeout is None:
                raise RuntimeError("the test waits for something that nothing can bring about")
            self.loop.now += timeout
        return ready


class VirtualLoop(asyncio.SelectorEventLoop):
    """An asyncio loop whose clock jumps instead of waiting."""

    def __init__(self) -> None:
        self.now = 1000.0
        selector = _JumpingSelector()
        selector.loop = self
        super().__init__(selector)
        self._clock_resolution = 1e-6  # of a float that counts years

    def time(self) -> float:
        return self.now

    async def shutdown_default_executor(self, timeout: float | None = None) -> None:
        await super().shutdown_default_executor()  # threads do not run on this clock


class ThreadedLoop(asyncio.SelectorEventLoop):
    """An asyncio loop that cannot watch descriptors itself, like Windows' proactor loop."""

    def add_reader(self, fd: Any, callback: Any, *args: Any) -> None:
        raise NotImplementedError

    def add_writer(self, fd: Any, callback: Any, *args: Any) -> None:
        raise NotImplementedError


LOOPS: dict[str, Any] = {
    "asyncio": asyncio.SelectorEventLoop,
    "threaded": ThreadedLoop,
    "virtual": VirtualLoop,
}
if uvloop is not None:
    LOOPS["uvloop"] = uvloop.new_event_loop


def factory(loop_name: str) -> Any:
    """Makes loops of a name."""

    def make() -> Any:
        loop = LOOPS[loop_name]()
        loop.slow_callback_duration = float("inf")  # how fast it is here is not what is tested
        if os.environ.get("WATERSPOUT_TASKS") == "eager":
            loop.set_task_factory(_eager)
        return loop

    return make


def _eager(loop: Any, coroutine: Any, *, eager_start: object = None, **kwargs: Any) -> Any:
    # uvloop gives an argument that the factory of some versions does not take.
    return asyncio.eager_task_factory(loop, coroutine, **kwargs)


def pytest_runtest_setup(item: pytest.Item) -> None:
    for marker in item.iter_markers("only_on"):
        if sys.platform not in marker.args:
            pytest.skip(f"is about {' and '.join(marker.args)}")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if inspect.iscoroutinefunction(metafunc.function):
        marker = metafunc.definition.get_closest_marker("loops")
        names = marker.args if marker else ("asyncio", "uvloop", "threaded")
        metafunc.fixturenames.append("loop_name")
        metafunc.parametrize("loop_name", [name for name in names if name in LOOPS])


@pytest.fixture
def loop_name() -> str:
    """The loop that a test which is no coroutine function asks for by parametrising this."""
    return "asyncio"


@pytest.fixture
def loop_factory(loop_name: str) -> Any:
    """Makes event loops of the kind that the test runs on."""
    return factory(loop_name)


@pytest.fixture(scope="session")
def run_on() -> Any:
    """Runs a coroutine on the loop of a name; for tests that hypothesis calls many times."""

    def run(loop_name: str, main: Any) -> Any:
        with asyncio.Runner(loop_factory=factory(loop_name)) as runner:
            return runner.run(main)

    return run


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    test = pyfuncitem.obj
    if not inspect.iscoroutinefunction(test):
        return None
    arguments = {
        name: pyfuncitem.funcargs[name]
        for name in inspect.signature(test).parameters
        if name in pyfuncitem.funcargs
    }
    with asyncio.Runner(loop_factory=factory(pyfuncitem.callspec.params["loop_name"])) as runner:
        runner.run(_watched(test, arguments))
    return True


async def _watched(test: Any, arguments: dict[str, Any]) -> None:
    await test(**arguments)
    left = asyncio.all_tasks() - {asyncio.current_task()}
    assert not left, f"tasks left behind: {left}"


@pytest.fixture(autouse=True)
def _nothing_left_behind(caplog: pytest.LogCaptureFixture) -> Any:
    before = set(threading.enumerate())
    yield
    left = [
        thread for thread in threading.enumerate() if thread not in before and thread.is_alive()
    ]
    assert not left, f"threads left behind: {left}"
    records = [record for record in caplog.get_records("call") if record.levelno >= logging.WARNING]
    assert not records, f"unexpected log records: {[record.getMessage() for record in records]}"


@pytest.fixture(autouse=True, scope="module")
def _collect_garbage() -> Any:
    """Have what a module's tests left unclosed complain while they are still in sight."""
    yield
    gc.collect()
