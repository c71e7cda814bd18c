"""Writes, ends and closing."""

import asyncio
import errno
import gc
import os
import socket

import pytest

from waterspout.iostream import BaseIOStream, IOStream, StreamBufferFullError, StreamClosedError


async def settle(iterations=6):
    for _ in range(iterations):
        await asyncio.sleep(0.0005)


BIG = 4 * 1024 * 1024


async def test_small_and_large_writes_arrive_in_order(pair):
    stream, peer = pair
    parts = [b"a" * 10, bytearray(b"b" * BIG), memoryview(b"c" * 100), b"", b"d" * 5000, b"e"]
    futures = [stream.write(part) for part in parts]
    assert stream.writing()
    received = await peer.receive(sum(map(len, parts)))
    await asyncio.gather(*futures)
    assert received == b"".join(map(bytes, parts))
    assert not stream.writing()


async def test_a_write_that_the_kernel_takes_is_done_at_once(pair):
    stream, peer = pair
    future = stream.write(b"abc")
    assert future.done()
    assert await peer.receive(3) == b"abc"


async def test_a_cancelled_write_is_sent_whole(pair):
    stream, peer = pair
    futures = [stream.write(b"x" * BIG), stream.write(b"y" * BIG), stream.write(b"z")]
    for future in futures[:2]:
        future.cancel()
    received = await peer.receive(2 * BIG + 1)
    assert received == b"x" * BIG + b"y" * BIG + b"z"
    await futures[2]


async def test_the_write_buffer_is_bounded(make_pair):
    stream, peer = make_pair(max_write_buffer_size=1000)
    first = stream.write(b"x" * BIG)  # to an empty buffer, always
    with pytest.raises(StreamBufferFullError, match="max_write_buffer_size=1000"):
        stream.write(b"y" * 1001)
    assert await peer.receive(BIG) == b"x" * BIG
    await first
    await stream.write(b"z" * 2000)
    assert await peer.receive(2000) == b"z" * 2000


async def test_callbacks_and_errors(pair):
    stream, peer = pair
    done = asyncio.Event()
    stream.write(b"abc", done.set)
    await asyncio.wait_for(done.wait(), 10)
    with pytest.raises(TypeError, match="data must be contiguous and bytes-like"):
        stream.write("text")
    with pytest.raises(TypeError, match="data must be contiguous and bytes-like"):
        stream.write(memoryview(b"abcd")[::2])
    with pytest.raises(TypeError, match="callback must be callable"):
        stream.write(b"x", 5)
    stream.close()
    with pytest.raises(StreamClosedError):
        stream.write(b"x")


async def test_writes_that_wait_are_told_of_the_close(pair, caplog):
    stream, peer = pair
    futures = [stream.write(b"x" * BIG), stream.write(b"y"), stream.write(b"z")]
    futures[1].cancel()
    stream.close()
    for future in (futures[0], futures[2]):
        with pytest.raises(StreamClosedError):
            await future
    del futures
    gc.collect()
    assert caplog.text == ""


async def test_after_the_peers_end_pending_writes_go_out(make_pair):
    stream, peer = make_pair(tcp=True)
    future = stream.write(b"x" * BIG)
    reading = stream.read_until_close()
    peer.send(b"last words")
    peer.socket.shutdown(socket.SHUT_WR)
    assert await reading == b"last words"
    assert not stream.closed()
    assert await peer.receive_all() == b"x" * BIG
    await future
    await settle()
    assert stream.closed()


async def test_a_half_open_stream_can_still_write(make_pair):
    stream, peer = make_pair(tcp=True, half_open=True)
    peer.send(b"request")
    peer.socket.shutdown(socket.SHUT_WR)
    assert await stream.read_until_close() == b"request"
    with pytest.raises(StreamClosedError):
        stream.read_bytes(1)
    assert not stream.closed()
    await stream.write(b"answer")
    stream.close()
    assert await peer.receive_all() == b"answer"


async def test_a_broken_connection_closes_the_stream_but_what_came_can_be_read(pair):
    stream, peer = pair
    peer.send(b"before")
    peer.close()
    with pytest.raises(StreamClosedError) as caught:
        stream.write(b"x")
    assert isinstance(caught.value.real_error, BrokenPipeError)
    with pytest.raises(StreamClosedError):
        stream.write(b"y")
    assert await stream.read_bytes(6) == b"before"
    assert await stream.read_until_close() == b""
    assert stream.closed()
    assert isinstance(stream.error, BrokenPipeError)


@pytest.mark.parametrize("size", [10, 1_000_000])
async def test_when_sending_fails_reading_goes_on_to_the_end(pair, size):
    stream, peer = pair
    big = socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 22
    peer.socket.setsockopt(*big)
    stream.socket.setsockopt(*big)
    received = 0
    peer.send(b"x")
    assert await stream.read_bytes(1) == b"x"
    sent = peer.socket.send(b"y" * size)
    peer.close()
    reading = stream.read_bytes(sent)
    with pytest.raises(StreamClosedError):
        stream.write(b"z")
    received = await reading
    assert received == b"y" * sent
    assert await stream.read_until_close() == b""


async def test_a_clean_end_stays_one_when_sending_fails_later(make_pair):
    stream, peer = make_pair(tcp=True)
    writing = stream.write(b"x" * 8 * BIG)
    reading = stream.read_bytes(100)
    peer.send(b"response")
    peer.socket.shutdown(socket.SHUT_WR)
    with pytest.raises(StreamClosedError):
        await reading
    peer.close()
    with pytest.raises(StreamClosedError):
        await writing
    assert await stream.read_until_close() == b"response"


async def test_writes_that_were_handed_over_are_not_told_of_a_later_failure(make_pair):
    stream, peer = make_pair()
    first = stream.write(b"x" * BIG)
    second = stream.write(b"y" * BIG)
    assert await peer.receive(BIG) == b"x" * BIG
    await first
    peer.close()
    with pytest.raises(StreamClosedError):
        await second


async def test_reset_closes_a_half_open_stream(make_pair):
    stream, peer = make_pair(tcp=True, half_open=True)
    reading = stream.read_bytes(1)
    peer.reset()
    with pytest.raises(StreamClosedError):
        await reading
    assert stream.closed()
    with pytest.raises(StreamClosedError):
        stream.write(b"x")


async def test_a_connection_that_breaks_while_writes_wait(make_pair):
    stream, peer = make_pair(tcp=True)
    future = stream.write(b"x" * 8 * BIG)
    peer.reset()
    with pytest.raises(StreamClosedError) as caught:
        await future
    assert isinstance(caught.value.real_error, ConnectionError)


async def test_the_close_callback_runs_once(pair):
    stream, peer = pair
    calls = []
    stream.set_close_callback(lambda: calls.append("never"))
    stream.set_close_callback(None)
    stream.set_close_callback(lambda: calls.append(stream.closed()))
    peer.close()  # noticed without a read
    await settle()
    assert calls == [True]
    stream.close()
    await settle()
    assert calls == [True]
    stream.set_close_callback(lambda: calls.append("late"))
    await settle()
    assert calls == [True, "late"]
    with pytest.raises(TypeError, match="callback must be callable"):
        stream.set_close_callback(5)


async def test_the_close_callback_comes_after_the_pending_read(pair):
    stream, peer = pair
    order = []
    stream.set_close_callback(lambda: order.append("closed"))
    stream.read_bytes(1).add_done_callback(lambda _: order.append("read"))
    stream.close()
    await settle()
    assert order == ["read", "closed"]


async def test_it_comes_after_a_read_that_waits_for_another_task(pair):
    stream, peer = pair
    order = []

    async def wait(reading):
        return await reading

    stream.set_close_callback(lambda: order.append("closed"))
    first = wait(stream.read_bytes(1))  # driven by hand, so it resumes when the test says so
    first.send(None)
    peer.send(b"x")
    await settle()
    second = stream.read_bytes(1)
    second.add_done_callback(lambda _: order.append("read"))
    stream.close()
    await settle()
    assert order == []
    first.close()
    await settle()
    assert order == ["read", "closed"]


async def test_it_is_not_called_again_for_a_read_that_begins_after_the_end(pair):
    stream, peer = pair
    calls = []

    async def wait(reading):
        return await reading

    stream.set_close_callback(lambda: calls.append("closed"))
    first = wait(stream.read_bytes(1))
    first.send(None)
    peer.send(b"x")
    await settle()
    peer.close()
    await settle()
    assert calls == ["closed"]
    second = stream.read_bytes(1)
    first.close()
    assert await second == b"x"
    await settle()
    assert calls == ["closed"]


async def test_it_comes_after_the_callback_of_the_read_that_ended_it(pair):
    stream, peer = pair
    order = []
    stream.set_close_callback(lambda: order.append("closed"))
    stream.read_until_close(callback=order.append)
    peer.send(b"bye")
    peer.close()
    await settle()
    assert order == [b"bye", "closed"]


async def test_it_does_not_wait_for_unread_bytes(pair):
    stream, peer = pair
    closed = asyncio.Event()
    stream.set_close_callback(closed.set)
    peer.send(b"unread")
    peer.close()
    await asyncio.wait_for(closed.wait(), 10)
    assert await stream.read_until_close() == b"unread"


@pytest.mark.parametrize("form", ["exception", "tuple", "true", "false"])
async def test_close_takes_a_reason(make_pair, form):
    stream, peer = make_pair()
    reading = stream.read_bytes(1)
    error = LookupError("why")
    try:
        raise error
    except LookupError:
        import sys

        reason = {"exception": error, "tuple": sys.exc_info(), "true": True, "false": False}
        stream.close(reason[form])
    assert stream.error is (None if form == "false" else error)
    with pytest.raises(StreamClosedError) as caught:
        await reading
    if form != "false":
        assert caught.value.real_error is error
        assert "why" in str(caught.value)


async def test_closing_drops_what_is_there(pair):
    stream, peer = pair
    peer.send(b"abcdef")
    assert await stream.read_bytes(1) == b"a"
    stream.close()
    stream.close()
    with pytest.raises(StreamClosedError):
        stream.read_bytes(1)
    with pytest.raises(StreamClosedError):
        stream.read_until_close()


async def test_closing_after_the_peers_end_drops_it_too(pair):
    stream, peer = pair
    peer.send(b"abc")
    peer.close()
    assert await stream.read_bytes(1) == b"a"
    stream.close()
    with pytest.raises(StreamClosedError):
        stream.read_bytes(1)


async def test_closing_in_the_gap_of_a_read(pair):
    stream, peer = pair
    future = stream.read_bytes(2)

    async def wait():
        return await future

    task = asyncio.create_task(wait())
    await settle()
    peer.send(b"abcd")
    while not future.done():
        await asyncio.sleep(0)
    later = stream.read_bytes(2)
    task.cancel()
    stream.close()
    with pytest.raises(StreamClosedError):
        await later
    assert task.cancelled()


async def test_a_context_manager_closes(make_pair):
    stream, peer = make_pair()
    async with stream as entered:
        assert entered is stream
    assert stream.closed()
    assert repr(stream) == "<IOStream closed buffered=0 unsent=0>"


async def test_repr_tells_the_state(make_pair):
    stream, peer = make_pair(tcp=True, half_open=True)
    assert repr(stream) == "<IOStream open buffered=0 unsent=0>"
    peer.send(b"abc")
    peer.socket.shutdown(socket.SHUT_WR)
    assert await stream.read_bytes(1) == b"a"
    await settle()
    assert repr(stream) == "<IOStream ended buffered=2 unsent=0>"


async def test_bad_streams_are_refused():
    with pytest.raises(TypeError, match="socket must be a socket"):
        IOStream(5)
    left, right = socket.socketpair()
    with left, right:
        with pytest.raises(TypeError, match="io_loop must be a Reactor"):
            IOStream(left, asyncio.get_running_loop())
        for name in ("max_buffer_size", "read_chunk_size", "max_write_buffer_size"):
            with pytest.raises(ValueError, match=f"{name} must be positive"):
                IOStream(left, **{name: 0})
            with pytest.raises(TypeError, match=f"{name} must be an integer"):
                IOStream(left, **{name: "1"})
    with pytest.raises(ValueError, match="socket must be an open stream socket"):
        IOStream(left)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as datagrams:
        with pytest.raises(ValueError, match="socket must be an open stream socket"):
            IOStream(datagrams)


async def test_nodelay(make_pair):
    stream, _ = make_pair(tcp=True)
    for value in (True, False):
        stream.set_nodelay(value)
        option = stream.socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        assert bool(option) is value
    unix, _ = make_pair()
    unix.set_nodelay(True)  # has no say there


class Pipes(BaseIOStream):
    """A stream of one's own: the four methods and nothing else."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.read_end, self.write_end = os.pipe()
        os.set_blocking(self.read_end, False)

    def fileno(self):
        return self.read_end

    def close_fd(self):
        os.close(self.read_end)
        os.close(self.write_end)

    def read_from_fd(self, buf):
        try:
            return os.readv(self.read_end, [buf])
        except BlockingIOError:
            return None

    def write_to_fd(self, data):
        return os.write(self.write_end, data)


@pytest.mark.only_on("linux", "darwin")
async def test_a_subclass_says_how_bytes_move():
    async with Pipes() as stream:
        stream.set_nodelay(True)
        reading = stream.read_until(b"\n")
        await stream.write(b"round\ntrip")
        assert await reading == b"round\n"
        assert await stream.read_bytes(4) == b"trip"
        assert stream.closed() is False


async def test_a_subclass_must_say_so():
    stream = BaseIOStream()
    for call in (
        stream.fileno,
        stream.close_fd,
        lambda: stream.read_from_fd(memoryview(b"")),
        lambda: stream.write_to_fd(memoryview(b"")),
    ):
        with pytest.raises(NotImplementedError, match="BaseIOStream must define"):
            call()


@pytest.mark.only_on("linux", "darwin")
async def test_an_error_in_reading_is_the_reason():
    class Failing(Pipes):
        def read_from_fd(self, buf):
            raise OSError(errno.EIO, "broken")

    stream = Failing()
    reading = stream.read_bytes(1)
    os.write(stream.write_end, b"x")
    with pytest.raises(StreamClosedError) as caught:
        await reading
    assert caught.value.real_error.errno == errno.EIO
    assert stream.closed()


def test_without_a_loop_it_says_so():
    left, right = socket.socketpair()
    with right:
        stream = IOStream(left)
        with pytest.raises(RuntimeError, match="no event loop is running"):
            stream.read_bytes(1)
        with pytest.raises(RuntimeError, match="no event loop is running"):
            stream.write(b"x")
        stream.close()


async def test_one_busy_peer_does_not_starve_the_loop(pair):
    stream, peer = pair
    turns = 0

    async def others():
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    task = asyncio.create_task(others())
    writing = stream.write(b"x" * 16 * BIG)
    received = 0
    while not writing.done():
        try:
            received += len(peer.socket.recv(1 << 20))
        except BlockingIOError:
            pass
        await asyncio.sleep(0)
    assert turns > 20
    task.cancel()
    await asyncio.wait([task])


@pytest.mark.parametrize("pending", [True, False])
def test_a_stream_can_be_closed_after_its_loop(loop_factory, pending):
    left, right = socket.socketpair()

    async def begin():
        stream = IOStream(left)
        stream.set_close_callback(print)
        reading = stream.read_bytes(1) if pending else None
        writing = stream.write(b"x" * BIG)
        await settle()
        return stream, reading, writing

    with asyncio.Runner(loop_factory=loop_factory) as runner:
        stream, reading, writing = runner.run(begin())
    stream.close()
    assert stream.closed()
    assert left.fileno() == -1
    right.close()


async def test_errors_can_be_copied_and_pickled():
    import copy
    import pickle

    for error in (
        StreamClosedError(),
        StreamClosedError(ConnectionResetError(104, "reset"), partial=b"abc"),
    ):
        for twin in (copy.copy(error), pickle.loads(pickle.dumps(error))):
            assert str(twin) == str(error)
            assert twin.partial == error.partial
            assert repr(twin.real_error) == repr(error.real_error)


@pytest.mark.only_on("linux", "darwin")
async def test_a_reset_right_behind_the_bytes_is_noticed(make_pair):
    """Also where the bytes are more than one receipt takes: libuv tells of an error only once."""
    for size in (10, 500_000):
        stream, peer = make_pair(tcp=True, read_chunk_size=4096)
        peer.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 21)
        reading = stream.read_until_close()
        await settle()
        peer.socket.send(b"x" * size)
        peer.reset()
        with pytest.raises(StreamClosedError) as caught:
            await asyncio.wait_for(reading, 10)
        assert isinstance(caught.value.real_error, ConnectionResetError)


async def test_bytes_that_come_back_after_a_reset_can_be_read(make_pair):
    stream, peer = make_pair(tcp=True)
    future = stream.read_bytes(5)

    async def wait():
        return await future

    task = asyncio.create_task(wait())
    await settle()

    def cancel_and_reset(_):
        task.cancel()
        peer.reset()
        try:
            while True:
                stream.write(b"x")
        except StreamClosedError:
            pass

    future.add_done_callback(cancel_and_reset)
    peer.send(b"hello")
    await asyncio.wait([task])
    if task.cancelled():
        assert await stream.read_bytes(5, partial=True) == b"hello"
    else:
        assert task.result() == b"hello"


async def test_a_small_write_of_which_the_kernel_takes_nothing(pair):
    stream, peer = pair
    sent = [b"first"]
    await stream.write(sent[0])
    while not stream.writing():
        sent.append(b"%04d" % len(sent) * 250)
        last = stream.write(sent[-1])
    stream.write(b"last")
    expected = b"".join(sent) + b"last"
    assert await peer.receive(len(expected)) == expected
    await last
