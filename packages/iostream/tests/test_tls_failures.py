"""TLS that fails: the reason is told, nothing is left behind, what raised has changed nothing."""

import asyncio
import socket
import ssl

import pytest

from waterspout.ioloop import IOLoop
from waterspout.ioloop.scheduling import Reactor
from waterspout.ioloop.testing import no_reference_cycles
from waterspout.iostream import (
    IOStream,
    SSLIOStream,
    StreamClosedError,
    connect_tcp,
    serve_tcp,
)

LOCAL = "127.0.0.1"
ENGINES = pytest.mark.parametrize("engine", ["memory", "socket"])
VERSIONS = pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])


def new_stream(sock, context, engine, server_side=False, **kwargs):
    name = None if server_side else "localhost"
    if engine == "socket":
        sock.setblocking(False)
        sock = context.wrap_socket(
            sock, server_side=server_side, do_handshake_on_connect=False, server_hostname=name
        )
        return SSLIOStream(sock, server_side=server_side, **kwargs)
    return SSLIOStream(
        sock, ssl_options=context, server_side=server_side, server_hostname=name, **kwargs
    )


def tcp_pair():
    with socket.create_server((LOCAL, 0)) as listener:
        left = socket.create_connection(listener.getsockname())
        right, _ = listener.accept()
    return left, right


@pytest.fixture
def strict(authority):
    """A server's context that wants certificates of its clients."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("localhost").configure_cert(context)
    authority.configure_trust(context)
    context.verify_mode = ssl.CERT_REQUIRED
    return context


async def refused(strict, client_context, engine):
    """A client whose handshake is done, and whose server has refused it since."""
    left, right = tcp_pair()
    client = new_stream(left, client_context, engine)
    server = SSLIOStream(right, ssl_options=strict, server_side=True)
    ends = await asyncio.gather(
        client.wait_for_handshake(), server.wait_for_handshake(), return_exceptions=True
    )
    assert ends[0] is client
    assert ends[1].reason == "PEER_DID_NOT_RETURN_A_CERTIFICATE"
    return client


def reason_of(raised):
    return raised.value.real_error.reason


# The reason


@ENGINES
async def test_a_read_tells_the_alert(strict, client_context, engine):
    client = await refused(strict, client_context, engine)
    with pytest.raises(StreamClosedError) as raised:
        await client.read_bytes(1)
    assert reason_of(raised) == "TLSV13_ALERT_CERTIFICATE_REQUIRED"
    assert client.error.reason == "TLSV13_ALERT_CERTIFICATE_REQUIRED"
    assert client.closed()


@ENGINES
@pytest.mark.parametrize("size", [10, 1_000_000])
async def test_a_write_tells_the_alert(strict, client_context, engine, size):
    client = await refused(strict, client_context, engine)
    closed = asyncio.Event()
    client.set_close_callback(closed.set)
    with pytest.raises(StreamClosedError) as raised:
        while True:  # the first may be taken by the kernel
            await client.write(b"x" * size)
    assert reason_of(raised) == "TLSV13_ALERT_CERTIFICATE_REQUIRED"
    assert client.error.reason == "TLSV13_ALERT_CERTIFICATE_REQUIRED"
    for operation in (lambda: client.read_bytes(1), lambda: client.write(b"x")):
        with pytest.raises(StreamClosedError) as raised:
            await operation()
        assert reason_of(raised) == "TLSV13_ALERT_CERTIFICATE_REQUIRED"
    await asyncio.wait_for(closed.wait(), 10)
    assert client.closed()


@ENGINES
async def test_a_read_pending_during_a_write_tells_the_alert(strict, client_context, engine):
    client = await refused(strict, client_context, engine)
    reading = client.read_until(b"\n")
    with pytest.raises(StreamClosedError):
        while True:
            await client.write(b"x")
    with pytest.raises(StreamClosedError) as raised:
        await reading
    assert reason_of(raised) == "TLSV13_ALERT_CERTIFICATE_REQUIRED"


@ENGINES
@pytest.mark.parametrize("size", [10, 100_000, 300_000])
async def test_bytes_before_the_reason_are_still_read(server_context, client_context, engine, size):
    """If sending fails, reading goes on to the end."""
    left, right = tcp_pair()
    left.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
    client = new_stream(left, client_context, engine)
    server = SSLIOStream(right, ssl_options=server_context, server_side=True)
    await asyncio.gather(client.wait_for_handshake(), server.wait_for_handshake())
    data = bytes(range(250)) * (size // 250) + b"x" * (size % 250) + b"\n"
    await server.write(data)
    server.close(ValueError("at once"))  # with a reset for what is written to it now
    with pytest.raises(StreamClosedError):
        while True:
            await client.write(b"x" * 100_000)
    assert await client.read_bytes(len(data)) == data
    with pytest.raises(StreamClosedError):
        await client.read_bytes(1)
    client.close()


@ENGINES
async def test_a_reset_without_an_alert_is_a_reset(server_context, client_context, engine):
    left, right = tcp_pair()
    client = new_stream(left, client_context, engine)
    server = SSLIOStream(right, ssl_options=server_context, server_side=True)
    await asyncio.gather(client.wait_for_handshake(), server.wait_for_handshake())
    right_fd = server.socket.raw
    right_fd.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    right_fd.close()
    server._closed = True
    with pytest.raises(StreamClosedError) as raised:
        while True:
            await client.write(b"x")
    assert isinstance(raised.value.real_error, (ConnectionError, ssl.SSLEOFError))
    client.close()


@VERSIONS
async def test_a_handshake_tells_the_alert(strict, authority, version):
    """Also with TLS 1.2, where it comes before the handshake is done."""
    context = ssl.create_default_context()
    authority.configure_trust(context)
    context.maximum_version = version
    left, right = tcp_pair()
    client = SSLIOStream(left, ssl_options=context, server_hostname="localhost")
    server = SSLIOStream(right, ssl_options=strict, server_side=True)
    reasons = []
    results = await asyncio.gather(
        client.write(b"x"), server.wait_for_handshake(), return_exceptions=True
    )
    if results[0] is None:
        with pytest.raises(StreamClosedError) as raised:
            await client.read_bytes(1)
        results[0] = raised.value
    reasons = [results[0].real_error.reason, results[1].reason]
    assert "ALERT" in reasons[0]
    assert reasons[1] == "PEER_DID_NOT_RETURN_A_CERTIFICATE"


# What is left behind


async def settle():
    for _ in range(5):
        await asyncio.sleep(0)


@ENGINES
@VERSIONS
async def test_a_certificate_of_another_name_leaves_no_cycles(
    server_context, authority, engine, version
):
    context = ssl.create_default_context()
    authority.configure_trust(context)
    context.maximum_version = version

    async def fail():
        left, right = socket.socketpair()
        left.setblocking(False)
        name = "elsewhere.example"
        if engine == "socket":
            left = context.wrap_socket(left, do_handshake_on_connect=False, server_hostname=name)
        client = SSLIOStream(left, ssl_options=context, server_hostname=name)
        server = SSLIOStream(right, ssl_options=server_context, server_side=True)
        serving = asyncio.create_task(wait_for(server))
        with pytest.raises(ssl.SSLCertVerificationError):
            await client.wait_for_handshake()
        assert isinstance(client.error, ssl.SSLCertVerificationError)
        await serving

    with no_reference_cycles():
        await fail()
        await settle()


async def wait_for(stream):
    try:
        await stream.wait_for_handshake()
    except OSError:
        pass
    stream.close()


@pytest.mark.parametrize("how", ["name", "plain", "refused", "timeout"])
async def test_a_failed_connect_leaves_no_cycles(server_context, client_context, how):
    async def greet(stream):
        await stream.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")

    async def silent(stream):
        try:
            await stream.read_until_close()
        except StreamClosedError:
            pass

    handler = {"plain": greet, "timeout": silent}.get(how, silent)
    context = server_context if how in ("name", "refused") else False
    server = await serve_tcp(handler, LOCAL, ssl=context)
    port = server.port

    async def fail():
        name = "elsewhere.example" if how == "name" else "localhost"
        expected = {"timeout": TimeoutError, "refused": ConnectionRefusedError}
        with pytest.raises(expected.get(how, ssl.SSLError)):
            await connect_tcp(
                LOCAL,
                port,
                ssl=client_context,
                server_hostname=name,
                **({"handshake_timeout": 0.05} if how == "timeout" else {}),
            )
        await settle()

    async with server:
        if how == "refused":
            await server.close()
        await fail()  # whatever is made once
        with no_reference_cycles():
            await fail()


@pytest.mark.parametrize("how", ["timeout", "cancel", "plain", "reset", "close"])
async def test_a_failed_start_tls_leaves_no_cycles(client_context, how):
    async def fail():
        left, right = tcp_pair()
        plain = IOStream(left)
        if how == "plain":
            right.send(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        elif how == "reset":
            right.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        if how in ("reset", "close"):
            asyncio.get_running_loop().call_later(0.01, right.close)
        elif how == "cancel":
            asyncio.get_running_loop().call_later(0.01, asyncio.current_task().cancel)
        expected = {"timeout": TimeoutError, "cancel": asyncio.CancelledError}.get(how, OSError)
        with pytest.raises(expected):
            await plain.start_tls(
                False,
                client_context,
                "localhost",
                handshake_timeout=0.02 if how == "timeout" else None,
            )
        right.close()
        await settle()

    await fail()
    with no_reference_cycles():
        await fail()


@ENGINES
@pytest.mark.parametrize("how", ["read", "write", "connection cut off"])
async def test_a_failed_operation_leaves_no_cycles(
    strict, server_context, client_context, engine, how
):
    async def fail():
        if how == "connection cut off":
            left, right = socket.socketpair()
            client = new_stream(left, client_context, engine)
            server = SSLIOStream(right, ssl_options=server_context, server_side=True)
            await asyncio.gather(client.wait_for_handshake(), server.wait_for_handshake())
            server.socket.shutdown(socket.SHUT_RDWR)
            server.close()
        else:
            client = await refused(strict, client_context, engine)
        with pytest.raises(StreamClosedError):
            while how == "write":
                await client.write(b"x")
            await client.read_until(b"\n")
        await settle()
        client.close()
        await settle()

    await fail()
    with no_reference_cycles():
        await fail()


async def test_a_good_connection_leaves_no_cycles(server_context, client_context):
    async def echo(stream):
        await stream.write(await stream.read_until(b"\n"))

    async def talk():
        async with await connect_tcp(
            LOCAL, server.port, ssl=client_context, server_hostname="localhost"
        ) as stream:
            await stream.write(b"x\n")
            assert await stream.read_until_close() == b"x\n"
        while server.connections:
            await asyncio.sleep(0.001)
        await settle()

    async with await serve_tcp(echo, LOCAL, ssl=server_context) as server:
        await talk()
        with no_reference_cycles():
            await talk()


# A call that raises has changed nothing


@pytest.fixture
def for_clients():
    """A context that cannot be a server's."""
    return ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)


async def test_a_context_for_the_other_side_changes_nothing(for_clients, make_pair):
    stream, peer = make_pair()
    with pytest.raises((ssl.SSLError, ValueError)):  # which of them depends on the version
        stream.start_tls(True, for_clients)
    assert not stream.closed()
    await stream.write(b"as before")
    assert await peer.receive(9) == b"as before"
    left, right = socket.socketpair()
    with left, right:
        left.settimeout(7)
        with pytest.raises((ssl.SSLError, ValueError)):
            SSLIOStream(left, ssl_options=for_clients, server_side=True)
        assert left.gettimeout() == 7
        for bad in (
            {"handshake_timeout": float("nan"), "ssl_options": for_clients},
            {"ssl_options": {"nonsense": 1}},
            {"ssl_options": for_clients},  # without the name that it verifies
            {"ssl_options": for_clients, "server_hostname": "a b"},
            {"ssl_options": for_clients, "server_hostname": "a", "max_buffer_size": 0},
            {"ssl_options": for_clients, "server_hostname": "a", "io_loop": 5},
        ):
            with pytest.raises((TypeError, ValueError)):
                SSLIOStream(left, **bad)
            assert left.gettimeout() == 7
    with socket.socket() as unconnected:
        unconnected.settimeout(7)
        wrapped = for_clients.wrap_socket(unconnected, server_hostname="a")
        with wrapped, pytest.raises(ValueError, match="must be connected"):
            SSLIOStream(wrapped)
        assert wrapped.gettimeout() in (7, None)


class Refusing(Reactor):
    """Passes calls to the running loop, but one kind of them."""

    def __init__(self):
        self.loop = IOLoop.current()
        self.refused = None

    def _pass(self, name, *args):
        if name == self.refused:
            raise RuntimeError(f"{name} is refused")
        return getattr(self.loop, name)(*args)

    def time(self):
        return self.loop.time()

    def add_callback(self, *args, **kwargs):
        self.loop.add_callback(*args, **kwargs)

    def call_at(self, *args, **kwargs):
        return self._pass("call_at", *args)

    def remove_timeout(self, timeout):
        self.loop.remove_timeout(timeout)

    def create_future(self):
        return self.loop.create_future()

    def run_in_executor(self, *args):
        return self.loop.run_in_executor(*args)

    def add_handler(self, *args):
        self._pass("add_handler", *args)

    def update_handler(self, *args):
        self._pass("update_handler", *args)

    def remove_handler(self, *args):
        self._pass("remove_handler", *args)


async def test_start_tls_that_the_reactor_refuses_changes_nothing(client_context):
    left, right = socket.socketpair()
    right.setblocking(False)
    reactor = Refusing()
    stream = IOStream(left, reactor)
    reading = stream.read_bytes(3)
    right.send(b"onetwo")
    assert await reading == b"one"
    reactor.refused = "remove_handler"
    with pytest.raises(RuntimeError, match="remove_handler is refused"):
        stream.start_tls(False, client_context, "localhost")
    reactor.refused = None
    assert not stream.closed()
    assert await stream.read_bytes(3) == b"two"
    await stream.write(b"three")
    assert right.recv(10) == b"three"  # and nothing of a handshake
    stream.close()
    right.close()


@pytest.mark.parametrize("refused", ["call_at", "add_handler"])
@pytest.mark.parametrize("way", ["start_tls", "wait_for_handshake", "write", "read"])
async def test_a_handshake_that_the_reactor_refuses_to_wait_for(client_context, refused, way):
    """Nothing was sent, or the connection is closed."""
    left, right = socket.socketpair()
    right.setblocking(False)
    reactor = Refusing()
    closed = asyncio.Event()
    if way == "start_tls":
        stream = IOStream(left, reactor)
        stream.set_close_callback(closed.set)
        operation = lambda: stream.start_tls(False, client_context, "localhost")  # noqa: E731
    else:
        stream = SSLIOStream(left, reactor, ssl_options=client_context, server_hostname="localhost")
        operation = {
            "wait_for_handshake": stream.wait_for_handshake,
            "write": lambda: stream.write(b"x"),
            "read": lambda: stream.read_bytes(1),
        }[way]
    reactor.refused = refused
    with pytest.raises((RuntimeError, StreamClosedError)) as raised:
        await operation()
    error = raised.value
    assert "is refused" in str(getattr(error, "real_error", error))
    reactor.refused = None
    try:
        sent = right.recv(1000)
    except BlockingIOError:
        assert way != "start_tls"
        assert not stream.closed()  # nothing was sent, and it can be tried again
        assert refused == "call_at"
        stream.close()
    else:
        assert sent == b"" or refused == "add_handler"
        assert stream.closed()
        if way == "start_tls":
            await asyncio.wait_for(closed.wait(), 10)
    right.close()


async def test_a_handshake_after_connecting_that_the_reactor_refuses(server_context):
    """The stream is closed, and what waits for it is told."""
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE

    async def silent(stream):
        pass

    async with await serve_tcp(silent, LOCAL, ssl=server_context) as server:
        reactor = Refusing()
        stream = SSLIOStream(socket.socket(), reactor, ssl_options=context)
        reactor.refused = "call_at"
        with pytest.raises(RuntimeError, match="call_at is refused"):
            await stream.connect((LOCAL, server.port))
        assert stream.closed()
        with pytest.raises((RuntimeError, StreamClosedError)):
            await stream.wait_for_handshake()


# sendfile


@ENGINES
@VERSIONS
async def test_sendfile_as_the_first_operation(
    server_context, authority, engine, version, tmp_path
):
    """The handshake has not begun yet."""
    context = ssl.create_default_context()
    authority.configure_trust(context)
    context.maximum_version = version
    data = bytes(range(256)) * 4000
    path = tmp_path / "data"
    path.write_bytes(data)
    left, right = socket.socketpair()
    client = new_stream(left, context, engine)
    server = SSLIOStream(right, ssl_options=server_context, server_side=True)
    async with client, server:
        with path.open("rb") as file:
            sending = asyncio.create_task(client.sendfile(file))
            assert await server.read_bytes(len(data)) == data
            assert await sending == len(data)
        await client.write(b"behind\n")
        assert await server.read_until(b"\n") == b"behind\n"
