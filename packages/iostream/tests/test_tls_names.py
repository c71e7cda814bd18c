"""The name to look up and the name to verify."""

import asyncio
import socket
import ssl

import pytest

import waterspout.iostream._network as network_module
from waterspout.iostream import IOStream, SSLIOStream, connect_tcp, connect_unix, serve_tcp
from waterspout.iostream._tlscontext import verification_name

LOCAL = "127.0.0.1"

NAMES = {
    "files.example": "files.example",
    "files.example.": "files.example",
    "localhost": "localhost",
    "localhost.": "localhost",
    "Files.EXAMPLE": "files.example",
    "my_service.internal": "my_service.internal",
    "xn--bcher-kva.example": "xn--bcher-kva.example",
    "bücher.example": "xn--bcher-kva.example",
    "BÜCHER.example.": "xn--bcher-kva.example",
    "bücher。example。": "xn--bcher-kva.example",
    "127.0.0.1": "127.0.0.1",
    "127.1": "127.0.0.1",
    "127.0.0.1.": "127.0.0.1",
    "0x7f.1": "127.0.0.1",
    "0X7F000001": "127.0.0.1",
    "2130706433": "127.0.0.1",
    "0177.0.0.01": "127.0.0.1",
    "１２７.0.0.1": "127.0.0.1",
    "::1": "::1",
    "[::1]": "::1",
    "0:0:0:0:0:0:0:1": "::1",
    "FE80::1%eth0": "fe80::1",
    "fe80::1%25": "fe80::1",
    "cafe": "cafe",
    "1.2.3.4.5": "1.2.3.4.5",
    "a" * 63 + ".example": "a" * 63 + ".example",
}
NO_NAMES = [
    *("", " ", ".", "..", ".example", "a..example", "example..", "*.example", "a b", " a", "a\n"),
    *("a\0b", "a:443", "http://a", "a/b", "user@a", "[127.0.0.1]", "[a]", "[::1", "::1]", "::g"),
    *("127.0.0.1 x", "fe80::1%", "x" * 64 + ".example", "ü" * 64, "a." * 127 + "ab"),
]
NO_NAMES.remove("fe80::1%")  # an empty zone is none


@pytest.mark.parametrize(("host", "name"), NAMES.items())
def test_name_to_verify(host, name):
    assert verification_name(host) == name
    assert verification_name(name) == name


@pytest.mark.parametrize("host", NO_NAMES)
def test_no_name_to_verify(host):
    with pytest.raises(ValueError, match="server_hostname must be a host's name") as raised:
        verification_name(host)
    assert repr(host) in str(raised.value)


@pytest.fixture
def names(monkeypatch):
    """Lets some names resolve to this machine."""
    real = socket.getaddrinfo

    def getaddrinfo(host, *args, **kwargs):
        found = host in ("files.example", "files.example.", "FILES.example")
        return real(LOCAL if found else host, *args, **kwargs)

    monkeypatch.setattr(network_module._socket, "getaddrinfo", getaddrinfo)


@pytest.fixture
def contexts(authority):
    """Contexts of a server and a client, and the names that clients asked for."""
    asked = []
    server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("files.example", LOCAL, "::1").configure_cert(server)
    server.sni_callback = lambda sock, name, context: asked.append(name)
    client = ssl.create_default_context()
    authority.configure_trust(client)
    return server, client, asked


async def greet(stream):
    await stream.write(b"hello\n")


@pytest.mark.parametrize("way", ["host", "server_hostname", "connect", "start_tls", "constructor"])
@pytest.mark.parametrize("name", ["files.example", "files.example.", "FILES.example"])
async def test_every_way_to_name_a_server(names, contexts, way, name):
    server_context, client_context, asked = contexts
    async with await serve_tcp(greet, LOCAL, ssl=server_context) as server:
        if way == "host":
            stream = await connect_tcp(name, server.port, ssl=client_context)
        elif way == "server_hostname":
            stream = await connect_tcp(LOCAL, server.port, ssl=client_context, server_hostname=name)
        elif way == "connect":
            stream = SSLIOStream(socket.socket(), ssl_options=client_context)
            await stream.connect((name, server.port), server_hostname=name)
        elif way == "constructor":
            stream = SSLIOStream(socket.socket(), ssl_options=client_context, server_hostname=name)
            await stream.connect((name, server.port))
        else:
            plain = await IOStream(socket.socket()).connect((name, server.port))
            stream = await plain.start_tls(False, client_context, name)
        async with stream:
            assert await stream.read_until(b"\n") == b"hello\n"
    assert asked == ["files.example"]


@pytest.mark.parametrize("host", [LOCAL, "127.1", "0x7f.1"])
async def test_addresses_are_verified_and_not_asked_for(contexts, host):
    server_context, client_context, asked = contexts
    async with await serve_tcp(greet, LOCAL, ssl=server_context) as server:
        async with await connect_tcp(host, server.port, ssl=client_context) as stream:
            assert await stream.read_until(b"\n") == b"hello\n"
    assert asked == [None]


async def test_an_address_with_a_zone_is_verified_without_it(contexts):
    server_context, client_context, asked = contexts
    try:
        server = await serve_tcp(greet, "::1", ssl=server_context)
    except OSError:
        pytest.skip("there is no IPv6")
    async with server:
        async with await connect_tcp("::1%1", server.port, ssl=client_context) as stream:
            assert await stream.read_until(b"\n") == b"hello\n"
    assert asked == [None]


@pytest.mark.parametrize("name", ["", ".", "a b", "a:443", "x" * 64])
async def test_no_name_is_an_error_of_the_call(contexts, name):
    _, client_context, _ = contexts
    left, right = socket.socketpair()
    with right, socket.socket() as unconnected:
        left.settimeout(5)
        match = "server_hostname must be a host's name"
        with pytest.raises(ValueError, match=match):
            await connect_tcp(LOCAL, 1, ssl=client_context, server_hostname=name)
        with pytest.raises(ValueError, match=match):
            await connect_unix("/nowhere", ssl=client_context, server_hostname=name)
        with pytest.raises(ValueError, match=match):
            SSLIOStream(left, ssl_options=client_context, server_hostname=name)
        assert left.gettimeout() == 5
        stream = IOStream(left)
        with pytest.raises(ValueError, match=match):
            stream.start_tls(False, client_context, name)
        assert not stream.closed()
        stream.close()
        stream = SSLIOStream(unconnected, ssl_options=client_context)
        with pytest.raises(ValueError, match=match):
            await stream.connect((LOCAL, 1), server_hostname=name)
        with pytest.raises(ValueError, match=match):
            stream.connect((LOCAL, 1), lambda _: None, server_hostname=name)
        stream.close()


async def test_a_server_names_nobody(contexts):
    server_context, _, _ = contexts
    left, right = socket.socketpair()
    with left, right:
        with pytest.raises(ValueError, match="server_hostname is for clients"):
            SSLIOStream(
                left, ssl_options=server_context, server_side=True, server_hostname="files.example"
            )
        with pytest.raises(TypeError, match="server_hostname must be a string"):
            SSLIOStream(left, server_hostname=b"files.example")


async def test_without_verification_no_name_is_needed(contexts):
    server_context, _, asked = contexts
    unverified = ssl.create_default_context()
    unverified.check_hostname = False
    unverified.verify_mode = ssl.CERT_NONE
    left, right = socket.socketpair()
    server = SSLIOStream(left, ssl_options=server_context, server_side=True)
    client = SSLIOStream(right, ssl_options=unverified)
    async with server, client:
        await asyncio.gather(server.wait_for_handshake(), client.wait_for_handshake())
    assert asked == [None]
