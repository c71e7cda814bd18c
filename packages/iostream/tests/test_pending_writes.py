"""Writes that wait for the kernel: what is watched meanwhile, their limit, and their end."""

import asyncio
import contextlib
import errno
import socket

import pytest

from waterspout.iostream import IOStream, StreamBufferFullError, StreamClosedError

LARGE = b"x" * 8_000_000


class Counting(IOStream):
    """A stream that counts its events, and can be made to fail."""

    events = 0
    error = None
    sending_error = None

    def _on_events(self, fd, events):
        self.events += 1
        super()._on_events(fd, events)

    def write_to_fd(self, data):
        if self.sending_error is not None:
            raise self.sending_error
        return super().write_to_fd(data)


async def turns(count=50):
    for _ in range(count):
        await asyncio.sleep(0)


async def until(condition):
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0)


def fill(stream):
    """Send behind the stream's back until the kernel takes no more."""
    sent = 0
    with contextlib.suppress(BlockingIOError):
        while True:
            sent += stream.socket.send(b"." * 65536)
    return sent


async def test_large_write_is_sent_while_a_read_is_pending(make_pair):
    stream, peer = make_pair(Counting, tcp=True)
    peer.send(b"watched")
    assert await stream.read_bytes(7) == b"watched"
    reading = stream.read_until(b"\n")
    writing = stream.write(LARGE)
    await turns()
    before = stream.events
    await turns()
    assert stream.events <= before + 10  # and it does not spin
    assert await peer.receive(len(LARGE)) == LARGE
    await asyncio.wait_for(writing, 10)
    assert not reading.done()
    peer.send(b"answer\n")
    assert await reading == b"answer\n"


@pytest.mark.parametrize("read_before", [False, True])
async def test_sent_write_is_not_watched_any_more(make_pair, read_before):
    stream, peer = make_pair(Counting)
    if read_before:
        peer.send(b"x")
        await stream.read_bytes(1)
    writing = stream.write(LARGE)
    assert await peer.receive(len(LARGE)) == LARGE
    await asyncio.wait_for(writing, 10)
    await turns()
    before = stream.events
    await turns()
    assert stream.events == before


@pytest.mark.parametrize("begun", [False, True])
async def test_write_buffer_takes_exactly_its_size(make_pair, begun):
    stream, peer = make_pair(max_write_buffer_size=1000)
    if begun:
        await stream.write(b"")
    filled = fill(stream)
    first = stream.write(b"a" * 600)  # of which nothing is sent
    second = stream.write(bytearray(b"b" * 400))  # 1000 in all
    for more in (b"c", bytearray(b"c")):
        with pytest.raises(StreamBufferFullError, match="1 bytes do not fit behind 1000 unsent"):
            stream.write(more)
    stream.write(b"")
    expected = b"." * filled + b"a" * 600 + b"b" * 400
    assert await peer.receive(len(expected)) == expected
    await asyncio.gather(first, second)
    await stream.write(b"d")
    assert await peer.receive(1) == b"d"


async def test_write_one_byte_over_the_limit_is_refused_whole(make_pair):
    stream, peer = make_pair(max_write_buffer_size=1000)
    filled = fill(stream)
    first = stream.write(b"a" * 999)
    with pytest.raises(StreamBufferFullError):
        stream.write(b"bb")
    second = stream.write(b"c")
    expected = b"." * filled + b"a" * 999 + b"c"
    assert await peer.receive(len(expected)) == expected
    await asyncio.gather(first, second)


async def test_larger_write_than_the_limit_goes_to_an_empty_buffer(make_pair):
    stream, peer = make_pair(max_write_buffer_size=10)
    filled = fill(stream)
    writing = stream.write(b"a" * 11)
    expected = b"." * filled + b"a" * 11
    assert await peer.receive(len(expected)) == expected
    await writing


@pytest.mark.parametrize("begun", [False, True])
async def test_small_write_while_a_file_is_sent_is_refused(make_pair, tmp_path, begun):
    stream, peer = make_pair(tcp=True)
    if begun:
        await stream.write(b"")
    (tmp_path / "file").write_bytes(LARGE)
    with (tmp_path / "file").open("rb") as file:
        sending = asyncio.create_task(stream.sendfile(file))
        await asyncio.sleep(0)
        for call in (
            lambda: stream.write(b"small"),
            lambda: stream.write(bytearray(b"small"), callback=print),
            stream.write_eof,
        ):
            with pytest.raises(RuntimeError, match="a file is being sent"):
                call()
        assert await peer.receive(len(LARGE)) == LARGE
        assert await sending == len(LARGE)
    await stream.write(b"small")
    assert await peer.receive(5) == b"small"


async def test_file_is_sent_while_a_read_is_pending(make_pair, tmp_path):
    stream, peer = make_pair(tcp=True)
    peer.send(b"watched")
    assert await stream.read_bytes(7) == b"watched"
    reading = stream.read_until(b"\n")
    (tmp_path / "file").write_bytes(LARGE)
    with (tmp_path / "file").open("rb") as file:
        sending = asyncio.create_task(stream.sendfile(file))
        assert await peer.receive(len(LARGE)) == LARGE
        assert await asyncio.wait_for(sending, 10) == len(LARGE)
    peer.send(b"answer\n")
    assert await reading == b"answer\n"


@pytest.mark.parametrize("begun", [False, True])
async def test_failed_write_of_a_stream_that_never_read_ends_it(make_pair, begun):
    """Nobody reads, so the stream itself notices the end that follows."""
    stream, peer = make_pair(Counting)
    if begun:
        await stream.write(b"")
    stream.sending_error = OSError(errno.ENOBUFS, "no buffers")
    with pytest.raises(StreamClosedError, match="no buffers"):
        stream.write(b"x")
    assert not stream.closed()
    peer.send(b"read ahead")
    peer.close()
    await until(stream.closed)
    assert stream.error is stream.sending_error
    assert await stream.read_until_close() == b"read ahead"
    with pytest.raises(StreamClosedError, match="no buffers"):
        stream.write(b"more")


async def test_later_failure_of_a_stream_that_never_read_ends_it(make_pair):
    stream, peer = make_pair(Counting)
    writing = stream.write(LARGE)
    stream.sending_error = OSError(errno.ENOBUFS, "no buffers")
    with contextlib.suppress(BlockingIOError):  # until it may send again, and fails
        while True:
            peer.socket.recv(65536)
    with pytest.raises(StreamClosedError, match="no buffers"):
        await asyncio.wait_for(writing, 10)
    assert not stream.closed()
    peer.close()
    await until(stream.closed)


async def test_failed_write_does_not_spin(make_pair):
    stream, peer = make_pair(Counting)
    stream.sending_error = OSError(errno.ENOBUFS, "no buffers")
    with pytest.raises(StreamClosedError):
        stream.write(b"x")
    await turns()
    before = stream.events
    await turns()
    assert stream.events == before


async def test_half_close_waits_for_what_was_written(make_pair):
    stream, peer = make_pair(tcp=True)
    writing = stream.write(LARGE)
    ends = [stream.write_eof(), stream.write_eof()]
    await turns()
    assert not any(end.done() for end in ends)
    assert await peer.receive_all() == LARGE
    await asyncio.gather(writing, *ends)
    await stream.write_eof()


async def test_half_close_that_fails_is_told(make_pair):
    class Broken(IOStream):
        def shut_down_fd(self):
            raise ZeroDivisionError("a mistake")

    stream, peer = make_pair(Broken)
    with pytest.raises(StreamClosedError) as caught:
        await stream.write_eof()
    assert isinstance(caught.value.real_error, ZeroDivisionError)
    with pytest.raises(StreamClosedError):
        stream.write(b"x")
    with pytest.raises(StreamClosedError):
        await stream.write_eof()


async def test_error_after_a_clean_end_leaves_the_end_clean(make_pair, monkeypatch):
    """What fails later concerns the writing side."""
    stream, peer = make_pair(Counting, half_open=True)
    reading = stream.read_until_close()
    peer.send(b"bye")
    peer.socket.shutdown(socket.SHUT_WR)
    assert await reading == b"bye"
    writing = stream.write(LARGE)

    def flush():
        raise ZeroDivisionError("in a handler")

    monkeypatch.setattr(stream, "_flush", flush, raising=False)
    assert await peer.receive(1000)
    with pytest.raises((ConnectionResetError, AssertionError)):
        assert len(await peer.receive(len(LARGE))) == len(LARGE)
    with pytest.raises(StreamClosedError) as caught:
        await writing
    assert isinstance(caught.value.real_error, ZeroDivisionError)
    with pytest.raises(StreamClosedError) as caught:
        stream.read_bytes(1)
    assert caught.value.real_error is None


async def test_peer_sees_a_reset_where_a_mistake_drops_unsent_bytes(make_pair):
    class Mistaken(IOStream):
        def _fill(self):
            raise ZeroDivisionError

    stream, peer = make_pair(Mistaken, tcp=True)
    stream.set_close_callback(lambda: None)
    writing = stream.write(LARGE)
    peer.send(b"x" * 100_000)
    with pytest.raises(StreamClosedError) as caught:
        await writing
    assert isinstance(caught.value.real_error, ZeroDivisionError)
    with pytest.raises(ConnectionResetError):
        await peer.receive_all()
