"""Unix sockets: files that come and go, and who may connect."""

import asyncio
import contextlib
import os
import socket
import stat
import sys

import pytest

from waterspout.iostream import SSLIOStream, connect_unix, serve_unix

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="no Unix sockets")


async def echo(stream):
    async for line in stream:
        await stream.write(line)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "socket"


async def asks(path, **kwargs):
    async with await connect_unix(path, **kwargs) as stream:
        await stream.write(b"hello\n")
        return await stream.read_until(b"\n")


@pytest.mark.parametrize("as_what", [str, os.fsencode, lambda path: path])
async def test_a_round_trip(path, as_what):
    async with await serve_unix(echo, as_what(path)) as server:
        assert await asks(as_what(path)) == b"hello\n"
        assert repr(server).startswith("<UnixServer path=")
    assert not path.exists()
    assert repr(server) == "<UnixServer closed connections=0>"


async def test_tls_over_it(path, server_context, client_context):
    async with await serve_unix(echo, path, ssl=server_context):
        stream = await connect_unix(path, ssl=client_context, server_hostname="localhost")
        async with stream:
            assert isinstance(stream, SSLIOStream)
            await stream.write(b"x\n")
            assert await stream.read_until(b"\n") == b"x\n"
        with pytest.raises(ValueError, match="server_hostname is needed"):
            await connect_unix(path, ssl=True)


@pytest.mark.parametrize("mode", [0o600, 0o666])
async def test_permissions(path, mode):
    async with await serve_unix(echo, path, mode=mode):
        assert stat.S_IMODE(path.stat().st_mode) == mode
        assert await asks(path) == b"hello\n"


async def test_a_file_that_a_server_left_behind_is_replaced(path):
    left = socket.socket(socket.AF_UNIX)
    left.bind(str(path))
    left.close()
    async with await serve_unix(echo, path):
        assert await asks(path) == b"hello\n"


async def test_a_server_that_lives_is_left_alone(path):
    async with await serve_unix(echo, path):
        with pytest.raises(OSError, match="in use"):
            await serve_unix(echo, path)
        assert await asks(path) == b"hello\n"


async def test_another_kind_of_file_is_left_alone(path):
    path.write_text("precious")
    with pytest.raises(OSError, match="in use"):
        await serve_unix(echo, path)
    assert path.read_text() == "precious"
    with pytest.raises(OSError):
        await connect_unix(path)


async def test_a_file_that_somebody_put_in_its_place_is_left_alone(path):
    async with await serve_unix(echo, path):
        path.unlink()
        path.write_text("another")
    assert path.read_text() == "another"
    async with await serve_unix(echo, path.with_name("other")):
        path.with_name("other").unlink()
    assert not path.with_name("other").exists()


@pytest.mark.skipif(sys.platform != "linux", reason="Linux has abstract sockets")
@pytest.mark.parametrize("kind", [str, str.encode])
async def test_abstract_names(kind):
    name = kind(f"\0waterspout-{os.getpid()}")
    async with await serve_unix(echo, name, mode=0o600):
        assert await asks(name) == b"hello\n"
        with pytest.raises(OSError, match="in use"):
            await serve_unix(echo, name)
    with pytest.raises(ConnectionRefusedError):
        await connect_unix(name)


async def test_a_queue_that_is_full_and_time_that_is_up(path):
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen(0)
        with contextlib.ExitStack() as stack, pytest.raises((BlockingIOError, TimeoutError)):
            while True:
                stream = await connect_unix(path, timeout=0.1)
                stack.callback(stream.close)


async def test_bad_arguments(path):
    with pytest.raises(FileNotFoundError):
        await connect_unix(path)
    with pytest.raises(TypeError):
        await connect_unix(5)
    with pytest.raises(TypeError, match="handler must be callable"):
        await serve_unix("echo", path)
    with pytest.raises(TypeError, match="mode must be an integer"):
        await serve_unix(echo, path, mode="rw")
    with pytest.raises(ValueError, match="backlog must not be negative"):
        await serve_unix(echo, path, backlog=-1)
    with pytest.raises(ValueError, match="max_connections must be positive"):
        await serve_unix(echo, path, max_connections=0)
    with pytest.raises(TypeError):
        await serve_unix(echo, path, nonsense=1)
    with pytest.raises(TypeError):
        await connect_unix(path, nonsense=1)
    with pytest.raises(OSError, match="too long"):
        await serve_unix(echo, "/" + "x" * 200)
    assert not path.exists()


async def test_so_many_at_a_time_and_no_more(path):
    inside, most, over = 0, 0, asyncio.Event()

    async def handle(stream):
        nonlocal inside, most
        inside += 1
        most = max(most, inside)
        if inside == 2:
            over.set()
        await over.wait()
        await stream.write(await stream.read_until(b"\n"))
        inside -= 1

    async with await serve_unix(handle, path, max_connections=2) as server:
        assert await asyncio.gather(*(asks(path) for _ in range(9))) == [b"hello\n"] * 9
        assert most == 2
        assert server.connections <= 2


async def test_a_server_that_is_full_can_be_closed(path):
    over = asyncio.Event()

    async def handle(stream):
        await over.wait()

    server = await serve_unix(handle, path, max_connections=1)
    async with await connect_unix(path), await connect_unix(path):
        while not server._waiting:
            await asyncio.sleep(0)
        over.set()
        await server.close()


def test_systems_without(path, monkeypatch):
    monkeypatch.delattr(socket, "AF_UNIX")

    async def main():
        for call in (lambda: connect_unix(path), lambda: serve_unix(echo, path)):
            with pytest.raises(NotImplementedError, match="no Unix sockets"):
                await call()

    with pytest.raises(StopIteration):
        main().send(None)
