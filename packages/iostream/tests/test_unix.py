"""Unix sockets: files that come and go, and who may connect."""

import asyncio
import contextlib
import errno
import os
import socket
import stat
import sys
from pathlib import Path

import pytest

from waterspout.iostream import IOStream, SSLIOStream, connect_unix, serve_unix

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


class Unnamed:
    def __fspath__(self):
        return ""


@pytest.mark.only_on("linux")
@pytest.mark.parametrize("name", ["", b"", Unnamed()])
async def test_an_empty_path_gives_an_abstract_name_that_is_free(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    mode = tmp_path.stat().st_mode
    async with (
        await serve_unix(echo, name, mode=0o600) as one,
        await serve_unix(echo, name) as two,
    ):
        assert one.path != two.path
        assert isinstance(one.path, bytes if name == b"" else str)
        for server in (one, two):
            assert await asks(server.path) == b"hello\n"
            assert await asks(server.sockets[0].getsockname()) == b"hello\n"
    assert tmp_path.stat().st_mode == mode
    assert list(tmp_path.iterdir()) == []


async def test_systems_without_abstract_names(monkeypatch):
    monkeypatch.setattr(sys, "platform", "darwin")
    with pytest.raises(ValueError, match="path must not be empty, not ''"):
        await serve_unix(echo, "")
    for call in (lambda: serve_unix(echo, "\0name"), lambda: connect_unix("\0name")):
        with pytest.raises(ValueError, match="path must not have a null character"):
            await call()


@pytest.mark.parametrize("name", ["", b"", Unnamed()])
async def test_no_connection_to_an_empty_path(name):
    with pytest.raises(ValueError, match="path must not be empty"):
        await connect_unix(name)


@pytest.mark.parametrize("kind", [str, os.fsencode])
async def test_a_null_character_inside_a_path_is_refused(path, kind):
    """The kernel would take what is before it for the path."""
    bad = kind(f"{path}\0more")
    async with IOStream(socket.socket(socket.AF_UNIX)) as stream:
        for call in (
            lambda: serve_unix(echo, bad),
            lambda: connect_unix(bad),
            lambda: stream.connect(bad),
        ):
            with pytest.raises(ValueError, match="path must not have a null character inside"):
                await call()
    assert not path.exists()


async def test_a_path_that_the_file_system_cannot_have():
    for call in (lambda: serve_unix(echo, "\ud800"), lambda: connect_unix("\ud800")):
        with pytest.raises(ValueError, match="path must be one of the file system's"):
            await call()


async def test_paths_of_the_wrong_kind():
    for call in (lambda: serve_unix(echo, 5), lambda: connect_unix(None)):
        with pytest.raises(TypeError, match="path must be a str, bytes or os.PathLike, not"):
            await call()
    async with IOStream(socket.socket(socket.AF_UNIX)) as stream:
        with pytest.raises(TypeError, match="address must be a path as str or bytes, not 5"):
            await stream.connect(5)


async def test_a_path_that_is_too_long_is_named(tmp_path):
    path = str(tmp_path / ("x" * 120))
    for call in (lambda: serve_unix(echo, path), lambda: connect_unix(path)):
        with pytest.raises(OSError, match="too long") as caught:
            await call()
        assert caught.value.errno == errno.ENAMETOOLONG
        assert caught.value.filename == path


async def test_the_longest_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = "x" * 100
    async with await serve_unix(echo, path) as server:
        assert await asks(path) == b"hello\n"
        assert server.sockets[0].getsockname() == path
        with pytest.raises(OSError, match="in use") as caught:
            await serve_unix(echo, path)
        assert caught.value.filename == path
    assert list(tmp_path.iterdir()) == []


async def test_a_folder_that_does_not_exist(tmp_path):
    path = tmp_path / "missing" / "socket"
    for call in (lambda: serve_unix(echo, path), lambda: connect_unix(path)):
        with pytest.raises(FileNotFoundError, match="missing"):
            await call()


async def test_a_folder_is_left_alone(tmp_path):
    mode = tmp_path.stat().st_mode
    with pytest.raises(OSError, match="in use"):
        await serve_unix(echo, tmp_path, mode=0o600)
    assert tmp_path.stat().st_mode == mode


@pytest.mark.parametrize("target", ["stale", "missing", "file"])
async def test_a_symbolic_link_is_left_alone(path, target):
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(str(path.with_name("stale")))
    path.with_name("file").write_text("precious")
    path.symlink_to(path.with_name(target))
    with pytest.raises(OSError, match="in use"):
        await serve_unix(echo, path, mode=0o600)
    assert path.is_symlink()
    assert path.with_name("file").read_text() == "precious"
    assert path.with_name("stale").exists()


@pytest.mark.parametrize("kind", [str, os.fsencode])
async def test_a_relative_path_is_removed_where_it_was_made(tmp_path, monkeypatch, kind):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(tmp_path)
    async with await serve_unix(echo, kind("socket")) as server:
        assert server.path == kind("socket")
        assert await asks("socket") == b"hello\n"
        monkeypatch.chdir(elsewhere)
        (elsewhere / "socket").write_text("another")
    assert not (tmp_path / "socket").exists()
    assert (elsewhere / "socket").read_text() == "another"


@pytest.mark.parametrize("mode", [-1, 0o1000, 600, 1 << 40])
async def test_a_mode_that_is_none_is_refused(path, mode):
    with pytest.raises(ValueError, match=f"mode must be from 0 to 0o777, not {mode} "):
        await serve_unix(echo, path, mode=mode)
    assert not path.exists()


async def test_a_mode_that_cannot_be_set(path, monkeypatch):
    def chmod(self, mode):
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM), self)

    monkeypatch.setattr(Path, "chmod", chmod)
    with pytest.raises(PermissionError) as caught:
        await serve_unix(echo, path, mode=0o600)
    assert caught.value.filename == path
    assert not path.exists()


async def test_nobody_can_connect_before_the_file_has_its_mode(path, monkeypatch):
    real = socket.socket.listen
    modes = []

    def listen(self, backlog):
        modes.append(stat.S_IMODE(path.stat().st_mode))
        real(self, backlog)

    monkeypatch.setattr(socket.socket, "listen", listen)
    async with await serve_unix(echo, path, mode=0o600):
        pass
    assert modes == [0o600]


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
        while not server.connections:
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
