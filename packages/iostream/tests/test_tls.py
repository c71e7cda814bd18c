"""TLS: round trips, verification, ends, and handshakes that fail."""

import asyncio
import gc
import os
import socket
import ssl
import threading

import pytest

from waterspout.ioloop import IOLoop
from waterspout.iostream import (
    IOStream,
    SSLIOStream,
    StreamClosedError,
    connect_tcp,
    serve_tcp,
)

LOCAL = "127.0.0.1"


async def echo(stream):
    while True:
        await stream.write(await stream.read_until(b"\n"))


@pytest.fixture
def serve(server_context):
    """Serves TLS with a handler."""

    async def serve(handler=echo, context=server_context, **kwargs):
        return await serve_tcp(handler, LOCAL, ssl=context, **kwargs)

    return serve


VERSIONS = pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])


@VERSIONS
async def test_a_round_trip(serve, authority, version):
    context = ssl.create_default_context()
    authority.configure_trust(context)
    context.maximum_version = version
    async with await serve() as server:
        async with await connect_tcp("localhost", server.port, ssl=context) as stream:
            assert isinstance(stream, SSLIOStream)
            await stream.write(b"hello\n")
            assert await stream.read_until(b"\n") == b"hello\n"
            assert stream.socket.version() == version.name.replace("_", ".")


@VERSIONS
async def test_large_amounts_both_ways(serve, authority, version):
    size = 3_000_000
    context = ssl.create_default_context()
    authority.configure_trust(context)
    context.maximum_version = version

    async def handler(stream):
        data = await stream.read_bytes(size)
        stream.write(data[: size // 2])
        stream.write(data[size // 2 :])

    async with await serve(handler, read_chunk_size=100) as server:
        async with await connect_tcp(LOCAL, server.port, ssl=context) as stream:
            data = bytes(range(250)) * (size // 250)
            for start in range(0, size, 100_000):
                stream.write(data[start : start + 100_000])
            assert await stream.read_until_close() == data


async def test_many_small_records(serve, client_context):
    async def handler(stream):
        for _ in range(2000):
            await stream.write(b"x" * 50)

    async with await serve(handler) as server:
        async with await connect_tcp(LOCAL, server.port, ssl=client_context) as stream:
            assert len(await stream.read_until_close()) == 100_000


async def test_the_server_must_prove_its_name(serve, client_context):
    async with await serve() as server:
        with pytest.raises(ssl.SSLCertVerificationError, match="(?i)hostname mismatch"):
            await connect_tcp(LOCAL, server.port, ssl=client_context, server_hostname="example.org")
        # Nobody vouches for it among the system's authorities.
        with pytest.raises(ssl.SSLCertVerificationError, match="unable to get local issuer"):
            await connect_tcp("localhost", server.port, ssl=True)
        unverified = {"cert_reqs": ssl.CERT_NONE}
        async with await connect_tcp(LOCAL, server.port, ssl=unverified) as stream:
            await stream.write(b"x\n")
            assert await stream.read_until(b"\n") == b"x\n"


async def test_options_as_a_dict(serve, authority, tmp_path):
    certificate = authority.issue_cert("localhost")
    with certificate.private_key_and_cert_chain_pem.tempfile(dir=tmp_path) as server_file:
        with authority.cert_pem.tempfile(dir=tmp_path) as ca_file:
            async with await serve(context={"certfile": server_file}) as server:
                options = {
                    "ca_certs": ca_file,
                    "cert_reqs": ssl.CERT_REQUIRED,
                    "check_hostname": True,
                    "ciphers": "DEFAULT",
                }
                async with await connect_tcp("localhost", server.port, ssl=options) as stream:
                    await stream.write(b"x\n")
                    assert await stream.read_until(b"\n") == b"x\n"


async def test_bad_options_are_refused():
    with pytest.raises(TypeError, match="ssl_options must be"):
        await connect_tcp(LOCAL, 1, ssl="yes")
    with pytest.raises(TypeError, match=r"unknown keys: \['nonsense'\]"):
        await connect_tcp(LOCAL, 1, ssl={"nonsense": 1})
    with pytest.raises(ValueError, match="must have a certificate"):
        await serve_tcp(echo, LOCAL, ssl={})
    stream = SSLIOStream(socket.socket())
    with pytest.raises(ValueError, match="server_hostname is needed"):
        await stream.connect((LOCAL, 1))
    with pytest.raises(RuntimeError, match="not connected"):
        stream.wait_for_handshake()
    stream.close()


async def test_a_client_that_speaks_no_tls(serve, client_context):
    async with await serve() as server:
        async with await connect_tcp(LOCAL, server.port) as stream:
            await stream.write(b"GET / HTTP/1.1\r\n\r\n")
            with pytest.raises((StreamClosedError, ConnectionResetError)):
                await stream.read_until(b"\n")
                await stream.read_until(b"\n")

    async def plain(stream):
        await stream.read_bytes(1)
        await stream.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")

    async with await serve_tcp(plain, LOCAL) as server:
        with pytest.raises(ssl.SSLError, match="(?i)wrong.version.number"):
            await connect_tcp(LOCAL, server.port, ssl=client_context)


async def test_the_end_and_what_is_cut_off_are_told_apart(serve, client_context):
    async def handler(stream):
        await stream.write(b"all of it")
        if await stream.read_bytes(1) == b"c":
            stream.socket.shutdown(socket.SHUT_RDWR)  # without a close_notify

    async with await serve(handler) as server:
        for command, real_error in [(b"e", type(None)), (b"c", ssl.SSLEOFError)]:
            async with await connect_tcp(LOCAL, server.port, ssl=client_context) as stream:
                await stream.write(command)
                if command == b"e":
                    assert await stream.read_until_close() == b"all of it"
                with pytest.raises(StreamClosedError) as caught:
                    await stream.read_until(b"\n")
                assert isinstance(caught.value.real_error, real_error)
                assert type(stream.error) is real_error or stream.error is None


async def test_an_end_right_behind_the_bytes_is_noticed(server_context, client_context):
    """Also where the end is in the same receipt as the last bytes, and the socket stays open."""
    with socket.create_server((LOCAL, 0)) as listener:
        client = socket.create_connection(listener.getsockname())
        raw, _ = listener.accept()
    stream = SSLIOStream(client, ssl_options=client_context, server_hostname="localhost")

    def serve():
        server = server_context.wrap_socket(raw, server_side=True)
        server.send(b"bytes")
        try:
            server.settimeout(0.05)
            server.unwrap()
        except OSError:
            pass
        return server

    serving = asyncio.create_task(asyncio.to_thread(serve))
    await stream.wait_for_handshake()
    assert await asyncio.wait_for(stream.read_until_close(), 10) == b"bytes"
    (await serving).close()
    stream.close()


@pytest.mark.parametrize("how", ["timeout", "close", "cancel", "reset"])
async def test_a_handshake_that_never_ends(server_context, client_context, how):
    with socket.create_server((LOCAL, 0)) as listener:
        client = socket.create_connection(listener.getsockname())
        raw, _ = listener.accept()
    with raw:
        stream = SSLIOStream(
            client,
            ssl_options=client_context,
            server_hostname="localhost",
            handshake_timeout=0.01 if how == "timeout" else None,
        )
        handshake = stream.wait_for_handshake()
        reading = stream.read_bytes(1)
        await asyncio.sleep(0.005)
        error = TimeoutError
        if how == "close":
            stream.close()
            error = StreamClosedError
        elif how == "cancel":
            handshake.cancel()
            error = asyncio.CancelledError
        elif how == "reset":
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            raw.close()
            error = ConnectionResetError
        with pytest.raises(error):
            await handshake
        if how != "cancel":
            with pytest.raises(StreamClosedError):
                await reading
            with pytest.raises((TimeoutError, StreamClosedError, ConnectionResetError)):
                await stream.wait_for_handshake()
        else:
            assert not stream.closed()
        stream.close()
    gc.collect()


async def test_a_wrapped_socket_will_do(server_context, client_context):
    handshakes = asyncio.Queue()
    with socket.create_server((LOCAL, 0)) as listener:
        client = socket.create_connection(listener.getsockname())
        raw, _ = listener.accept()
    ends = []
    for sock, context, server_side in [
        (raw, server_context, True),
        (client, client_context, False),
    ]:
        wrapped = context.wrap_socket(
            sock,
            server_side=server_side,
            do_handshake_on_connect=False,
            server_hostname=None if server_side else "localhost",
        )
        stream = SSLIOStream(wrapped)
        stream.wait_for_handshake(handshakes.put_nowait)
        ends.append(stream)
    assert {await handshakes.get(), await handshakes.get()} == set(ends)
    server, client = ends
    assert await client.wait_for_handshake() is client
    await client.write(b"x\n")
    assert await server.read_until(b"\n") == b"x\n"
    client.close()
    assert await server.read_until_close() == b""
    assert server.error is None
    server.close()


async def test_connect_and_shake_hands(serve, client_context):
    async with await serve() as server:
        stream = SSLIOStream(socket.socket(), ssl_options=client_context)
        early = None
        connecting = asyncio.create_task(
            stream.connect((LOCAL, server.port), server_hostname="localhost")
        )
        await asyncio.sleep(0)
        early = stream.write(b"early\n")
        assert await connecting is stream
        await early
        assert await stream.read_until(b"\n") == b"early\n"
        stream.close()
        stream = SSLIOStream(socket.socket(), ssl_options=client_context)
        with pytest.raises(ssl.SSLCertVerificationError):
            await stream.connect((LOCAL, server.port), server_hostname="wrong")
        assert stream.closed()


async def test_reads_begin_the_handshake(server_context, client_context):
    with socket.create_server((LOCAL, 0)) as listener:
        client = socket.create_connection(listener.getsockname())
        raw, _ = listener.accept()
    one = SSLIOStream(raw, ssl_options=server_context, server_side=True)
    two = SSLIOStream(client, ssl_options=client_context, server_hostname="localhost")
    reading = one.read_bytes(3)
    await two.write(b"abc")
    assert await reading == b"abc"
    one.close()
    two.close()


async def test_cancelled_at_every_moment(serve, client_context):
    async with await serve() as server:
        for moment in range(400):
            connecting = asyncio.create_task(connect_tcp(LOCAL, server.port, ssl=client_context))
            for _ in range(moment):
                await asyncio.sleep(0)
            if connecting.done():
                connecting.result().close()
                break
            connecting.cancel()
            await asyncio.wait([connecting])
            assert connecting.cancelled()
        gc.collect()


def test_a_plain_stream_is_no_tls_stream():
    assert issubclass(SSLIOStream, IOStream)


def tls_ends(server_context, client_context):
    """A blocking TLS server's end in a thread to come, and a stream to it, over loopback."""
    with socket.create_server((LOCAL, 0)) as listener:
        client = socket.create_connection(listener.getsockname())
        raw, _ = listener.accept()
    stream = SSLIOStream(client, ssl_options=client_context, server_hostname="localhost")
    return raw, stream


@pytest.mark.only_on("linux", "darwin")
@pytest.mark.parametrize("size", [100, 1_000_000])
async def test_closing_right_after_a_write_cuts_nothing_off(server_context, client_context, size):
    """The server's session tickets come when the client is closed already."""
    raw, stream = tls_ends(server_context, client_context)
    go_on = threading.Event()

    def serve():
        with server_context.wrap_socket(
            raw, server_side=True, suppress_ragged_eofs=False
        ) as server:
            go_on.wait(10)
            received = 0
            while data := server.recv(65536):
                received += len(data)
            return received

    serving = asyncio.create_task(asyncio.to_thread(serve))
    await stream.wait_for_handshake()
    writing = stream.write(b"x" * size)
    if size == 100:
        await writing
    else:
        go_on.set()
        await writing
    stream.close()
    assert stream.closed()
    go_on.set()
    assert await serving == size


@pytest.mark.only_on("linux", "darwin")
async def test_the_alert_is_sent_also_when_the_kernel_is_full(server_context, client_context):
    left, right = socket.socketpair()
    stream = SSLIOStream(left, ssl_options=client_context, server_hostname="localhost")
    go_on = threading.Event()

    def serve():
        with server_context.wrap_socket(
            right, server_side=True, suppress_ragged_eofs=False
        ) as server:
            go_on.wait(10)
            received = 0
            while data := server.recv(65536):
                received += len(data)
            return received

    serving = asyncio.create_task(asyncio.to_thread(serve))
    await stream.wait_for_handshake()
    sent = 0
    while not stream.writing():
        last = stream.write(b"x" * 1000)
        sent += 1000
    go_on.set()
    await last
    go_on.clear()
    stream.close()
    go_on.set()
    assert await serving == sent


@pytest.mark.only_on("linux", "darwin")
async def test_nobody_waits_for_ever_for_the_other_ends_end(
    server_context, client_context, monkeypatch
):
    import waterspout.iostream._linger as module

    monkeypatch.setattr(module, "LINGER_SECONDS", 0.02)
    raw, stream = tls_ends(server_context, client_context)
    release = threading.Event()

    def serve():
        with server_context.wrap_socket(raw, server_side=True) as server:
            server.send(b"x" * 100)
            release.wait(10)

    serving = asyncio.create_task(asyncio.to_thread(serve))
    await stream.read_bytes(1)
    fd = stream.fileno()
    stream.close()
    os.fstat(fd)  # lingers
    while True:
        try:
            os.fstat(fd)
        except OSError:
            break
        await asyncio.sleep(0.005)
    release.set()
    await serving


@pytest.mark.only_on("linux", "darwin")
def test_a_loop_that_ends_lets_it_go(server_context, client_context, loop_factory):
    raw, stream = tls_ends(server_context, client_context)
    release = threading.Event()

    def serve():
        with server_context.wrap_socket(raw, server_side=True):
            release.wait(10)

    thread = threading.Thread(target=serve)
    thread.start()

    async def main():
        await stream.wait_for_handshake()
        stream.close()

    with asyncio.Runner(loop_factory=loop_factory) as runner:
        runner.run(main())
    gc.collect()
    release.set()
    thread.join()


@pytest.mark.only_on("linux", "darwin")
def test_a_loop_that_closes_its_descriptors_closes_it_once(server_context, client_context):
    raw, stream = tls_ends(server_context, client_context)
    release = threading.Event()

    def serve():
        with server_context.wrap_socket(raw, server_side=True):
            release.wait(10)

    thread = threading.Thread(target=serve)
    thread.start()
    loop = IOLoop(make_current=False)

    async def main():
        await stream.wait_for_handshake()
        fd = stream.fileno()
        stream.close()
        return fd

    fd = loop.run_sync(main)
    loop.close(all_fds=True)
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(fd)
    del loop
    gc.collect()
    release.set()
    thread.join()


async def test_a_write_that_wants_to_read_does_not_spin(server_context, authority):
    context = ssl.create_default_context()
    authority.configure_trust(context)
    context.maximum_version = ssl.TLSVersion.TLSv1_2  # later ones send tickets of their own accord
    raw, stream = tls_ends(server_context, context)
    server = SSLIOStream(raw, ssl_options=server_context, server_side=True)
    await asyncio.gather(stream.wait_for_handshake(), server.wait_for_handshake())
    calls = []
    real = stream.write_to_fd

    def write_to_fd(data):
        calls.append(len(data))
        if len(calls) == 1:
            stream._write_wants_read = True
            return 0
        return real(data)

    stream.write_to_fd = write_to_fd
    writing = stream.write(b"wait\n")
    await asyncio.sleep(0.02)
    assert len(calls) == 1
    await server.write(b"go on\n")
    await writing
    assert await server.read_until(b"\n") == b"wait\n"
    assert await stream.read_until(b"\n") == b"go on\n"
    real_read = stream.read_from_fd
    stream._read_wants_write = True  # and a read that wants to write goes on when it can
    reading = stream.read_until(b"\n")
    await server.write(b"more\n")
    assert await reading == b"more\n"
    assert real_read is not None
    stream.close()
    server.close()


async def test_a_name_that_is_none_is_an_error(serve, client_context):
    async with await serve() as server:
        for name in (".example.com", "a" * 64 + ".com"):
            with pytest.raises((ValueError, OSError)):
                await asyncio.wait_for(
                    connect_tcp(LOCAL, server.port, ssl=client_context, server_hostname=name), 10
                )
    gc.collect()


async def test_a_handshake_that_fails_inside_a_write_says_why(client_context):
    left, right = socket.socketpair()
    right.send(b"HTTP/1.1 400 Bad Request\r\n\r\n")
    stream = SSLIOStream(left, ssl_options=client_context, server_hostname="localhost")
    with pytest.raises(StreamClosedError) as caught:
        await stream.write(b"x")
    assert isinstance(caught.value.real_error, ssl.SSLError)
    with pytest.raises(ssl.SSLError):
        await stream.wait_for_handshake()
    right.close()


async def test_a_client_that_resets_at_once_is_not_reported(serve):
    reports = []
    asyncio.get_running_loop().set_exception_handler(lambda _, c: reports.append(c))
    async with await serve() as server:
        for _ in range(5):
            client = socket.create_connection((LOCAL, server.port))
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            client.close()
        async with await connect_tcp(LOCAL, server.port):
            await asyncio.sleep(0.01)
    assert reports == []


async def test_closing_does_not_wait_for_handshakes(serve):
    server = await serve(handshake_timeout=None)
    with socket.create_connection((LOCAL, server.port)):
        while not server.connections:
            await asyncio.sleep(0.001)
        await asyncio.wait_for(server.close(), 10)


async def test_a_socket_that_was_used_before(server_context, client_context):
    raw, unused = tls_ends(server_context, client_context)
    sock = client_context.wrap_socket(
        unused.socket.raw, server_hostname="localhost", do_handshake_on_connect=False
    )
    ready = threading.Event()

    def serve():
        with server_context.wrap_socket(raw, server_side=True) as server:
            server.send(b"0123456789")
            ready.wait(10)

    serving = asyncio.create_task(asyncio.to_thread(serve))

    def begin():
        sock.setblocking(True)
        sock.do_handshake()
        return sock.recv(5)

    assert await asyncio.to_thread(begin) == b"01234"
    stream = SSLIOStream(sock)
    assert await asyncio.wait_for(stream.read_bytes(5), 10) == b"56789"
    stream.close()
    ready.set()
    await serving
    wrapped = client_context.wrap_socket(socket.socket(), server_hostname="localhost")
    with wrapped, pytest.raises(ValueError, match="must be connected if it is an SSLSocket"):
        SSLIOStream(wrapped)


async def test_the_handshake_has_succeeded_also_when_the_stream_is_closed(serve, client_context):
    async with await serve() as server:
        async with await connect_tcp(LOCAL, server.port, ssl=client_context) as stream:
            pass
        assert await stream.wait_for_handshake() is stream


async def test_last_words_that_nobody_takes_end_with_the_loop(server_context, client_context):
    """Whatever state they are in: nothing is left open, and nobody complains."""
    import gc

    def run(first):
        async def main():
            left, right = socket.socketpair()
            client = SSLIOStream(left, ssl_options=client_context, server_hostname="localhost")
            server = SSLIOStream(right, ssl_options=server_context, server_side=True)
            await asyncio.gather(client.wait_for_handshake(), server.wait_for_handshake())
            if first:
                client.write(b"x" * 10_000_000)  # there is no room for the alert
            client.close()
            server.close()
            return client

        with asyncio.Runner() as runner:
            runner.run(main())

    for first in (False, True):
        await asyncio.to_thread(run, first)
        gc.collect()


@pytest.mark.waterspout("asyncio")
async def test_a_default_timeout_of_sockets_does_not_block_the_loop(server_context, client_context):
    left, right = socket.socketpair()
    client = SSLIOStream(left, ssl_options=client_context, server_hostname="localhost")
    server = SSLIOStream(right, ssl_options=server_context, server_side=True)
    await asyncio.gather(client.wait_for_handshake(), server.wait_for_handshake())
    socket.setdefaulttimeout(5)
    try:
        started = asyncio.get_running_loop().time()
        client.close()
        assert asyncio.get_running_loop().time() - started < 4
    finally:
        socket.setdefaulttimeout(None)
    server.close()


@pytest.mark.parametrize("first", ["write", "wait_for_handshake"])
async def test_a_read_that_begins_during_the_handshake(server_context, client_context, first):
    left, right = socket.socketpair()
    client = SSLIOStream(left, ssl_options=client_context, server_hostname="localhost")
    server = SSLIOStream(right, ssl_options=server_context, server_side=True)
    async with client, server:
        client.write(b"ping\n") if first == "write" else client.wait_for_handshake()
        reading = client.read_until(b"\n")
        await server.write(b"hello\n")
        assert await reading == b"hello\n"
