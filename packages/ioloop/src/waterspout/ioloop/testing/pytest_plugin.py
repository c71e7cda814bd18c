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

_SEED = pytest.StashKey[int]()
_PASSED = pytest.StashKey[bool]()
_CENSUS = pytest.StashKey[Census]()
_RUN = "_waterspout_run"
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

    def __init__(self, item: Any) -> None:
        marker: pytest.Mark | None = item.get_closest_marker("waterspout")
        given = {} if marker is None else dict(marker.kwargs)
        self.loops: tuple[str, ...] = () if marker is None else marker.args
        self.seeds: int = given.pop("seeds", 0)
        self.real_wait: float | None = given.pop("real_wait", None)
        self.may_leave: tuple[str, ...] = given.pop("may_leave", ())
        wrong = None
        if given:
            wrong = f"takes no {', '.join(given)}"
        elif not all(isinstance(loop, str) for loop in self.loops):
            wrong = f"takes names of loops, not {self.loops}"
        elif not isinstance(self.seeds, int) or self.seeds < 0:
            wrong = f"takes a number of seeds, not {self.seeds!r}"
        elif strangers := set(self.may_leave) - set(KINDS):
            wrong = f"has a may_leave made of {KINDS}, not {sorted(strangers)}"
        if wrong is not None:
            raise pytest.UsageError(f"{item.nodeid}: the marker waterspout {wrong}")


def _is_marked_coroutine(item: Any) -> bool:
    marked = item.get_closest_marker("waterspout") is not None
    return marked and inspect.iscoroutinefunction(getattr(item, "obj", None))


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run a test once on each loop, and on a simulated one once with each seed."""
    if metafunc.definition.get_closest_marker("waterspout") is None:
        return
    options = _Options(metafunc.definition)
    has_loop = inspect.iscoroutinefunction(metafunc.function)
    if not has_loop and _FIXTURES.isdisjoint(metafunc.fixturenames):
        return
    seeds: list[int | None] = [None]
    if options.seeds and metafunc.config.getoption("--waterspout-seed") is None:
        seeds = list(range(options.seeds))
    runs: list[tuple[str | None, int | None]] = []
    for name in options.loops or (None,):
        runs += [(name, seed) for seed in (seeds if name in (None, "simulated") else [None])]
    if len(runs) > 1 or seeds != [None]:
        ids = ["-".join(_parts(name, seed, len(options.loops))) for name, seed in runs]
        metafunc.fixturenames.append(_RUN)
        metafunc.parametrize(_RUN, runs, ids=ids)


def _parts(name: str | None, seed: int | None, loops: int) -> list[str]:
    parts = [] if name is None or (loops == 1 and seed is not None) else [name]
    return parts if seed is None else [*parts, f"seed{seed}"]


def pytest_itemcollected(item: pytest.Item) -> None:
    """Give an `async def` test that has the marker its loop, before all other fixtures."""
    if _is_marked_coroutine(item):
        names: list[str] = item.fixturenames  # type: ignore[attr-defined]
        if "waterspout_loop" not in names:
            names.insert(0, "waterspout_loop")


@pytest.fixture(scope="session")
def waterspout_loops() -> dict[str, LoopFactory]:
    """The loops that a test may ask for by name. Override it to add to them."""
    return {"asyncio": loop_factory("asyncio", {}), "uvloop": _uvloop}


def _uvloop() -> asyncio.AbstractEventLoop:
    return loop_factory("uvloop", {})()


@pytest.fixture
def waterspout_loop(
    request: pytest.FixtureRequest, waterspout_loops: dict[str, LoopFactory]
) -> Iterator[asyncio.AbstractEventLoop]:
    """The asyncio loop of the test, which is closed after it."""
    options = _Options(request.node)
    callspec = getattr(request.node, "callspec", None)
    name, seed = (None, None) if callspec is None else callspec.params.get(_RUN, (None, None))
    if name is None and options.loops:
        name = options.loops[0]
    if name is None:
        simulated = "waterspout_simulated_loop" in request.fixturenames
        name = "simulated" if simulated or _is_marked_coroutine(request.node) else "asyncio"
    loop: asyncio.AbstractEventLoop
    if name == "simulated":
        loop = SimulatedLoop(seed=_choose_seed(request, seed), real_wait=options.real_wait)
    elif name in waterspout_loops:
        loop = waterspout_loops[name]()
    else:
        known = ["simulated", *waterspout_loops]
        raise pytest.UsageError(f"no loop is called {name!r}; there are {', '.join(known)}")
    yield loop
    if not loop.is_closed():
        passed = request.node.stash.get(_PASSED, False)
        leaks = _lasting_leaks(loop, options.may_leave) if passed else []
        _close(loop)
        if leaks:
            pytest.fail("\n".join(leaks), pytrace=False)


def _choose_seed(request: pytest.FixtureRequest, seed: int | None) -> int | None:
    if seed is None:
        wanted = request.config.getoption("--waterspout-seed")
        seed = random.randrange(2**32) if wanted == "random" else wanted
    if seed is not None:
        request.node.stash[_SEED] = seed
    return seed


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
    if not _is_marked_coroutine(pyfuncitem):
        return None
    function = pyfuncitem.obj
    arguments = {
        name: pyfuncitem.funcargs[name]
        for name in inspect.signature(function).parameters
        if name in pyfuncitem.funcargs
    }
    loop: Any = pyfuncitem.funcargs["waterspout_loop"]
    loop.run_until_complete(function(**arguments))
    others = set(KINDS) - {"tasks"}
    tasks = _lasting_leaks(loop, (*_Options(pyfuncitem).may_leave, *others))
    if tasks:
        pytest.fail("\n".join(tasks), pytrace=False)
    return True


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Forget what an earlier run of the same test has come to."""
    stash: Any = item.stash
    for key in (_PASSED, _SEED, _CENSUS):
        if key in stash:
            del stash[key]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown(item: pytest.Item) -> Iterator[None]:
    """Look for what a test and its fixtures left behind, unless they failed anyway."""
    yield
    census = item.stash.get(_CENSUS, None)
    if census is not None and item.stash.get(_PASSED, False):
        leaks = census.leaks(_Options(item).may_leave)
        if leaks:
            pytest.fail("\n".join(leaks), pytrace=False)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Any:
    """Note whether it passed, or say in which order tasks ran."""
    report = yield
    if report.when == "call" and report.passed:
        item.stash[_PASSED] = True
    if report.failed and _SEED in item.stash:
        seed = item.stash[_SEED]
        text = f"tasks ran in the order of seed {seed}; again with --waterspout-seed={seed}"
        report.sections.append(("waterspout", text))
    return report
