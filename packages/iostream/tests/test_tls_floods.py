"""Peers that send many TLS records of little use: the event loop keeps its turn."""

import asyncio
import ctypes
import socket
import ssl
import sys
from pathlib import Path

import pytest

from waterspout.iostream import SSLIOStream, StreamClosedError
from waterspout.iostream._tlsengines import HEADER
from waterspout.iostream._tlsmemory import OUTPUT_LIMIT, MemoryTLSSocket

PARTS = {1: "TLSv1", 2: "TLSv1_1", 3: "TLSv1_2", 4: "TLSv1_3"}


class TLSPeer:
    """The other end of a stream: TLS in memory, whose records a test can see and make."""

    def __init__(self, sock, context, server_side=False):
        self.socket = sock
        sock.setblocking(False)
        self.incoming, self.outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        name = None if server_side else "localhost"
        self.tls = context.wrap_bio(self.incoming, self.outgoing, server_side, name)

    async def send(self, records):
        await asyncio.get_running_loop().sock_sendall(self.socket, records)

    async def exchange(self, operation, *args):
        """Do something that needs answers of the peer."""
        loop = asyncio.get_running_loop()
        while True:
            try:
                result = operation(*args)
            except ssl.SSLWantReadError:
                await self.send(self.outgoing.read())
                self.incoming.write(await loop.sock_recv(self.socket, 65536))
            else:
                await self.send(self.outgoing.read())
                return result

    async def shake_hands(self):
        await self.exchange(self.tls.do_handshake)

    def records(self, operation, *args):
        """Give the records that an operation makes."""
        operation(*args)
        return self.outgoing.read()

    def close(self):
        self.socket.close()


class LibSSL:
    """Functions of OpenSSL that the module `ssl` does not have."""

    def __init__(self):
        maps = Path("/proc/self/maps").read_text().splitlines()
        paths = [line.split()[-1] for line in maps if "libssl" in line]
        if not paths:
            pytest.skip("OpenSSL is linked into the interpreter")
        self._library = ctypes.CDLL(paths[0])

    def call(self, name, tls, *args):
        function = getattr(self._library, name)
        function.argtypes = [ctypes.c_void_p] + [ctypes.c_int] * len(args)
        # A PySSLSocket has its SSL behind the head of the object and a reference to its socket.
        offset = object.__basicsize__ + ctypes.sizeof(ctypes.c_void_p)
        handle = ctypes.c_void_p.from_address(id(tls._sslobj) + offset)
        assert function(handle, *args) == 1, name


@pytest.fixture
def libssl():
    if sys.platform != "linux":
        pytest.skip("is about a build of OpenSSL on Linux")
    return LibSSL()


@pytest.fixture
def connect(server_context, client_context):
    """Makes a stream and its peer, after the handshake."""
    ends = []

    async def connect(server_side=True, version=ssl.TLSVersion.TLSv1_3):
        left, right = socket.socketpair()
        server_context.maximum_version = version
        try:
            if server_side:
                stream = SSLIOStream(left, ssl_options=server_context, server_side=True)
                peer = TLSPeer(right, client_context)
            else:
                stream = SSLIOStream(left, ssl_options=client_context, server_hostname="localhost")
                peer = TLSPeer(right, server_context, server_side=True)
            ends.extend([stream, peer])
            shaking = stream.wait_for_handshake()
            await peer.shake_hands()
            await shaking
        finally:
            server_context.maximum_version = ssl.TLSVersion.MAXIMUM_SUPPORTED
        return stream, peer

    yield connect
    for end in ends:
        end.close()


class Turns:
    """Counts the turns of the loop that others get while something goes on."""

    async def __aenter__(self):
        self.count = 0
        self._task = asyncio.create_task(self._run())
        return self

    async def _run(self):
        while True:
            await asyncio.sleep(0)
            self.count += 1

    async def __aexit__(self, *exc_info):
        self._task.cancel()
        await asyncio.wait([self._task])


async def turns_of(stream, peer, records):
    """Send records and a line, and give the turns that others have until the line is read."""
    line = peer.records(peer.tls.write, b"after all\n")
    sending = asyncio.create_task(peer.send(records + line))
    reading = stream.read_until(b"\n")
    async with Turns() as turns:
        assert await reading == b"after all\n"
    await sending
    return turns.count


NUMBER = 3000


@pytest.mark.parametrize("answer", [0, 1])
async def test_key_updates_leave_the_loop_its_turns(connect, libssl, answer):
    stream, peer = await connect()

    def update():
        libssl.call("SSL_key_update", peer.tls, answer)
        peer.tls.do_handshake()

    records = b"".join(peer.records(update) for _ in range(NUMBER))
    assert await turns_of(stream, peer, records) > NUMBER / 50


async def test_session_tickets_leave_the_loop_its_turns(connect, libssl):
    stream, peer = await connect(server_side=False)

    def ticket():
        libssl.call("SSL_new_session_ticket", peer.tls)
        peer.tls.do_handshake()

    records = b"".join(peer.records(ticket) for _ in range(NUMBER))
    assert len(records) > NUMBER * 100
    assert await turns_of(stream, peer, records) > NUMBER / 50


async def test_requests_to_renegotiate_leave_the_loop_its_turns(connect, libssl, client_context):
    client_context.options |= ssl.OP_NO_RENEGOTIATION
    try:
        stream, peer = await connect(server_side=False, version=ssl.TLSVersion.TLSv1_2)
    finally:
        client_context.options &= ~ssl.OP_NO_RENEGOTIATION
    assert peer.tls.version() == "TLSv1.2"

    def request():
        libssl.call("SSL_renegotiate", peer.tls)
        peer.tls.do_handshake()

    records = b"".join(peer.records(request) for _ in range(NUMBER))
    assert len(records) > NUMBER * 20
    assert await turns_of(stream, peer, records) > NUMBER / 50


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
async def test_tiny_records_leave_the_loop_its_turns(connect, version):
    stream, peer = await connect(version=version)
    records = b"".join(peer.records(peer.tls.write, b"x") for _ in range(NUMBER))
    sending = asyncio.create_task(peer.send(records))
    reading = stream.read_bytes(NUMBER)
    async with Turns() as turns:
        assert await reading == b"x" * NUMBER
    await sending
    assert turns.count > NUMBER / 200


async def test_tiny_records_leave_the_loop_its_turns_in_a_search(connect):
    """A search that would rather have more bytes first does not take them all in one turn."""
    stream, peer = await connect()
    records = b"".join(peer.records(peer.tls.write, b"x") for _ in range(NUMBER))
    sending = asyncio.create_task(peer.send(records + peer.records(peer.tls.write, b"y")))
    reading = stream.read_until_regex(b"y")
    async with Turns() as turns:
        assert await reading == b"x" * NUMBER + b"y"
    await sending
    assert turns.count > NUMBER / 200


async def test_a_write_waits_for_a_handshake_that_the_peer_has_begun(connect, libssl):
    """With TLS 1.2, nothing can be written until it is done."""
    stream, peer = await connect(server_side=False, version=ssl.TLSVersion.TLSv1_2)

    def request():
        libssl.call("SSL_renegotiate", peer.tls)
        peer.tls.do_handshake()

    reading = stream.read_until(b"\n")
    await peer.send(peer.records(request))
    loop = asyncio.get_running_loop()
    hello = await loop.sock_recv(peer.socket, 65536)  # the stream has begun as well
    writes = [stream.write(b"12345"), stream.write(b"6" * 100_000)]
    assert stream.writing()
    peer.incoming.write(hello)
    received = b""
    while len(received) < 100_005:
        received += await peer.exchange(peer.tls.read, 65536)
    assert received == b"12345" + b"6" * 100_000
    await asyncio.gather(*writes)
    await peer.exchange(peer.tls.write, b"line\n")
    assert await reading == b"line\n"


def fragments(record):
    """Split a handshake record into records of one byte."""
    head = record[:3] + b"\0\1"
    return b"".join(head + record[at : at + 1] for at in range(HEADER, len(record)))


async def test_a_handshake_in_tiny_records_leaves_the_loop_its_turns(
    server_context, client_context
):
    left, right = socket.socketpair()
    peer = TLSPeer(right, client_context)
    async with SSLIOStream(left, ssl_options=server_context, server_side=True) as stream:
        with pytest.raises(ssl.SSLWantReadError):
            peer.tls.do_handshake()
        hello = peer.outgoing.read()
        assert HEADER + int.from_bytes(hello[3:5]) == len(hello)
        shaking = stream.wait_for_handshake()
        async with Turns() as turns:
            await peer.send(fragments(hello))
            await peer.shake_hands()
            await shaking
        assert turns.count > len(hello) / 50
        await peer.exchange(peer.tls.write, b"done\n")
        assert await stream.read_until(b"\n") == b"done\n"
    peer.close()


@pytest.mark.parametrize("size", [1, 3, 7])
async def test_records_that_arrive_in_pieces(connect, size):
    stream, peer = await connect()
    records = b"".join(peer.records(peer.tls.write, text) for text in (b"one\n", b"two\n"))
    reading = stream.read_until(b"two\n")
    for start in range(0, len(records), size):
        await peer.send(records[start : start + size])
        await asyncio.sleep(0)
    assert await reading == b"one\ntwo\n"


async def test_a_record_that_arrives_in_part_is_waited_for_without_spinning(connect):
    stream, peer = await connect()
    calls = []
    real = stream.read_from_fd
    stream.read_from_fd = lambda buf: calls.append(1) or real(buf)
    record = peer.records(peer.tls.write, b"x" * 1000)
    reading = stream.read_bytes(1000)
    for part in (record[:3], record[3:500]):
        await peer.send(part)
        for _ in range(50):
            await asyncio.sleep(0.0005)
    assert not reading.done()
    assert len(calls) <= 4
    await peer.send(record[500:])
    assert await reading == b"x" * 1000


async def test_pieces_that_do_not_end_where_records_do(connect):
    """A receipt may end anywhere in a record, in its header too."""
    stream, peer = await connect()
    data = bytes(range(256)) * 4096
    records = b"".join(
        peer.records(peer.tls.write, memoryview(data)[start : start + 4090])
        for start in range(0, len(data), 4090)
    )
    sending = asyncio.create_task(peer.send(records))
    assert await stream.read_bytes(len(data)) == data
    await sending


async def test_what_is_no_tls_ends_the_stream_at_once(connect):
    stream, peer = await connect()
    reading = stream.read_bytes(1)
    await peer.send(b"GET ")  # shorter than a header
    await asyncio.sleep(0.01)
    await peer.send(b"/ HTTP/1.1\r\n")  # less than the record that this might begin
    with pytest.raises(StreamClosedError) as raised:
        await asyncio.wait_for(reading, 10)
    assert isinstance(raised.value.real_error, ssl.SSLError)


@pytest.mark.parametrize("cut", [0, 3, 50])
async def test_an_end_inside_a_record_is_an_error(connect, cut):
    stream, peer = await connect()
    record = peer.records(peer.tls.write, b"x" * 100)
    await peer.send(record + record[:cut])
    peer.socket.shutdown(socket.SHUT_WR)
    assert await stream.read_bytes(100) == b"x" * 100
    with pytest.raises(StreamClosedError) as raised:
        await stream.read_bytes(1)
    assert isinstance(raised.value.real_error, ssl.SSLEOFError)


class FullSocket:
    """A socket that takes nothing, and has as many bytes as are wanted."""

    def __init__(self, data):
        self.data = memoryview(data)
        self.taken = 0

    error = BlockingIOError

    def send(self, data):
        raise self.error

    def recv_into(self, buffer):
        size = min(len(buffer), len(self.data) - self.taken)
        if not size:
            raise BlockingIOError
        buffer[:size] = self.data[self.taken : self.taken + size]
        self.taken += size
        return size


@pytest.mark.slow
def test_answers_that_the_peer_does_not_take_are_limited(server_context, client_context, libssl):
    """Each of these records asks for an answer."""
    left, right = socket.socketpair()
    with left, right:
        left.setblocking(False)
        engine = MemoryTLSSocket(left, server_context, server_side=True)
        peer = TLSPeer(right, client_context)
        shake_hands(engine, peer)

        def update():
            libssl.call("SSL_key_update", peer.tls, 1)
            peer.tls.do_handshake()

        records = b"".join(peer.records(update) for _ in range(20_000))
        engine.raw = full = FullSocket(records)
        target = memoryview(bytearray(16384))
        with pytest.raises(ssl.SSLWantWriteError):
            for _ in range(10_000):
                engine.renew()
                assert engine.read_into(target) is None
        assert engine.holds_output
        waiting = len(engine._unsent) + engine._outgoing.pending
        assert OUTPUT_LIMIT < waiting < 3 * OUTPUT_LIMIT
        assert full.taken < len(records)
        error = ConnectionResetError()
        assert engine.reason_of(error) is error  # there may be an alert behind them
        # Once they are taken, it goes on.
        engine.raw = left
        left.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
        while engine.holds_output:
            engine.flush()
            assert right.recv(1 << 20)
        engine.raw = full
        assert engine.read_into(target) is None


@pytest.mark.slow
def test_a_broken_connection_is_read_to_its_end_although_answers_are_asked_for(
    server_context, client_context, libssl
):
    left, right = socket.socketpair()
    with left, right:
        left.setblocking(False)
        engine = MemoryTLSSocket(left, server_context, server_side=True)
        peer = TLSPeer(right, client_context)
        shake_hands(engine, peer)

        def update():
            libssl.call("SSL_key_update", peer.tls, 1)
            peer.tls.do_handshake()

        records = b"".join(peer.records(update) for _ in range(10_000))
        records += peer.records(peer.tls.write, b"all of it")
        engine.raw = broken = FullSocket(records)
        broken.error = BrokenPipeError
        target = memoryview(bytearray(16384))
        while not (size := engine.read_into(target)):
            engine.renew()
            assert engine._outgoing.pending < 2 * OUTPUT_LIMIT
        assert target[:size] == b"all of it"
        with pytest.raises(BrokenPipeError):
            engine.send(memoryview(b"x"))


def shake_hands(engine, peer):
    """Do a handshake of two ends in one thread."""
    done = [False, False]
    while not all(done):
        for index, operation in enumerate((engine.do_handshake, peer.tls.do_handshake)):
            try:
                operation()
            except ssl.SSLWantReadError:
                pass
            else:
                done[index] = True
        if records := peer.outgoing.read():
            peer.socket.send(records)
        try:
            peer.incoming.write(peer.socket.recv(65536))
        except BlockingIOError:
            pass
