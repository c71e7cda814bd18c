"""The pytest plugin, from outside: runs of pytest that must pass or fail."""

import socket
import sys
import threading
from pathlib import Path

import pytest

from waterspout.ioloop.testing._leaks import Census

pytestmark = pytest.mark.slow


@pytest.fixture
def run(pytester, monkeypatch):
    """Runs pytest on a file of tests, with our plugin and no other asynchronous one."""
    monkeypatch.delenv("PYTEST_ADDOPTS", raising=False)
    pytester.makeini(
        "[pytest]\naddopts = --strict-markers -p no:cacheprovider\nfilterwarnings = error\n"
    )

    def run_on(source, *arguments):
        pytester.makepyfile(source)
        others = [f"-pno:{name}" for name in ("asyncio", "anyio", "cov", "hypothesispytest")]
        return pytester.runpytest_inprocess(*others, *arguments)

    return run_on


def test_coroutine_functions_run_under_the_marker(run):
    result = run(
        """
        import asyncio, pytest
        from waterspout.ioloop import IOLoop
        from waterspout.ioloop.testing import SimulatedLoop

        pytestmark = pytest.mark.waterspout

        @pytest.fixture
        def value():
            return 5

        @pytest.mark.parametrize("factor", [1, 2])
        async def test_it(value, factor):
            loop = asyncio.get_running_loop()
            assert isinstance(loop, SimulatedLoop)
            await asyncio.sleep(value * factor * 3600)
            assert loop.time() == value * factor * 3600

        class TestMethods:
            async def test_it(self, waterspout_io_loop, waterspout_simulated_loop):
                assert waterspout_io_loop is IOLoop.current()
                assert waterspout_simulated_loop is asyncio.get_running_loop()

        def test_plain():
            pass

        async def test_that_fails():
            assert 1 == 2
        """
    )
    result.assert_outcomes(passed=4, failed=1)
    result.stdout.fnmatch_lines(["*assert 1 == 2*"])
    result.stdout.no_fnmatch_line("*seed*")


def test_without_marker_or_fixture_it_does_nothing(run):
    result = run(
        """
        import threading
        from waterspout.ioloop.testing import pytest_plugin

        go_on = threading.Event()

        async def test_it():
            pass

        def test_thread():
            threading.Thread(target=go_on.wait).start()  # left, and that is not our business

        def test_zz_the_end():
            go_on.set()
            threading.enumerate()[-1].join()
        """
    )
    result.assert_outcomes(passed=2, failed=1)
    result.stdout.fnmatch_lines(["*async def functions are not natively supported*"])


def test_it_runs_on_each_loop_that_it_names(run):
    result = run(
        """
        import asyncio, pytest

        seen = set()

        class Mine(asyncio.SelectorEventLoop):
            pass

        @pytest.fixture(scope="session")
        def waterspout_loops(waterspout_loops):
            return {**waterspout_loops, "mine": Mine}

        @pytest.mark.waterspout("simulated", "asyncio", "mine")
        async def test_it():
            seen.add(type(asyncio.get_running_loop()).__name__)

        @pytest.mark.waterspout("mine")
        async def test_one():
            assert type(asyncio.get_running_loop()) is Mine

        def test_all():
            assert {"SimulatedLoop", "Mine"} < seen
            assert len(seen) == 3
        """,
        "-v",
    )
    result.assert_outcomes(passed=5)
    result.stdout.fnmatch_lines(["*test_it?simulated?*", "*test_it?mine?*", "*test_one PASSED*"])


@pytest.mark.skipif(sys.platform == "win32", reason="there is no uvloop")
def test_uvloop_is_known(run):
    pytest.importorskip("uvloop")
    result = run(
        """
        import asyncio, pytest

        @pytest.mark.waterspout("uvloop")
        async def test_it():
            assert "uvloop" in type(asyncio.get_running_loop()).__module__
        """
    )
    result.assert_outcomes(passed=1)


def test_methods_of_every_kind_and_inherited_ones(run):
    result = run(
        """
        import asyncio, pytest, threading

        go_on = threading.Event()

        class Base:
            async def test_inherited(self):
                await asyncio.sleep(1000)

            def test_plain(self):
                if not isinstance(self, TestMarked):
                    threading.Thread(target=go_on.wait).start()  # nobody looks

        @pytest.mark.waterspout
        class TestMarked(Base):
            @staticmethod
            async def test_static():
                await asyncio.sleep(1000)

            @classmethod
            async def test_class(cls):
                await asyncio.sleep(1000)

        class TestNot(Base):
            async def test_inherited(self):
                pass

        def test_zz_the_end():
            go_on.set()
            threading.enumerate()[-1].join()
        """
    )
    result.assert_outcomes(passed=6, failed=1)  # a coroutine function without a marker


def test_generators_and_cancelled_tasks_come_to_their_end(run):
    result = run(
        """
        import asyncio, pytest

        @pytest.mark.waterspout(seeds=5)
        async def test_generator():
            async def numbers():
                yield 1

            async for _ in numbers():
                break
            await asyncio.sleep(0)

        @pytest.mark.waterspout
        async def test_cancelled():
            task = asyncio.create_task(asyncio.sleep(5))
            await asyncio.sleep(0)
            task.cancel()
        """
    )
    result.assert_outcomes(passed=6)


def test_only_simulated_loops_have_seeds(run):
    result = run(
        """
        import pytest

        @pytest.mark.waterspout("simulated", "asyncio", seeds=2)
        async def test_it():
            pass
        """,
        "-v",
    )
    result.assert_outcomes(passed=3)
    result.stdout.fnmatch_lines(["*simulated-seed0*", "*simulated-seed1*", "*test_it?asyncio?*"])


def test_plain_tests_get_loops_to_run(run):
    result = run(
        """
        import asyncio
        from waterspout.ioloop.testing import SimulatedLoop

        def test_real(waterspout_io_loop):
            assert not isinstance(waterspout_io_loop.asyncio_loop, SimulatedLoop)
            assert waterspout_io_loop.run_sync(lambda: asyncio.sleep(0, 5)) == 5

        def test_simulated(waterspout_simulated_loop, waterspout_io_loop):
            assert waterspout_io_loop.asyncio_loop is waterspout_simulated_loop
            waterspout_io_loop.run_sync(lambda: asyncio.sleep(3600))
            assert waterspout_simulated_loop.time() == 3600

        def test_closed(waterspout_io_loop):
            waterspout_io_loop.close()
        """
    )
    result.assert_outcomes(passed=3)


def test_the_loop_must_be_simulated_for_its_fixture(run):
    result = run(
        """
        import pytest

        @pytest.mark.waterspout("asyncio")
        async def test_it(waterspout_simulated_loop):
            pass

        @pytest.mark.waterspout("nowhere")
        async def test_unknown():
            pass
        """
    )
    result.assert_outcomes(errors=2)
    result.stdout.fnmatch_lines(
        ["*which is not simulated*", "*no loop is called 'nowhere'; there are simulated, asyncio*"]
    )


@pytest.mark.parametrize(
    ("marker", "message"),
    [
        ("seed=5", "takes no seed"),
        ("5", "takes names of loops"),
        ("may_leave=['cats']", "may_leave made of"),
        ("seeds=-1", "takes a number of seeds, not -1"),
    ],
)
def test_bad_markers_are_refused(run, marker, message):
    result = run(
        f"""
        import pytest

        @pytest.mark.waterspout({marker})
        async def test_it():
            pass
        """
    )
    assert result.ret != 0
    assert message in result.stdout.str() + result.stderr.str()


ORDER = """
    import asyncio, pytest

    @pytest.mark.waterspout{marker}
    async def test_it(capsys):
        seen = []

        async def worker(number):
            for _ in range(5):
                await asyncio.sleep(0)
                seen.append(number)

        await asyncio.gather(worker(0), worker(1), worker(2))
        with capsys.disabled():
            print("order", *seen)
        assert seen[:3] == [0, 1, 2]
"""


def orders(result):
    return [line for line in result.outlines if "order 0" in line or "order " in line]


def test_a_seed_is_given_and_told(run):
    first = run(ORDER.format(marker=""), "--waterspout-seed=3")
    again = run(ORDER.format(marker=""), "--waterspout-seed=3")
    first.assert_outcomes(failed=1)
    assert orders(first)[0] == orders(again)[0]
    first.stdout.fnmatch_lines(["*order of seed 3; again with --waterspout-seed=3*"])
    assert run(ORDER.format(marker="")).ret == 0


def test_a_random_seed_is_told(run):
    results = [run(ORDER.format(marker=""), "--waterspout-seed=random")]
    while results[-1].ret == 0 or len({orders(result)[0] for result in results}) == 1:
        results.append(run(ORDER.format(marker=""), "--waterspout-seed=random"))
    failed = results[-1]
    [told] = [line for line in failed.outlines if "again with" in line]
    seed = told.rpartition("=")[2]
    again = run(ORDER.format(marker=""), f"--waterspout-seed={seed}")
    assert orders(again)[0] == orders(failed)[0]


def test_a_test_runs_with_several_seeds(run):
    result = run(ORDER.format(marker="(seeds=10)"))
    outcomes = result.parseoutcomes()
    assert sum(outcomes.values()) == 10
    assert outcomes["failed"] > 3
    result.stdout.fnmatch_lines(["*test_it?seed*"])
    one = run(ORDER.format(marker="(seeds=10)"), "--waterspout-seed=3")
    assert sum(one.parseoutcomes().values()) == 1
    plain = run("import pytest\n@pytest.mark.waterspout(seeds=3)\ndef test_it(): pass")
    plain.assert_outcomes(passed=1)


def test_bad_seeds_are_refused(run):
    result = run("def test_it(): pass", "--waterspout-seed=x")
    assert result.ret != 0
    assert "--waterspout-seed" in result.stderr.str()


LEAKS = {
    "tasks": "held.append(asyncio.create_task(asyncio.Event().wait()))",
    "handlers ": "simulated.add_reader(simulated.new_descriptor(), print)",
    "handlers": "loop.add_handler(simulated.new_descriptor(), print, loop.READ)",
    "descriptors": "simulated.new_descriptor()",
    "timers": "loop.call_later(10, print)",
    "timers ": "simulated.call_later(10, print)",
    "sockets": "kept.append(socket.socket())",
    "threads": "threading.Thread(target=lambda: go_on.wait(5)).start()",
}

LEAKING = """
    @pytest.mark.waterspout{allowed}
    async def test_{name}():
        simulated, loop = asyncio.get_running_loop(), IOLoop.current()
        ran = loop.call_later(5, print)
        removed = loop.call_later(5, print)
        loop.remove_timeout(removed)
        simulated.call_later(10, print).cancel()
        await asyncio.sleep(6)
        {leak}
"""

LEAKS_HEAD = """
    import asyncio, pytest, socket, threading
    from waterspout.ioloop import IOLoop

    kept, held, go_on = [], [], threading.Event()
"""

LEAKS_TAIL = """
    def test_zz_the_end():
        go_on.set()
        for thread in threading.enumerate():
            if thread is not threading.current_thread() and not thread.daemon:
                thread.join()
        while kept:
            kept.pop().close()
"""


@pytest.mark.parametrize("may_leave", [False, True])
def test_leaks_are_found(run, may_leave):
    kinds = dict(LEAKS)
    if not Path("/proc/self/fd").exists() and not Path("/dev/fd").exists():
        del kinds["sockets"]  # this system does not tell which are open
    tests = [
        LEAKING.format(
            allowed=f"(may_leave=({kind.strip()!r}, 'descriptors'))" if may_leave else "",
            name=f"leak_{number}",
            leak=leak,
        )
        for number, (kind, leak) in enumerate(kinds.items())
    ]
    result = run(LEAKS_HEAD + "".join(tests) + LEAKS_TAIL)
    if may_leave:
        result.assert_outcomes(passed=len(kinds) + 1)
        return
    outcomes = result.parseoutcomes()
    assert outcomes.get("failed", 0) + outcomes.get("errors", 0) == len(kinds)
    for kind in kinds:
        result.stdout.fnmatch_lines([f"*{kind.strip()} left behind*"])


def test_a_test_that_failed_is_not_blamed_for_what_it_left(run):
    result = run(
        """
        import asyncio, pytest

        @pytest.mark.waterspout
        async def test_it():
            asyncio.create_task(asyncio.sleep(10))
            raise ZeroDivisionError

        @pytest.mark.waterspout
        async def test_skip():
            asyncio.get_running_loop().call_later(5, print)
            pytest.skip("for a reason")
        """
    )
    result.assert_outcomes(failed=1, skipped=1)
    result.stdout.no_fnmatch_line("*left behind*")


def test_a_test_that_is_run_again_is_looked_at_again(run, pytester):
    pytester.makeconftest(
        """
        from _pytest.runner import runtestprotocol

        def pytest_runtest_protocol(item, nextitem):
            for _ in range(2):
                runtestprotocol(item, nextitem=nextitem)
            return True
        """
    )
    result = run(
        """
        import asyncio, pytest

        @pytest.mark.waterspout
        async def test_it():
            asyncio.get_running_loop().call_later(5, print)
        """
    )
    result.assert_outcomes(passed=2, errors=2)


def test_what_ends_by_itself_is_no_leak(run):
    result = run(
        """
        import asyncio, pytest
        from waterspout.ioloop import IOLoop

        @pytest.mark.waterspout("asyncio")
        async def test_it():
            IOLoop.current().call_later(0.01, print)
        """
    )
    result.assert_outcomes(passed=1)


def test_a_socket_that_goes_with_the_garbage_tells_of_itself():
    census = Census()
    threads = []
    thread = threading.Thread(target=threads.append, args=(1,))
    thread.start()
    thread.join()
    with socket.socket():
        left = census.leaks()
        assert left == [] or "sockets left behind: socket:" in left[0]
        assert census.leaks(allowed=("sockets",)) == []
    assert census.leaks() == []


def test_a_system_that_does_not_tell_of_its_sockets(monkeypatch):
    monkeypatch.setattr("waterspout.ioloop.testing._leaks._OPEN_FILES", None)
    census = Census()
    with socket.socket():
        assert census.leaks() == []


def test_real_things_need_the_marker_to_say_so(run):
    result = run(
        """
        import asyncio, pytest

        @pytest.mark.waterspout(real_wait=5)
        async def test_it():
            assert await asyncio.to_thread(lambda: 5) == 5

        @pytest.mark.waterspout
        async def test_not():
            await asyncio.to_thread(lambda: 5)
        """
    )
    result.assert_outcomes(passed=1, failed=1)
