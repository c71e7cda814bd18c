"""What a stream of TLS answers in each of its states: never an accident of an inner object."""

import asyncio
import io
import socket
import ssl

import pytest

from waterspout.iostream import SSLIOStream, StreamClosedError

ENGINES = pytest.mark.parametrize("engine", ["memory", "socket"])


@pytest.fixture
def contexts(authority):
    """Of a server and a client that show certificates, and agree on a protocol."""
    server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    client = ssl.create_default_context()
    for context in (server, client):
        authority.issue_cert("localhost").configure_cert(context)
        authority.configure_trust(context)
        context.set_alpn_protocols(["h2"])
    server.verify_mode = ssl.CERT_REQUIRED
    return server, client


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


async def pair_of(contexts, engine, **kwargs):
    """Two streams over a connection, after the handshake."""
    left, right = socket.socketpair()
    client = new_stream(left, contexts[1], engine, **kwargs)
    server = new_stream(right, contexts[0], engine, server_side=True, **kwargs)
    await asyncio.gather(client.wait_for_handshake(), server.wait_for_handshake())
    return client, server


# Calls of everything that is public, with arguments that would do.
OPERATIONS = {
    "connect": lambda stream: stream.connect(("127.0.0.1", 1)),
    "peek": lambda stream: stream.peek(1),
    "read_bytes": lambda stream: stream.read_bytes(1),
    "read_into": lambda stream: stream.read_into(bytearray(1)),
    "read_until": lambda stream: stream.read_until(b"\n"),
    "read_until_close": lambda stream: stream.read_until_close(),
    "read_until_regex": lambda stream: stream.read_until_regex(b"x"),
    "sendfile": lambda stream: stream.sendfile(io.BytesIO(b"x")),
    "start_tls": lambda stream: stream.start_tls(False, None, "localhost"),
    "write": lambda stream: stream.write(b"x"),
}
ANSWERS = {
    "can_write_eof": lambda stream: stream.can_write_eof,
    "close": lambda stream: stream.close(),
    "close_fd": None,  # of subclasses
    "closed": lambda stream: stream.closed(),
    "error": lambda stream: stream.error,
    "fileno": lambda stream: stream.fileno(),
    "negotiated_protocol": lambda stream: stream.negotiated_protocol,
    "peer_certificate": lambda stream: (stream.peer_certificate(), stream.peer_certificate(True)),
    "read_from_fd": None,
    "reading": lambda stream: stream.reading(),
    "repr": repr,
    "set_close_callback": lambda stream: stream.set_close_callback(None),
    "set_nodelay": lambda stream: stream.set_nodelay(True),
    "shut_down_fd": None,
    "socket": lambda stream: stream.socket,
    "wait_for_handshake": None,  # see below
    "write_eof": None,  # NotImplementedError always
    "write_to_fd": None,
    "writing": lambda stream: stream.writing(),
}


def test_the_table_is_complete():
    public = {name for name in dir(SSLIOStream) if not name.startswith("_")}
    assert public | {"repr", "error", "socket"} == {*OPERATIONS, *ANSWERS}


async def closed_stream(contexts, engine, how):
    """Give a stream in one of the states in which nothing can be done any more."""
    client, server = await pair_of(contexts, engine)
    if how == "closed":
        client.close()
    elif how == "closed by the peer":
        server.close()
        assert await client.read_until_close() == b""
    elif how == "closed with an error":
        client.close(ValueError("no matter"))
    elif how == "cut off":
        socket.socket.shutdown(
            server.socket if engine == "socket" else server.socket.raw, socket.SHUT_RDWR
        )
        with pytest.raises(StreamClosedError):
            await client.read_bytes(1)
    else:
        inner = client.start_tls(False, contexts[1], "localhost")
        inner.cancel()
        await asyncio.wait([inner])
        await asyncio.sleep(0)  # the new stream is closed then
    return client, server


@ENGINES
@pytest.mark.parametrize(
    "how", ["closed", "closed by the peer", "closed with an error", "cut off", "detached"]
)
async def test_every_answer_of_a_closed_stream(contexts, engine, how):
    client, server = await closed_stream(contexts, engine, how)
    assert client.closed()
    for name, ask in ANSWERS.items():
        if ask is not None and name != "close":
            ask(client)
    assert "closed" in repr(client)
    assert not client.reading()
    assert not client.writing()
    # What was known is known.
    assert client.negotiated_protocol == "h2"
    assert client.peer_certificate()["subjectAltName"] == (("DNS", "localhost"),)
    assert isinstance(client.peer_certificate(binary=True), bytes)
    assert await client.wait_for_handshake() is client
    for name, operation in OPERATIONS.items():
        if name == "read_until_close" and how == "closed by the peer":
            assert await operation(client) == b""
            continue
        with pytest.raises(StreamClosedError):
            await operation(client)
    with pytest.raises(NotImplementedError):
        client.write_eof()
    client.close()
    server.close()


@ENGINES
async def test_every_answer_of_a_stream_that_never_shook_hands(contexts, engine):
    left, right = socket.socketpair()
    client = new_stream(left, contexts[1], engine)
    for closed in (False, True):
        for name, ask in ANSWERS.items():
            if ask is not None and name != "close":
                ask(client)
        assert client.negotiated_protocol is None
        assert client.peer_certificate() is None
        assert client.peer_certificate(binary=True) is None
        assert client.closed() is closed
        client.close()
    with pytest.raises(StreamClosedError):
        await client.wait_for_handshake()
    for operation in OPERATIONS.values():
        with pytest.raises(StreamClosedError):
            await operation(client)
    right.close()


async def test_every_answer_of_a_stream_that_never_connected(contexts):
    stream = SSLIOStream(socket.socket(), ssl_options=contexts[1], server_hostname="localhost")
    for closed in (False, True):
        for name, ask in ANSWERS.items():
            if ask is not None and name != "close":
                ask(stream)
        assert stream.negotiated_protocol is None
        assert stream.peer_certificate() is None
        assert stream.closed() is closed
        if not closed:
            with pytest.raises(RuntimeError, match="not connected"):
                stream.wait_for_handshake()
            with pytest.raises(RuntimeError, match="not connected"):
                stream.start_tls(False, contexts[1], "localhost")
        stream.close()
    with pytest.raises(StreamClosedError):
        await stream.wait_for_handshake()
    for operation in OPERATIONS.values():
        with pytest.raises(StreamClosedError):
            await operation(stream)


async def test_what_a_failed_handshake_leaves_to_be_asked(contexts):
    left, right = socket.socketpair()
    client = new_stream(left, contexts[1], "memory")
    right.send(b"HTTP/1.1 400 Bad Request\r\n\r\n")
    with pytest.raises(ssl.SSLError) as raised:
        await client.wait_for_handshake()
    assert client.closed()
    assert client.peer_certificate() is None
    assert client.negotiated_protocol is None
    assert type(client.error) is type(raised.value)
    right.close()


@ENGINES
async def test_the_socket_answers_what_an_ssl_socket_does(contexts, engine):
    client, server = await pair_of(contexts, engine)
    async with client, server:
        assert client.socket.version() in ("TLSv1.2", "TLSv1.3")
        assert len(client.socket.cipher()) == 3
        assert client.socket.getpeercert()["subject"] is not None
        assert client.socket.selected_alpn_protocol() == "h2"
        assert client.socket.server_hostname == "localhost"
        assert client.socket.server_side is False
        assert server.socket.server_side is True
        assert client.socket.context is contexts[1]
        assert client.socket.family == socket.AF_UNIX
        assert client.socket.gettimeout() == 0
        assert client.socket.fileno() == client.fileno()
        assert client.socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == 0


NOT_THERE = ["recv", "recv_into", "sendall", "read", "write", "unwrap", "_private", "nonsense"]


@pytest.mark.parametrize("name", NOT_THERE)
async def test_bytes_do_not_go_past_the_stream(contexts, name):
    """Which would put what the two sides encrypt out of step."""
    client, server = await pair_of(contexts, "memory")
    async with client, server:
        assert not hasattr(client.socket, name)
        with pytest.raises(AttributeError, match="no attribute"):
            getattr(client.socket, name)


@pytest.mark.parametrize("engine", ["memory", "socket"])
async def test_tls_inside_of_either_engine_answers_as_well(contexts, engine):
    client, server = await pair_of(contexts, engine)
    inside, inner = await asyncio.gather(
        client.start_tls(False, contexts[1], "localhost"), server.start_tls(True, contexts[0])
    )
    async with inside, inner:
        assert inside.socket.family == socket.AF_UNIX
        assert inside.socket.version() == client.socket.version()
        assert not hasattr(inside.socket.raw, "recv")
        await inside.write(b"x\n")
        assert await inner.read_until(b"\n") == b"x\n"
    assert inside.peer_certificate()
    assert client.peer_certificate()
    assert client.negotiated_protocol == "h2"
