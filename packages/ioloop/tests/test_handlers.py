"""Handlers of file descriptors."""

import asyncio
import contextvars
import errno
import os
import socket
import sys
import threading

import pytest

from waterspout.ioloop import ERROR, READ, WRITE, IOLoop
from waterspout.ioloop._watcher import Kernel

pytestmark = pytest.mark.every_watcher


@pytest.fixture
def pair():
    left, right = socket.socketpair()
    left.setblocking(False)
    right.setblocking(False)
    with left, right:
        yield left, right


@pytest.fixture
def pipe():
    """The numbers of two ends. One that a test closes is somebody else's from then on."""
    ends = os.pipe()
    files = [os.fstat(fd) for fd in ends]
    yield ends
    for fd, file in zip(ends, files, strict=True):
        try:
            if os.path.samestat(os.fstat(fd), file):
                os.close(fd)
        except OSError:
            pass


class Calls:
    """A handler that notes its calls and can be waited for."""

    def __init__(self):
        self.seen = []
        self._new = asyncio.Event()

    def __call__(self, source, events):
        self.seen.append((source, events))
        self._new.set()

    async def next(self):
        self._new.clear()
        await asyncio.wait_for(self._new.wait(), 10)
        return self.seen[-1]


async def settle():
    for _ in range(5):
        await asyncio.sleep(0)


@pytest.mark.parametrize("as_object", [True, False])
async def test_a_handler_is_called_with_what_was_registered(pair, as_object):
    left, right = pair
    loop, calls = IOLoop.current(), Calls()
    source = left if as_object else left.fileno()
    loop.add_handler(source, calls, READ)
    await settle()
    assert calls.seen == []
    right.send(b"x")
    assert await calls.next() == (source, READ)
    assert await calls.next() == (source, READ)  # level-triggered
    loop.remove_handler(source)
    calls.seen.clear()
    await settle()
    assert calls.seen == []


async def test_reading_and_writing_are_told_apart(pair):
    left, right = pair
    loop, calls = IOLoop.current(), Calls()
    loop.add_handler(left, calls, READ | WRITE)
    assert await calls.next() == (left, WRITE)
    right.send(b"x")
    loop.update_handler(left, READ)
    calls.seen.clear()
    assert await calls.next() == (left, READ)
    loop.update_handler(left.fileno(), WRITE)
    calls.seen.clear()
    assert await calls.next() == (left, WRITE)
    loop.remove_handler(left.fileno())


@pytest.mark.only_on("linux", "darwin")
async def test_a_pipe_works_too(pipe):
    read_end, write_end = pipe
    loop, calls = IOLoop.current(), Calls()
    loop.add_handler(read_end, calls, READ)
    os.write(write_end, b"x")
    assert await calls.next() == (read_end, READ)
    loop.remove_handler(read_end)


@pytest.mark.only_on("linux", "darwin")
async def test_a_hang_up_is_an_error_to_those_who_ask(pair):
    left, right = pair
    loop, calls = IOLoop.current(), Calls()
    loop.add_handler(left, calls, READ | ERROR)
    right.send(b"x")
    assert await calls.next() == (left, READ)
    right.close()
    while (await calls.next())[1] == READ:
        pass
    assert calls.seen[-1] == (left, READ | ERROR)
    loop.remove_handler(left)


async def test_a_hang_up_is_no_error_to_those_who_do_not(pair):
    left, right = pair
    loop, calls = IOLoop.current(), Calls()
    loop.add_handler(left, calls, READ)
    right.close()
    assert await calls.next() == (left, READ)
    loop.remove_handler(left)


@pytest.mark.only_on("linux", "darwin")
@pytest.mark.parametrize("unread", [b"", b"unread"])
async def test_a_mask_of_error_alone_tells_only_of_a_hang_up(pair, unread):
    left, right = pair
    loop, calls = IOLoop.current(), Calls()
    loop.add_handler(left, calls, ERROR)
    right.send(b"unread")
    await settle()
    assert calls.seen == []
    if not unread:
        left.recv(100)
    right.close()
    assert await calls.next() == (left, ERROR)
    loop.remove_handler(left)


@pytest.mark.only_on("linux", "darwin")
async def test_a_writer_is_told_that_its_pipe_is_broken(pipe):
    read_end, write_end = pipe
    loop, calls = IOLoop.current(), Calls()
    os.close(read_end)
    loop.add_handler(write_end, calls, WRITE | ERROR)
    assert await calls.next() == (write_end, WRITE | ERROR)
    loop.remove_handler(write_end)


@pytest.mark.only_on("linux", "darwin")
async def test_an_error_behind_the_bytes_keeps_no_byte_back():
    """libuv tells of an error only once; a handler that takes little at a time is called again."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        left = socket.create_connection(listener.getsockname())
        right, _ = listener.accept()
    left.setblocking(False)
    received, done = [], asyncio.Event()

    def handler(source, events):
        try:
            received.append(source.recv(1))
        except ConnectionResetError:
            done.set()

    loop = IOLoop.current()
    right.send(b"0123456789")
    right.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    right.close()
    loop.add_handler(left, handler, READ)
    await asyncio.wait_for(done.wait(), 10)
    loop.remove_handler(left)
    left.close()
    assert b"".join(received) == b"0123456789"


async def test_a_handler_that_removes_itself_over_an_error_is_not_watched_anew():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        left = socket.create_connection(listener.getsockname())
        right, _ = listener.accept()
    calls = []

    def handler(source, events):
        calls.append(events)
        asyncio.get_running_loop().call_soon(loop.remove_handler, source)

    loop = IOLoop.current()
    right.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    right.close()
    loop.add_handler(left, handler, READ)
    await settle()
    while not calls:
        await asyncio.sleep(0.001)
    await settle()
    left.close()
    assert len(calls) == 1


async def test_a_mask_of_error_alone_can_change_while_bytes_wait(pair):
    left, right = pair
    loop, calls = IOLoop.current(), Calls()
    loop.add_handler(left, calls, ERROR)
    right.send(b"x")
    await settle()
    loop.update_handler(left, READ)
    assert await calls.next() == (left, READ)
    loop.update_handler(left, ERROR)
    await settle()
    loop.remove_handler(left)  # leaves no timer behind: the loop would be kept from closing


async def test_a_handler_that_raises_is_reported_and_stays(pair):
    left, right = pair
    loop, reports, calls = IOLoop.current(), [], Calls()
    asyncio.get_running_loop().set_exception_handler(lambda _, context: reports.append(context))

    def fail(source, events):
        calls(source, events)
        raise LookupError("lost")

    loop.add_handler(left, fail, READ)
    right.send(b"x")
    await calls.next()
    await calls.next()
    loop.remove_handler(left)
    assert len(reports) >= 2
    assert all(isinstance(report["exception"], LookupError) for report in reports)


async def test_a_handler_can_remove_itself(pair):
    left, right = pair
    loop, seen = IOLoop.current(), []

    def once(source, events):
        seen.append(events)
        loop.remove_handler(source)

    loop.add_handler(left, once, READ | WRITE)
    right.send(b"x")
    while not seen:
        await asyncio.sleep(0.001)
    await settle()
    assert len(seen) == 1


async def test_unknown_descriptors_are_refused(pair):
    left, _ = pair
    loop = IOLoop.current()
    for call in (lambda: loop.update_handler(left, READ), lambda: loop.remove_handler(left)):
        with pytest.raises(KeyError, match="has no handler"):
            call()
    loop.add_handler(left, print, READ)
    loop.remove_handler(left)
    with pytest.raises(KeyError, match="has no handler"):
        loop.remove_handler(left)


async def test_a_second_handler_is_refused(pair):
    left, _ = pair
    loop = IOLoop.current()
    loop.add_handler(left, print, READ)
    with pytest.raises(ValueError, match="has a handler already"):
        loop.add_handler(left.fileno(), print, WRITE)
    loop.remove_handler(left)


@pytest.mark.parametrize("events", [0, 0x002, READ | 0x010, -1])
async def test_bad_masks_are_refused(pair, events):
    left, _ = pair
    loop = IOLoop.current()
    with pytest.raises(ValueError, match="events must be a mask"):
        loop.add_handler(left, print, events)
    loop.add_handler(left, print, READ)
    with pytest.raises(ValueError, match="events must be a mask"):
        loop.update_handler(left, events)
    loop.remove_handler(left)


async def test_bad_arguments_are_refused(pair):
    left, right = pair
    loop = IOLoop.current()
    with pytest.raises(TypeError, match="handler must be callable"):
        loop.add_handler(left, None, READ)
    with pytest.raises(TypeError, match="events must be a mask"):
        loop.add_handler(left, print, "r")
    with pytest.raises(TypeError, match="fd must be a descriptor"):
        loop.add_handler("fd", print, READ)
    for bad in (-1, 2**40):
        with pytest.raises(ValueError, match="fd must be an open descriptor"):
            loop.add_handler(bad, print, READ)
    for call in (lambda: loop.update_handler("x", READ), lambda: loop.remove_handler(None)):
        with pytest.raises(TypeError, match="fd must be a descriptor"):
            call()
    right.close()
    with pytest.raises(ValueError, match="fd must be an open descriptor"):
        loop.add_handler(right, print, READ)
    with pytest.raises(OSError, match="Bad file descriptor"):
        loop.add_handler(99_999, print, READ)


async def test_an_object_that_was_closed_can_still_be_removed(pair):
    left, right = pair
    loop = IOLoop.current()
    loop.add_handler(left, print, READ)
    left.close()
    loop.remove_handler(left)
    with pytest.raises(KeyError):
        loop.remove_handler(left)


@pytest.mark.only_on("linux", "darwin")
async def test_a_closed_file_can_still_be_removed():
    read_end, write_end = os.pipe()
    loop = IOLoop.current()
    file, other = os.fdopen(read_end), os.fdopen(write_end, "w")
    loop.add_handler(other, print, WRITE)
    loop.add_handler(file, print, READ)
    file.close()
    loop.remove_handler(file)
    loop.remove_handler(other)
    other.close()


@pytest.mark.only_on("linux")
@pytest.mark.waterspout(
    "asyncio", "asyncio-readers"
)  # libuv aborts the process over such a descriptor
async def test_one_whose_number_is_a_transports_by_now_can_be_removed():
    loop = IOLoop.current()
    left, right = socket.socketpair()
    fd = left.fileno()
    loop.add_handler(left, print, READ)
    left.close()
    again, other = socket.socketpair()
    assert again.fileno() == fd
    reader, writer = await asyncio.open_connection(sock=again)
    loop.remove_handler(left)
    with pytest.raises(KeyError):
        loop.remove_handler(left)
    assert not reader.at_eof()
    writer.close()
    await writer.wait_closed()
    other.close()
    right.close()


async def test_every_event_runs_in_the_context_of_the_registration(pair):
    left, right = pair
    variable = contextvars.ContextVar("variable", default="unset")
    loop, seen = IOLoop.current(), []

    def handler(source, events):
        seen.append((events, variable.get()))
        loop.update_handler(source, READ)

    variable.set("added")
    loop.add_handler(left, handler, READ)
    variable.set("updated")
    loop.update_handler(left, READ | WRITE)
    while len(seen) < 1:
        await asyncio.sleep(0.001)
    right.send(b"x")
    while len(seen) < 2:
        await asyncio.sleep(0.001)
    loop.remove_handler(left)
    assert seen[:2] == [(WRITE, "added"), (READ, "added")]


@pytest.mark.only_on("linux")
@pytest.mark.waterspout("asyncio-readers")
@pytest.mark.parametrize("removed", [True, False])
async def test_a_descriptor_closed_under_the_poll_is_reported_unless_removed(monkeypatch, removed):
    import waterspout.ioloop._watcher as module

    monkeypatch.setattr(module, "HANGUP_POLL_SECONDS", 0.03)
    reports = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: reports.append(context))
    read_end, write_end = os.pipe()
    loop = IOLoop.current()
    loop.add_handler(read_end, print, ERROR)
    os.write(write_end, b"x")
    await settle()  # a timer asks about it by now
    os.close(read_end)
    if removed:
        loop.remove_handler(read_end)
    await asyncio.sleep(0.05)
    expected = [] if removed else [errno.EBADF]
    assert [report["exception"].errno for report in reports] == expected
    if not removed:
        loop.remove_handler(read_end)
    os.close(write_end)


class RefusingLoop(asyncio.SelectorEventLoop):
    """Has readers, but no writers, and its descriptors are not the kernel's."""

    _waterspout_kernel = Kernel()

    def add_writer(self, fd, callback, *args):
        raise PermissionError("no writers here")


def test_a_registration_that_fails_halfway_leaves_nothing(pair):
    left, right = pair
    loop, seen = IOLoop(RefusingLoop()), []

    async def main():
        with pytest.raises(PermissionError):
            loop.add_handler(left, lambda *call: seen.append(call), READ | WRITE)
        right.send(b"x")
        await settle()
        loop.add_handler(left, lambda *call: seen.append(call), READ)
        with pytest.raises(PermissionError):
            loop.update_handler(left, READ | WRITE)
        await settle()
        assert seen[0] == (left, READ)
        loop.remove_handler(left)
        seen.clear()

    loop.run_sync(main)
    loop.close()
    assert seen == []


async def test_a_handler_removed_after_the_loop_is_closed_is_no_error(pair):
    left, _ = pair

    def run():
        loop = IOLoop(asyncio.new_event_loop())
        loop.add_handler(left, print, READ)
        loop.asyncio_loop.close()
        loop.remove_handler(left)

    await asyncio.to_thread(run)


class LeavingLoop(asyncio.SelectorEventLoop):
    """Cannot watch descriptors."""

    def add_reader(self, fd, callback, *args):
        raise NotImplementedError


def test_a_loop_that_is_closed_without_a_word_takes_its_thread_along(pair):
    left, right = pair
    loop = IOLoop(LeavingLoop(), make_current=False)
    loop.add_handler(left, print, READ)
    [thread] = [one for one in threading.enumerate() if one.name == "waterspout-selector"]
    asyncio.SelectorEventLoop.close(loop.asyncio_loop)  # so that nobody learns of it
    right.send(b"x")
    thread.join(10)
    assert not thread.is_alive()
    loop._handlers.close()  # as if it was told in the same moment


async def test_handlers_work_until_the_loop_is_closed(pair):
    left, right = pair

    def run():
        loop = IOLoop(LeavingLoop(), make_current=False)
        others = threading.enumerate()

        async def main():
            loop.add_handler(left, lambda *call: None, READ)

        async def receive():
            calls = Calls()
            loop.update_handler(left, READ | WRITE)
            loop.add_handler(right, calls, READ)
            left.send(b"x")
            assert await calls.next() == (right, READ)

        loop.run_sync(main)
        loop.asyncio_loop.run_until_complete(loop.asyncio_loop.shutdown_asyncgens())
        loop.run_sync(receive)
        loop.asyncio_loop.close()
        assert set(threading.enumerate()) <= set(others)
        with pytest.raises(RuntimeError, match="the event loop is closed"):
            loop.add_handler(right, print, READ)
        with pytest.raises(RuntimeError, match="the event loop is closed"):
            loop.update_handler(right, READ)
        loop.remove_handler(left)
        loop.close()

    await asyncio.to_thread(run)


@pytest.mark.only_on("linux")
@pytest.mark.waterspout("asyncio", "asyncio-readers", "uvloop")  # libuv finds out later
async def test_a_descriptor_that_cannot_be_watched_leaves_nothing(tmp_path, pair):
    left, right = pair
    loop, calls = IOLoop.current(), Calls()
    with (tmp_path / "file").open("wb") as file:
        with pytest.raises(PermissionError):
            loop.add_handler(file, calls, WRITE)
        with pytest.raises(KeyError):
            loop.remove_handler(file)
        loop.add_handler(left, calls, READ)
        with pytest.raises(PermissionError):
            loop.add_handler(file, calls, WRITE)
    right.send(b"x")
    assert await calls.next() == (left, READ)
    loop.remove_handler(left)


@pytest.mark.only_on("linux", "darwin")
async def test_what_was_ready_is_not_told_to_who_has_the_number_by_now():
    loop, hung_up, seen = IOLoop.current(), [], []
    pipes = [os.pipe() for _ in range(2)]
    healthy, writer = os.pipe()

    def handler(source, events):
        hung_up.append(source)
        [other] = {read_end for read_end, _ in pipes} - {source}
        for fd in (source, other):
            loop.remove_handler(fd)
        os.dup2(healthy, other)
        loop.add_handler(other, lambda *call: seen.append(call), READ | ERROR)

    for read_end, write_end in pipes:
        loop.add_handler(read_end, handler, READ | ERROR)
        os.close(write_end)
    while not hung_up:
        await asyncio.sleep(0)
    await settle()
    [other] = {read_end for read_end, _ in pipes} - {*hung_up}
    loop.remove_handler(other)
    for fd in (healthy, writer, *(read_end for read_end, _ in pipes)):
        os.close(fd)
    assert len(hung_up) == 1
    assert seen == []


@pytest.mark.only_on("linux", "darwin")
async def test_a_descriptor_that_another_holds_open_tells_nothing_once_it_was_removed(pair):
    """The kernel goes on watching what is behind a number as long as anybody has it open."""
    left, right = pair
    loop, seen = IOLoop.current(), []
    closed = os.dup(left.fileno())
    loop.add_handler(closed, lambda *call: seen.append(call), READ)
    loop.add_handler(right, print, READ)
    os.close(closed)
    right.send(b"x")
    loop.remove_handler(closed)
    await settle()
    loop.remove_handler(right)
    assert seen == []


@pytest.mark.only_on("linux", "darwin")
@pytest.mark.parametrize("kind", ["asyncio", "asyncio-readers"])
def test_one_that_ends_the_loop_leaves_the_others_their_events(waterspout_loops, kind):
    loop, seen = IOLoop(waterspout_loops[kind](), make_current=False), []
    pipes = [os.pipe() for _ in range(3)]

    def handler(source, events):
        seen.append(source)
        loop.remove_handler(source)
        raise SystemExit

    for read_end, write_end in pipes:
        loop.add_handler(read_end, handler, READ)
        os.write(write_end, b"x")
    for _ in pipes:
        with pytest.raises(SystemExit):
            loop.asyncio_loop.run_until_complete(asyncio.sleep(10))
    loop.close()
    for ends in pipes:
        for fd in ends:
            os.close(fd)
    assert sorted(seen) == sorted(read_end for read_end, _ in pipes)


async def test_no_number_of_ready_descriptors_keeps_one_of_them_waiting():
    loop, seen, pairs = IOLoop.current(), set(), [socket.socketpair() for _ in range(400)]
    for left, right in pairs:
        left.setblocking(False)
        loop.add_handler(left, lambda source, events: seen.add(source), READ)
        right.send(b"x")
    while len(seen) < len(pairs):
        await asyncio.sleep(0)
    for left, right in pairs:
        loop.remove_handler(left)
        left.close()
        right.close()


async def test_one_that_lets_a_cancellation_out_keeps_nothing_from_the_others(pair):
    left, right = pair
    loop, reports = IOLoop.current(), []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: reports.append(context))
    cancelled, calls = asyncio.get_running_loop().create_future(), Calls()
    cancelled.cancel()
    other, its_end = socket.socketpair()
    with other, its_end:
        loop.add_handler(left, lambda *call: cancelled.result(), READ)
        loop.add_handler(other, calls, READ)
        right.send(b"x")
        its_end.send(b"x")
        await calls.next()
        await calls.next()
        loop.remove_handler(left)
        loop.remove_handler(other)
    assert {type(report["exception"]) for report in reports} == {asyncio.CancelledError}


async def test_a_transports_descriptor_is_refused(pair, loop_name, request):
    left, right = pair
    if "threaded" in request.node.name:
        pytest.skip("that loop has no transports")
    _, writer = await asyncio.open_connection(sock=left)
    with pytest.raises(RuntimeError, match="transport"):
        IOLoop.current().add_handler(left.fileno(), print, READ)
    writer.close()
    await writer.wait_closed()


@pytest.mark.only_on("linux")
@pytest.mark.waterspout("asyncio", "uvloop")
async def test_a_file_that_cannot_be_let_go_of_costs_no_time(pair):
    """It was closed before it was removed, and is still open under another number."""
    left, right = pair
    loop, calls = IOLoop.current(), Calls()
    closed = os.dup(left.fileno())
    loop.add_handler(closed, print, READ)
    loop.add_handler(right, calls, READ)
    os.close(closed)
    loop.remove_handler(closed)
    right.send(b"x")
    poller = loop._handlers._poller
    epoll = poller._epoll
    while poller._epoll is epoll:
        await asyncio.sleep(0.001)
    await settle()
    assert poller._epoll.poll(0) == []  # it has stopped telling
    left.send(b"y")
    assert await calls.next() == (right, READ)
    loop.remove_handler(right)


@pytest.mark.only_on("linux")
@pytest.mark.waterspout("asyncio", "uvloop")
async def test_the_number_of_such_a_file_can_be_watched_again(pair):
    left, right = pair
    loop, calls = IOLoop.current(), Calls()
    number = os.dup(left.fileno())
    loop.add_handler(right, print, READ)  # so that something is watched all the time
    loop.add_handler(number, print, READ)
    os.close(number)
    loop.remove_handler(number)
    os.dup2(left.fileno(), number)
    loop.add_handler(number, calls, READ)
    right.send(b"x")
    assert await calls.next() == (number, READ)
    for source in (number, right):
        loop.remove_handler(source)
    os.close(number)


async def test_a_loops_own_report_is_used_also_if_it_came_later(pair, monkeypatch):
    left, right = pair
    loop, reports = IOLoop.current(), []
    monkeypatch.setattr(loop, "handle_callback_exception", reports.append, raising=True)

    def fail(source, events):
        loop.remove_handler(source)
        raise LookupError

    loop.add_handler(left, fail, READ)
    right.send(b"x")
    while not reports:
        await asyncio.sleep(0.001)
    assert reports == [fail]


async def test_a_hook_that_raises_costs_other_handlers_nothing():
    loop, served, reported = IOLoop.current(), [], []
    asyncio.get_running_loop().set_exception_handler(
        lambda _, context: reported.append(context["exception"])
    )

    def hook(callback):
        raise sys.exception()

    def fails(source, events):
        raise ZeroDivisionError

    loop.handle_callback_exception = hook
    pairs = [socket.socketpair() for _ in range(2)]
    for (one, other), handler in zip(pairs, (fails, lambda *_: served.append(1)), strict=True):
        other.send(b"x")
        loop.add_handler(one, handler, IOLoop.READ)
    while not (served and reported):
        await asyncio.sleep(0)
    for one, other in pairs:
        loop.remove_handler(one)
        one.close()
        other.close()
    assert isinstance(reported[0], ZeroDivisionError)


def test_the_first_handler_of_a_loop_without_add_reader_may_come_from_a_thread():
    class Loop(asyncio.SelectorEventLoop):
        def add_reader(self, *args):
            raise NotImplementedError

        add_writer = remove_reader = remove_writer = add_reader

    called = threading.Event()
    loop = IOLoop(Loop(), make_current=False)
    thread = threading.Thread(target=loop.start)
    thread.start()
    started = threading.Event()
    loop.add_callback(started.set)
    assert started.wait(10)
    one, other = socket.socketpair()
    with one, other:
        other.send(b"x")
        loop.add_handler(one, lambda *_: called.set(), IOLoop.READ)
        assert called.wait(10)
        removed = threading.Event()
        loop.add_callback(lambda: (loop.remove_handler(one), removed.set()))
        assert removed.wait(10)
    loop.add_callback(loop.stop)
    thread.join()
    loop.close()
