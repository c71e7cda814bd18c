"""`PipeIOStream`: pipes, FIFOs, terminals."""

import asyncio
import errno
import io
import os
import pty
import sys

import pytest

from waterspout.iostream import PipeIOStream, StreamClosedError

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="Windows watches no descriptors")

DATA = bytes(range(250)) * 4000


@pytest.fixture
def pipe():
    """The two ends of a pipe: the one to read from, the one to write to."""
    reading, writing = (PipeIOStream(end) for end in os.pipe())
    yield reading, writing
    reading.close()
    writing.close()


async def test_bytes_go_through(pipe):
    reading, writing = pipe
    written = writing.write(DATA)
    assert await reading.read_bytes(len(DATA)) == DATA
    await written
    await writing.write(b"a line\nand more")
    assert await reading.read_until(b"\n") == b"a line\n"
    await writing.write_eof()
    assert writing.closed()
    assert await reading.read_until_close() == b"and more"


async def test_a_pipe_has_one_direction(pipe):
    reading, writing = pipe
    with pytest.raises(io.UnsupportedOperation, match="not open for writing"):
        reading.write(b"x")
    with pytest.raises(io.UnsupportedOperation, match="not open for writing"):
        reading.write_eof()
    with pytest.raises(io.UnsupportedOperation, match="not open for reading"):
        writing.read_bytes(1)
    await writing.write(b"as before")
    assert await reading.read_bytes(9) == b"as before"


async def test_the_readers_end_is_noticed_by_who_writes(pipe):
    reading, writing = pipe
    told = asyncio.Event()
    writing.set_close_callback(told.set)
    await writing.write(b"x")
    assert await reading.read_bytes(1) == b"x"
    assert not writing.closed()
    reading.close()
    await told.wait()
    assert writing.error.errno == errno.EPIPE
    with pytest.raises(StreamClosedError):
        writing.write(b"x")


async def test_a_write_that_nobody_reads_fails(pipe):
    reading, writing = pipe
    written = writing.write(DATA)
    await asyncio.sleep(0)
    reading.close()
    with pytest.raises(StreamClosedError) as raised:
        await written
    assert isinstance(raised.value.real_error, BrokenPipeError)


async def test_a_fifo(tmp_path):
    path = tmp_path / "fifo"
    os.mkfifo(path)
    reading = PipeIOStream(os.open(path, os.O_RDONLY | os.O_NONBLOCK))
    writing = PipeIOStream(os.open(path, os.O_WRONLY))
    async with reading, writing:
        await writing.write(b"through a file\n")
        writing.close()
        assert [line async for line in reading] == [b"through a file\n"]


async def test_a_terminal():
    ours, theirs = pty.openpty()
    async with PipeIOStream(ours) as stream, PipeIOStream(theirs) as program:
        await stream.write(b"typed\n")
        assert await program.read_until(b"\n") == b"typed\n"
        assert await stream.read_until(b"\n") == b"typed\r\n"  # its echo
        with pytest.raises(StreamClosedError):
            await program.write_eof()  # it has but one descriptor for both
        program.close()
        assert await stream.read_until_close() == b""


@pytest.mark.parametrize("blocking", [False, True])
async def test_a_detached_descriptor_is_as_it_came(blocking):
    reading, writing = os.pipe()
    os.set_blocking(reading, blocking)
    stream = PipeIOStream(reading)
    waiting = stream.read_bytes(1)
    assert not os.get_blocking(reading)
    assert stream.detach() == reading
    assert os.get_blocking(reading) == blocking
    with pytest.raises(StreamClosedError):
        await waiting
    with pytest.raises(ValueError, match="closed"):
        stream.detach()
    os.write(writing, b"x")
    assert os.read(reading, 1) == b"x"
    os.close(reading)
    os.close(writing)


async def test_so_is_one_that_others_have_when_it_is_closed():
    reading, writing = os.pipe()
    shared = os.dup(reading)
    PipeIOStream(reading).close()
    assert os.get_blocking(shared)
    os.close(shared)
    os.close(writing)


def test_bad_descriptors_are_refused(tmp_path):
    for bad in ("0", None, 1.0):
        with pytest.raises(TypeError, match="fd must be a descriptor"):
            PipeIOStream(bad)
    with pytest.raises(ValueError, match="fd must not be negative, not -1"):
        PipeIOStream(-1)
    with pytest.raises(OSError):
        PipeIOStream(10**6)
    with (tmp_path / "file").open("wb") as file:
        with pytest.raises(ValueError, match="not of a file or folder"):
            PipeIOStream(file.fileno())
        assert os.get_blocking(file.fileno())


def test_windows_has_none(monkeypatch):
    monkeypatch.setattr(sys, "platform", "win32")
    with pytest.raises(NotImplementedError, match="Windows cannot watch descriptors"):
        PipeIOStream(0)


async def test_errors_of_the_system_are_told(pipe, monkeypatch):
    reading, writing = pipe

    def fail(*args):
        raise OSError(errno.ENOBUFS, "no buffers")

    await writing.write(b"x")
    monkeypatch.setattr(os, "readv", fail)
    with pytest.raises(StreamClosedError) as raised:
        await reading.read_bytes(1)
    assert raised.value.real_error.errno == errno.ENOBUFS
