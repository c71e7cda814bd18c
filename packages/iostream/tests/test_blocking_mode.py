"""The blocking mode of descriptors, which belongs to an open file that others share."""

import asyncio
import contextlib
import fcntl
import gc
import io
import os
import pty
import socket
import subprocess
import sys
import textwrap
import threading
import tty
import warnings

import pytest

from waterspout.ioloop import IOLoop
from waterspout.ioloop.scheduling import ERROR, READ, WRITE
from waterspout.ioloop.testing import no_reference_cycles
from waterspout.iostream import PipeIOStream, StreamClosedError, _blockingmode
from waterspout.iostream._offloop import EXITS

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="Windows watches no descriptors")


@pytest.fixture
def opened():
    """Closes descriptors in the end."""
    fds = []
    yield fds
    for fd in fds:
        with contextlib.suppress(OSError):
            os.close(fd)


@pytest.fixture
def terminal(opened):
    """What a terminal emulator has, and what a program in it has."""
    screen, terminal = pty.openpty()
    tty.setraw(terminal)
    opened += [screen, terminal]
    return screen, terminal


@pytest.fixture
def pipe(opened):
    ends = os.pipe()
    opened += ends
    return ends


KINDS = ["terminal", "reading", "writing", "socket", "fifo"]


@pytest.fixture(params=KINDS)
def shared(request, terminal, pipe, opened, tmp_path):
    """A descriptor that several streams get duplicates of, and which nobody else uses."""
    if request.param == "socket":
        left, right = socket.socketpair()
        opened += [left.detach(), right.detach()]
        return opened[-2]
    if request.param == "fifo":
        os.mkfifo(tmp_path / "fifo")
        opened += [os.open(tmp_path / "fifo", os.O_RDWR)]
        return opened[-1]
    return {"terminal": terminal[1], "reading": pipe[0], "writing": pipe[1]}[request.param]


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 0, 2)])
@pytest.mark.parametrize("last", ["close", "detach", "drop"])
async def test_the_last_stream_of_an_open_file_gives_it_its_mode_back(shared, order, last, opened):
    streams = [PipeIOStream(os.dup(shared)) for _ in range(3)]
    assert not os.get_blocking(shared)
    for number in order[:2]:
        streams[number].close()
        assert not os.get_blocking(shared)
    if last == "close":
        streams[order[2]].close()
    elif last == "detach":
        opened.append(streams[order[2]].detach())
        assert os.get_blocking(opened[-1])
    else:
        with pytest.warns(ResourceWarning, match="unclosed <PipeIOStream open"):
            streams.clear()
    assert os.get_blocking(shared)
    assert _blockingmode._in_use.files == {}


async def test_one_that_was_non_blocking_stays_so(shared):
    os.set_blocking(shared, False)
    first, second = PipeIOStream(os.dup(shared)), PipeIOStream(os.dup(shared))
    first.close()
    assert not os.get_blocking(shared)
    second.close()
    assert not os.get_blocking(shared)


async def test_other_open_files_of_one_fifo_have_their_own_mode(tmp_path):
    path = tmp_path / "fifo"
    os.mkfifo(path)
    fds = [os.open(path, os.O_RDWR) for _ in range(2)]
    others = [os.dup(fd) for fd in fds]
    first, second = map(PipeIOStream, fds)
    first.close()
    assert [os.get_blocking(fd) for fd in others] == [True, False]
    second.close()
    assert [os.get_blocking(fd) for fd in others] == [True, True]
    for fd in others:
        assert not fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_APPEND
        os.close(fd)


async def test_a_descriptor_closed_behind_its_streams_back_is_no_obstacle(tmp_path):
    path = tmp_path / "fifo"
    os.mkfifo(path)
    gone = PipeIOStream(os.open(path, os.O_RDWR))
    fd = os.open(path, os.O_RDWR)
    os.close(gone.fileno())
    stream = PipeIOStream(fd)
    shared = os.dup(fd)
    stream.close()
    assert os.get_blocking(shared)
    os.close(shared)
    with contextlib.suppress(OSError):
        gone.close_fd()
    assert _blockingmode._in_use.files == {}


async def test_alone_on_a_terminal_it_leaves_the_mode_for_others(terminal):
    screen, fd = terminal
    stream = PipeIOStream(os.dup(fd))
    assert os.get_blocking(fd)
    await stream.write(b"prompt> ")
    assert os.get_blocking(fd)
    reading = stream.read_until(b"\n")
    assert os.read(screen, 100) == b"prompt> "
    os.write(screen, b"typed\n")
    assert await reading == b"typed\n"
    assert os.get_blocking(fd)
    stream.close()
    assert os.get_blocking(fd)


async def test_print_waits_for_a_terminal_that_is_a_stream_too(terminal):
    screen, fd = terminal
    keyboard = PipeIOStream(os.dup(fd))
    typed = keyboard.read_until(b"\n")
    received = bytearray()

    def scroll():
        while len(received) < 50_000:
            received.extend(os.read(screen, 65536))

    viewer = threading.Thread(target=scroll, daemon=True)
    with os.fdopen(os.dup(fd), "w") as stdout:
        viewer.start()
        print("." * 50_000, file=stdout, end="", flush=True)
    viewer.join(10)
    assert received == b"." * 50_000
    os.write(screen, b"x\n")
    assert await typed == b"x\n"
    keyboard.close()


@pytest.mark.parametrize("streams", [1, 2])
async def test_a_terminal_that_does_not_scroll_holds_up_no_loop(terminal, streams):
    screen, fd = terminal
    others = [PipeIOStream(os.dup(fd)) for _ in range(streams - 1)]
    display = PipeIOStream(os.dup(fd))
    for other in others:
        other.close()
    written = display.write(b"." * 300_000)
    for _ in range(5):
        os.set_blocking(fd, True)  # another process of the terminal does that
        await asyncio.sleep(0)
    assert not written.done()
    viewer = PipeIOStream(os.dup(screen))
    assert await viewer.read_bytes(300_000) == b"." * 300_000
    await written
    viewer.close()
    display.close()
    assert os.get_blocking(fd)


@pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning")
async def test_a_forked_child_that_closes_a_stream_leaves_the_mode_alone(pipe, monkeypatch):
    stream = PipeIOStream(os.dup(pipe[1]))
    child = os.fork()
    if child == 0:
        try:
            stream.close_fd()
            _blockingmode._in_use.restore()
        finally:
            os._exit(0)
    await IOLoop.current().run_in_executor(EXITS, os.waitpid, child, 0)
    assert not os.get_blocking(pipe[1])
    stream.close()
    assert os.get_blocking(pipe[1])


async def test_what_a_parent_process_uses_is_not_given_its_mode_back(pipe, monkeypatch):
    """As in a forked child, but in this process."""
    stream = PipeIOStream(os.dup(pipe[1]))
    with monkeypatch.context() as patch:
        patch.setattr(_blockingmode, "_in_use", _blockingmode._InUse())
        stream.close_fd()
    assert not os.get_blocking(pipe[1])
    _blockingmode._in_use.reset()
    stream.close()


@pytest.mark.slow
def test_at_exit_the_mode_is_what_it_was(pipe):
    program = """
        import asyncio, os
        from waterspout.iostream import PipeIOStream
        async def main():
            kept.append(PipeIOStream(FD))
        kept = []
        asyncio.run(main())
        assert not os.get_blocking(FD)
    """
    code = textwrap.dedent(program).replace("FD", str(pipe[0]))
    done = subprocess.run([sys.executable, "-c", code], pass_fds=[pipe[0]], timeout=20)
    assert done.returncode == 0
    assert os.get_blocking(pipe[0])


async def test_restoring_passes_over_what_was_closed(pipe):
    stream = PipeIOStream(os.dup(pipe[0]))
    stream._file.fds.add(10**6)
    _blockingmode._in_use.restore()
    assert os.get_blocking(pipe[0])
    stream._file.fds.discard(10**6)
    stream.close()


# Constructors that fail


@pytest.mark.parametrize("kwargs", [{"max_buffer_size": 0}, {"nonsense": 1}, {"io_loop": 5}])
async def test_a_bad_argument_leaves_the_descriptor_as_it_is(pipe, kwargs):
    with pytest.raises((TypeError, ValueError)):
        PipeIOStream(pipe[0], **kwargs)
    assert os.get_blocking(pipe[0])


@pytest.mark.parametrize("step", ["fstat", "isatty", "set_blocking", "get_blocking"])
@pytest.mark.parametrize("error", [OSError, KeyboardInterrupt])
async def test_a_step_that_fails_leaves_the_descriptor_as_it_is(pipe, monkeypatch, step, error):
    def fail(fd, *args):
        if args == (True,):
            return original(fd, *args)
        raise error

    original = getattr(os, step)
    with monkeypatch.context() as patch:
        patch.setattr(os, step, fail)
        with pytest.raises(error):
            PipeIOStream(pipe[0])
    assert os.get_blocking(pipe[0])
    assert _blockingmode._in_use.files == {}
    PipeIOStream(pipe[0]).close()  # it is still open, and the caller's


async def test_failures_leave_no_reference_cycles():
    async def scenarios():
        with contextlib.suppress(TypeError):
            PipeIOStream("0")
        with contextlib.suppress(OSError):
            PipeIOStream(10**6)
        reading, writing = map(PipeIOStream, os.pipe())
        with contextlib.suppress(io.UnsupportedOperation):
            reading.write(b"x")
        with contextlib.suppress(io.UnsupportedOperation):
            writing.read_bytes(1)
        writing.close()
        reading.close()
        await asyncio.sleep(0)

    await scenarios()
    with no_reference_cycles():
        await scenarios()


# Streams that only write


class Counting(PipeIOStream):
    calls = 0

    def _on_events(self, fd, events):
        self.calls += 1
        super()._on_events(fd, events)


@pytest.fixture
def write_only(terminal):
    return os.open(os.ttyname(terminal[1]), os.O_WRONLY | os.O_NOCTTY)


@pytest.mark.every_watcher
async def test_what_is_typed_does_not_wake_a_stream_that_only_writes(terminal, write_only):
    screen, _ = terminal
    stream = Counting(write_only)
    stream.set_close_callback(lambda: pytest.fail("it was closed"))
    await stream.write(b"prompt> ")
    os.write(screen, b"typed")
    for _ in range(100):
        await asyncio.sleep(0)
    assert stream.calls <= 5
    stream.set_close_callback(None)
    stream.close()


@pytest.mark.every_watcher
async def test_a_terminal_that_is_gone_closes_a_stream_that_only_writes(opened):
    screen, terminal = pty.openpty()
    tty.setraw(terminal)
    stream = PipeIOStream(os.open(os.ttyname(terminal), os.O_WRONLY | os.O_NOCTTY))
    os.close(terminal)
    closed = asyncio.Event()
    stream.set_close_callback(closed.set)
    os.write(screen, b"typed")
    await asyncio.sleep(0)
    os.close(screen)
    await closed.wait()
    with pytest.raises(StreamClosedError):
        stream.write(b"x")


@pytest.mark.every_watcher
async def test_a_reader_that_is_gone_closes_a_stream_that_waits_to_write(pipe):
    reading, writing = pipe
    stream = PipeIOStream(os.dup(writing))
    closed = asyncio.Event()
    stream.set_close_callback(closed.set)
    written = stream.write(b"x" * 1_000_000)
    await asyncio.sleep(0)
    os.close(reading)
    with pytest.raises(StreamClosedError):
        await written
    await closed.wait()


async def test_a_write_that_fails_closes_a_stream_that_only_writes(pipe, monkeypatch):
    """There is nothing else that could be done with it."""
    stream = PipeIOStream(os.dup(pipe[1]))
    closed = asyncio.Event()
    stream.set_close_callback(closed.set)

    def fail(*args):
        raise OSError(5, "no terminal")

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", fail)
        with pytest.raises(StreamClosedError):
            stream.write(b"x")
    assert stream.closed()
    assert stream.error.errno == 5
    await closed.wait()


async def test_what_is_registered_for_a_stream_that_only_writes(pipe):
    stream = PipeIOStream(os.dup(pipe[1]))
    stream.set_close_callback(lambda: None)
    assert stream._events == ERROR
    os.set_blocking(pipe[1], False)
    stream.write(b"x" * 1_000_000)
    assert stream._events == ERROR | WRITE
    stream.set_close_callback(None)
    stream.close()
    other = PipeIOStream(os.dup(pipe[0]))
    other.set_close_callback(lambda: None)
    assert other._events == READ
    other.close()


async def test_a_stream_that_the_garbage_collector_closes_while_another_is_made(monkeypatch):
    """Its finalizer runs in the middle of whatever this thread does."""
    original = os.get_blocking

    class Node:
        pass

    def drop_in_a_cycle():
        reading, writing = os.pipe()
        os.close(writing)
        node = Node()
        node.stream, node.itself = PipeIOStream(reading), node
        return reading

    def get_blocking(fd):
        gc.collect()
        return original(fd)

    dropped = drop_in_a_cycle()
    monkeypatch.setattr(os, "get_blocking", get_blocking)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        streams = [PipeIOStream(fd) for fd in os.pipe()]
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(dropped)
    for stream in streams:
        assert not original(stream.fileno())
        stream.close()
