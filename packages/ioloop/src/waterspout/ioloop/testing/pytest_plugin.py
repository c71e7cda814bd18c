"""A pytest plugin: coroutine tests, simulated time, and nothing left behind.

It comes with `waterspout-ioloop` and does nothing by itself. Only tests with its marker or one of
its fixtures know of it; those of other asynchronous plugins stay theirs. Every name it adds begins
with `waterspout`.

-   `@pytest.mark.waterspout(*loops, seeds=0, real_wait=None, may_leave=())` makes an `async def`
    test run, once on each of the loops: `"simulated"` (the default), `"asyncio"`, `"uvloop"`, or
    another name that the fixture `waterspout_loops` knows. With `seeds`, a simulated one runs so
    many times, each in another order of its tasks.
-   `waterspout_io_loop` and `waterspout_simulated_loop` are the loop that such a test runs on, or,
    in a plain test, one for it to run.
-   `--waterspout-seed=N` gives all simulated loops an order of tasks, `--waterspout-seed=random`
    a different one each time. A test that fails says which it was.
-   Tasks, handlers, timers, descriptors, sockets and threads that are left behind fail the test,
    but for the kinds named by `may_leave`.
"""

from __future__ import annotations

import asyncio
import inspect
import random
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from waterspout.ioloop._configure import loop_factory
from waterspout.ioloop._ioloop import IOLoop
from waterspout.ioloop.testing._leaks import KINDS, Census, leaks_of_loop
from waterspout.ioloop.testing._loop import SimulatedLoop
from waterspout.ioloop.testing._steps import AnyTask, describe

_SEED = pytest.StashKey[int]()
_FAILED = pytest.StashKey[bool]()
_CENSUS = pytest.StashKey[Census]()
_FIXTURES = {"waterspout_loop", "waterspout_io_loop", "waterspout_simulated_loop"}

SETTLING_TURNS = 20
"""Turns of the loop that what a test has ended gets to be gone."""

LoopFactory = Callable[[], asyncio.AbstractEventLoop]


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add `--waterspout-seed`."""
    group = parser.getgroup("waterspout")
    group.addoption(
        "--waterspout-seed",
        metavar="N",
        type=_seed,
        help="run tasks on simulated loops in the order of this seed; 'random' takes a new one "
        "for each test",
    )


def _seed(text: str) -> int | str:
    return "random" if text == "random" else int(text)


def pytest_configure(config: pytest.Config) -> None:
    """Add the marker."""
    config.addinivalue_line(
        "markers",
        "waterspout(*loops, seeds=0, real_wait=None, may_leave=()): a test with an event loop, "
        "by default a simulated one, that must leave nothing behind",
    )


class _Options:
    """What the marker of a test says."""

    def __init__(self, marker: pytest.Mark | None) -> None:
        given = {} if marker is None else dict(marker.kwargs)
        self.loops: tuple[str, ...] = () if marker is None else marker.args
        self.seeds: int = given.pop("seeds", 0)
        self.real_wait: float | None = given.pop("real_wait", None)
        self.may_leave: tuple[str, ...] = given.pop("may_leave", ())
        if given:
            raise pytest.UsageError(f"the marker waterspout takes no {', '.join(given)}")
        if not all(isinstance(loop, str) for loop in self.loops):
            raise pytest.UsageError(f"the marker waterspout takes names of loops: {self.loops}")
        if wrong := set(self.may_leave) - set(KINDS):
            raise pytest.UsageError(f"may_leave is made of {KINDS}, not {sorted(wrong)}")


def _options(item: Any) -> _Options:
    return _Options(item.get_closest_marker("waterspout"))


@pytest.hookimpl(tryfirst=True)
def pytest_pycollect_makeitem(collector: pytest.Module | pytest.Class, obj: Any) -> None:
    """Give an `async def` test that has the marker its loop."""
    if inspect.iscoroutinefunction(obj):
        marks = getattr(obj, "pytestmark", [])
        if collector.get_closest_marker("waterspout") or any(m.name == "waterspout" for m in marks):
            pytest.mark.usefixtures("waterspout_loop")(getattr(obj, "__func__", obj))


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run a test once on each loop, and with each seed."""
    if metafunc.definition.get_closest_marker("waterspout") is None:
        return
    options = _options(metafunc.definition)
    if "waterspout_loop" not in metafunc.fixturenames:
        return
    if len(options.loops) > 1:
        metafunc.parametrize("_waterspout_loop_name", options.loops)
    if options.seeds and metafunc.config.getoption("--waterspout-seed") is None:
        ids = [f"seed{seed}" for seed in range(options.seeds)]
        metafunc.parametrize("_waterspout_marked_seed", range(options.seeds), ids=ids)


@pytest.fixture(scope="session")
def waterspout_loops() -> dict[str, LoopFactory]:
    """The loops that a test may ask for by name. Override it to add to them."""
    return {"asyncio": loop_factory("asyncio", {}), "uvloop": _uvloop}


def _uvloop() -> asyncio.AbstractEventLoop:
    return loop_factory("uvloop", {})()


@pytest.fixture
def _waterspout_loop_name(request: pytest.FixtureRequest) -> str | None:
    loops = _options(request.node).loops
    return loops[0] if loops else None


@pytest.fixture
def _waterspout_marked_seed() -> int | None:
    return None


@pytest.fixture
def waterspout_loop(
    request: pytest.FixtureRequest,
    waterspout_loops: dict[str, LoopFactory],
    _waterspout_loop_name: str | None,
    _waterspout_marked_seed: int | None,
) -> Iterator[asyncio.AbstractEventLoop]:
    """The asyncio loop of the test, which is closed after it."""
    options = _options(request.node)
    name = _waterspout_loop_name
    if name is None:
        plain = not inspect.iscoroutinefunction(getattr(request.node, "obj", None))
        simulated = "waterspout_simulated_loop" in request.fixturenames or not plain
        name = "simulated" if simulated else "asyncio"
    loop: asyncio.AbstractEventLoop
    if name == "simulated":
        seed = _waterspout_marked_seed
        if seed is None:
            seed = request.config.getoption("--waterspout-seed")
        if seed == "random":
            seed = random.randrange(2**32)
        if seed is not None:
            request.node.stash[_SEED] = seed
        loop = SimulatedLoop(seed=seed, real_wait=options.real_wait)
    elif name in waterspout_loops:
        loop = waterspout_loops[name]()
    else:
        known = ["simulated", *waterspout_loops]
        raise pytest.UsageError(f"no loop is called {name!r}; there are {', '.join(known)}")
    yield loop
    if not loop.is_closed():
        leaks = [] if _FAILED in request.node.stash else _lasting_leaks(loop, options.may_leave)
        _close(loop)
        if leaks:
            pytest.fail("\n".join(leaks), pytrace=False)


def _lasting_leaks(loop: asyncio.AbstractEventLoop, allowed: tuple[str, ...]) -> list[str]:
    """Give what is left on a loop and does not go away by itself in a moment.

    Connections have their last words, and transports close in the next turn.
    """
    leaks: list[str] = []
    for _ in range(SETTLING_TURNS):
        leaks = leaks_of_loop(loop, allowed)
        if not leaks:
            break
        loop.run_until_complete(asyncio.sleep(0 if isinstance(loop, SimulatedLoop) else 0.005))
    return leaks


def _close(loop: asyncio.AbstractEventLoop) -> None:
    IOLoop.clear_current()
    io_loop: IOLoop | None = getattr(loop, "_waterspout_ioloop", None)
    (io_loop or IOLoop(loop)).close()


@pytest.fixture
def waterspout_io_loop(waterspout_loop: asyncio.AbstractEventLoop) -> IOLoop:
    """The `IOLoop` of the test: what it runs on, or, for a plain test, one to run."""
    loop: IOLoop | None = getattr(waterspout_loop, "_waterspout_ioloop", None)
    return IOLoop(waterspout_loop) if loop is None else loop


@pytest.fixture
def waterspout_simulated_loop(waterspout_loop: asyncio.AbstractEventLoop) -> SimulatedLoop:
    """The `SimulatedLoop` of the test: what it runs on, or, for a plain test, one to run."""
    if not isinstance(waterspout_loop, SimulatedLoop):
        raise pytest.UsageError(f"the test runs on {waterspout_loop!r}, which is not simulated")
    return waterspout_loop


def _is_ours(item: pytest.Item) -> bool:
    if item.get_closest_marker("waterspout") is not None:
        return True
    return not _FIXTURES.isdisjoint(getattr(item, "fixturenames", ()))


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    """Run an `async def` test that has the marker."""
    if _is_ours(pyfuncitem):
        pyfuncitem.stash[_CENSUS] = Census()
    function = pyfuncitem.obj
    marked = pyfuncitem.get_closest_marker("waterspout") is not None
    if not marked or not inspect.iscoroutinefunction(function):
        return None
    arguments = {
        name: pyfuncitem.funcargs[name]
        for name in inspect.signature(function).parameters
        if name in pyfuncitem.funcargs
    }
    loop: Any = pyfuncitem.funcargs["waterspout_loop"]
    may_leave = _options(pyfuncitem).may_leave

    async def main() -> list[AnyTask]:
        await function(**arguments)
        own = asyncio.current_task()
        return [task for task in asyncio.all_tasks() if task is not own]

    tasks = loop.run_until_complete(main())
    if tasks and "tasks" not in may_leave:
        pytest.fail("tasks left behind:\n" + "\n".join(map(describe, tasks)), pytrace=False)
    return True


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown(item: pytest.Item) -> Iterator[None]:
    """Look for what a test and its fixtures left behind."""
    try:
        return (yield)
    finally:
        census = item.stash.get(_CENSUS, None)
        leaks = [] if census is None else census.leaks(_options(item).may_leave)
        if leaks:
            pytest.fail("\n".join(leaks), pytrace=False)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Any:
    """Note a failure, and say in which order tasks ran."""
    report = yield
    if report.failed:
        item.stash[_FAILED] = True
    if report.failed and _SEED in item.stash:
        seed = item.stash[_SEED]
        text = f"tasks ran in the order of seed {seed}; again with --waterspout-seed={seed}"
        report.sections.append(("waterspout", text))
    return report
