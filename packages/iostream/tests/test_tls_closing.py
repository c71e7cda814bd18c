"""Closing TLS: every layer in good order, and only in the process that uses the connection."""

import asyncio
import gc
import os
import socket
import ssl

import pytest

from waterspout.ioloop.testing import simulate
from waterspout.iostream import IOStream, SSLIOStream, StreamClosedError
from waterspout.iostream._tlsengines import SocketEngine
from waterspout.iostream.testing import Link, SimulatedNetwork

ENGINES = pytest.mark.parametrize("engine", ["memory", "socket"])
LINGERS = pytest.mark.only_on("linux", "darwin")


def new_stream(sock, context, engine, server_side=False):
    """A stream of TLS over a connected socket, by one of the engines."""
    name = None if server_side else "localhost"
    if engine == "socket":
        sock.setblocking(False)
        sock = context.wrap_socket(
            sock, server_side=server_side, do_handshake_on_connect=False, server_hostname=name
        )
        return SSLIOStream(sock, server_side=server_side)
    return SSLIOStream(sock, ssl_options=context, server_side=server_side, server_hostname=name)


class Proxies:
    """What ends each layer of TLS, and passes on what is inside; the innermost keeps it.

    Attributes:
        ends: How each layer ended, the outermost first: `None` for a close_notify alert.
        go_on: Set while they read.
    """

    def __init__(self, sock, context, depth):
        self.context = context
        self.go_on = asyncio.Event()
        self.go_on.set()
        self.ends = [NotImplemented] * depth
        self.received = bytearray()
        self._streams = []
        self._tasks = []
        for layer in range(depth):
            stream = SSLIOStream(sock, ssl_options=context, server_side=True)
            inside = None
            if layer + 1 < depth:
                left, sock = socket.socketpair()
                inside = IOStream(left)
                self._tasks.append(asyncio.create_task(self._pass_back(inside, stream)))
            self._tasks.append(asyncio.create_task(self._pass_on(layer, stream, inside)))
            self._streams += [stream, inside] if inside else [stream]

    async def _pass_on(self, layer, stream, inside):
        try:
            while True:
                await self.go_on.wait()
                data = await stream.read_bytes(65536, partial=True)
                if inside is None:
                    self.received += data
                else:
                    await inside.write(data)
        except StreamClosedError as error:
            self.ends[layer] = error.real_error
        if inside is not None:
            await inside.write_eof()

    async def _pass_back(self, inside, stream):
        try:
            while True:
                await stream.write(await inside.read_bytes(65536, partial=True))
        except StreamClosedError:
            pass

    async def done(self):
        await asyncio.wait_for(asyncio.gather(*self._tasks), 10)
        for stream in self._streams:
            stream.close()


async def layers(stream, context, depth):
    """Give the stream after so many handshakes, one inside of the other."""
    await stream.wait_for_handshake()
    for _ in range(depth - 1):
        stream = await stream.start_tls(False, context, "localhost")
    return stream


@LINGERS
@ENGINES
@pytest.mark.parametrize("depth", [1, 2, 3])
async def test_every_layer_ends_in_good_order(server_context, client_context, engine, depth):
    left, right = socket.socketpair()
    proxies = Proxies(right, server_context, depth)
    stream = await layers(new_stream(left, client_context, engine), client_context, depth)
    await stream.write(b"all of it")
    stream.close()
    await proxies.done()
    assert proxies.ends == [None] * depth
    assert proxies.received == b"all of it"


@LINGERS
@ENGINES
@pytest.mark.parametrize("depth", [1, 2, 3])
async def test_every_layer_ends_in_good_order_when_the_kernel_is_full(
    server_context, client_context, engine, depth
):
    left, right = socket.socketpair()
    proxies = Proxies(right, server_context, depth)
    stream = await layers(new_stream(left, client_context, engine), client_context, depth)
    proxies.go_on.clear()
    sent = 0
    while not stream.writing():
        last = stream.write(b"x" * 1000)
        sent += 1000
    proxies.go_on.set()
    await last
    proxies.go_on.clear()
    stream.close()
    proxies.go_on.set()
    await proxies.done()
    assert proxies.ends == [None] * depth
    assert len(proxies.received) == sent


@pytest.mark.parametrize("chunk", [pytest.param(1, marks=pytest.mark.slow), 100, 20_000])
def test_both_layers_end_in_good_order_on_a_slow_network(server_context, client_context, chunk):
    async def main():
        with SimulatedNetwork(Link(latency=0.01, chunk=chunk)) as network:
            left, right = network.pair(half_open=True)
            outside, outer = await asyncio.gather(
                left.start_tls(False, client_context, "localhost"),
                right.start_tls(True, server_context),
            )
            inside, inner = await asyncio.gather(
                outside.start_tls(False, client_context, "localhost"),
                outer.start_tls(True, server_context),
            )
            await inside.write(b"x" * 5000)
            inside.close()
            assert await inner.read_until_close() == b"x" * 5000
            # The inner layer has ended; the records of the outer one that are left are its alert.
            carrier = inner.socket.raw
            while (size := carrier.read_into(memoryview(bytearray(16384)))) is None:
                await asyncio.sleep(0.01)
                carrier.renew()
            assert size == 0
            inner.close()
            await asyncio.sleep(60)

    simulate(main)


@LINGERS
@ENGINES
async def test_a_peer_that_floods_is_discarded_in_turns(
    server_context, client_context, engine, monkeypatch
):
    """What arrives after the alert is not decrypted."""
    left, right = socket.socketpair()
    stream = new_stream(left, client_context, engine)
    server = SSLIOStream(right, ssl_options=server_context, server_side=True)
    await asyncio.gather(stream.wait_for_handshake(), server.wait_for_handshake())
    flooding = server.write(b"x" * 5_000_000)
    await stream.read_bytes(1)
    stream.close()
    await flooding
    with pytest.raises(StreamClosedError) as raised:
        await server.read_bytes(1)
    assert raised.value.real_error is None
    server.close()


@LINGERS
@ENGINES
async def test_an_end_that_the_reactor_cannot_wait_for(server_context, client_context, engine):
    """Then the connection is closed at once, whatever the reactor has raised."""
    left, right = socket.socketpair()
    stream = new_stream(left, client_context, engine)
    server = SSLIOStream(right, ssl_options=server_context, server_side=True)
    await asyncio.gather(stream.wait_for_handshake(), server.wait_for_handshake())
    await server.write(b"x" * 10)

    class Refusing:
        def __getattr__(self, name):
            raise TypeError(f"{name} is refused")

    descriptor = stream.fileno()
    stream._reactor = Refusing()
    stream.close()
    assert stream.closed()
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(descriptor)
    assert await server.read_until_close() == b""
    server.close()


class Slow:
    """A socket that is full, and says so some times."""

    def __init__(self, sock, refusals):
        self.socket, self.refusals = sock, refusals

    def __getattr__(self, name):
        return getattr(self.socket, name)

    def send(self, data):
        if self.refusals:
            self.refusals -= 1
            raise BlockingIOError
        return self.socket.send(data)


@LINGERS
@pytest.mark.parametrize("depth", [1, 2, 3])
async def test_every_alert_waits_until_the_kernel_takes_it(server_context, client_context, depth):
    left, right = socket.socketpair()
    proxies = Proxies(right, server_context, depth)
    outermost = new_stream(left, client_context, "memory")
    stream = await layers(outermost, client_context, depth)
    await stream.write(b"all of it")
    outermost.socket.raw = slow = Slow(left, 3)
    stream.close()
    assert slow.refusals == 2
    await proxies.done()
    assert proxies.ends == [None] * depth
    assert proxies.received == b"all of it"


async def test_a_handshake_waits_until_the_kernel_takes_it(server_context, client_context):
    left, right = socket.socketpair()
    stream = new_stream(left, client_context, "memory")
    server = SSLIOStream(right, ssl_options=server_context, server_side=True)
    async with stream, server:
        stream.socket.raw = Slow(left, 3)
        await asyncio.gather(stream.wait_for_handshake(), server.wait_for_handshake())


class Scripted:
    """An `ssl.SSLSocket` whose methods do what a list says."""

    def __init__(self, *steps):
        self.steps = list(steps)

    def recv_into(self, buffer):
        step = self.steps.pop(0)
        if isinstance(step, Exception):
            raise step
        return step

    def unwrap(self):
        self.recv_into(None)


def test_an_ssl_socket_that_must_send_first():
    """As in a renegotiation while the kernel is full."""
    want_write = ssl.SSLWantWriteError(ssl.SSL_ERROR_WANT_WRITE, "wants to write")
    target = memoryview(bytearray(65536))
    engine = SocketEngine(Scripted(5, want_write, want_write, 3, 0))
    assert engine.read_into(target) == 5
    with pytest.raises(ssl.SSLWantWriteError):
        engine.read_into(target)
    assert engine.read_into(target) == 3
    assert engine.at_end()
    assert engine.read_into(target) == 0
    engine = SocketEngine(Scripted(want_write, 0))
    with pytest.raises(ssl.SSLWantWriteError):
        engine.close_notify()
    engine.close_notify()


# A forked child


async def test_a_process_that_is_not_the_streams(monkeypatch, server_context, client_context):
    """What a child does not do, as seen from here: it is not measured in a child."""
    left, right = socket.socketpair()
    plain, peer = IOStream(left), IOStream(right)
    third, fourth = socket.socketpair()
    new = SSLIOStream(third, ssl_options=server_context, server_side=True)
    new.set_close_callback(None)
    async with plain, peer, new:
        fourth.close()
        await plain.write(b"x")
        with monkeypatch.context() as patch:
            patch.setattr(os, "getpid", lambda: -1)
            with pytest.raises(StreamClosedError) as raised:
                await plain.write_eof()
            assert "parent process" in str(raised.value)
            with pytest.raises(RuntimeError, match="parent process"):
                new.wait_for_handshake()
            plain._reset_on_close()
        assert await peer.read_bytes(1) == b"x"
        assert left.getsockopt(socket.SOL_SOCKET, socket.SO_LINGER) == 0
        assert not peer.closed()


def in_child(function):
    """Run a function in a forked child, which leaves without any clean-up of the tests."""
    child = os.fork()
    if child == 0:  # pragma: no cover
        code = 1
        try:
            function()
            code = 0
        finally:
            os._exit(code)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0


def tolerate(function):
    """What the loop of the parent refuses is not asked here."""
    try:
        function()
    except RuntimeError:
        pass


CHILDREN = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")
IGNORE_FORK = pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")


def drop(stream):
    """Have a stream and its socket be garbage."""
    stream.socket.close()
    gc.collect()


@CHILDREN
@IGNORE_FORK
@ENGINES
@pytest.mark.parametrize("what", ["close", "close_with_error", "drop", "close_both"])
async def test_a_child_does_not_end_the_connection_of_its_parent(
    server_context, client_context, engine, what
):
    left, right = socket.socketpair()
    stream = new_stream(left, client_context, engine)
    server = SSLIOStream(right, ssl_options=server_context, server_side=True)
    await asyncio.gather(stream.wait_for_handshake(), server.wait_for_handshake())
    await stream.write(b"one\n")
    assert await server.read_until(b"\n") == b"one\n"

    def child():
        if what == "close":
            stream.close()
            assert stream.closed()
        elif what == "close_with_error":
            stream.close(ValueError("no matter"))
        elif what == "drop":
            drop(stream)
        else:
            server.close()
            stream.close()

    in_child(child)
    for sender, receiver in ((stream, server), (server, stream)):
        await sender.write(b"two\n")
        assert await asyncio.wait_for(receiver.read_until(b"\n"), 10) == b"two\n"
    stream.close()
    server.close()


@CHILDREN
@IGNORE_FORK
async def test_a_child_does_not_shut_down_the_connection_of_its_parent():
    left, right = socket.socketpair()
    stream, peer = IOStream(left), IOStream(right)
    async with stream, peer:
        await stream.write(b"one\n")
        assert await peer.read_until(b"\n") == b"one\n"

        def child():
            with_error = []

            def end():
                future = stream.write_eof()
                with_error.append(future.exception())

            tolerate(end)
            assert with_error == [] or isinstance(with_error[0], StreamClosedError)
            tolerate(stream.close)
            assert stream.closed()

        in_child(child)
        await stream.write(b"two\n")
        assert await asyncio.wait_for(peer.read_until(b"\n"), 10) == b"two\n"


@CHILDREN
@IGNORE_FORK
async def test_a_child_does_not_begin_a_handshake_for_its_parent(server_context, client_context):
    left, right = socket.socketpair()
    stream = SSLIOStream(
        left,
        ssl_options=client_context,
        server_hostname="localhost",
        handshake_timeout=None,
    )
    stream.set_close_callback(None)  # it belongs to the loop from here on

    def child():
        with pytest.raises(RuntimeError):
            stream.wait_for_handshake()

    in_child(child)
    server = SSLIOStream(right, ssl_options=server_context, server_side=True)
    async with stream, server:
        await asyncio.gather(stream.wait_for_handshake(), server.wait_for_handshake())


@CHILDREN
@IGNORE_FORK
def test_a_child_may_use_what_its_parent_has_only_made(server_context, client_context):
    """A server that accepts, and forks a child for each connection."""
    left, right = socket.socketpair()
    server = SSLIOStream(right, ssl_options=server_context, server_side=True)

    async def serve():
        await server.write(b"from the child")
        server.close()

    results = []

    async def ask():
        async with new_stream(left, client_context, "memory") as stream:
            results.append(await stream.read_until_close())

    child = os.fork()
    if child == 0:  # pragma: no cover
        try:
            left.close()
            asyncio.run(serve())
            os._exit(0)
        finally:
            os._exit(1)
    server.close()
    asyncio.run(ask())
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert results == [b"from the child"]


@LINGERS
def test_what_still_lingers_is_closed_with_the_loop(server_context, client_context):
    """In every layer, and nobody complains."""
    left, right = socket.socketpair()

    async def main():
        outside = new_stream(left, client_context, "memory")
        outer = SSLIOStream(right, ssl_options=server_context, server_side=True)
        await asyncio.gather(outside.wait_for_handshake(), outer.wait_for_handshake())
        inside, inner = await asyncio.gather(
            outside.start_tls(False, client_context, "localhost"),
            outer.start_tls(True, server_context),
        )
        await inside.write(b"x")
        await inner.read_bytes(1)
        inside.close()
        inner.close()
        return inside, inner

    with asyncio.Runner() as runner:
        runner.run(main())
    gc.collect()
    for end in (left, right):
        assert end.fileno() == -1
