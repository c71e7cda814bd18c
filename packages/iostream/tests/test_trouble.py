"""Descriptors that cannot be watched or are closed behind our back, and mistakes in subclasses."""

import asyncio
import errno
import os

import pytest

from waterspout.ioloop import IOLoop
from waterspout.iostream import READ_AHEAD, IOStream, StreamClosedError

LARGE = b"x" * 10_000_000


@pytest.fixture
def cannot_watch(monkeypatch):
    """Has the loop refuse every descriptor, from now on."""

    def refuse(*args):
        raise OSError(errno.ENOSPC, "no more watches")

    def begin():
        for name in ("add_handler", "update_handler"):
            monkeypatch.setattr(IOLoop.current(), name, refuse, raising=False)

    return begin


async def test_a_read_that_cannot_be_watched_did_nothing(pair, cannot_watch, monkeypatch):
    stream, peer = pair
    cannot_watch()
    with pytest.raises(OSError, match="no more watches"):
        stream.read_bytes(5)
    assert not stream.reading()
    monkeypatch.undo()
    peer.send(b"hello")
    assert await stream.read_bytes(5) == b"hello"


async def test_so_for_one_that_had_its_bytes(pair, cannot_watch, monkeypatch):
    stream, peer = pair
    loop = asyncio.get_running_loop()
    sending = asyncio.create_task(loop.sock_sendall(peer.socket, b"x" * 2 * READ_AHEAD))
    await stream.read_bytes(1)
    while stream._events:  # until enough is read ahead
        await asyncio.sleep(0)
    cannot_watch()
    for read in (
        lambda: stream.read_bytes(1000),
        lambda: stream.read_bytes(1000, callback=print),
        lambda: stream.read_into(bytearray(1000)),
    ):
        with pytest.raises(OSError, match="no more watches"):
            read()
    monkeypatch.undo()
    assert await stream.read_bytes(2 * READ_AHEAD - 1) == b"x" * (2 * READ_AHEAD - 1)
    await sending


async def test_a_write_that_cannot_be_watched_breaks_the_stream(pair, cannot_watch):
    stream, _ = pair
    cannot_watch()
    with pytest.raises(StreamClosedError, match="no more watches"):
        stream.write(LARGE)
    assert not stream.writing()
    with pytest.raises(StreamClosedError):
        stream.write(b"more")


async def test_a_mistake_in_how_bytes_are_received_ends_the_stream(make_pair):
    class Broken(IOStream):
        def read_from_fd(self, buf):
            raise ZeroDivisionError

    stream, peer = make_pair(Broken)
    reading = stream.read_bytes(1)
    peer.send(b"x")
    with pytest.raises(StreamClosedError) as raised:
        await reading
    assert isinstance(raised.value.real_error, ZeroDivisionError)
    assert stream.closed()


async def test_a_mistake_in_how_bytes_are_sent_fails_the_write(make_pair):
    class Broken(IOStream):
        def write_to_fd(self, data):
            raise ZeroDivisionError

    stream, _ = make_pair(Broken)
    with pytest.raises(StreamClosedError) as raised:
        stream.write(b"x")
    assert isinstance(raised.value.real_error, ZeroDivisionError)


async def test_a_descriptor_that_somebody_closed_is_reported(make_pair):
    class Taken(IOStream):
        def close_fd(self):
            super().close_fd()
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))

    reports, told = [], asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _, context: reports.append(context["exception"].errno))
    stream, _ = make_pair(Taken)
    stream.set_close_callback(told.set)
    writing = stream.write(LARGE)
    stream.close()
    with pytest.raises(StreamClosedError):
        await writing
    await told.wait()
    assert reports == [errno.EBADF]
    Taken(make_pair()[0].socket).close()  # one that never ran has nobody to tell


async def test_memory_that_was_read_into_is_let_go(pair):
    stream, peer = pair
    memory = bytearray(5)
    reading = stream.read_into(memory)
    peer.send(b"hello")
    await asyncio.wait([reading])
    assert reading.result() == 5
    del memory[:]
