"""Connections that fail are freed at once: nothing that is left of them is a reference cycle."""

import asyncio
import contextlib
import errno
import os
import socket
import sys

import pytest

from waterspout.ioloop.testing import no_reference_cycles
from waterspout.iostream import IOStream, connect_tcp, connect_unix, serve_tcp, serve_unix

LOCAL = "127.0.0.1"

# CPython 3.12 and 3.13 only: the frame of a coroutine goes on to refer to the one that resumed it.
not_with_kept_callers = pytest.mark.skipif(
    sys.version_info < (3, 14) and os.environ.get("WATERSPOUT_TASKS") == "eager",
    reason="before 3.14, an exception keeps the callers of a task that starts eagerly",
)


def unused_port():
    with socket.create_server((LOCAL, 0)) as listener:
        return listener.getsockname()[1]


async def turns():
    for _ in range(5):
        await asyncio.sleep(0)


async def fails(connecting):
    """Await a coroutine in a frame that has it no more when it raises."""
    try:
        await connecting
    except (OSError, asyncio.CancelledError):
        pass
    else:
        pytest.fail("it has not failed")


@pytest.fixture
def lookup(monkeypatch):
    """Sets what every name resolves to: addresses, or an error."""

    def set_result(result):
        def getaddrinfo(host, port, family=0, type=0, proto=0, flags=0):
            if isinstance(result, socket.gaierror):
                raise socket.gaierror(*result.args)
            return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", address) for address in result]

        monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)

    return set_result


@pytest.fixture
def silent():
    """The address of a listener whose queue is full: nobody answers."""
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.socket())
        listener.bind((LOCAL, 0))
        listener.listen(0)
        for _ in range(2):
            filler = stack.enter_context(socket.socket())
            filler.setblocking(False)
            filler.connect_ex(listener.getsockname())
        yield listener.getsockname()


async def test_connect_tcp_refused():
    port = unused_port()
    await fails(connect_tcp(LOCAL, port))
    with no_reference_cycles():
        await fails(connect_tcp(LOCAL, port))
        await turns()


async def test_connect_tcp_refused_at_several_addresses(lookup):
    lookup([(LOCAL, unused_port()) for _ in range(3)])
    with no_reference_cycles():
        await fails(connect_tcp("host", 80))
        await turns()


@not_with_kept_callers
async def test_connect_tcp_with_a_mistake():
    async def connect():
        with pytest.raises(TypeError, match="no_such_option"):
            await connect_tcp(LOCAL, 80, no_such_option=1)

    with no_reference_cycles():
        await connect()
        await turns()


async def test_stream_connect_refused():
    port = unused_port()

    async def connect():
        async with IOStream(socket.socket()) as stream:
            await stream.connect((LOCAL, port))

    with no_reference_cycles():
        await fails(connect())
        await turns()


async def test_error_of_a_refused_stream_is_kept_without_frames():
    stream = IOStream(socket.socket())
    with pytest.raises(ConnectionRefusedError) as caught:
        await stream.connect((LOCAL, unused_port()))
    assert isinstance(stream.error, ConnectionRefusedError)
    assert str(stream.error) == str(caught.value)
    assert stream.error.__traceback__ is None


async def test_connect_unix_refused(tmp_path):
    with no_reference_cycles():
        await fails(connect_unix(tmp_path / "missing"))
        await turns()


@pytest.mark.parametrize("host", ["host", "a..b"])
async def test_names_that_cannot_be_resolved(lookup, host):
    lookup(socket.gaierror(socket.EAI_NONAME, "no such name"))

    async def connect():
        async with IOStream(socket.socket()) as stream:
            await stream.connect((host, 80))

    async def handler(stream):
        pass

    with no_reference_cycles():
        await fails(connect_tcp(host, 80))
        await fails(connect())
        await fails(serve_tcp(handler, host))
        await turns()


@pytest.mark.only_on("linux")
async def test_connect_timed_out(lookup, silent):
    lookup([silent, silent])
    with no_reference_cycles():
        await fails(connect_tcp("host", 80, timeout=0.01))
        await turns()


@pytest.mark.only_on("linux")
async def test_connect_cancelled(lookup, silent):
    lookup([silent, silent])
    with no_reference_cycles():
        connecting = asyncio.create_task(connect_tcp("host", 80))
        await turns()
        connecting.cancel()
        await fails(connecting)
        del connecting
        await turns()


@pytest.mark.only_on("linux")
async def test_losers_of_a_race(lookup, silent, monkeypatch):
    monkeypatch.setattr("waterspout.iostream._connect.ATTEMPT_DELAY", 0.01)

    async def handler(stream):
        await stream.read_until_close()

    async with await serve_tcp(handler, LOCAL) as server:
        lookup([(LOCAL, unused_port()), silent, (LOCAL, server.port)])
        with no_reference_cycles():
            async with await connect_tcp("host", 80):
                pass
            while server.connections:
                await asyncio.sleep(0)
            await turns()


@not_with_kept_callers
async def test_local_addr_that_cannot_be_bound(monkeypatch):
    def bind(self, address):
        raise OSError(errno.EADDRNOTAVAIL, os.strerror(errno.EADDRNOTAVAIL))

    monkeypatch.setattr(socket.socket, "bind", bind)
    with no_reference_cycles():
        await fails(connect_tcp(LOCAL, 80, local_addr=(LOCAL, 0)))
        await turns()


async def test_servers_that_cannot_listen(tmp_path, monkeypatch, lookup):
    async def handler(stream):
        pass

    def bind(self, address):
        raise OSError(errno.EADDRNOTAVAIL, os.strerror(errno.EADDRNOTAVAIL))

    monkeypatch.setattr(socket.socket, "bind", bind)
    with no_reference_cycles():
        await fails(serve_tcp(handler, LOCAL))
        await fails(serve_unix(handler, tmp_path / "socket"))
        lookup([(LOCAL, 0), ("127.0.0.2", 0)])
        await fails(serve_tcp(handler, "host"))
        await turns()


async def test_handlers_that_raise_and_the_close_of_their_server():
    loop = asyncio.get_running_loop()
    reports = []
    loop.set_exception_handler(lambda _, context: reports.append(str(context["exception"])))

    async def handler(stream):
        await stream.write(b"x")
        raise LookupError("a mistake")

    with no_reference_cycles():
        async with await serve_tcp(handler, LOCAL) as server:
            async with await connect_tcp(LOCAL, server.port) as stream:
                assert await stream.read_until_close() == b"x"
            while not reports:
                await asyncio.sleep(0)
        del server, stream
        await turns()
    assert reports == ["a mistake"]
