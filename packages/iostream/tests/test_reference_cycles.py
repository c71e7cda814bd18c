"""What fails leaves nothing for the garbage collector."""

import asyncio
import contextlib
import gc
import socket
import struct
import warnings
from functools import partial

import pytest

from waterspout.ioloop.testing import no_reference_cycles
from waterspout.iostream import (
    IOStream,
    StreamBufferFullError,
    StreamClosedError,
    UnsatisfiableReadError,
)

pytestmark = pytest.mark.slow  # each collects all garbage, of whole test runs

LARGE = b"x" * 10_000_000


def tcp_ends():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        left = socket.create_connection(listener.getsockname())
        right, _ = listener.accept()
    return left, right


def reset(peer):
    peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    peer.close()


async def call_soon(function, *args):
    """Have a function called once a task waits."""
    await asyncio.sleep(0)
    function(*args)


async def settle():
    for _ in range(5):
        await asyncio.sleep(0.0005)


READS = {
    "bytes": lambda stream: stream.read_bytes(10),
    "until": lambda stream: stream.read_until(b"\n"),
    "several": lambda stream: stream.read_until((b"\n", b"!"), max_bytes=1000),
    "regex": lambda stream: stream.read_until_regex(b"\n"),
    "into": lambda stream: stream.read_into(bytearray(200_000)),
    "peek": lambda stream: stream.peek(10),
    "line": anext,
    "streamed": lambda stream: stream.read_bytes(10, streaming_callback=lambda chunk: None),
    "callback": lambda stream: stream.read_bytes(10, callback=lambda data: None),
    "close": lambda stream: stream.read_until_close(),
}
ENDS = {
    "end": lambda stream, peer: peer.close(),
    "reset": lambda stream, peer: reset(peer),
    "close": lambda stream, peer: stream.close(),
    "close by error": lambda stream, peer: stream.close(ValueError("not raised")),
    "cut off": lambda stream, peer: (peer.send(b"abc"), peer.close()),
}


async def handler(stream, kind):
    """What a user writes: a coroutine with locals of its own."""
    local = object()
    with contextlib.suppress(StreamClosedError, StopAsyncIteration):
        await READS[kind](stream)
    return local


@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("kind", READS)
async def test_failed_read_leaves_no_cycle(kind, end):
    asyncio.get_running_loop().set_exception_handler(lambda *_: None)  # for callbacks
    left, peer = tcp_ends()
    stream = IOStream(left)
    await stream.write(b"")  # what a loop and a stream need once is there
    with no_reference_cycles():
        ending = asyncio.create_task(call_soon(ENDS[end], stream, peer))
        await handler(stream, kind)
        await ending
        stream.close()
        peer.close()
        del stream, left, peer, ending
        await settle()


@pytest.mark.parametrize("kind", READS)
async def test_timed_out_and_cancelled_reads_leave_no_cycle(kind):
    left, peer = socket.socketpair()
    stream = IOStream(left)
    await stream.write(b"")

    async def timed_out(stream):
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(0.001):
                await READS[kind](stream)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(READS[kind](stream), 0.001)

    async def cancelled(stream):
        task = asyncio.create_task(handler(stream, kind))
        await asyncio.sleep(0)
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task

    with no_reference_cycles():
        await timed_out(stream)
        await cancelled(stream)
        stream.close()
        peer.close()
        del stream, left, peer
        await settle()


async def test_read_cancelled_before_its_task_resumes_leaves_no_cycle(pair):
    stream, peer = pair

    async def wait(stream, tasks):
        reading = stream.read_bytes(3)
        reading.add_done_callback(lambda _: tasks.pop().cancel())
        return await reading

    async def cancel(stream):
        tasks = []
        task = asyncio.create_task(wait(stream, tasks))
        tasks.append(task)
        await asyncio.sleep(0)
        peer.send(b"abc")
        with contextlib.suppress(asyncio.CancelledError):
            await task

    with no_reference_cycles():
        await cancel(stream)
        await settle()
    assert await stream.read_bytes(3) == b"abc"


async def test_reads_without_a_match_leave_no_cycle(make_pair):
    stream, peer = make_pair(max_buffer_size=100)
    await stream.write(b"")

    async def unsatisfied(start):
        with contextlib.suppress(UnsatisfiableReadError, StreamBufferFullError):
            await start()

    with no_reference_cycles():
        for number, start in enumerate(
            (
                lambda: stream.read_until((b"\n", b"!"), max_bytes=2),
                lambda: stream.read_until_regex(b"\n", max_bytes=5),
                lambda: stream.read_until(b"\n"),
                lambda: stream.read_until_regex(b"\n"),
                lambda: stream.read_bytes(101),
            )
        ):
            sending = asyncio.create_task(call_soon(peer.send, b"x" * (number + 1) * 50))
            await unsatisfied(start)
            await unsatisfied(start)
            await sending
        del start, sending


async def test_failed_writes_leave_no_cycle():
    left, right = tcp_ends()
    stream = IOStream(left)
    await stream.write(b"")

    async def write_and_fail(stream, peer):
        local = object()
        sending = [stream.write(LARGE), stream.write(b"more")]
        cancelled = stream.write(LARGE, callback=lambda: None)
        cancelled.cancel()
        reset(peer)
        while sending:
            with contextlib.suppress(StreamClosedError):
                await sending.pop(0)
        with contextlib.suppress(StreamClosedError):
            stream.write(b"at once")
        with contextlib.suppress(StreamClosedError):
            await stream.write_eof()
        return local

    with no_reference_cycles():
        await write_and_fail(stream, right)
        stream.close()
        del stream, left, right
        await settle()


async def test_write_that_fails_at_once_leaves_no_cycle():
    left, right = socket.socketpair()
    stream = IOStream(left)
    await stream.write(b"")

    async def write_and_fail(stream):
        local = object()
        for data in (b"fast", bytearray(b"slow")):
            with contextlib.suppress(StreamClosedError):
                stream.write(data)
        try:
            raise LookupError(local)
        except LookupError:
            with contextlib.suppress(StreamClosedError):
                await stream.read_bytes(1)
            stream.close()

    with no_reference_cycles():
        right.close()
        await write_and_fail(stream)
        del stream, left, right
        await settle()


class UncopiedError(Exception):
    def __init__(self, one, two):
        super().__init__(one)


class File:
    """One that is read in parts, and then something fails."""

    def __init__(self, failing):
        self.failing, self.reads = failing, 0

    def seekable(self):
        return False

    def read(self, size):
        self.reads += 1
        if self.reads > 2:
            self.failing()
            return LARGE
        return b"part"

    def fileno(self):
        raise OSError

    def tell(self):
        return 0


def fail_with(*error):
    kind, *args = error
    raise kind(*args)


FAILURES = {
    "cannot read": (OSError, 5, "cannot read"),
    "mistake": (ZeroDivisionError, "mistake"),
    "no copy": (UncopiedError, "one", "two"),
}


@pytest.mark.parametrize("end", [*FAILURES, "reset"])
async def test_file_that_is_not_sent_leaves_no_cycle(end):
    left, right = tcp_ends()
    stream = IOStream(left)
    await stream.write(b"")

    async def send(stream, failing):
        local = object()
        with contextlib.suppress(OSError, ZeroDivisionError, UncopiedError):
            await stream.sendfile(File(failing))
        return local

    failing = partial(reset, right) if end == "reset" else partial(fail_with, *FAILURES[end])
    # An exception that cannot be copied is the reason itself, and has the frames.
    expect = contextlib.nullcontext() if end == "no copy" else no_reference_cycles()
    with expect:
        await send(stream, failing)
        kind = type(stream.error)
        del stream, left, failing
        await settle()
    right.close()
    assert issubclass(kind, ConnectionError if end == "reset" else FAILURES[end][0])


async def test_lines_to_the_end_leave_no_cycle():
    left, right = socket.socketpair()
    stream = IOStream(left)
    await stream.write(b"")
    with no_reference_cycles():
        right.send(b"one\ntwo\nthree")
        sending = asyncio.create_task(call_soon(right.close))
        assert [line async for line in stream] == [b"one\n", b"two\n", b"three"]
        await sending
        stream.close()
        del stream, left, right, sending
        await settle()


async def test_everything_to_the_end_leaves_no_cycle():
    left, right = socket.socketpair()
    stream = IOStream(left)
    await stream.write(b"")
    with no_reference_cycles():
        stream.set_close_callback(lambda: None)
        right.send(b"all")
        sending = asyncio.create_task(call_soon(right.close))
        assert await stream.read_until_close() == b"all"
        await sending
        del stream, left, right, sending
        await settle()


async def test_dropped_stream_complains_of_its_socket_at_once():
    """Without waiting for the garbage collector, as any unclosed socket does."""
    left, right = socket.socketpair()
    stream = IOStream(left)
    await stream.write(b"")
    gc.collect()
    gc.disable()
    try:
        with pytest.warns(ResourceWarning, match="unclosed <socket"):
            del stream, left
    finally:
        gc.enable()
    right.close()


async def test_mistake_in_a_subclass_leaves_no_cycle_and_a_note():
    class Broken(IOStream):
        def read_from_fd(self, buf):
            try:
                raise KeyError("the cause")
            except KeyError as error:
                raise ZeroDivisionError("the mistake") from error

    left, right = socket.socketpair()
    stream = Broken(left)
    await stream.write(b"")
    notes = []

    async def read(stream):
        try:
            await stream.read_bytes(10)
        except StreamClosedError as error:
            notes.extend(error.real_error.__notes__)

    with no_reference_cycles(ignore=lambda one: isinstance(one, warnings.WarningMessage)):
        right.send(b"x")
        await read(stream)
        right.close()
        del stream, left, right
        await settle()
    [note] = notes
    assert "in read_from_fd" in note
    assert "KeyError: 'the cause'" in note


async def test_failed_write_eof_leaves_no_cycle(make_pair):
    async def fails():
        stream, peer = make_pair(tcp=True)
        stream.write(b"x" * 10_000_000)
        asyncio.get_running_loop().call_soon(peer.close)
        with contextlib.suppress(StreamClosedError):
            await stream.write_eof()
        stream.close()

    await fails()
    with no_reference_cycles():
        await fails()
        await asyncio.sleep(0)
