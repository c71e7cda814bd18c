"""A descriptor that cannot be polled costs its handler an error, and no other handler anything."""

import asyncio
import contextlib
import errno
import os
import select
import selectors
import socket
import threading
import time
from pathlib import Path

import pytest

from waterspout.ioloop import ERROR, READ, WRITE, IOLoop
from waterspout.ioloop._selectorthread import SelectorThread

pytestmark = pytest.mark.only_on("linux")  # elsewhere, other calls fail with other errors

SELECTORS = [selectors.SelectSelector, selectors.PollSelector]
if hasattr(selectors, "EpollSelector"):
    SELECTORS.append(selectors.EpollSelector)


class ThreadedLoop(asyncio.SelectorEventLoop):
    """Cannot poll descriptors."""

    def add_reader(self, fd, callback, *args):
        raise NotImplementedError

    add_writer = add_reader


def descriptors():
    return sorted(path.name for path in Path("/proc/self/fd").iterdir())


class Good:
    """A handler that must go on being called, whatever happens to others."""

    def __init__(self):
        self.loop = IOLoop.current()
        self.received = asyncio.Queue()
        self.source, self._other = socket.socketpair()
        self.source.setblocking(False)

    def __enter__(self):
        self.loop.add_handler(
            self.source, lambda fd, events: self.received.put_nowait(fd.recv(10)), READ
        )
        return self

    def __exit__(self, *_):
        self.loop.remove_handler(self.source)
        self.source.close()
        self._other.close()

    async def check(self):
        for _ in range(3):  # the first event may come out of a wait that was under way
            self._other.send(b"x")
            assert await asyncio.wait_for(self.received.get(), 10) == b"x"


def collect_reports():
    reports = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: reports.append(context))
    return reports


async def until(condition):
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.001)


@pytest.fixture(params=SELECTORS)
def run_threaded(request, monkeypatch):
    """Run a coroutine function on a loop whose selector thread uses a selector of some kind."""

    def run(main):
        monkeypatch.setattr(selectors, "DefaultSelector", request.param)
        with asyncio.Runner(loop_factory=lambda: ThreadedLoop(selectors.EpollSelector())) as runner:
            return runner.run(main())

    run.selector = request.param
    return run


def test_one_closed_before_it_was_removed(run_threaded):
    async def main():
        reports = collect_reports()
        with Good() as good:
            careless, other = socket.socketpair()
            good.loop.add_handler(careless, lambda *call: None, READ | WRITE)
            await good.check()
            careless.close()
            await good.check()
            if run_threaded.selector is not selectors.EpollSelector:  # the kernel just forgets it
                await until(lambda: reports)
            good.loop.remove_handler(careless)
            await good.check()
            other.close()
        assert all(report["exception"].errno == errno.EBADF for report in reports)
        assert all("is not called any more" in str(report["exception"]) for report in reports)
        assert len(reports) <= 1

    run_threaded(main)


def test_one_closed_and_removed_at_once_is_not_reported(run_threaded):
    async def main():
        reports = collect_reports()
        with Good() as good:
            for _ in range(10):
                careless, other = socket.socketpair()
                good.loop.add_handler(careless, lambda *call: None, READ | WRITE)
                await good.check()
                careless.close()
                good.loop.remove_handler(careless)
                other.close()
                await good.check()
        assert reports == []

    run_threaded(main)


def test_one_closed_whose_number_is_a_regular_files_by_now(run_threaded, tmp_path):
    async def main():
        collect_reports()
        with Good() as good, (tmp_path / "file").open("wb") as file:
            careless, other = socket.socketpair()
            number = careless.detach()
            good.loop.add_handler(number, lambda *call: None, READ)
            await good.check()
            os.dup2(file.fileno(), number)
            await good.check()
            with contextlib.suppress(OSError):
                good.loop.update_handler(number, READ | WRITE)
            await good.check()
            good.loop.remove_handler(number)
            with pytest.raises(KeyError):
                good.loop.remove_handler(number)
            await good.check()
            os.close(number)
            other.close()

    run_threaded(main)


def test_one_that_is_closed_under_a_change(run_threaded):
    """The change raises; what was asked for before is no more polled, since it cannot be."""

    async def main():
        collect_reports()
        with Good() as good:
            careless, other = socket.socketpair()
            number = careless.detach()
            good.loop.add_handler(number, lambda *call: None, READ)
            os.close(number)
            with pytest.raises(OSError):
                good.loop.update_handler(number, READ | WRITE)
            await good.check()
            good.loop.remove_handler(number)
            other.close()

    run_threaded(main)


def test_one_above_what_select_takes(run_threaded):
    import fcntl

    async def main():
        collect_reports()
        left, right = socket.socketpair()
        high = fcntl.fcntl(left, fcntl.F_DUPFD, 2000)
        with left, right, Good() as good:
            calls = []
            if run_threaded.selector is selectors.SelectSelector:
                with pytest.raises(OSError, match="descriptor 2... cannot be polled") as caught:
                    good.loop.add_handler(high, lambda *call: None, READ)
                assert caught.value.errno == errno.EINVAL
                with pytest.raises(KeyError):
                    good.loop.remove_handler(high)
            else:
                good.loop.add_handler(high, lambda *call: calls.append(call), READ)
                right.send(b"x")
                await until(lambda: calls)
                good.loop.remove_handler(high)
            await good.check()
        os.close(high)

    run_threaded(main)


def test_a_closed_one_does_not_keep_another_from_being_added(run_threaded):
    async def main():
        collect_reports()
        with Good() as good, Good() as more:
            careless, other = socket.socketpair()
            number = careless.fileno()
            good.loop.add_handler(careless, lambda *call: None, READ)
            careless.close()
            with Good() as late:
                assert late.source.fileno() == number
                for one in (good, more, late):
                    await one.check()
                with pytest.raises(KeyError):
                    good.loop.remove_handler(careless)
                await late.check()
            other.close()

    run_threaded(main)


def test_a_selector_that_forgets_its_descriptors(run_threaded, monkeypatch):
    """`modify` and `unregister` raise KeyError then."""

    async def main():
        with Good() as good:
            left, right = socket.socketpair()
            calls = []
            good.loop.add_handler(left, lambda *call: calls.append(call), READ)
            selector = good.loop._handlers._poller._watcher._selector
            with good.loop._handlers._poller._watcher._changing():
                selector.unregister(left)
            good.loop.update_handler(left, WRITE)
            await until(lambda: calls)
            with good.loop._handlers._poller._watcher._changing():
                selector.unregister(left)
            good.loop.remove_handler(left)
            await good.check()
            left.close()
            right.close()

    run_threaded(main)


@pytest.mark.parametrize("error", [RuntimeError("broken"), MemoryError(), SystemExit()])
@pytest.mark.parametrize("times", [1, 3])
def test_whatever_a_selector_raises(run_threaded, monkeypatch, error, times):
    async def main():
        monkeypatch.setattr("waterspout.ioloop._selectorthread.RETRY_SECONDS", 0.001)
        reports, left = collect_reports(), times
        real = run_threaded.selector.select

        def select(self, timeout=None):
            nonlocal left
            if left and threading.current_thread().name == "waterspout-selector":
                left -= 1
                raise error
            return real(self, timeout)

        monkeypatch.setattr(run_threaded.selector, "select", select)
        with Good() as good:
            await good.check()
        # One failure may be that of a descriptor which has been removed since.
        assert [report["exception"] for report in reports] == [error] * (times - 1)

    run_threaded(main)


def test_a_broken_selector_is_replaced_once_there_are_descriptors(run_threaded, monkeypatch):
    if run_threaded.selector is not selectors.EpollSelector:
        pytest.skip("is about one that has a descriptor")

    async def main():
        monkeypatch.setattr("waterspout.ioloop._selectorthread.RETRY_SECONDS", 0.001)
        reports, refusals = collect_reports(), 0

        def refuse():
            nonlocal refusals
            if len(reports) > 3:
                return selectors.EpollSelector()
            refusals += 1
            raise OSError(errno.EMFILE, "none left")

        with Good() as good:
            await good.check()
            thread = good.loop._handlers._poller._watcher
            monkeypatch.setattr(selectors, "EpollSelector", selectors.EpollSelector)
            monkeypatch.setattr(selectors, "DefaultSelector", refuse)
            with thread._changing():
                thread._selector._selector.close()  # somebody's stray close
            await good.check()
            assert refusals == 3
        assert len(reports) == 4

    run_threaded(main)


def test_a_descriptor_is_not_blamed_for_a_lack_of_them(run_threaded, monkeypatch):
    """Whether it can be polled is not known without a descriptor for a selector."""

    async def main():
        with Good() as good:
            thread = good.loop._handlers._poller._watcher
            with pytest.raises(OSError, match="Bad file descriptor"):
                raise thread._probe(99_999, READ)
            monkeypatch.setattr(
                run_threaded.selector,
                "register",
                lambda *args: (_ for _ in ()).throw(OSError(errno.EMFILE, "none left")),
            )
            assert thread._probe(good.source.fileno(), READ) is None
            monkeypatch.undo()

    run_threaded(main)


def test_too_many_for_select_is_the_last_ones_error(run_threaded, monkeypatch):
    """Windows' select takes 512 sockets."""
    if run_threaded.selector is not selectors.SelectSelector:
        pytest.skip("others take any number")

    async def main():
        real = selectors.SelectSelector.select

        def select(self, timeout=None):
            if len(self.get_map()) > 3:
                raise ValueError("too many file descriptors in select()")
            return real(self, timeout)

        monkeypatch.setattr(selectors.SelectSelector, "select", select)
        with Good() as good, Good():
            left, right = socket.socketpair()
            with left, right:
                with pytest.raises(OSError, match="too many"):
                    good.loop.add_handler(left, print, READ)
            await good.check()

    run_threaded(main)


@pytest.mark.parametrize("what", ["socketpair", "DefaultSelector", "register", "start"])
def test_a_thread_that_cannot_be_made_leaves_nothing(monkeypatch, what):
    def fail(*args, **kwargs):
        raise OSError(errno.EMFILE, "none left")

    module = {
        "socketpair": socket,
        "DefaultSelector": selectors,
        "register": selectors.DefaultSelector,
        "start": threading.Thread,
    }
    left, right = socket.socketpair()
    loop = IOLoop(ThreadedLoop(), make_current=False)
    with pytest.raises(OSError):
        with monkeypatch.context() as context:
            context.setattr(module[what], what, fail)
            loop.add_handler(left, print, READ)
    before = descriptors()
    with pytest.raises(OSError):
        with monkeypatch.context() as context:
            context.setattr(module[what], what, fail)
            loop.add_handler(left, print, READ)
    assert descriptors() == before
    loop.add_handler(left, print, READ)
    loop.close()
    left.close()
    right.close()


def test_a_thread_is_not_waited_for_while_the_interpreter_ends(monkeypatch):
    """It does not run any more by then."""
    loop = asyncio.new_event_loop()
    thread = SelectorThread(loop, print)
    with monkeypatch.context() as context:
        context.setattr("sys.is_finalizing", lambda: True)
        context.setattr(thread._thread, "join", lambda: pytest.fail("waits"))
        thread.close()
        thread.close()
    thread._thread.join(10)
    thread._release()
    loop.close()


# Loops that poll themselves


def test_a_loop_over_select_refuses_what_that_cannot_take(monkeypatch):
    import fcntl

    class OwnKernel(asyncio.SelectorEventLoop):
        from waterspout.ioloop._watcher import Kernel

        _waterspout_kernel = Kernel()

    async def main():
        left, right = socket.socketpair()
        high = fcntl.fcntl(left, fcntl.F_DUPFD, 2000)
        with left, right, Good() as good:
            for events in (READ, WRITE, READ | ERROR):
                with pytest.raises(OSError, match="select cannot take descriptor 2"):
                    good.loop.add_handler(high, print, events)
            await good.check()
        os.close(high)

    with asyncio.Runner(loop_factory=lambda: OwnKernel(selectors.SelectSelector())) as runner:
        runner.run(main())


@pytest.mark.parametrize("selector", SELECTORS)
def test_a_closed_descriptor_leaves_an_asyncio_loop_running(selector):
    """It polls our epoll alone."""

    async def main():
        with Good() as good:
            careless, other = socket.socketpair()
            good.loop.add_handler(careless, print, READ)
            careless.close()
            await good.check()
            good.loop.remove_handler(careless)
            other.close()

    with asyncio.Runner(loop_factory=lambda: asyncio.SelectorEventLoop(selector())) as runner:
        runner.run(main())


# Epoll


@pytest.mark.waterspout("asyncio", "uvloop")
@pytest.mark.parametrize("as_object", [True, False])
async def test_a_closed_ones_number_can_have_another_handler(as_object):
    """The kernel knows that the number is another file's."""
    reports = collect_reports()
    with Good() as good:
        careless, other = socket.socketpair()
        number = careless.fileno()
        source = careless if as_object else number
        good.loop.add_handler(source, print, READ)
        with pytest.raises(ValueError, match="has a handler already"):
            good.loop.add_handler(number, print, READ)
        careless.close()
        with Good() as late:
            assert late.source.fileno() == number
            await late.check()
            [report] = reports
            assert report["exception"].errno == errno.EBADF
            with pytest.raises(ValueError, match="has a handler already"):
                good.loop.add_handler(number, print, READ)
        await good.check()
        other.close()


@pytest.mark.waterspout("asyncio", "uvloop")
async def test_one_that_is_not_polled_at_the_moment_keeps_its_number():
    with Good() as good:
        left, right = socket.socketpair()
        with left, right:
            good.loop.add_handler(left.fileno(), print, READ)
            good.loop._handlers._poller.watch(good.loop._handlers._find(left), 0)
            with pytest.raises(ValueError, match="has a handler already"):
                good.loop.add_handler(left.fileno(), print, READ)
            good.loop.remove_handler(left)


@pytest.fixture
def lingering():
    """A socket, and the number of a copy of it; the copy can be closed before it is removed."""
    left, right = socket.socketpair()
    with left, right:
        left.setblocking(False)
        yield left, right, os.dup(left.fileno())


def close_and_remove(loop, number):
    os.close(number)
    loop.remove_handler(number)


@pytest.mark.waterspout("asyncio", "uvloop")
async def test_a_new_epoll_reports_what_it_cannot_poll(lingering, tmp_path):
    left, right, number = lingering
    reports = collect_reports()
    with Good() as good, (tmp_path / "file").open("wb") as file:
        closed, reused = (os.dup(left.fileno()) for _ in range(2))
        for fd in (number, closed, reused):
            good.loop.add_handler(fd, lambda *call: None, READ)
        os.close(closed)
        os.dup2(file.fileno(), reused)
        close_and_remove(good.loop, number)
        right.send(b"x")
        await until(lambda: len(reports) == 2)
        assert {report["exception"].errno for report in reports} == {errno.EBADF, errno.EPERM}
        await good.check()
        for fd in (closed, reused):
            with pytest.raises(OSError):
                good.loop.update_handler(fd, WRITE)
        again = os.dup(left.fileno())
        good.loop.add_handler(again, lambda *call: None, READ)
        close_and_remove(good.loop, again)  # and another one, which is not told of these again
        epoll = good.loop._handlers._poller._epoll
        await until(lambda: good.loop._handlers._poller._epoll is not epoll)
        await good.check()
        assert len(reports) == 2
        for fd in (closed, reused):
            good.loop.remove_handler(fd)
        os.close(reused)


@pytest.mark.waterspout("asyncio", "uvloop")
async def test_one_that_can_be_polled_again_is(lingering):
    left, right, number = lingering
    reports, calls = collect_reports(), []
    with Good() as good:
        closed = os.dup(left.fileno())
        for fd in (number, closed):
            good.loop.add_handler(fd, lambda *call: calls.append(call), READ)
        os.close(closed)
        close_and_remove(good.loop, number)
        right.send(b"x")
        await until(lambda: reports)
        os.dup2(left.fileno(), closed)
        calls.clear()
        good.loop.update_handler(closed, READ)
        await until(lambda: calls)
        assert calls[0] == (closed, READ)
        good.loop.remove_handler(closed)
        os.close(closed)


@pytest.mark.waterspout("asyncio", "uvloop")
async def test_a_file_that_has_the_number_now_is_not_called_for_the_one_before(lingering):
    left, right, number = lingering
    ours, other = socket.socketpair()
    with ours, other, Good() as good:
        good.loop.add_handler(number, print, READ)
        close_and_remove(good.loop, number)
        os.dup2(ours.fileno(), number)
        calls = []
        good.loop.add_handler(number, lambda *call: calls.append(call), READ)
        other.send(b"y")
        await until(lambda: calls)  # it is ready itself, so nothing is wrong
        ours.recv(1)
        right.send(b"x")
        epoll = good.loop._handlers._poller._epoll
        await until(lambda: good.loop._handlers._poller._epoll is not epoll)
        calls.clear()
        await good.check()
        assert calls == []
        other.send(b"y")
        await until(lambda: calls)
        good.loop.remove_handler(number)
        os.close(number)


@pytest.mark.waterspout("asyncio", "uvloop")
@pytest.mark.parametrize("scarce", ["epoll", "attach", "register"])
async def test_a_new_epoll_is_opened_once_there_are_descriptors(lingering, monkeypatch, scarce):
    left, right, number = lingering
    monkeypatch.setattr("waterspout.ioloop._epoll.RETRY_SECONDS", 0.001)
    real, refusals = select.epoll, 0

    def refuse(number):
        nonlocal refusals
        if refusals < 3:
            refusals += 1
            raise OSError(number, "none left")

    class Epoll:
        def __init__(self):
            if scarce == "epoll":
                refuse(errno.EMFILE)
            self._epoll = real()

        def fileno(self):
            if scarce == "attach":
                refuse(errno.ENOMEM)
            return self._epoll.fileno()

        def register(self, fd, events):
            if scarce == "register":
                refuse(errno.ENOSPC)
            self._epoll.register(fd, events)

        def __getattr__(self, name):
            return getattr(self._epoll, name)

    with Good() as good, Good() as changed:
        good.loop.add_handler(number, print, READ)
        close_and_remove(good.loop, number)
        monkeypatch.setattr(select, "epoll", Epoll)
        right.send(b"x")
        await until(lambda: refusals)
        good.loop.update_handler(changed.source, READ | ERROR)  # the table alone knows it, for now
        if scarce == "register":
            await until(lambda: refusals == 3)
        with Good() as added:
            for one in (good, changed, added):
                await one.check()
        assert refusals == 3


@pytest.mark.parametrize("loop_name", ["asyncio", "uvloop"])
def test_a_loop_without_an_epoll_can_be_used_and_closed(loop_factory, lingering, monkeypatch):
    """While there are no descriptors for another one."""
    left, right, number = lingering

    def refuse():
        raise OSError(errno.EMFILE, "none left")

    async def main():
        loop = IOLoop.current()
        loop.add_handler(number, print, READ)
        close_and_remove(loop, number)
        monkeypatch.setattr(select, "epoll", refuse)
        right.send(b"x")
        await until(lambda: loop._handlers.own_descriptor == -1)
        loop.add_handler(left, print, READ)
        loop.update_handler(left, WRITE)
        loop.remove_handler(left)
        loop.add_handler(left.fileno(), print, READ)
        with pytest.raises(ValueError, match="has a handler already"):
            loop.add_handler(left, print, READ)

    loop = IOLoop(loop_factory(), make_current=False)
    loop.run_sync(main)
    loop.close()


@pytest.mark.waterspout("asyncio", "uvloop")
async def test_handlers_come_and_go_without_a_new_descriptor(monkeypatch):
    def refuse():
        raise OSError(errno.EMFILE, "none left")

    with Good() as good:
        await good.check()
    monkeypatch.setattr(select, "epoll", refuse)
    with Good() as good:
        await good.check()


@pytest.mark.waterspout("asyncio", "uvloop")
async def test_the_first_handler_says_that_there_are_no_descriptors(monkeypatch):
    def refuse():
        raise OSError(errno.EMFILE, "none left")

    loop = IOLoop.current()
    left, right = socket.socketpair()
    with left, right:
        with monkeypatch.context() as context:
            context.setattr(select, "epoll", refuse)
            with pytest.raises(OSError, match="none left"):
                loop.add_handler(left, print, READ)
            with pytest.raises(KeyError):
                loop.remove_handler(left)
        loop.add_handler(left, print, READ)
        loop.remove_handler(left)


def test_a_loop_that_cannot_poll_our_epoll_leaves_none(pair_of_sockets):
    class Refuses(asyncio.SelectorEventLoop):
        def add_reader(self, fd, callback, *args):
            raise PermissionError("no readers here")

    loop = IOLoop(Refuses(), make_current=False)
    before = descriptors()
    with pytest.raises(PermissionError, match="no readers"):
        loop.add_handler(pair_of_sockets[0], print, READ)
    assert descriptors() == before
    loop.close()


@pytest.fixture
def pair_of_sockets():
    left, right = socket.socketpair()
    with left, right:
        yield left, right


async def test_an_object_whose_fileno_raises_can_be_removed():
    class Connection:
        """Says that it is closed by an OSError, as those of multiprocessing do."""

        def __init__(self):
            self.socket, self.other = socket.socketpair()

        def fileno(self):
            if self.socket.fileno() < 0:
                raise OSError("handle is closed")
            return self.socket.fileno()

    with Good() as good:
        connection = Connection()
        good.loop.add_handler(connection, lambda *call: None, READ)
        connection.socket.close()
        good.loop.remove_handler(connection)
        with pytest.raises(KeyError):
            good.loop.remove_handler(connection)
        connection.other.close()
        await good.check()
