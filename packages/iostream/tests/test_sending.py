"""Half-closes, and files."""

import asyncio
import contextlib
import errno
import io
import os

import pytest

from waterspout.iostream import IOStream, StreamClosedError, connect_tcp, serve_tcp

SIZE = 3_000_000
DATA = os.urandom(1000) * (SIZE // 1000)


async def test_the_other_end_sees_the_end_and_can_go_on(make_pair):
    stream, peer = make_pair(tcp=True)
    written = stream.write(DATA)
    eof = stream.write_eof()
    assert await peer.receive_all() == DATA
    await written
    await eof
    await stream.write_eof()
    with pytest.raises(RuntimeError, match=r"write_eof\(\) was called"):
        stream.write(b"more")
    peer.send(b"answer")
    assert await stream.read_bytes(6) == b"answer"
    assert not stream.closed()
    peer.close()
    assert await stream.read_until_close() == b""
    assert stream.closed()


async def test_cancelled_it_is_done_all_the_same(make_pair):
    stream, peer = make_pair()
    stream.write(DATA)
    stream.write_eof().cancel()
    assert await peer.receive_all() == DATA


async def test_a_half_open_stream_closes_once_both_sides_are(make_pair):
    stream, peer = make_pair(half_open=True)
    peer.socket.shutdown(1)
    assert await stream.read_until_close() == b""
    assert not stream.closed()
    await stream.write(b"last")
    await stream.write_eof()
    assert stream.closed()
    assert await peer.receive_all() == b"last"


async def test_a_half_close_that_cannot_be_is_told(make_pair):
    stream, peer = make_pair(tcp=True)
    stream.write(DATA * 3)
    eof = stream.write_eof()
    peer.reset()
    with pytest.raises(StreamClosedError):
        await eof
    with pytest.raises(StreamClosedError):
        stream.write_eof()


async def test_a_socket_that_is_gone_cannot_be_half_closed(make_pair):
    stream, peer = make_pair(tcp=True)
    peer.reset()
    await asyncio.sleep(0.001)
    eof = stream.write_eof()
    with pytest.raises(StreamClosedError) as raised:
        await eof
    assert raised.value.real_error.errno in (errno.ENOTCONN, errno.EPIPE, errno.ECONNRESET)


async def test_tls_cannot_be_half_closed(server_context, client_context):
    async def handle(stream):
        with pytest.raises(NotImplementedError, match="SSLIOStream cannot be closed for writing"):
            stream.write_eof()

    async with await serve_tcp(handle, "localhost", ssl=server_context) as server:
        async with await connect_tcp("localhost", server.port, ssl=client_context) as stream:
            assert await stream.read_until_close() == b""


# Files


@pytest.fixture
def file(tmp_path):
    (tmp_path / "file").write_bytes(DATA)
    with (tmp_path / "file").open("rb") as opened:
        yield opened


@contextlib.asynccontextmanager
async def ends(server_context=None, client_context=None):
    """A stream, and the stream at its other end."""
    accepted, over = asyncio.Queue(), asyncio.Event()

    async def handle(stream):
        await accepted.put(stream)
        await over.wait()

    async with await serve_tcp(handle, "localhost", ssl=server_context) as server:
        async with await connect_tcp("localhost", server.port, ssl=client_context) as stream:
            yield stream, await accepted.get()
        over.set()


@pytest.mark.parametrize(
    ("offset", "count"),
    [(0, None), (1_234_567, None), (5, 100), (SIZE - 10, 1000), (SIZE, None), (7, 0)],
)
@pytest.mark.parametrize("memory", [False, True], ids=["file", "memory"])
@pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
async def test_a_file_is_sent_between_what_is_written(
    server_context, client_context, file, offset, count, memory, tls
):
    source = io.BytesIO(DATA) if memory else file
    expected = DATA[offset:] if count is None else DATA[offset : offset + count]
    async with ends(*((server_context, client_context) if tls else ())) as (stream, other):
        stream.write(b"before")
        sending = asyncio.create_task(stream.sendfile(source, offset, count))
        assert await other.read_bytes(6 + len(expected)) == b"before" + expected
        assert await sending == len(expected)
        await stream.write(b"after")
        assert await other.read_bytes(5) == b"after"


async def test_nothing_comes_in_between(make_pair, file):
    stream, peer = make_pair()
    sending = asyncio.create_task(stream.sendfile(file))
    await asyncio.sleep(0)
    for intrude in (lambda: stream.write(b"x"), stream.write_eof):
        with pytest.raises(RuntimeError, match="a file is being sent"):
            intrude()
    with pytest.raises(RuntimeError, match="another file is being sent"):
        await stream.sendfile(file)
    stream_in_use = stream
    with pytest.raises(RuntimeError, match="pending"):
        stream_in_use.start_tls(False, server_hostname="localhost")
    assert await peer.receive(SIZE) == DATA
    assert await sending == SIZE


async def test_cancelled_before_a_byte_it_has_done_nothing(make_pair, file):
    stream, peer = make_pair()
    stream.write(DATA)
    sending = asyncio.create_task(stream.sendfile(file))
    await asyncio.sleep(0)
    sending.cancel()
    with pytest.raises(asyncio.CancelledError):
        await sending
    stream.write(b"after")
    assert await peer.receive(SIZE + 5) == DATA + b"after"


async def test_cancelled_in_the_middle_it_closes(make_pair, file):
    stream, peer = make_pair()
    sending = asyncio.create_task(stream.sendfile(file))
    assert await peer.receive(1) == DATA[:1]
    sending.cancel()
    with pytest.raises(asyncio.CancelledError):
        await sending
    assert stream.closed()
    assert isinstance(stream.error, ConnectionAbortedError)


async def test_cancelled_in_the_middle_tcp_is_reset(make_pair, file):
    stream, peer = make_pair(tcp=True)
    sending = asyncio.create_task(stream.sendfile(file))
    assert await peer.receive(1) == DATA[:1]
    sending.cancel()
    with pytest.raises(asyncio.CancelledError):
        await sending
    with pytest.raises(ConnectionResetError):
        while await peer.receive(1_000_000):
            pass


async def test_cancelled_in_the_middle_tls_is_cut_off(make_pair, server_context, client_context):
    stream, peer = make_pair(tcp=True)
    sender, receiver = await asyncio.gather(
        stream.start_tls(True, server_context),
        IOStream(peer.give_away()).start_tls(False, client_context, "localhost"),
    )
    async with sender, receiver:
        sending = asyncio.create_task(sender.sendfile(io.BytesIO(b"x" * 50_000_000)))
        assert await receiver.read_bytes(1) == b"x"
        sending.cancel()
        with pytest.raises(asyncio.CancelledError):
            await sending
        with pytest.raises(StreamClosedError) as caught:
            await receiver.read_until_close()
        assert caught.value.real_error is not None


@pytest.mark.parametrize("moment", ["before", "amid"])
async def test_the_other_end_closes(make_pair, tmp_path, moment):
    stream, peer = make_pair(tcp=True)
    with (tmp_path / "sparse").open("wb") as made:
        made.truncate(100_000_000)
    if moment == "before":
        stream.write(DATA * 3)
    with (tmp_path / "sparse").open("rb") as file:
        sending = asyncio.create_task(stream.sendfile(file))
        await peer.receive(1)
        peer.reset()
        with pytest.raises(StreamClosedError):
            await sending
        with pytest.raises(StreamClosedError):
            await stream.sendfile(file)


class Failing(io.RawIOBase):
    """A file on a disk that fails."""

    def __init__(self, good):
        self.good = good

    def seekable(self):
        return True

    def seek(self, offset, whence=0):
        return offset

    def read(self, size=-1):
        if self.good <= 0:
            raise OSError(errno.EIO, "no disk")
        self.good -= 1
        return b"x" * 100


async def test_a_disk_that_fails(make_pair):
    stream, peer = make_pair()
    with pytest.raises(OSError, match="no disk"):
        await stream.sendfile(Failing(0))
    await stream.write(b"still here")
    assert await peer.receive(10) == b"still here"
    with pytest.raises(OSError, match="no disk"):
        await stream.sendfile(Failing(2))
    assert stream.closed()
    assert stream.error.errno == errno.EIO
    assert await peer.receive_all() == b"x" * 200


async def test_where_the_kernel_cannot_it_is_read(make_pair, file, monkeypatch):
    stream, peer = make_pair()
    errors = iter([errno.EINVAL])

    def refuse(*args):
        raise OSError(next(errors), "not for this one")

    monkeypatch.setattr(os, "sendfile", refuse)
    sending = asyncio.create_task(stream.sendfile(file, 10, 20))
    assert await peer.receive(20) == DATA[10:30]
    assert await sending == 20
    monkeypatch.delattr(os, "sendfile")
    assert await stream.sendfile(file, 10, 20) == 20
    assert await peer.receive(20) == DATA[10:30]


async def test_an_error_of_the_kernels_is_the_files(make_pair, file, monkeypatch):
    stream, _ = make_pair()

    def fail(*args):
        raise OSError(errno.EIO, "no disk")

    monkeypatch.setattr(os, "sendfile", fail)
    with pytest.raises(OSError, match="no disk"):
        await stream.sendfile(file)
    assert not stream.closed()


async def test_a_pipe_is_read_from_where_it_is(make_pair):
    stream, peer = make_pair()
    reading, writing = os.pipe()
    with open(reading, "rb") as source, open(writing, "wb") as sink:  # noqa: ASYNC230, PTH123
        sink.write(b"through a pipe")
        sink.close()
        with pytest.raises(ValueError, match="offset must be 0 for a file that cannot seek"):
            await stream.sendfile(source, 1)
        assert await stream.sendfile(source) == 14
    assert await peer.receive(14) == b"through a pipe"


async def test_bad_arguments_are_refused(pair, file):
    stream, peer = pair
    for bad in (5, "name", io.StringIO("text")):
        with pytest.raises(TypeError, match="file must be a binary file"):
            await stream.sendfile(bad)
    for name in ("offset", "count"):
        with pytest.raises(ValueError, match=f"{name} must not be negative, not -1"):
            await stream.sendfile(file, **{name: -1})
        with pytest.raises(TypeError, match=f"{name} must be an integer"):
            await stream.sendfile(file, **{name: "1"})
    assert isinstance(stream, IOStream)
    await stream.write(b"x")
    assert await peer.receive(1) == b"x"
