"""`sendfile`: what arrives is what the file object's `read()` gives, over every stream."""

import asyncio
import bz2
import codecs
import contextlib
import functools
import gzip
import io
import lzma
import mmap
import os
import socket
import sys
import tarfile
import tempfile
import threading
import zipfile
from concurrent import futures

import pytest

from waterspout.ioloop import IOLoop
from waterspout.ioloop.testing import no_reference_cycles, simulate
from waterspout.iostream import IOStream, PipeIOStream, StreamClosedError
from waterspout.iostream.testing import Link, SimulatedNetwork

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="pipes are not watched there")

TEXT = bytes(range(256)) * 1100  # more than is read at a time
SHORT = TEXT[:10_000]


# Files. Each is a function that opens one in a folder.


def path_with(folder, content=TEXT):
    path = folder / "file"
    path.write_bytes(content)
    return path


class Upper(io.FileIO):
    def read(self, size=-1):
        return super().read(size).swapcase()


class UpperBuffered(io.BufferedReader):
    def read(self, size=-1):
        return super().read(size).swapcase()


class UpperRaw(io.FileIO):
    def readinto(self, buffer):
        size = super().readinto(buffer)
        buffer[:size] = bytes(buffer[:size]).swapcase()
        return size


def overridden(folder):
    file = path_with(folder).open("rb")
    original = file.read
    file.read = lambda size=-1: original(size).swapcase()
    return file


def overridden_raw(folder):
    file = path_with(folder).open("rb")
    original = file.raw.readinto

    def readinto(buffer):
        size = original(buffer)
        buffer[:size] = bytes(buffer[:size]).swapcase()
        return size

    file.raw.readinto = readinto
    return file


class Source:
    """Nothing but `read(size)`."""

    def __init__(self, kind=bytes, content=TEXT):
        self._file, self._kind = io.BytesIO(content), kind

    def read(self, size):
        return self._kind(self._file.read(size))

    def __enter__(self):
        return self

    def __exit__(self, *args):
        pass


class Seeking(Source):
    """It does not say whether it can seek."""

    def seek(self, offset):
        return self._file.seek(offset)


class BadDescriptor(Source):
    def seekable(self):
        return True

    def seek(self, offset):
        return self._file.seek(offset)

    def fileno(self):
        raise ZeroDivisionError


class Generous(Source):
    """Gives more than it was asked for."""

    def read(self, size):
        return super().read(size + 1000)


def wide_items(data):
    return memoryview(data).cast("H") if len(data) % 2 == 0 else data


@functools.cache
def packed(module):
    return module.compress(TEXT)


def compressed(module):
    return lambda folder: module.open(path_with(folder, packed(module)))


def unflushed(folder):
    file = (folder / "file").open("wb+")
    file.write(TEXT)
    return file


def unflushed_end(folder):
    file = path_with(folder, TEXT[:-10]).open("rb+")
    file.seek(0, 2)
    file.write(TEXT[-10:])
    return file


def unflushed_temporary(folder):
    file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115
    file.write(TEXT)
    return file


def named_temporary(folder):
    file = tempfile.NamedTemporaryFile(dir=folder)  # noqa: SIM115
    file.write(TEXT)
    return file


def spooled(rolled):
    def make(folder):
        file = tempfile.SpooledTemporaryFile(max_size=10 if rolled else 10**9, dir=folder)  # noqa: SIM115
        file.write(TEXT)
        return file

    return make


def zip_member(folder):
    with zipfile.ZipFile(folder / "zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("member", TEXT)
    return zipfile.ZipFile(folder / "zip").open("member")


class TarMember:
    def __init__(self, folder):
        with tarfile.open(folder / "tar", "w") as archive:
            archive.add(path_with(folder), "member")
        self._archive = tarfile.open(folder / "tar")  # noqa: SIM115

    def __enter__(self):
        return self._archive.extractfile("member")

    def __exit__(self, *args):
        self._archive.close()


def mapped(folder):
    with path_with(folder).open("rb") as file:
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)


def of_a_pipe(folder):
    reading, writing = os.pipe()
    os.write(writing, SHORT)
    os.close(writing)
    return open(reading, "rb")  # noqa: PTH123


SEEKING = {
    "buffered": lambda folder: path_with(folder).open("rb"),
    "raw": lambda folder: path_with(folder).open("rb", buffering=0),
    "random": lambda folder: path_with(folder).open("rb+"),
    "unflushed": unflushed,
    "unflushed end": unflushed_end,
    "unflushed temporary": unflushed_temporary,
    "named temporary": named_temporary,
    "spooled": spooled(False),
    "rolled over": spooled(True),
    "gzip": compressed(gzip),
    "bz2": compressed(bz2),
    "lzma": compressed(lzma),
    "zip member": zip_member,
    "tar member": TarMember,
    "memory": lambda _: io.BytesIO(TEXT),
    "mapped": mapped,
    "subclass": lambda folder: Upper(path_with(folder)),
    "buffered subclass": lambda folder: UpperBuffered(io.FileIO(path_with(folder))),
    "buffer over a subclass": lambda folder: io.BufferedReader(UpperRaw(path_with(folder))),
    "read replaced": overridden,
    "readinto replaced": overridden_raw,
    "without seekable": lambda _: Seeking(),
    "with a bad descriptor": lambda _: BadDescriptor(),
    "recoded": lambda folder: codecs.EncodedFile(path_with(folder).open("rb"), "latin-1"),
    "in /proc": lambda _: open("/proc/self/limits", "rb"),  # noqa: SIM115, PTH123
    "empty": lambda folder: path_with(folder, b"").open("rb"),
}
OTHER = {
    "read alone": lambda _: Source(),
    "bytearray": lambda _: Source(bytearray),
    "memoryview": lambda _: Source(memoryview),
    "wide items": lambda _: Source(wide_items),
    "more than asked for": lambda _: Generous(),
    "pipe": of_a_pipe,
}


# Streams. Each is a pair of an end to send from and one to receive at.


def plain():
    return tuple(map(IOStream, socket.socketpair()))


def pipe():
    reading, writing = os.pipe()
    return PipeIOStream(writing), PipeIOStream(reading)


@pytest.fixture(params=["plain", "tls", "pipe"])
def connect(request, server_context, client_context):
    @contextlib.asynccontextmanager
    async def connected():
        sender, receiver = (pipe if request.param == "pipe" else plain)()
        if request.param == "tls":
            sender, receiver = await asyncio.gather(
                sender.start_tls(True, server_context),
                receiver.start_tls(False, client_context, "localhost"),
            )
        async with sender, receiver:
            yield sender, receiver

    return connected


async def send(sender, receiver, file, expected, *args):
    """Send a file, and see that nothing else arrives than what is expected."""
    arriving = asyncio.ensure_future(receiver.read_bytes(len(expected) + 1))
    assert await sender.sendfile(file, *args) == len(expected)
    await sender.write(b"|")
    assert await arriving == expected + b"|"


PARTS = [(), (0, 10), (1, None), (5, 1000), (len(TEXT) - 3, 100), (len(TEXT) + 5, None), (3, 0)]


@pytest.mark.only_on("linux")
@pytest.mark.parametrize("kind", SEEKING)
async def test_what_read_gives_arrives(connect, kind, tmp_path):
    with SEEKING[kind](tmp_path) as file:
        file.seek(0)
        contents = file.read(10**6)
    assert contents in (TEXT, TEXT.swapcase()) or kind in ("in /proc", "empty")
    async with connect() as (sender, receiver):
        for part in PARTS:
            offset, count = (*part, 0, None)[:2] if part else (0, None)
            if kind == "mapped" and offset > len(TEXT):
                continue  # such a file refuses to go there
            expected = contents[offset:][:count]
            with SEEKING[kind](tmp_path) as file:
                await send(sender, receiver, file, expected, *part)


@pytest.mark.parametrize("kind", OTHER)
async def test_what_cannot_seek_is_sent_from_where_it_is(connect, kind, tmp_path):
    async with connect() as (sender, receiver):
        with OTHER[kind](tmp_path) as file:
            await send(sender, receiver, file, SHORT if kind == "pipe" else TEXT)
        with OTHER[kind](tmp_path) as file:
            with pytest.raises(ValueError, match="offset must be 0 for a file that cannot seek"):
                await sender.sendfile(file, 1)
            await send(sender, receiver, file, TEXT[:1001], 0, 1001)


@pytest.mark.only_on("linux")
@pytest.mark.parametrize("kind", [*SEEKING, *OTHER])
def test_over_simulated_sockets_it_is_the_same(kind, tmp_path):
    async def main():
        with SimulatedNetwork(Link(latency=0.01, chunk=10_000)) as network:
            sender, receiver = network.pair()
            async with sender, receiver:
                arriving = asyncio.ensure_future(receiver.read_until_close())
                with {**SEEKING, **OTHER}[kind](tmp_path) as file:
                    sent = await sender.sendfile(file)
                sender.close()
                return sent, await arriving

    sent, arrived = simulate(main, real_wait=10)
    with {**SEEKING, **OTHER}[kind](tmp_path) as file:
        if kind in SEEKING:
            file.seek(0)
        expected = bytes(file.read(10**6))
    assert (sent, arrived) == (len(expected), expected)


@pytest.mark.parametrize(
    ("bad", "name"), [(None, "NoneType"), ("text", "str"), (5, "int"), ([b"x"], "list")]
)
async def test_a_read_that_gives_no_bytes_is_an_error(connect, bad, name):
    async with connect() as (sender, receiver):
        for good in (0, 1):
            answers = [TEXT[:10]] * good + [bad]
            file = Source(lambda _, answers=answers: answers.pop(0))
            with pytest.raises(TypeError, match=rf"file\.read\(\) must return bytes, not {name}"):
                await sender.sendfile(file)
            assert sender.closed() == bool(good)
        assert await receiver.read_bytes(10) == TEXT[:10]


async def test_what_the_file_raises_is_raised(connect):
    class Failing(Source):
        def seekable(self):
            raise ZeroDivisionError

    async with connect() as (sender, _):
        with pytest.raises(ZeroDivisionError):
            await sender.sendfile(Failing())
        closed = io.BytesIO()
        closed.close()
        with pytest.raises(ValueError, match="closed"):
            await sender.sendfile(closed)
        assert not sender.closed()


async def test_a_closed_or_unreadable_file_is_an_error(connect, tmp_path):
    path = path_with(tmp_path)
    async with connect() as (sender, _):
        with path.open("rb") as file:
            pass
        with pytest.raises(ValueError, match="closed"):
            await sender.sendfile(file)
        for buffering in (0, -1):
            with path.open("wb", buffering) as file, pytest.raises(io.UnsupportedOperation):
                await sender.sendfile(file)
        with pytest.raises(ValueError, match="offset must be at most"):
            await sender.sendfile(io.BytesIO(), 2**63)
        assert not sender.closed()


async def test_a_file_that_is_closed_meanwhile_is_not_taken_for_another(tmp_path):
    (tmp_path / "secret").write_bytes(b"s" * 10_000_000)
    (tmp_path / "sparse").touch()
    os.truncate(tmp_path / "sparse", 10_000_000)
    sender, receiver = plain()
    async with sender, receiver:
        file = (tmp_path / "sparse").open("rb")
        sending = asyncio.ensure_future(sender.sendfile(file))
        assert await receiver.read_bytes(1000) == bytes(1000)
        fd = file.fileno()
        file.close()
        with (tmp_path / "secret").open("rb") as secret:
            assert secret.fileno() == fd
            rest = receiver.read_until_close()
            with pytest.raises(ValueError, match="closed"):
                await sending
        assert b"s" not in await rest


@pytest.mark.parametrize("size", [10, 2_000_000])
async def test_a_file_that_shrinks_or_grows_is_sent_as_it_is(connect, tmp_path, size):
    path = tmp_path / "file"
    path.write_bytes(b"x" * 1_000_000)
    async with connect() as (sender, receiver):
        with path.open("rb") as file:
            sending = asyncio.ensure_future(sender.sendfile(file))
            start = await receiver.read_bytes(1)
            os.truncate(path, size)
            arriving = asyncio.ensure_future(receiver.read_until_close())
            sent = await sending
            sender.close()
            arrived = start + await arriving
    assert len(arrived) == sent <= max(size, 1_000_000)
    assert arrived.strip(b"\0") == b"x" * len(arrived.strip(b"\0"))


@pytest.mark.parametrize("way", ["close", "peer"])
async def test_a_stream_that_closes_ends_it_while_the_file_is_read(connect, way):
    """And a file that never gives anything keeps it from nothing."""
    gate, entered = threading.Event(), threading.Event()

    class Stuck(Source):
        def read(self, size):
            entered.set()
            gate.wait(10)
            return b""

    async with connect() as (sender, receiver):
        sender.set_close_callback(lambda: None)
        sending = asyncio.ensure_future(sender.sendfile(Stuck()))
        while not entered.is_set():
            await asyncio.sleep(0.001)
        (sender if way == "close" else receiver).close()
        with pytest.raises(StreamClosedError):
            await sending
        assert not gate.is_set()
        gate.set()


async def test_cancelled_while_the_file_is_read_it_ends_at_once(connect):
    gate, entered = threading.Event(), threading.Event()

    class Stuck(Source):
        def read(self, size):
            entered.set()
            gate.wait(10)
            raise ZeroDivisionError

    async with connect() as (sender, receiver):
        sending = asyncio.ensure_future(sender.sendfile(Stuck()))
        while not entered.is_set():
            await asyncio.sleep(0.001)
        sending.cancel()
        with pytest.raises(asyncio.CancelledError):
            await sending
        assert not gate.is_set()
        gate.set()
        await sender.write(b"still here")
        assert await receiver.read_bytes(10) == b"still here"


async def test_files_are_read_while_the_default_executor_is_busy(connect):
    class NoExecutor(futures.Executor):
        def submit(self, *args, **kwargs):
            pytest.fail("it was used")

    IOLoop.current().set_default_executor(NoExecutor())
    async with connect() as (sender, receiver):
        await send(sender, receiver, io.BytesIO(TEXT), TEXT)


async def test_failures_leave_no_reference_cycles(tmp_path):
    class Failing(Source):
        def read(self, size):
            raise ZeroDivisionError

    async def scenarios():
        sender, receiver = plain()
        for file in (Failing(), Source(lambda _: None), tmp_path):
            with contextlib.suppress(ZeroDivisionError, TypeError):
                await sender.sendfile(file)
        with contextlib.suppress(ValueError):
            await sender.sendfile(Source(), 1)
        sender.close()
        receiver.close()
        await asyncio.sleep(0)

    await scenarios()
    with no_reference_cycles():
        await scenarios()
