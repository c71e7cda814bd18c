"""Which IOLoop is whose: `current`, `instance`, `install`, `configure`."""

import asyncio
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from waterspout.ioloop import ERROR, READ, WRITE, IOLoop


@pytest.fixture
def in_thread():
    """Runs a function in a thread of its own, where there is no current loop."""
    with ThreadPoolExecutor(1) as pool:
        yield lambda func: pool.submit(func).result(10)


@pytest.fixture(autouse=True)
def _fresh():
    yield
    IOLoop.configure(None)
    asyncio.set_event_loop(None)


async def test_a_running_loop_has_one_ioloop():
    loop = IOLoop.current()
    assert loop is IOLoop.current(instance=False)
    assert loop.asyncio_loop is asyncio.get_running_loop()


def check_current_loop():
    assert IOLoop.current(instance=False) is None
    loop = IOLoop.current()
    assert IOLoop.current() is loop
    assert asyncio.get_event_loop() is loop.asyncio_loop
    loop.close()
    assert IOLoop.current(instance=False) is None


def test_without_a_loop_current_makes_one_and_keeps_it(in_thread):
    in_thread(check_current_loop)


@pytest.mark.skipif("sys.version_info < (3, 14)", reason="without them, asyncio has no loops")
def test_a_thread_has_a_current_loop_where_there_are_no_policies(in_thread, monkeypatch):
    for name in ("get_event_loop_policy", "set_event_loop_policy"):
        for module in (asyncio, asyncio.events):
            monkeypatch.delattr(module, name, raising=False)
    in_thread(check_current_loop)


def test_current_wraps_the_loop_that_asyncio_has_for_the_thread():
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    assert IOLoop.current().asyncio_loop is loop
    IOLoop.current().close()
    assert loop.is_closed()


def test_the_asyncio_loop_cannot_be_exchanged():
    loop = IOLoop(make_current=False)
    other = asyncio.new_event_loop()
    with pytest.raises(AttributeError):
        loop.asyncio_loop = other
    assert loop.asyncio_loop is not other
    other.close()
    loop.close()


def test_a_closed_loop_is_nobodys_current_one():
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    loop.close()
    assert IOLoop.current(instance=False) is None


def test_make_current_and_clear_current():
    loop = IOLoop(make_current=False)
    assert IOLoop.current(instance=False) is None
    loop.make_current()
    assert IOLoop.current() is loop
    IOLoop.clear_current()
    assert IOLoop.current(instance=False) is None
    loop.close()


def test_closing_another_loop_leaves_the_current_one():
    current, other = IOLoop(), IOLoop(make_current=False)
    other.close()
    assert IOLoop.current() is current
    current.close()


async def test_a_loop_made_inside_a_running_one_does_not_become_current():
    running = IOLoop.current()
    other = IOLoop()
    assert IOLoop.current() is running
    other.close()


def test_every_loop_has_at_most_one_ioloop():
    loop = IOLoop()
    with pytest.raises(RuntimeError, match="has an IOLoop already"):
        IOLoop(loop.asyncio_loop)
    loop.close()


def test_bad_loops_are_refused():
    closed = asyncio.new_event_loop()
    closed.close()
    with pytest.raises(RuntimeError, match="asyncio_loop is closed"):
        IOLoop(closed)
    with pytest.raises(TypeError, match="asyncio_loop must be"):
        IOLoop("loop")


def test_each_thread_has_its_own_loop(in_thread):
    mine = IOLoop.current()

    def other():
        theirs = IOLoop.current()
        try:
            assert theirs is not mine
            return theirs.run_sync(lambda: threading.get_ident())
        finally:
            theirs.close()

    assert in_thread(other) != threading.get_ident()
    mine.close()


def test_instance_is_the_same_in_every_thread(in_thread):
    loop = IOLoop.instance()
    assert in_thread(IOLoop.instance) is loop
    assert IOLoop.current() is loop
    loop.close()
    other = IOLoop.instance()
    assert other is not loop
    other.close()


def test_install_takes_the_current_loop_or_the_given_one(in_thread):
    first, second = IOLoop(), IOLoop(make_current=False)
    IOLoop.install()
    assert in_thread(IOLoop.instance) is first
    second.install()
    assert in_thread(IOLoop.instance) is second
    assert IOLoop.current() is first
    first.close()
    second.close()


def test_event_masks():
    assert (READ, WRITE, ERROR) == (0x001, 0x004, 0x008)
    assert (IOLoop.READ, IOLoop.WRITE, IOLoop.ERROR) == (READ, WRITE, ERROR)


class MarkedLoop(asyncio.SelectorEventLoop):
    def __init__(self, mark="none"):
        super().__init__()
        self.mark = mark


@pytest.mark.parametrize(
    "impl", [MarkedLoop, f"{__name__}.MarkedLoop", lambda mark: MarkedLoop(mark)]
)
def test_configure_chooses_what_loops_are_made_of(impl, monkeypatch):
    monkeypatch.setitem(sys.modules, __name__, sys.modules[MarkedLoop.__module__])
    IOLoop.configure(impl, mark="blue")
    loop = IOLoop()
    assert loop.asyncio_loop.mark == "blue"
    loop.close()
    IOLoop.configure("asyncio")
    loop = IOLoop()
    assert not hasattr(loop.asyncio_loop, "mark")
    loop.close()


def test_configure_uvloop():
    uvloop = pytest.importorskip("uvloop")
    IOLoop.configure("uvloop")
    loop = IOLoop()
    assert isinstance(loop.asyncio_loop, uvloop.Loop)
    loop.close()


def test_without_uvloop_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "uvloop", None)
    with pytest.raises(ImportError, match=r"waterspout-ioloop\[uvloop\]"):
        IOLoop.configure("uvloop")


@pytest.mark.parametrize(
    ("impl", "error"),
    [
        (42, TypeError),
        ("nonsense", TypeError),
        ("no_such_module.Loop", ImportError),
        ("asyncio.NoSuchLoop", ImportError),
        ("..x", TypeError),
        (IOLoop, TypeError),
    ],
)
def test_configure_refuses_what_is_no_loop(impl, error):
    with pytest.raises(error):
        IOLoop.configure(impl)
    loop = IOLoop()  # the configuration is as it was
    loop.close()


def test_configure_refuses_arguments_for_what_takes_none():
    with pytest.raises(TypeError, match="takes no arguments"):
        IOLoop.configure("asyncio", bogus=1)


def test_a_factory_may_ask_for_the_instance():
    loops = []

    def factory():
        if not loops:
            loops.append(None)
            loops.append(IOLoop.instance())
        return asyncio.new_event_loop()

    IOLoop.configure(factory)
    IOLoop.instance().close()
    loops[1].close()
    IOLoop.clear_current()


@pytest.mark.skipif("sys.version_info >= (3, 14)", reason="policies are on their way out")
@pytest.mark.parametrize("loops", [True, False])
def test_somebodys_own_policy_decides(loops):
    class Policy(asyncio.AbstractEventLoopPolicy):
        loop = asyncio.new_event_loop() if loops else None

        def get_event_loop(self):
            if self.loop is None:
                raise RuntimeError("there is none")
            return self.loop

        def set_event_loop(self, loop):
            self.loop = loop

        def new_event_loop(self):
            return asyncio.SelectorEventLoop()

    policy = Policy()
    asyncio.set_event_loop_policy(policy)
    try:
        first = IOLoop.current()
        assert IOLoop.current() is first
        assert policy.loop is first.asyncio_loop
        first.close()
    finally:
        asyncio.set_event_loop_policy(None)


def test_a_factory_that_makes_no_loop_is_found_out():
    IOLoop.configure(lambda: "loop")
    with pytest.raises(TypeError, match="made no asyncio event loop"):
        IOLoop()
