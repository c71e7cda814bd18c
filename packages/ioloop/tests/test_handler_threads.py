"""Handlers that are added, changed and removed by other threads than the loop's."""

import asyncio
import contextlib
import errno
import select
import socket
import threading
import time
from pathlib import Path

import pytest

from waterspout.ioloop import READ, WRITE, IOLoop

pytestmark = pytest.mark.parametrize(
    "kind", ["asyncio", "uvloop", "threaded", "asyncio-readers", "uvloop-readers"]
)
has_epoll = pytest.mark.skipif(not hasattr(select, "epoll"), reason="needs an epoll")


class Running:
    """A loop that runs in a thread of its own until the block ends."""

    def __init__(self, factory):
        self._factory = factory
        self._ready = threading.Event()
        self.reports = []

    def __enter__(self):
        self._thread = threading.Thread(target=self._run)
        self._thread.start()
        assert self._ready.wait(10)
        return self

    def __exit__(self, *_):
        self.loop.add_callback(self._end.set)
        self._thread.join(10)
        assert not self._thread.is_alive()

    def _run(self):
        with asyncio.Runner(loop_factory=self._factory) as runner:
            runner.run(self._main())

    async def _main(self):
        self.loop, self._end = IOLoop.current(), asyncio.Event()
        self.loop.asyncio_loop.set_exception_handler(
            lambda loop, context: self.reports.append(context["exception"])
        )
        self.loop.add_callback(self._ready.set)  # so that it has begun to wait, most probably
        await self._end.wait()

    def use_once(self):
        """Let the loop find out how it can poll."""
        with ready_pair() as (left, _):
            self.loop.add_callback(self.loop.add_handler, left, lambda *call: None, READ)
            self.loop.add_callback(self.loop.remove_handler, left)
            self.turn()

    def turn(self):
        """Wait until the loop has run what other threads have asked for so far."""
        for _ in range(2):
            turned = threading.Event()
            self.loop.add_callback(turned.set)
            assert turned.wait(10)


@pytest.fixture
def running(waterspout_loops, kind):
    with Running(waterspout_loops[kind]) as running:
        yield running


@contextlib.contextmanager
def ready_pair():
    """Two connected sockets; the first one can be read from."""
    left, right = socket.socketpair()
    with left, right:
        left.setblocking(False)
        right.send(b"x")
        yield left, right


class Calls:
    """A handler that notes what it was called for."""

    def __init__(self):
        self.seen = []
        self.first = threading.Event()

    def __call__(self, source, events):
        self.seen.append((source, events))
        self.first.set()


def test_the_first_handler_wakes_the_loop(running):
    with ready_pair() as (left, _):
        calls = Calls()
        running.loop.add_handler(left, calls, READ)
        assert calls.first.wait(10)
        assert calls.seen[0] == (left, READ)
        running.loop.remove_handler(left)


def test_a_change_takes_effect(running):
    with ready_pair() as (left, _):
        calls = Calls()
        running.loop.add_handler(left, calls, WRITE)
        assert calls.first.wait(10)
        running.loop.update_handler(left, READ)
        running.turn()
        calls.seen.clear()
        calls.first.clear()
        assert calls.first.wait(10)
        assert set(calls.seen) == {(left, READ)}
        running.loop.remove_handler(left)


@pytest.mark.parametrize("events", [READ, READ | WRITE])
def test_a_removed_handler_is_not_called_again(running, events):
    with ready_pair() as (left, _):
        calls = Calls()
        running.loop.add_handler(left, calls, events)
        assert calls.first.wait(10)
        running.loop.remove_handler(left)
        running.turn()
        calls.seen.clear()
        running.turn()
        assert calls.seen == []
        with pytest.raises(KeyError):
            running.loop.remove_handler(left)


def test_the_number_of_a_removed_descriptor_can_be_used_at_once(running):
    for _ in range(20):
        with ready_pair() as (left, _):
            calls = Calls()
            running.loop.add_handler(left.fileno(), calls, READ)
            assert calls.first.wait(10)
            running.loop.remove_handler(left.fileno())
    assert running.reports == []


def test_the_loops_thread_and_another_one_change_the_same_handler(running):
    """What one of them asks for later, counts."""
    with ready_pair() as (left, _):
        calls, changed = Calls(), threading.Event()
        running.loop.add_handler(left, print, WRITE)
        running.loop.remove_handler(left)

        def change():
            running.loop.add_handler(left, calls, WRITE)
            running.loop.update_handler(left, READ)
            changed.set()

        running.loop.add_callback(change)
        assert changed.wait(10)
        assert calls.first.wait(10)
        assert set(calls.seen) == {(left, READ)}
        running.loop.remove_handler(left)


def test_the_loops_thread_changes_what_another_one_has_just_added(running):
    running.use_once()
    with ready_pair() as (left, _):
        calls, waits, added, changed = (Calls(), *(threading.Event() for _ in range(3)))

        def change():
            waits.set()
            added.wait(10)
            running.loop.update_handler(left, READ)
            changed.set()

        running.loop.add_callback(change)
        assert waits.wait(10)
        running.loop.add_handler(left, calls, WRITE)
        added.set()
        assert changed.wait(10)
        assert calls.first.wait(10)
        assert set(calls.seen) == {(left, READ)}
        running.loop.remove_handler(left)


def test_a_change_that_comes_after_the_removal_is_refused(running, monkeypatch):
    """The loop's thread has removed the handler just after it was found."""
    with ready_pair() as (left, _):
        running.loop.add_handler(left, lambda *call: None, READ)
        handlers = running.loop._handlers
        handler = handlers._find(left)
        running.loop.remove_handler(left)
        monkeypatch.setattr(handlers, "_find", lambda source: handler)
        with pytest.raises(KeyError, match="has no handler"):
            running.loop.update_handler(left, WRITE)
        assert handler.events == 0


@pytest.mark.parametrize("as_object", [True, False])
def test_a_second_handler_is_refused(running, as_object):
    running.use_once()
    with ready_pair() as (left, _):
        source = left if as_object else left.fileno()
        running.loop.add_handler(source, lambda *call: left.recv(10), READ)
        with pytest.raises(ValueError, match="has a handler already"):
            running.loop.add_handler(left, print, READ)
        running.loop.remove_handler(left)


@pytest.mark.only_on("linux")
def test_a_descriptor_that_cannot_be_polled_costs_its_handler_an_error(running, kind, tmp_path):
    """At the call where the kernel is asked at once, else through the loop's hook."""
    if kind == "uvloop-readers":
        pytest.skip("libuv polls it")
    running.use_once()
    with (tmp_path / "file").open("wb") as file, ready_pair() as (left, _):
        if kind in ("asyncio", "uvloop"):
            with pytest.raises(PermissionError):
                running.loop.add_handler(file, print, WRITE)
        else:
            running.loop.add_handler(file, print, WRITE)
            running.turn()
            [report] = running.reports
            assert report.errno == errno.EPERM
            running.loop.remove_handler(file)
        calls = Calls()
        running.loop.add_handler(left, calls, READ)
        assert calls.first.wait(10)
        running.loop.remove_handler(left)
        with pytest.raises(KeyError):
            running.loop.remove_handler(file)


def test_a_handler_that_is_removed_before_its_error_is_known_is_not_reported(
    running, kind, tmp_path
):
    if kind in ("asyncio", "uvloop", "uvloop-readers"):
        pytest.skip("there it is known at once, or is none")
    running.use_once()
    blocked, go_on = threading.Event(), threading.Event()
    running.loop.add_callback(lambda: blocked.set() or (go_on.wait(10) and None))
    assert blocked.wait(10)
    with (tmp_path / "file").open("wb") as file:
        running.loop.add_handler(file, print, WRITE)
        running.loop.remove_handler(file)
        go_on.set()
        running.turn()
    assert running.reports == []


def test_a_handler_that_is_removed_while_its_event_waits_is_not_called(running):
    blocked, go_on = threading.Event(), threading.Event()
    with ready_pair() as (left, _), ready_pair() as (other, _):
        calls = Calls()

        def block(source, events):
            running.loop.remove_handler(source)
            blocked.set()
            go_on.wait(10)

        def add():
            running.loop.add_handler(other, block, READ)
            running.loop.add_handler(left, calls, READ)

        running.loop.add_callback(add)
        assert blocked.wait(10)
        seen = len(calls.seen)
        running.loop.remove_handler(left)
        go_on.set()
        running.turn()
        assert len(calls.seen) == seen


def test_a_handler_added_while_the_loop_is_closed_is_refused(waterspout_loops, kind):
    with Running(waterspout_loops[kind]) as running:
        loop = running.loop
    with ready_pair() as (left, _):
        with pytest.raises(RuntimeError, match="closed"):
            loop.add_handler(left, print, READ)
        loop.remove_handler(left)


def test_a_loop_that_is_closed_just_then_has_no_handler(waterspout_loops, kind, monkeypatch):
    """The loop's thread closes it after it was found open."""
    loop = IOLoop(waterspout_loops[kind](), make_current=False)
    real = loop.asyncio_loop
    with ready_pair() as (left, _):
        monkeypatch.setattr(loop._handlers, "is_closed", lambda: False)
        monkeypatch.setattr("waterspout.ioloop._handlers.runs_elsewhere", lambda loop: True)
        monkeypatch.setattr("waterspout.ioloop._watcher.runs_elsewhere", lambda loop: True)
        real.close()
        with pytest.raises(RuntimeError, match="closed"):
            loop.add_handler(left, print, READ)
        assert loop._handlers.sources() == {}


class LateEpoll:
    """An epoll whose `register` returns only once an event was polled, or some time has passed."""

    def __init__(self):
        self._epoll = select_epoll()
        self._polled = threading.Event()

    def register(self, fd, events):
        self._polled.clear()
        self._epoll.register(fd, events)
        self._polled.wait(0.05)

    def poll(self, *args):
        found = self._epoll.poll(*args)
        if found:
            self._polled.set()
        return found

    def __getattr__(self, name):
        return getattr(self._epoll, name)


select_epoll = getattr(select, "epoll", None)


@has_epoll
def test_a_handler_whose_event_comes_inside_of_the_call_is_not_lost(
    waterspout_loops, kind, monkeypatch
):
    if kind not in ("asyncio", "uvloop"):
        pytest.skip("there is no epoll of ours")
    monkeypatch.setattr(select, "epoll", LateEpoll)
    with Running(waterspout_loops[kind]) as running:
        for _ in range(2):  # to the first one, the loop may come late
            with ready_pair() as (left, _):
                calls = Calls()
                running.loop.add_handler(left, calls, READ)
                assert calls.first.wait(10)
                running.loop.remove_handler(left)


@has_epoll
def test_a_loop_that_refuses_our_epoll_polls_the_descriptors_itself(
    waterspout_loops, kind, monkeypatch
):
    """Another thread has added handlers before the loop could say so."""
    if kind != "asyncio":
        pytest.skip("is about a loop that can poll")

    def refuse(self):
        raise PermissionError("no epoll here")

    monkeypatch.setattr("waterspout.ioloop._epoll.EpollPoller.attach", refuse)
    with Running(waterspout_loops[kind]) as running:
        with ready_pair() as (left, _):
            calls = Calls()
            running.loop.add_handler(left, calls, READ)
            assert calls.first.wait(10)
            running.loop.remove_handler(left)
    assert running.reports == []


@has_epoll
def test_what_cannot_be_polled_after_all_is_reported(waterspout_loops, kind, monkeypatch):
    if kind != "threaded":
        pytest.skip("is about a loop that cannot poll")

    def fail(*args):
        raise OSError(errno.EMFILE, "none left")

    monkeypatch.setattr("waterspout.ioloop._selectorthread.SelectorThread.__init__", fail)
    with Running(waterspout_loops[kind]) as running, ready_pair() as (left, _):
        running.loop.add_handler(left, print, READ)
        running.turn()
        [report] = running.reports
        assert report.errno == errno.EMFILE
        running.loop.remove_handler(left)


@pytest.mark.slow
def test_many_threads_add_and_remove_handlers_at_once(running, kind):
    """Each handler is called, and none after it was removed and the loop has come round."""
    threads, rounds, errors = 4, 100 if "threaded" in kind else 250, []

    def work():
        try:
            for _ in range(rounds):
                with ready_pair() as (left, _):
                    calls = Calls()
                    running.loop.add_handler(left, calls, READ)
                    if not calls.first.wait(10):
                        raise AssertionError("never called")
                    running.loop.update_handler(left, READ | WRITE)
                    running.loop.remove_handler(left)
                    if kind not in ("asyncio", "uvloop"):
                        running.turn()  # there, the descriptor must stay open until then
        except BaseException as error:
            errors.append(error)

    workers = [threading.Thread(target=work) for _ in range(threads)]
    deadline = time.monotonic() + 60
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(max(0, deadline - time.monotonic()))
    assert errors == []
    assert running.reports == []
    assert running.loop._handlers.sources() == {}


@pytest.mark.slow
@pytest.mark.only_on("linux")
def test_adding_from_another_thread_leaves_no_descriptors(waterspout_loops, kind):
    def descriptors():
        return len(list(Path("/proc/self/fd").iterdir()))

    for before in (None, descriptors()):
        with Running(waterspout_loops[kind]) as running:
            with ready_pair() as (left, _):
                calls = Calls()
                running.loop.add_handler(left, calls, READ)
                assert calls.first.wait(10)
                running.loop.remove_handler(left)
        assert before is None or descriptors() == before
