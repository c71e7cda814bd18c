"""Servers that lack something for a while, and servers and connections that fail half-way."""

import asyncio
import errno
import os
import pathlib
import socket
import ssl

import pytest

import waterspout.iostream._server as server_module
from waterspout.ioloop import IOLoop
from waterspout.iostream import (
    IOStream,
    SSLIOStream,
    StreamServer,
    connect_tcp,
    connect_unix,
    serve_tcp,
    serve_unix,
)

LOCAL = "127.0.0.1"

REACTOR_ERRORS = [
    OSError(errno.EMFILE, "no descriptor"),
    ValueError("a bad descriptor"),
    RuntimeError("somebody else's descriptor"),
    KeyError("no such descriptor"),
]


async def greet(stream):
    await stream.write(b"hello\n")


async def greeting_of(port):
    async with await connect_tcp(LOCAL, port) as stream:
        return await stream.read_until(b"\n")


def unused_port():
    with socket.create_server((LOCAL, 0)) as listener:
        return listener.getsockname()[1]


class Reports(list):
    """What the running loop is told of: exceptions."""

    def __init__(self):
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _, context: self.append(context["exception"]))


class Registry:
    """The handlers of the running loop; fails to add one whenever there is an error in `errors`."""

    def __init__(self, monkeypatch, *errors):
        self.errors = list(errors)
        self.registered = set()
        loop = IOLoop.current()
        self._add, self._remove = loop.add_handler, loop.remove_handler
        monkeypatch.setattr(loop, "add_handler", self.add_handler, raising=False)
        monkeypatch.setattr(loop, "remove_handler", self.remove_handler, raising=False)

    def add_handler(self, fd, handler, events):
        if self.errors and (error := self.errors.pop(0)) is not None:
            raise error
        self._add(fd, handler, events)
        self.registered.add(fd)

    def remove_handler(self, fd):
        self._remove(fd)
        self.registered.discard(fd)


@pytest.fixture
def accept_fails(monkeypatch):
    """Errors that `accept` raises, one after the other; pauses after them are short."""
    monkeypatch.setattr(server_module, "ACCEPT_PAUSE", 0.005)
    errors = []
    real = socket.socket.accept

    def accept(listener):
        if errors:
            raise errors.pop(0)
        return real(listener)

    monkeypatch.setattr(socket.socket, "accept", accept)
    return errors


# Accepting again


@pytest.mark.parametrize("error", REACTOR_ERRORS)
async def test_a_listener_is_registered_again_however_often_that_fails(
    monkeypatch, accept_fails, error
):
    reports = Reports()
    async with await serve_tcp(greet, LOCAL) as server:
        lack = OSError(errno.EMFILE, "no descriptor")
        accept_fails.append(lack)
        with socket.create_connection((LOCAL, server.port)):
            while not reports:
                await asyncio.sleep(0)
            Registry(monkeypatch, error, error, error)
            while len(reports) < 4:
                await asyncio.sleep(0.001)
        assert await greeting_of(server.port) == b"hello\n"
    assert reports == [lack, error, error, error]


@pytest.mark.parametrize("error", [MemoryError("no memory"), OSError(errno.EINVAL, "bad")])
async def test_accepting_pauses_whatever_is_raised(accept_fails, error):
    reports = Reports()
    accept_fails.extend([error, error])
    async with await serve_tcp(greet, LOCAL) as server:
        assert await greeting_of(server.port) == b"hello\n"
    assert reports == [error, error]


async def test_a_server_that_cannot_register_its_listener_can_be_closed(monkeypatch, accept_fails):
    reports = Reports()
    server = await serve_tcp(greet, [LOCAL, "::1"])
    accept_fails.append(OSError(errno.EMFILE, "no descriptor"))
    with socket.create_connection((LOCAL, server.port)):
        while not reports:
            await asyncio.sleep(0)
        Registry(monkeypatch, *REACTOR_ERRORS * 10)
        while len(reports) < 3:
            await asyncio.sleep(0.001)
        await server.close()
    assert all(listener.fileno() == -1 for listener in server.sockets)
    told = len(reports)
    for _ in range(20):
        await asyncio.sleep(0.001)
    assert len(reports) == told


async def test_a_server_whose_handler_somebody_removed_can_be_closed():
    server = await serve_tcp(greet, [LOCAL, "::1"])
    IOLoop.current().remove_handler(server.sockets[0])
    await server.close()
    assert all(listener.fileno() == -1 for listener in server.sockets)


async def test_every_socket_is_closed_even_if_a_handler_cannot_be_removed(monkeypatch):
    server = await serve_tcp(greet, [LOCAL, "::1"])
    loop = IOLoop.current()
    real = loop.remove_handler

    def remove_handler(fd):
        real(fd)
        raise OSError(errno.EBADF, "a strange reactor")

    monkeypatch.setattr(loop, "remove_handler", remove_handler, raising=False)
    with pytest.raises(OSError, match="a strange reactor"):
        await server.close()
    assert all(listener.fileno() == -1 for listener in server.sockets)
    await server.close()


async def test_a_listener_that_somebody_closed_is_not_tried_again(monkeypatch, accept_fails):
    reports = Reports()
    async with await serve_tcp(greet, [LOCAL, "::1"]) as server:
        accept_fails.append(OSError(errno.EMFILE, "no descriptor"))
        with socket.create_connection((LOCAL, server.port)):
            while not reports:
                await asyncio.sleep(0)
            registry = Registry(monkeypatch)
            server.sockets[0].close()
        waited = asyncio.Event()
        IOLoop.current().call_later(3 * server_module.ACCEPT_PAUSE, waited.set)
        await waited.wait()
        assert registry.registered == set()
    assert len(reports) == 1


@pytest.mark.parametrize("error", REACTOR_ERRORS)
async def test_a_full_server_goes_on_after_it_could_not_register(monkeypatch, accept_fails, error):
    reports, registry = Reports(), Registry(monkeypatch)
    over = asyncio.Event()

    async def handler(stream):
        await stream.write(b"hello\n")
        await over.wait()

    async with await serve_tcp(handler, LOCAL, max_connections=1) as server:
        first = await connect_tcp(LOCAL, server.port)
        second = await connect_tcp(LOCAL, server.port)
        assert await first.read_until(b"\n") == b"hello\n"
        reading = second.read_until(b"\n")
        while server.sockets[0] in registry.registered:
            await asyncio.sleep(0)
        registry.errors.extend([error, error])
        over.set()
        assert await reading == b"hello\n"
        first.close()
        second.close()
    assert reports == [error, error]


async def test_a_full_server_goes_on_after_a_stream_could_not_be_closed():
    reports = Reports()
    mistake = LookupError("a mistake in a stream")

    async def handler(stream):
        await stream.write(b"hello\n")
        await stream.read_until_close()
        real = stream.close

        def close(*args):
            real(*args)
            raise mistake

        stream.close = close

    async with await serve_tcp(handler, LOCAL, max_connections=1) as server:
        assert await greeting_of(server.port) == b"hello\n"
        assert await greeting_of(server.port) == b"hello\n"
    assert reports == [mistake, mistake]


class Refused(IOStream):
    """A stream that cannot be made for a connected socket, as often as `errors` says."""

    errors = ()

    def __init__(self, sock, *args, **kwargs):
        super().__init__(sock, *args, **kwargs)
        if self._has_peer and Refused.errors:
            raise Refused.errors.pop(0)


@pytest.mark.parametrize(
    ("error", "is_reported"),
    [
        (ValueError("an unfit socket"), True),
        (MemoryError("no memory"), True),
        (ssl.SSLError(1, "a useless context"), True),
        (ConnectionResetError(errno.ECONNRESET, "gone"), False),
    ],
)
async def test_a_stream_that_cannot_be_made_stops_nothing(monkeypatch, error, is_reported):
    reports = Reports()
    monkeypatch.setattr(server_module, "IOStream", Refused)
    async with await serve_tcp(greet, LOCAL) as server:
        monkeypatch.setattr(Refused, "errors", [error])
        async with await connect_tcp(LOCAL, server.port) as stream:
            assert await stream.read_until_close() == b""
        assert await greeting_of(server.port) == b"hello\n"
    assert reports == ([error] if is_reported else [])


@pytest.mark.parametrize("error", REACTOR_ERRORS[1:])
async def test_a_handshake_that_cannot_be_waited_for_is_reported(
    monkeypatch, server_context, client_context, error
):
    reports = Reports()
    async with await serve_tcp(greet, LOCAL, ssl=server_context) as server:
        registry = Registry(monkeypatch)
        with socket.create_connection((LOCAL, server.port)):
            registry.errors.append(error)
            while not reports or server.connections:
                await asyncio.sleep(0)
    assert [repr(report) for report in reports] == [repr(error)]


# Failing half-way


class Failing:
    """Makes one step of a constructor fail."""

    def __init__(self, monkeypatch, step):
        self.error = OSError(errno.ENOBUFS, f"{step} failed")
        self.registry = Registry(monkeypatch)
        if step == "add_handler":
            self.registry.errors.append(self.error)
        elif step == "second add_handler":
            self.registry.errors.extend([None, self.error])
        elif step == "chmod":
            monkeypatch.setattr(pathlib.Path, "chmod", self.fail)
        else:
            monkeypatch.setattr(socket.socket, step, self.fail)

    def fail(self, *args):
        raise self.error


def check_free(port):
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((LOCAL, port))
        listener.listen()


@pytest.mark.parametrize(
    "step", ["setsockopt", "bind", "listen", "add_handler", "second add_handler"]
)
async def test_serve_tcp_leaves_nothing_behind(monkeypatch, step):
    port = unused_port()
    with monkeypatch.context() as patch:
        failing = Failing(patch, step)
        with pytest.raises(OSError, match=f"{step} failed"):
            await serve_tcp(greet, [LOCAL, "::1"], port)
        assert failing.registry.registered == set()
    check_free(port)


@pytest.mark.parametrize("error", REACTOR_ERRORS)
async def test_servers_leave_nothing_behind_whatever_the_reactor_raises(
    monkeypatch, tmp_path, error
):
    port = unused_port()
    registry = Registry(monkeypatch, error)
    with pytest.raises(type(error)):
        await serve_tcp(greet, LOCAL, port)
    check_free(port)
    registry.errors.append(error)
    with pytest.raises(type(error)):
        await serve_unix(greet, tmp_path / "socket")
    assert list(tmp_path.iterdir()) == []
    assert registry.registered == set()


@pytest.mark.parametrize("is_stale", [False, True])
@pytest.mark.parametrize("step", ["bind", "chmod", "listen", "add_handler"])
async def test_serve_unix_leaves_nothing_behind(monkeypatch, tmp_path, step, is_stale):
    path = tmp_path / "socket"
    if is_stale:
        with socket.socket(socket.AF_UNIX) as stale:
            stale.bind(str(path))
    with monkeypatch.context() as patch:
        failing = Failing(patch, step)
        with pytest.raises(OSError, match=f"{step} failed"):
            await serve_unix(greet, path, mode=0o600)
        assert failing.registry.registered == set()
    if not (is_stale and step == "bind"):  # then the file was there before
        assert list(tmp_path.iterdir()) == []
    async with await serve_unix(greet, path):
        async with await connect_unix(path) as stream:
            assert await stream.read_until(b"\n") == b"hello\n"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.only_on("linux")
@pytest.mark.parametrize("step", ["bind", "listen", "add_handler"])
async def test_serve_unix_of_an_abstract_name_leaves_nothing_behind(monkeypatch, step):
    name = f"\0waterspout-half-way-{os.getpid()}"
    with monkeypatch.context() as patch:
        Failing(patch, step)
        with pytest.raises(OSError, match=f"{step} failed"):
            await serve_unix(greet, name)
    async with await serve_unix(greet, name):
        pass


@pytest.mark.parametrize("error", REACTOR_ERRORS)
async def test_connections_leave_nothing_behind(monkeypatch, tmp_path, error):
    async with (
        await serve_tcp(greet, LOCAL) as server,
        await serve_unix(greet, tmp_path / "socket"),
    ):
        registry = Registry(monkeypatch)
        for way in (
            lambda: connect_tcp(LOCAL, server.port),
            lambda: connect_unix(tmp_path / "socket"),
            lambda: IOStream(socket.socket()).connect((LOCAL, server.port)),
        ):
            registry.errors.append(error)
            with pytest.raises(type(error)) as caught:
                await way()
            assert caught.value.args == error.args
            while registry.registered:  # the server's side of it
                await asyncio.sleep(0)


@pytest.mark.parametrize("step", ["setblocking", "connect_ex", "bind"])
async def test_connect_tcp_closes_the_socket_of_a_step_that_fails(monkeypatch, step):
    Failing(monkeypatch, step)
    with pytest.raises(OSError, match=f"{step} failed"):
        await connect_tcp(LOCAL, 80, local_addr=(LOCAL, 0))


async def test_connect_tcp_closes_a_stream_whose_option_cannot_be_set(monkeypatch):
    async with await serve_tcp(greet, LOCAL) as server:

        def refuse(stream, value):
            raise OSError(errno.EINVAL, "no such option")

        monkeypatch.setattr(IOStream, "set_nodelay", refuse)
        with pytest.raises(OSError, match="no such option"):
            await connect_tcp(LOCAL, server.port)


async def test_a_socket_stays_as_it_was_if_no_stream_can_be_made_of_it():
    with socket.create_server((LOCAL, 0)) as listener:
        client = socket.create_connection(listener.getsockname())
        accepted, _ = listener.accept()
        with accepted:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            client.close()
            with pytest.raises(ConnectionResetError):
                IOStream(accepted)
            assert accepted.getblocking()


async def test_a_stream_server_closes_its_sockets_if_it_cannot_be_made(monkeypatch):
    with socket.create_server((LOCAL, 0)) as one, socket.create_server((LOCAL, 0)) as two:
        Registry(monkeypatch, None, ValueError("one too many"))
        with pytest.raises(ValueError, match="one too many"):
            StreamServer(IOLoop.current(), greet, IOStream, [one, two], None)
        assert one.fileno() == two.fileno() == -1


# Opening


@pytest.mark.parametrize("error", REACTOR_ERRORS)
async def test_a_connection_that_cannot_be_registered_after_it_opened(monkeypatch, error):
    """The handler for its opening is added; what is wanted afterwards cannot be registered."""
    async with await serve_tcp(greet, LOCAL) as server:
        stream = IOStream(socket.socket())
        reading = stream.read_bytes(1)

        def refuse(fd, events):
            raise error

        monkeypatch.setattr(IOLoop.current(), "update_handler", refuse, raising=False)
        with pytest.raises(type(error)):
            await stream.connect((LOCAL, server.port))
        assert stream.closed()
        assert stream.error.args == error.args
        with pytest.raises(OSError, match="stream is closed"):
            await reading


async def test_a_socket_that_somebody_closed_while_it_connects(monkeypatch):
    reports = Reports()

    def getsockopt(self, *args):
        raise OSError(errno.EBADF, os.strerror(errno.EBADF))

    async with await serve_tcp(greet, LOCAL) as server:
        stream = IOStream(socket.socket())
        monkeypatch.setattr(socket.socket, "getsockopt", getsockopt)
        with pytest.raises(OSError, match=os.strerror(errno.EBADF)):
            await stream.connect((LOCAL, server.port))
        assert stream.closed()
        monkeypatch.undo()
    assert reports == []


def test_ctrl_c_while_a_connection_opens_closes_its_stream(monkeypatch):
    streams = []

    def interrupt(fd, events):
        raise KeyboardInterrupt

    async def main():
        monkeypatch.setattr(IOLoop.current(), "update_handler", interrupt, raising=False)
        streams.append(IOStream(socket.socket()))
        reading = streams[0].read_bytes(1)
        try:
            await streams[0].connect(listener.getsockname())
        finally:
            await asyncio.wait([reading])

    with socket.create_server((LOCAL, 0)) as listener:
        with pytest.raises(KeyboardInterrupt):
            asyncio.run(main())
    assert streams[0].closed()


async def test_a_stream_without_a_reactor_is_not_connecting(monkeypatch):
    async with await serve_tcp(greet, LOCAL) as server:
        stream = IOStream(socket.socket())
        with monkeypatch.context() as patch:
            patch.setattr("waterspout.iostream._core.current_scheduler", object)
            with pytest.raises(RuntimeError, match="is no Reactor"):
                await stream.connect((LOCAL, server.port))
        async with await stream.connect((LOCAL, server.port)):
            assert await stream.read_until(b"\n") == b"hello\n"


async def test_an_error_that_cannot_be_copied_is_kept_as_it_is(monkeypatch):
    class NeedsMore(OSError):
        def __init__(self, one, two, three):
            super().__init__(one, two)

    class BecomesAnother(OSError):
        def __reduce__(self):
            return OSError, self.args

    registry = Registry(monkeypatch)
    async with await serve_tcp(greet, LOCAL) as server:
        for error in (NeedsMore(1, "needs more", 3), BecomesAnother(2, "becomes another")):
            registry.errors.append(error)
            stream = IOStream(socket.socket())
            with pytest.raises(type(error)) as caught:
                await stream.connect((LOCAL, server.port))
            assert caught.value is stream.error is error


async def test_a_cancelled_connect_cancels_what_waits_for_the_handshake(client_context):
    with socket.create_server((LOCAL, 0)) as silent:
        stream = SSLIOStream(
            socket.socket(), ssl_options=client_context, server_hostname="localhost"
        )
        connecting = asyncio.create_task(stream.connect(silent.getsockname()))
        await asyncio.sleep(0)
        handshake = stream.wait_for_handshake()
        connecting.cancel()
        await asyncio.wait([connecting, handshake])
        assert connecting.cancelled()
        assert handshake.cancelled()
        assert stream.closed()
