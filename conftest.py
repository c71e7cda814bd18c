"""What every test of the house runs under, on top of waterspout.ioloop's pytest plugin.

-   An `async def` test runs once on each of the loops it names with `@pytest.mark.waterspout`,
    by default on asyncio's, uvloop's, and one that leaves descriptors to a thread.
-   With `WATERSPOUT_TASKS=eager`, tasks start eagerly (Python 3.12 and newer).
-   A test marked `@pytest.mark.only_on("linux", "darwin")` is skipped on other systems.
-   A test marked `@pytest.mark.every_watcher` runs, besides, on asyncio's loop and uvloop's as they
    are where there is no epoll.
-   Whatever is left behind fails the test that left it, and so does a log record of a warning or
    worse; one that is expected is taken out by `caplog.clear()`. Unclosed files and the like are
    warnings, and these are errors.
-   What a process inherits is set, so that no test depends on how it is started: signals have their
    default handlers and are not blocked (a shell ignores Ctrl-C in its background jobs), the umask
    is 0o022, and the folder for temporary files has a path to which that of a Unix socket, which
    has about 100 bytes, can be added.
-   Hypothesis does not mind how long an example takes: that says how busy the machine is.
"""

import asyncio
import gc
import inspect
import logging
import os
import signal
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest

from waterspout.ioloop._watcher import Kernel

try:
    import uvloop
except ImportError:  # there is none for Windows
    uvloop = None

try:
    from hypothesis import given, settings, strategies
except ImportError:  # what crosses packages does without
    settings = None
else:
    settings.register_profile("waterspout", deadline=None)
    settings.load_profile("waterspout")

pytest_plugins = ["pytester"]

LONGEST_TEMPDIR = 32


class ThreadedLoop(asyncio.SelectorEventLoop):
    """An asyncio loop that cannot watch descriptors itself, like Windows' proactor loop."""

    def add_reader(self, fd: Any, callback: Any, *args: Any) -> None:
        raise NotImplementedError

    def add_writer(self, fd: Any, callback: Any, *args: Any) -> None:
        raise NotImplementedError


LOOPS: dict[str, Any] = {"asyncio": asyncio.SelectorEventLoop, "threaded": ThreadedLoop}
WITHOUT_EPOLL: dict[str, Any] = {
    "asyncio-readers": type(
        "Readers", (asyncio.SelectorEventLoop,), {"_waterspout_kernel": Kernel()}
    )
}
if uvloop is not None:
    LOOPS["uvloop"] = uvloop.new_event_loop
    WITHOUT_EPOLL["uvloop-readers"] = type(
        "UvloopReaders", (uvloop.Loop,), {"_waterspout_kernel": Kernel()}
    )


def factory(loop_name: str) -> Any:
    """Makes loops of a name."""

    def make() -> Any:
        loop = (LOOPS | WITHOUT_EPOLL)[loop_name]()
        loop.slow_callback_duration = float("inf")  # how fast it is here is not what is tested
        if os.environ.get("WATERSPOUT_TASKS") == "eager":
            loop.set_task_factory(_eager)
        return loop

    return make


def _eager(loop: Any, coroutine: Any, *, eager_start: object = None, **kwargs: Any) -> Any:
    # uvloop gives an argument that the factory of some versions does not take.
    return asyncio.eager_task_factory(loop, coroutine, **kwargs)


def pytest_configure() -> None:
    """Set what this process has inherited, and its children inherit from it."""
    os.umask(0o022)
    if hasattr(signal, "pthread_sigmask"):  # not on Windows
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
    signal.signal(signal.SIGINT, signal.default_int_handler)
    set_by_python = {getattr(signal, name, None) for name in ("SIGPIPE", "SIGXFSZ")}
    for signum in signal.valid_signals() - set_by_python:
        if signal.getsignal(signum) is signal.SIG_IGN:
            signal.signal(signum, signal.SIG_DFL)
    if len(tempfile.gettempdir()) > LONGEST_TEMPDIR and Path("/tmp").is_dir():
        os.environ["TMPDIR"] = tempfile.tempdir = "/tmp"


@pytest.hookimpl(tryfirst=True)
def pytest_pycollect_makeitem(collector: Any, name: str, obj: Any) -> None:
    """Have every test leave nothing behind, and coroutine functions run on all loops."""
    if inspect.isfunction(obj) and name.startswith("test_"):
        marks = [*getattr(obj, "pytestmark", []), *collector.iter_markers()]
        names = {mark.name for mark in marks}
        if "waterspout" not in names:
            loops = [*LOOPS, *WITHOUT_EPOLL] if "every_watcher" in names else [*LOOPS]
            pytest.mark.waterspout(*(loops if inspect.iscoroutinefunction(obj) else ()))(obj)


def pytest_collection_finish() -> None:
    """Have the garbage collector leave out what is there before the first test.

    Thousands of tests make it slow, and many tests ask it what they have left behind.
    """
    if settings is not None:
        _warm_hypothesis_up()
    gc.collect()
    gc.freeze()


def _warm_hypothesis_up() -> None:
    """Have Hypothesis note its generators of random numbers.

    It asks the garbage collector who refers to them, which leaves out what is frozen.
    """

    @settings(max_examples=1, database=None)
    @given(strategies.none())
    def example(_: None) -> None:
        pass

    example()


def pytest_runtest_setup(item: pytest.Item) -> None:
    for marker in item.iter_markers("only_on"):
        if sys.platform not in marker.args:
            pytest.skip(f"is about {' and '.join(marker.args)}")


@pytest.fixture(scope="session")
def waterspout_loops() -> dict[str, Any]:
    return {name: factory(name) for name in LOOPS | WITHOUT_EPOLL}


@pytest.fixture
def importable_tests(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have other processes find the functions of test modules, whose names begin at the root."""
    monkeypatch.setattr(sys, "path", [str(request.config.rootpath), *sys.path])


@pytest.fixture
def loop_name() -> str:
    """The loop that a test which is no coroutine function asks for by parametrising this."""
    return "asyncio"


@pytest.fixture
def loop_factory(loop_name: str) -> Any:
    """Makes event loops of the kind that the test runs on."""
    return factory(loop_name)


@pytest.fixture(autouse=True)
def _no_unexpected_log_records(caplog: pytest.LogCaptureFixture) -> Any:
    yield
    records = [record for record in caplog.get_records("call") if record.levelno >= logging.WARNING]
    assert not records, f"unexpected log records: {[record.getMessage() for record in records]}"


@pytest.fixture(autouse=True, scope="module")
def _collect_garbage() -> Any:
    """Have what a module's tests left unclosed complain while they are still in sight."""
    yield
    gc.collect()
