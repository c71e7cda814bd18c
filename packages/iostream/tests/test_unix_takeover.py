"""Taking over the file of a Unix socket whose server is gone: one server has it, never two."""

import asyncio
import contextlib
import errno
import fcntl
import os
import socket
import subprocess
import sys
import textwrap
import threading

import pytest

import waterspout.iostream._unixfile as unixfile
from waterspout.iostream import connect_unix, serve_unix


async def echo(stream):
    async for line in stream:
        await stream.write(line)


async def asks(path):
    async with await connect_unix(path) as stream:
        await stream.write(b"hello\n")
        return await stream.read_until(b"\n")


@pytest.fixture
def path(tmp_path):
    """The file of a server that is gone."""
    path = tmp_path / "socket"
    leave_stale(path)
    return path


def leave_stale(path):
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(str(path))


@contextlib.contextmanager
def locked(directory):
    """Lock a directory as another server does while it starts; gives what unlocks it."""
    descriptor = os.open(directory, os.O_RDONLY)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    try:
        yield lambda: fcntl.flock(descriptor, fcntl.LOCK_UN)
    finally:
        os.close(descriptor)


async def turns():
    for _ in range(20):
        await asyncio.sleep(0.001)


# The lock


async def test_a_server_waits_for_another_that_is_starting(path):
    with locked(path.parent) as unlock:
        starting = asyncio.create_task(serve_unix(echo, path))
        await turns()
        assert not starting.done()
        path.unlink()
        with socket.socket(socket.AF_UNIX) as other:
            other.bind(str(path))
            await turns()
            other.listen()
            unlock()
            with pytest.raises(OSError, match="in use"):
                await starting
        assert path.exists()


async def test_a_server_that_has_waited_takes_the_file_over(path):
    with locked(path.parent) as unlock:
        starting = asyncio.create_task(serve_unix(echo, path))
        await turns()
        unlock()
        async with await starting:
            assert await asks(path) == b"hello\n"


async def test_cancelled_while_it_waits_a_server_has_done_nothing(path):
    before = path.lstat()
    with locked(path.parent):
        starting = asyncio.create_task(serve_unix(echo, path))
        await turns()
        starting.cancel()
        await asyncio.wait([starting])
        assert starting.cancelled()
    assert path.lstat() == before


async def test_the_lock_is_free_once_a_server_listens(path):
    async with await serve_unix(echo, path):
        with locked(path.parent):
            pass


async def test_a_child_that_was_forked_meanwhile_does_not_keep_the_lock(path, monkeypatch):
    kept = []
    real = fcntl.flock

    def flock(descriptor, operation):
        real(descriptor, operation)
        if operation & fcntl.LOCK_EX:
            kept.append(os.dup(descriptor))  # as fork() does

    monkeypatch.setattr(fcntl, "flock", flock)
    async with await serve_unix(echo, path):
        monkeypatch.undo()
        with locked(path.parent):
            os.close(*kept)


async def test_a_lock_that_somebody_keeps_is_not_waited_for_for_ever(path, monkeypatch):
    monkeypatch.setattr(unixfile, "LOCK_SECONDS", 0.02)
    with locked(path.parent):
        async with await serve_unix(echo, path):
            assert await asks(path) == b"hello\n"


@pytest.mark.parametrize("code", [errno.ENOLCK, errno.EBADF, errno.EOPNOTSUPP])
async def test_a_file_system_without_locks(path, monkeypatch, code):
    def flock(descriptor, operation):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(fcntl, "flock", flock)
    async with await serve_unix(echo, path):
        assert await asks(path) == b"hello\n"
    assert not path.exists()


async def test_a_folder_that_cannot_be_read(path, monkeypatch):
    def refuse(*args):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(os, "open", refuse)
    async with await serve_unix(echo, path):
        assert await asks(path) == b"hello\n"


async def test_no_descriptor_for_the_lock(path, monkeypatch):
    before = path.lstat()

    def refuse(*args):
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(OSError, match=os.strerror(errno.EMFILE)):
        await serve_unix(echo, path)
    assert path.lstat() == before


# Changes behind its back, by programs that do not lock


def after(monkeypatch, method, action):
    """Do something right after a method of a socket was called for the first time."""
    real = getattr(socket.socket, method)
    actions = [action]

    def call(self, *args):
        try:
            return real(self, *args)
        finally:
            if actions:
                actions.pop()()

    monkeypatch.setattr(socket.socket, method, call)


async def test_a_file_that_was_replaced_after_it_was_looked_at_is_left_alone(path, monkeypatch):
    def replace():
        path.unlink()
        leave_stale(path)
        monkeypatch.undo()

    after(monkeypatch, "connect_ex", replace)
    with pytest.raises(OSError, match="in use"):
        await serve_unix(echo, path)
    assert path.exists()


async def test_a_file_that_was_removed_after_it_was_looked_at(path, monkeypatch):
    after(monkeypatch, "connect_ex", path.unlink)
    async with await serve_unix(echo, path):
        assert await asks(path) == b"hello\n"


@pytest.mark.parametrize("moment", ["bind", "listen"])
async def test_a_server_whose_file_was_replaced_while_it_started_fails(
    tmp_path, monkeypatch, moment
):
    path = tmp_path / "fresh"

    def replace():
        path.unlink()
        if moment == "listen":
            path.write_text("another's")

    after(monkeypatch, moment, replace)
    with pytest.raises(OSError, match="in use"):
        await serve_unix(echo, path)
    assert path.exists() == (moment == "listen")


# Races


def start(path, barrier, started):
    async def main():
        barrier.wait()
        try:
            server = await serve_unix(echo, path)
        except OSError:
            server = None
        else:
            started.append(await asks(path))
        barrier.wait()
        if server is not None:
            await server.close(0)

    asyncio.run(main())


@pytest.mark.slow
def test_of_two_threads_one_has_the_file(path):
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        for _ in range(150):
            barrier, started = threading.Barrier(2), []
            threads = [
                threading.Thread(target=start, args=(path, barrier, started)) for _ in range(2)
            ]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            assert started == [b"hello\n"]
            assert not path.exists()
            leave_stale(path)
    finally:
        sys.setswitchinterval(interval)


PROGRAM = """
    import asyncio, sys
    from waterspout.iostream import serve_unix

    async def handler(stream):
        pass

    async def turn(path):
        try:
            server = await serve_unix(handler, path)
        except OSError:
            print("refused", flush=True)
            sys.stdin.readline()
        else:
            print("serves", flush=True)
            sys.stdin.readline()
            await server.close()
        print("done", flush=True)

    print("ready", flush=True)
    while path := sys.stdin.readline().rstrip("\\n"):
        asyncio.run(turn(path))
"""


@pytest.mark.slow
def test_of_two_processes_one_has_the_file(path):
    with contextlib.ExitStack() as stack:
        programs = [
            stack.enter_context(
                subprocess.Popen(
                    [sys.executable, "-c", textwrap.dedent(PROGRAM)],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    text=True,
                )
            )
            for _ in range(2)
        ]

        def say(line):
            for program in programs:
                program.stdin.write(f"{line}\n")
                program.stdin.flush()

        def answers():
            return sorted(program.stdout.readline().rstrip() for program in programs)

        assert answers() == ["ready", "ready"]
        for _ in range(100):
            say(path)
            assert answers() == ["refused", "serves"]
            say("over")
            assert answers() == ["done", "done"]
            assert not path.exists()
            leave_stale(path)
        say("")


@pytest.mark.slow
def test_a_server_that_is_killed_leaves_nothing_but_a_stale_file(path):
    with subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(PROGRAM)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as program:
        program.stdin.write(f"{path}\n")
        program.stdin.flush()
        assert program.stdout.readline() == "ready\n"
        assert program.stdout.readline() == "serves\n"
        program.kill()
    assert list(path.parent.iterdir()) == [path]

    async def main():
        async with await serve_unix(echo, path):
            return await asks(path)

    assert asyncio.run(main()) == b"hello\n"
