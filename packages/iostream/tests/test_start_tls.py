"""TLS on a connection that was plain before, or was TLS already."""

import asyncio
import socket
import ssl

import pytest

from waterspout.ioloop.testing import cancel_everywhere, simulate
from waterspout.iostream import IOStream, SSLIOStream, StreamClosedError
from waterspout.iostream.testing import Link, SimulatedNetwork

DATA = bytes(range(256)) * 1000


@pytest.fixture
def pair():
    left, right = (IOStream(end) for end in socket.socketpair())
    yield left, right
    left.close()
    right.close()


async def both(left, right, server_context, client_context):
    """Go on in TLS on both sides."""
    return await asyncio.gather(
        left.start_tls(False, client_context, "localhost"),
        right.start_tls(True, server_context),
    )


async def exchange(left, right):
    for stream, other in ((left, right), (right, left)):
        written = stream.write(DATA)
        assert await other.read_bytes(len(DATA)) == DATA
        await written


async def test_both_sides_go_on_in_tls(pair, server_context, client_context):
    left, right = pair
    await left.write(b"STARTTLS\n")
    assert await right.read_until(b"\n") == b"STARTTLS\n"
    closed = asyncio.Queue()
    left.set_close_callback(lambda: closed.put_nowait("left"))
    client, server = await both(left, right, server_context, client_context)
    async with client, server:
        assert isinstance(client, SSLIOStream)
        await exchange(client, server)
        assert client.peer_certificate()["subjectAltName"]
        assert client.peer_certificate(binary=True)
        assert server.peer_certificate() is None
        assert closed.empty()
    assert await closed.get() == "left"


async def test_the_old_stream_is_of_no_use_any_more(pair, server_context, client_context):
    left, right = pair
    client, server = await both(left, right, server_context, client_context)
    async with client, server:
        assert left.closed()
        assert left.fileno() == -1
        for use in (
            lambda: left.write(b"x"),
            lambda: left.read_bytes(1),
            lambda: left.start_tls(False, client_context, "localhost"),
            left.write_eof,
        ):
            with pytest.raises(StreamClosedError, match="given away to start_tls"):
                use()
        left.close()
        await exchange(client, server)


async def test_bytes_that_are_there_already_are_the_handshakes(
    pair, server_context, client_context
):
    left, right = pair
    handshake = left.start_tls(False, client_context, "localhost")
    assert await right.peek(1) == b"\x16"  # the first record was read ahead
    server = await right.start_tls(True, server_context)
    async with server, await handshake as client:
        await exchange(client, server)


async def test_tls_inside_tls(pair, server_context, client_context):
    left, right = pair
    outer = await both(left, right, server_context, client_context)
    inner = await both(*outer, server_context, client_context)
    innermost = await both(*inner, server_context, client_context)
    await exchange(*innermost)
    innermost[0].close()
    assert await innermost[1].read_until_close() == b""
    innermost[1].close()


@pytest.mark.parametrize("chunk", [1, 100, None])
def test_over_a_simulated_network(server_context, client_context, chunk):
    async def main():
        link = Link(latency=0.01) if chunk is None else Link(latency=0.01, chunk=chunk)
        with SimulatedNetwork(link) as network:
            client, server = await both(*network.pair(), server_context, client_context)
            client, server = await both(client, server, server_context, client_context)
            written = client.write(DATA[:2000])
            assert await server.read_bytes(2000) == DATA[:2000]
            await written
            client.close()
            server.close()
            await asyncio.sleep(60)

    simulate(main)


async def test_what_is_pending_forbids_it(pair, client_context):
    left, right = pair
    reading = left.read_bytes(1)
    with pytest.raises(RuntimeError, match="while a read or write is pending"):
        left.start_tls(False, client_context, "localhost")
    right.write(b"x")
    assert await reading == b"x"
    left.write(DATA * 20)
    assert left.writing()
    with pytest.raises(RuntimeError, match="while a read or write is pending"):
        left.start_tls(False, client_context, "localhost")
    await right.read_bytes(len(DATA) * 20)
    right.write_eof()
    with pytest.raises(RuntimeError, match="not connected, or half closed"):
        right.start_tls(False, client_context, "localhost")
    with IOStreamOf(socket.socket()) as unconnected:
        with pytest.raises(RuntimeError, match="not connected"):
            unconnected.start_tls(False, client_context, "localhost")


class IOStreamOf(IOStream):
    def __enter__(self):
        return self

    def __exit__(self, *exc_info):
        self.close()


async def test_bad_arguments_change_nothing(pair, client_context):
    left, right = pair
    with pytest.raises(ValueError, match="server_hostname is needed"):
        left.start_tls(False)
    with pytest.raises(ValueError, match="must have a certificate"):
        left.start_tls(True)
    with pytest.raises(TypeError, match="ssl_options must be"):
        left.start_tls(False, 5, "localhost")
    with pytest.raises(ValueError, match="server_hostname"):
        left.start_tls(False, client_context, ".bad")
    with pytest.raises(ValueError, match="handshake_timeout must not be NaN"):
        left.start_tls(False, client_context, "localhost", handshake_timeout=float("nan"))
    await left.write(b"as before")
    assert await right.read_bytes(9) == b"as before"


async def test_a_name_that_is_another_fails(pair, server_context, client_context):
    left, right = pair
    server = right.start_tls(True, server_context)
    with pytest.raises(ssl.SSLCertVerificationError, match="not valid for 'elsewhere'"):
        await left.start_tls(False, client_context, "elsewhere")
    with pytest.raises(OSError):
        await server


async def test_the_other_end_speaks_no_tls(pair, client_context):
    left, right = pair
    handshake = left.start_tls(False, client_context, "localhost")
    await right.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
    with pytest.raises(ssl.SSLError) as raised:
        await handshake
    assert "does not speak TLS" in raised.value.__notes__[0]


async def test_plain_http_on_a_tls_port(pair, server_context):
    left, right = pair
    handshake = right.start_tls(True, server_context)
    await left.write(b"GET / HTTP/1.1\r\n\r\n")
    with pytest.raises(ssl.SSLError) as raised:
        await handshake
    assert "plain HTTP" in raised.value.__notes__[0]


async def test_no_version_in_common(pair, server_context, authority):
    left, right = pair
    old = ssl.create_default_context()
    authority.configure_trust(old)
    old.maximum_version = ssl.TLSVersion.TLSv1_2
    new = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("localhost").configure_cert(new)
    new.minimum_version = ssl.TLSVersion.TLSv1_3
    server = right.start_tls(True, new)
    with pytest.raises(ssl.SSLError):
        await left.start_tls(False, old, "localhost")
    with pytest.raises(ssl.SSLError) as raised:
        await server
    assert "no version of TLS" in raised.value.__notes__[0]


async def test_what_both_sides_speak(pair, authority):
    left, right = pair
    server_context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("localhost").configure_cert(server_context)
    client_context = ssl.create_default_context()
    authority.configure_trust(client_context)
    for context in (server_context, client_context):
        context.set_alpn_protocols(["h2", "http/1.1"])
    handshake = left.start_tls(False, client_context, "localhost")
    server = await right.start_tls(True, server_context)
    async with server, await handshake as client:
        assert client.negotiated_protocol == server.negotiated_protocol == "h2"


async def test_a_client_with_a_certificate(pair, authority):
    left, right = pair
    server_context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    client_context = ssl.create_default_context()
    for context in (server_context, client_context):
        authority.issue_cert("localhost").configure_cert(context)
        authority.configure_trust(context)
    server_context.verify_mode = ssl.CERT_REQUIRED
    client, server = await both(left, right, server_context, client_context)
    async with client, server:
        assert server.peer_certificate()["subjectAltName"] == (("DNS", "localhost"),)
        await exchange(client, server)


@pytest.mark.waterspout("simulated")
async def test_a_handshake_that_takes_too_long(client_context):
    with SimulatedNetwork() as network:
        left, right = network.pair()
        with pytest.raises(TimeoutError, match="the TLS handshake took too long"):
            await left.start_tls(False, client_context, "localhost", handshake_timeout=3)
        assert asyncio.get_running_loop().time() < 10
        right.close()


@pytest.mark.slow
def test_cancelled_at_every_moment(server_context, client_context):
    """The connection is closed then, at both ends."""

    async def scenario(state):
        with SimulatedNetwork(Link(latency=0.1)) as network:
            left, right = network.pair()
            state.streams = [left, right]
            server = right.start_tls(True, server_context)
            try:
                client = await left.start_tls(False, client_context, "localhost")
                state.streams.append(client)
                await client.write(b"x")
                client.close()
                state.streams.append(await server)
                assert await state.streams[-1].read_until_close() == b"x"
            finally:
                server.cancel()
                await asyncio.sleep(60)
                for stream in state.streams:
                    stream.close()

    def check(state):
        assert all(stream.closed() for stream in getattr(state, "streams", []))

    cancel_everywhere(scenario, check)
