"""The simulated network: what links do to bytes, and sockets that behave as the kernel's do."""

import asyncio
import errno
import socket
import ssl
import struct
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given
from hypothesis import strategies as st

from waterspout.ioloop import READ, IOLoop
from waterspout.ioloop.testing import simulate
from waterspout.iostream import IOStream, SSLIOStream, StreamClosedError, connect_tcp, serve_tcp
from waterspout.iostream.testing import Link, SimulatedNetwork

pytestmark = pytest.mark.waterspout


def now():
    return asyncio.get_running_loop().time()


async def echo(stream):
    try:
        while True:
            await stream.write(await stream.read_bytes(1000, partial=True))
    except StreamClosedError:
        pass


# Links


async def test_latency_and_bandwidth():
    with SimulatedNetwork(Link(latency=0.5, bandwidth=1000)) as network:
        left, right = network.pair()
        await left.write(b"x" * 3000)
        assert now() == 0
        assert await right.read_bytes(3000) == b"x" * 3000
        assert now() == pytest.approx(3.5)
        await right.write(b"y")
        await left.read_bytes(1)
        assert now() == pytest.approx(4.001)
        left.close()
        await right.read_until_close()
        assert now() == pytest.approx(4.501)


@pytest.mark.parametrize("chunk", [1, 7, (1, 10), None])
async def test_chunks_arrive_one_at_a_time(chunk):
    with SimulatedNetwork(Link(chunk=chunk), seed=5) as network:
        left, right = network.socketpair()
        sent = bytes(range(250))
        assert left.send(sent) == 250
        pieces = []
        while sum(map(len, pieces)) < 250:
            pieces.append(right.recv(1000))
        assert b"".join(pieces) == sent
        sizes = {len(piece) for piece in pieces[:-1]}
        if isinstance(chunk, tuple):
            assert len(sizes) > 3
            assert max(sizes) <= 10
        else:
            assert sizes == ({chunk} if chunk else set())
        left.close()
        right.close()


async def test_a_piece_may_be_received_in_parts():
    for chunk in (10, None):
        with SimulatedNetwork(Link(chunk=chunk)) as network:
            left, right = network.socketpair()
            left.send(b"0123456789")
            assert right.recv(4) == b"0123"
            assert right.recv(100) == b"456789"
            with pytest.raises(BlockingIOError):
                right.recv(1)
            left.close()
            right.close()


async def test_a_full_send_buffer_holds_the_sender_back():
    with SimulatedNetwork(Link(room=100)) as network:
        left, right = network.socketpair()
        assert left.send(b"x" * 150) == 100
        with pytest.raises(BlockingIOError):
            left.send(b"x")
        assert left.send(b"") == 0
        told = asyncio.Event()
        IOLoop.current().add_handler(left, lambda fd, events: told.set(), IOLoop.WRITE)
        await asyncio.sleep(1)
        assert not told.is_set()
        assert len(right.recv(10)) == 10
        await told.wait()
        IOLoop.current().remove_handler(left)
        assert left.send(b"x" * 150) == 10
        left.close()
        right.close()


def test_what_is_drawn_is_drawn_by_the_seed():
    async def main(seed):
        with SimulatedNetwork(Link(latency=(0.1, 2), chunk=(1, 9)), seed=seed) as network:
            left, right = network.pair()
            await left.write(bytes(range(200)))
            left.close()
            pieces = []
            while True:
                try:
                    pieces.append((now(), await right.read_bytes(1000, partial=True)))
                except StreamClosedError:
                    break
            assert b"".join(piece for _, piece in pieces) == bytes(range(200))
            return pieces

    runs = [simulate(main, seed) for seed in range(5)]
    assert runs == [simulate(main, seed) for seed in range(5)]
    assert len({str(run) for run in runs}) == 5


LINKS = st.builds(
    Link,
    latency=st.sampled_from([0.0, 0.1, (0.0, 1.0)]),
    bandwidth=st.sampled_from([None, 50.0]),
    chunk=st.sampled_from([None, 1, 3, (1, 20)]),
    room=st.sampled_from([1, 10, 1000]),
)


@pytest.mark.slow
@given(
    link=LINKS,
    writes=st.lists(st.integers(0, 60), max_size=12),
    reads=st.lists(st.tuples(st.integers(1, 50), st.booleans()), max_size=12),
    end=st.sampled_from(["close", "shutdown"]),
)
def test_any_link_carries_every_byte_in_order(link, writes, reads, end):
    async def main():
        with SimulatedNetwork(link) as network:
            (left_socket, right_socket) = network.socketpair()
            left, right = IOStream(left_socket), IOStream(right_socket)
            sent = b"".join(bytes([number % 251]) * size for number, size in enumerate(writes))
            for number, size in enumerate(writes):
                left.write(bytes([number % 251]) * size)
            received = b""
            for size, waits in reads:
                if waits:
                    await asyncio.sleep(0.7)
                if len(received) + size <= len(sent):
                    received += await right.read_bytes(size)
            rest = right.read_until_close()
            await left.write(b"")
            if end == "shutdown":
                left_socket.shutdown(socket.SHUT_WR)
            else:
                left.close()
            assert received + await rest == sent
            left.close()
            right.close()

    simulate(main)


# Faults


@pytest.mark.parametrize("bound", range(13))
async def test_a_reset_at_every_byte(bound):
    with SimulatedNetwork(Link(reset_after=bound)) as network:
        left, right = network.pair()
        left.write(b"hello world!")
        with pytest.raises(StreamClosedError) as caught:
            await right.read_until(b"\n")
        assert isinstance(caught.value.real_error, ConnectionResetError)
        assert caught.value.partial == b"hello world!"[:bound]
        with pytest.raises(StreamClosedError):
            await left.read_bytes(1)
            await left.write(b"x")
        left.close()
        right.close()


@pytest.mark.parametrize("bound", [0, 5, 12])
async def test_an_end_at_a_byte(bound):
    with SimulatedNetwork(Link(end_after=bound)) as network:
        left, right = network.pair()
        await left.write(b"hello world!")
        await left.write(b" and more")
        assert await right.read_until_close() == b"hello world!"[:bound]
        left.close()


async def test_a_stall_at_a_byte_and_by_hand():
    with SimulatedNetwork(Link(stall_after=5)) as network:
        left, right = network.pair()
        await left.write(b"hello world!")
        assert await right.read_bytes(5) == b"hello"
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(_read(right, 1), 3600)
        [(_, socket_of_right)] = network.connections
        socket_of_right.resume()
        assert await right.read_bytes(7) == b" world!"
        socket_of_right.stall()
        await left.write(b"again")
        await asyncio.sleep(1)
        socket_of_right.resume()
        assert await right.read_bytes(5) == b"again"
        left.close()
        right.close()


async def _read(stream, size):
    return await stream.read_bytes(size)


async def test_a_reset_by_hand():
    with SimulatedNetwork(Link(latency=1)) as network:
        async with await serve_tcp(echo, "server", 80):
            stream = await connect_tcp("server", 80)
            network.connections[0][1].reset()
            with pytest.raises(StreamClosedError) as caught:
                await stream.read_bytes(1)
            assert isinstance(caught.value.real_error, ConnectionResetError)


async def test_what_has_no_connection_yet_cannot_be_broken():
    with SimulatedNetwork() as network:
        lonely = network.new_socket(socket.AF_INET)
        lonely.reset()
        lonely.stall()
        lonely.resume()
        assert lonely.fileno() > 0
        lonely.close()


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"latency": -1}, "latency must be at least 0.0 and finite, not -1"),
        ({"latency": (2, 1)}, "latency must be at least 0.0"),
        ({"latency": float("inf")}, "latency must be at least 0.0 and finite"),
        ({"bandwidth": 0}, "bandwidth must be positive, not 0"),
        ({"chunk": 0}, "chunk must be at least 1 and finite, not 0"),
        ({"chunk": (5, 4)}, "chunk must be at least 1"),
        (
            {"reset_after": 1, "end_after": 2},
            "only one thing can happen to a link, not reset_after",
        ),
        ({"room": 0}, "room must be positive, not 0"),
        ({"reset_after": -1}, "reset_after must not be negative, not -1"),
    ],
)
def test_bad_links_are_refused(kwargs, message):
    with pytest.raises(ValueError, match=message):
        Link(**kwargs)


@pytest.mark.parametrize(
    "kwargs",
    [
        {"latency": "x"},
        {"latency": (0, 1, 2)},
        {"latency": None},
        {"chunk": 1.5},
        {"chunk": (None, 5)},
        {"bandwidth": "x"},
        {"room": 1.5},
        {"stall_after": 1.5},
    ],
)
def test_links_of_the_wrong_kind_are_refused(kwargs):
    [name] = kwargs
    with pytest.raises(TypeError, match=f"{name} must be"):
        Link(**kwargs)


async def test_a_stall_is_at_its_byte_however_long_the_way():
    with SimulatedNetwork(Link(latency=1, stall_after=5)) as network:
        left, right = network.socketpair()
        left.send(b"hello world")
        await asyncio.sleep(10)
        assert right.recv(100) == b"hello"
        right.resume()
        assert right.recv(100) == b" world"
        left.send(b"again")
        await asyncio.sleep(10)
        assert right.recv(100) == b"again"
        left.close()
        right.close()


async def test_a_reset_takes_as_long_as_bytes_do():
    with SimulatedNetwork(Link(latency=1)) as network:
        left, right = network.socketpair()
        left.send(b"x")
        await asyncio.sleep(1.001)
        right.send(b"more")
        right.close()  # with an unread byte
        with pytest.raises(BlockingIOError):
            left.recv(9)
        await asyncio.sleep(1)
        assert left.recv(9) == b"more"
        with pytest.raises(ConnectionResetError):
            left.recv(9)
        left.close()


async def test_after_the_end_a_reset_is_only_for_who_sends():
    with SimulatedNetwork() as network:
        left, right = network.socketpair()
        right.send(b"bye")
        right.close()
        assert left.send(b"x") == 1
        assert left.recv(9) == b"bye"
        assert left.recv(9) == b""
        with pytest.raises(BrokenPipeError):
            left.send(b"x")
        with pytest.raises(OSError, match="not connected"):
            left.getpeername()
        with pytest.raises(OSError, match="not connected"):
            left.shutdown(socket.SHUT_WR)
        left.close()


async def test_no_end_overtakes_bytes():
    with SimulatedNetwork(Link(bandwidth=100)) as network:
        left, right = network.socketpair()
        seen = []

        def look():
            left.close()
            try:
                seen.append(right.recv(100))
            except BlockingIOError:
                seen.append(None)

        asyncio.get_running_loop().call_later(0.5, look)
        left.send(b"x" * 50)
        await asyncio.sleep(1)
        seen.append(right.recv(100))
        assert b"".join(filter(None, seen)) == b"x" * 50
        assert right.recv(100) == b""
        right.close()


# The network


async def test_new_names_get_addresses_of_their_own():
    with SimulatedNetwork() as network:
        network.hosts["db"] = ["10.0.0.1"]
        async with await serve_tcp(echo, "db", 80):
            with pytest.raises(ConnectionRefusedError):
                await connect_tcp("web", 80)
        assert network.hosts["web"] == ["10.0.0.2"]
        network.hosts["wrong"] = "10.0.0.9"
        with pytest.raises(TypeError, match="'wrong'. must be a list of addresses, not '10.0.0.9'"):
            await connect_tcp("wrong", 80)


async def test_connecting_takes_time_and_names_are_made_up():
    with SimulatedNetwork(Link(latency=0.5)) as network:
        async with await serve_tcp(echo, "server", 80) as server:
            assert server.port == 80
            assert "TCPServer" in repr(server)
            stream = await connect_tcp("server", 80)
            assert now() == 1
            assert stream.socket.getpeername() == ("10.0.0.1", 80)
            assert stream.socket.getsockname()[1] >= 49152
            assert "connected" in repr(stream.socket)
            assert network.hosts == {"server": ["10.0.0.1"]}
            await stream.write(b"hello")
            assert await stream.read_bytes(5) == b"hello"
            assert now() == 2
            stream.close()
            assert "closed" in repr(stream.socket)
    assert now() < 4


async def test_links_differ_by_address():
    with SimulatedNetwork(Link(latency=1)) as network:
        network.hosts["far"] = ["10.1.1.1"]
        network.links["10.1.1.1"] = Link(latency=(10, 20))
        async with await serve_tcp(echo, port=80):
            (await connect_tcp("near", 80)).close()
            assert now() == 2
            (await connect_tcp("far", 80)).close()
            assert 22 <= now() <= 42


async def test_where_nobody_listens_connections_are_refused():
    with SimulatedNetwork(Link(latency=1)):
        with pytest.raises(ConnectionRefusedError):
            await connect_tcp("server", 80)
        assert now() == 2
        server = await serve_tcp(echo, "server", 80)
        await server.close()
        with pytest.raises(ConnectionRefusedError):
            await connect_tcp("server", 80)


async def test_from_where_no_answer_comes_timeouts_help():
    with SimulatedNetwork() as network:
        network.hosts["server"] = ["10.5.5.5"]
        network.unreachable.add("10.5.5.5")
        with pytest.raises(TimeoutError):
            await connect_tcp("server", 80, timeout=30)
        assert now() == 30


async def test_a_client_that_goes_away_while_it_connects():
    with SimulatedNetwork(Link(latency=5)) as network:
        async with await serve_tcp(echo, "server", 80):
            with pytest.raises(TimeoutError):
                await connect_tcp("server", 80, timeout=1)
            await asyncio.sleep(60)
            assert network.connections == []
            with pytest.raises(TimeoutError):
                await connect_tcp("server", 80, timeout=7)
            await asyncio.sleep(60)
            assert len(network.connections) == 1


async def test_happy_eyeballs_by_the_clock():
    with SimulatedNetwork(Link(latency=0.05)) as network:
        network.hosts["server"] = ["2001:db8::1", "2001:db8::2", "10.0.0.9"]
        network.unreachable.add("2001:db8::1")
        async with await serve_tcp(echo, ["10.0.0.9", "2001:db8::2"], 80) as server:
            assert len(server.sockets) == 2
            stream = await connect_tcp("server", 80)
            assert now() == pytest.approx(0.25 + 0.1)
            assert stream.socket.getpeername()[0] == "10.0.0.9"
            stream.close()


async def test_a_host_name_is_resolved_for_a_stream_that_connects_itself():
    with SimulatedNetwork() as network:
        network.hosts["server"] = ["2001:db8::1"]
        async with await serve_tcp(echo, "2001:db8::1", 80):
            stream = IOStream(network.new_socket(socket.AF_INET6))
            await stream.connect(("server", 80))
            assert stream.socket.getpeername()[:2] == ("2001:db8::1", 80)
            stream.close()
        wrong = IOStream(network.new_socket(socket.AF_INET))
        with pytest.raises(socket.gaierror, match="server has no address of this family"):
            await wrong.connect(("server", 80))


async def test_local_addresses_and_ports():
    with SimulatedNetwork() as network:
        async with await serve_tcp(echo, "server", 80):
            stream = await connect_tcp("server", 80, local_addr=("10.7.7.7", 5000))
            assert network.connections[0][1].getpeername() == ("10.7.7.7", 5000)
            with pytest.raises(OSError, match="Address already in use"):
                await connect_tcp("server", 80, local_addr=("10.7.7.7", 5000))
            with pytest.raises(OSError, match="Address already in use"):
                await serve_tcp(echo, "server", 80)
            stream.close()
            (await connect_tcp("server", 80, local_addr=("10.7.7.7", 5000))).close()
        async with await serve_tcp(echo) as server:
            (await connect_tcp("localhost", server.port)).close()


async def test_ports_may_run_out(monkeypatch):
    monkeypatch.setattr("waterspout.iostream.testing._network._FIRST_PORT", 65535)
    with SimulatedNetwork() as network:
        first, second = (network.new_socket(socket.AF_INET) for _ in range(2))
        first.bind(("10.0.0.1", 0))
        with pytest.raises(OSError, match="annot assign requested address"):
            second.bind(("10.0.0.1", 0))
        first.close()
        second.close()


async def test_a_listener_that_closes_takes_waiting_connections_with_it():
    with SimulatedNetwork() as network:
        listener = network.new_socket(socket.AF_INET)
        listener.bind(("10.0.0.1", 80))
        listener.listen()
        assert "listening" in repr(listener)
        stream = IOStream(network.new_socket(socket.AF_INET))
        await stream.connect(("10.0.0.1", 80))
        listener.close()
        with pytest.raises(StreamClosedError) as caught:
            await stream.read_until_close()
        assert isinstance(caught.value.real_error, ConnectionResetError)


async def test_a_pair_that_is_refused_leaves_nothing_behind():
    open_before = asyncio.get_running_loop().open_descriptors()
    with SimulatedNetwork() as network:
        with pytest.raises(TypeError, match="link must be a Link or None, not 5"):
            network.socketpair(5)
        with pytest.raises(ValueError, match="read_chunk_size"):
            network.pair(read_chunk_size=-1)
        assert asyncio.get_running_loop().open_descriptors() == open_before


async def test_a_simulated_socket_cannot_block():
    with SimulatedNetwork() as network, network.new_socket(socket.AF_INET) as made:
        made.setblocking(False)
        made.settimeout(0)
        for timeout in (None, 5):
            with pytest.raises(ValueError, match="value must be 0, not"):
                made.settimeout(timeout)
        assert (made.gettimeout(), made.getblocking()) == (0.0, False)


async def test_a_network_belongs_to_a_simulated_loop():
    with SimulatedNetwork() as network:
        with pytest.raises(RuntimeError, match="has a simulated network already"):
            with SimulatedNetwork():
                raise AssertionError
        with pytest.raises(TypeError, match="link must be a Link, not 5"):
            SimulatedNetwork(5)
        assert network.loop is asyncio.get_running_loop()
        for name in ("loop", "connections"):
            with pytest.raises(AttributeError):
                setattr(network, name, None)
    with SimulatedNetwork():
        pass

    async def main():
        SimulatedNetwork()

    with (
        ThreadPoolExecutor(1) as elsewhere,
        pytest.raises(RuntimeError, match="needs a running SimulatedLoop"),
    ):
        elsewhere.submit(asyncio.run, main()).result()


# Sockets


async def test_sockets_behave_as_the_kernels_do():
    with SimulatedNetwork() as network:
        left, right = network.socketpair()
        assert left.family == socket.AF_INET
        assert left.type == socket.SOCK_STREAM
        assert left.getpeername() == right.getsockname()
        left.setblocking(False)
        with pytest.raises(ValueError, match="cannot block"):
            left.setblocking(True)
        left.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        assert left.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) == 1
        assert left.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == 0
        with pytest.raises(BlockingIOError):
            left.recv(10)
        memory = bytearray(5)
        assert right.send(b"hello!") == 6
        assert left.recv_into(memory) == 5
        assert memory == b"hello"
        assert left.recv_into(memory, 1) == 1
        assert left.connect_ex(("10.0.0.1", 80)) == errno.EISCONN
        with pytest.raises(OSError, match="cannot be detached"):
            left.detach()
        for call, error in (
            (lambda: left.recv(1, socket.MSG_PEEK), OSError),
            (lambda: left.recv(-1), ValueError),
            (lambda: left.recv_into(bytearray(2), 3), ValueError),
            (lambda: left.shutdown(7), OSError),
            (lambda: left.settimeout(None), ValueError),
        ):
            with pytest.raises(error):
                call()
        left.settimeout(0)
        assert left.gettimeout() == 0
        assert not left.getblocking()
        assert left.getsockopt(socket.SOL_SOCKET, socket.SO_TYPE) == socket.SOCK_STREAM
        left.shutdown(socket.SHUT_RD)
        assert left.recv(1) == b""
        assert left.send(b"x") == 1
        left.shutdown(socket.SHUT_RDWR)
        with left:
            pass
        left.close()
        for call in (left.getsockname, left.getpeername, left.accept, lambda: left.send(b"")):
            with pytest.raises(OSError, match="Bad file descriptor"):
                call()
        assert left.fileno() == -1
        right.close()


async def test_half_closed_connections_carry_the_other_way():
    with SimulatedNetwork() as network:
        left, right = network.socketpair()
        left.send(b"bye")
        left.shutdown(socket.SHUT_WR)
        left.shutdown(socket.SHUT_WR)
        with pytest.raises(BrokenPipeError):
            left.send(b"x")
        assert right.recv(10) == b"bye"
        assert right.recv(10) == right.recv(10) == b""
        right.send(b"yes?")
        assert left.recv(10) == b"yes?"
        right.shutdown(socket.SHUT_WR)
        assert left.recv(10) == b""
        seen = asyncio.Event()
        loop = IOLoop.current()
        loop.add_handler(left, lambda fd, events: seen.set(), loop.ERROR)
        await seen.wait()  # both ways are over: a hang-up
        loop.remove_handler(left)
        left.close()
        right.close()


async def test_closing_with_unread_bytes_resets():
    with SimulatedNetwork() as network:
        left, right = network.socketpair()
        left.send(b"unread")
        right.close()
        with pytest.raises(ConnectionResetError):
            left.recv(1)
        assert left.recv(1) == b""
        with pytest.raises(BrokenPipeError):
            left.send(b"x")
        left.close()


async def test_sending_to_who_has_closed_brings_a_reset():
    with SimulatedNetwork(Link(latency=1)) as network:
        left, right = network.socketpair()
        right.close()
        assert left.send(b"x") == 1
        assert left.send(b"y") == 1  # nobody knows yet
        await asyncio.sleep(1.5)
        assert left.send(b"z") == 1  # the reset is on its way
        await asyncio.sleep(1)
        with pytest.raises(BrokenPipeError):
            left.send(b"z")
        left.close()


async def test_a_lingering_time_of_zero_resets():
    with SimulatedNetwork() as network:
        left, right = network.socketpair()
        left.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        left.send(b"last words")
        left.close()
        assert right.recv(100) == b"last words"
        with pytest.raises(ConnectionResetError):
            right.recv(100)
        right.close()


async def test_what_is_not_connected():
    with SimulatedNetwork() as network:
        lonely = network.new_socket(socket.AF_INET6)
        assert lonely.getsockname() == ("::", 0, 0, 0)
        for call in (
            lonely.getpeername,
            lambda: lonely.recv(1),
            lambda: lonely.send(b"x"),
            lambda: lonely.shutdown(socket.SHUT_WR),
        ):
            with pytest.raises(OSError, match="not connected"):
                call()
        with pytest.raises(BlockingIOError):
            lonely.accept()
        assert lonely.connect_ex(("2001:db8::1", 80, 0, 0)) == errno.EINPROGRESS
        assert lonely.connect_ex(("2001:db8::1", 80, 0, 0)) == errno.EISCONN
        await asyncio.sleep(1)
        assert lonely.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == errno.ECONNREFUSED
        lonely.close()


async def test_a_socket_that_is_dropped_leaves_the_kernel_alone():
    with SimulatedNetwork() as network:
        lonely = network.new_socket(socket.AF_INET)
        loop = IOLoop.current()
        loop.add_handler(lonely, print, READ)
        loop.remove_handler(lonely)
        lonely.close()
        del lonely


# TLS


LINKS_FOR_TLS = [
    Link(),
    Link(chunk=1),
    Link(latency=0.1, chunk=(1, 3000), room=5000),
    Link(room=100),
]


@pytest.mark.parametrize("link", LINKS_FOR_TLS)
@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
async def test_tls_runs_over_it(link, version, server_context, client_context):
    size = 3000 if link.chunk == 1 or link.room == 100 else 300_000
    client_context.maximum_version = version
    with SimulatedNetwork(link) as network:
        network.hosts["localhost"] = ["127.0.0.1"]
        async with await serve_tcp(echo, "localhost", 443, ssl=server_context):
            stream = await connect_tcp("localhost", 443, ssl=client_context)
            assert stream.socket.version() == str(version.name).replace("v1_", "v1.")
            assert stream.socket.getpeercert()["subjectAltName"]
            assert stream.socket.getpeername() == ("127.0.0.1", 443)
            for name in ("nothing", "recvfrom", "sendall"):
                with pytest.raises(AttributeError, match=f"has no attribute '{name}'"):
                    getattr(stream.socket, name)
            data = bytes(range(250)) * (size // 250)
            written = stream.write(data)
            assert await stream.read_bytes(len(data)) == data
            await written
            stream.close()
            await asyncio.sleep(60)
    client_context.maximum_version = ssl.TLSVersion.MAXIMUM_SUPPORTED


@pytest.mark.slow
async def test_many_small_records_that_arrive_together(server_context, client_context):
    """More than one call of the engine takes: nothing else would tell of the rest."""
    with SimulatedNetwork(Link(latency=1, room=1 << 20)):
        total = 0

        async def count(stream):
            nonlocal total
            while True:
                try:
                    total += len(await stream.read_bytes(100_000, partial=True))
                except StreamClosedError:
                    return

        async with await serve_tcp(
            count,
            "localhost",
            443,
            ssl=server_context,
            read_chunk_size=16384,
            max_buffer_size=20000,
        ):
            stream = await connect_tcp("localhost", 443, ssl=client_context)
            for _ in range(3000):
                stream.write(b"x" * 20)
            await asyncio.sleep(60)
            assert total == 60_000
            stream.close()
            await asyncio.sleep(10)


@pytest.mark.slow
async def test_what_tls_holds_waits_for_who_asks(server_context, client_context):
    with SimulatedNetwork(Link(room=1 << 22)) as network:
        network.hosts["localhost"] = ["127.0.0.1"]
        ended = asyncio.Event()

        async def slow(stream):
            await stream.read_bytes(1)
            await ended.wait()
            assert len(await stream.read_until_close()) == 599_999

        async with await serve_tcp(slow, "localhost", 443, ssl=server_context):
            stream = await connect_tcp("localhost", 443, ssl=client_context)
            for _ in range(30_000):
                stream.write(b"x" * 20)
            await asyncio.sleep(10)
            ended.set()
            await stream.write(b"")
            stream.close()
            await asyncio.sleep(10)


async def test_truncation_is_an_error(server_context, client_context):
    with SimulatedNetwork() as network:

        async def cut(stream):
            await stream.write(b"half a mess")
            network.connections[0][1].shutdown(socket.SHUT_WR)
            await asyncio.sleep(1)

        async with await serve_tcp(cut, "localhost", 443, ssl=server_context):
            stream = await connect_tcp("localhost", 443, ssl=client_context)
            with pytest.raises(StreamClosedError) as caught:
                await stream.read_until(b"\n")
            assert isinstance(caught.value.real_error, ssl.SSLEOFError)
            assert caught.value.partial == b"half a mess"


async def test_bad_certificates_are_refused(server_context):
    with SimulatedNetwork():
        async with await serve_tcp(echo, "localhost", 443, ssl=server_context):
            with pytest.raises(ssl.SSLCertVerificationError):
                await connect_tcp("localhost", 443, ssl=True)


async def test_plain_bytes_are_no_tls(client_context):
    with SimulatedNetwork():

        async def plain(stream):
            await stream.write(b"HTTP/1.0 400 Bad Request\r\n\r\n")

        async with await serve_tcp(plain, "localhost", 443):
            with pytest.raises(ssl.SSLError):
                await connect_tcp("localhost", 443, ssl=client_context)


async def test_a_peer_that_stalls_in_the_handshake(client_context):
    async def silent(stream):
        await asyncio.sleep(30)

    with SimulatedNetwork(Link(stall_after=100)):
        async with await serve_tcp(silent, "localhost", 443):
            with pytest.raises(TimeoutError, match="handshake took too long"):
                await connect_tcp("localhost", 443, ssl=client_context, handshake_timeout=20)
            assert now() == 20


async def test_a_slow_peer_is_given_time_for_the_last_words(server_context, client_context):
    """The close is announced although there is no room for it at first."""
    with SimulatedNetwork(Link(room=3000, latency=0.1)) as network:
        ended = asyncio.Event()

        async def slow(stream):
            await asyncio.sleep(2)
            assert len(await stream.read_until_close()) == 2000
            ended.set()

        async with await serve_tcp(slow, "localhost", 443, ssl=server_context):
            stream = await connect_tcp("localhost", 443, ssl=client_context)
            server_end = network.connections[0][1]
            server_end.stall()
            await stream.write(b"x" * 2000)
            filler = stream.write(b"")
            await filler
            stream.close()
            server_end.resume()
            await ended.wait()
            await asyncio.sleep(10)


async def test_the_last_words_are_bounded_in_time(server_context, client_context):
    with SimulatedNetwork() as network:

        async def deaf(stream):
            await asyncio.sleep(20)

        async with await serve_tcp(deaf, "localhost", 443, ssl=server_context):
            stream = await connect_tcp("localhost", 443, ssl=client_context)
            client_end, server_end = network.connections[0]
            client_end.stall()
            server_end.stall()
            stream.close()
            await asyncio.sleep(1)
            assert client_end.fileno() != -1
            await asyncio.sleep(10)
            assert client_end.fileno() == -1
            await asyncio.sleep(20)


async def test_a_question_and_an_answer_over_tls(server_context, client_context):
    """What arrives together with the end of the handshake is not forgotten."""
    for latency in (0, 0.05):
        with SimulatedNetwork(Link(latency=latency)):
            async with await serve_tcp(echo, "localhost", 443, ssl=server_context):
                async with await connect_tcp("localhost", 443, ssl=client_context) as stream:
                    await stream.write(b"question")
                    assert await stream.read_bytes(8) == b"question"
            await asyncio.sleep(10)


@pytest.mark.parametrize("room", [1, 100, 300, 1000])
async def test_tls_in_a_small_room(server_context, client_context, room):
    with SimulatedNetwork(Link(room=room)) as network:
        client, server = tls_pair(network, server_context, client_context)
        writing = client.write(b"y" * 5000)
        assert await server.read_bytes(5000) == b"y" * 5000
        await writing
        await close_both(client, server)


async def test_a_send_that_fails_under_tls_fails_the_writes(server_context, client_context):
    with SimulatedNetwork() as network:
        client, server = tls_pair(network, server_context, client_context)
        await asyncio.gather(client.wait_for_handshake(), server.wait_for_handshake())
        writing = client.write(b"x" * 500_000)
        await asyncio.sleep(1)
        network.connections[0][1].reset()
        async with asyncio.timeout(1):
            with pytest.raises(StreamClosedError):
                await writing
        await close_both(client, server)


async def test_what_came_before_a_reset_can_be_read_under_tls(server_context, client_context):
    with SimulatedNetwork() as network:
        client, server = tls_pair(network, server_context, client_context)
        await asyncio.gather(client.wait_for_handshake(), server.wait_for_handshake())
        writing = client.write(b"x" * 500_000)
        await asyncio.sleep(1)
        reading = client.read_bytes(10)
        await server.write(b"last words")
        network.connections[0][1].reset()
        assert await reading == b"last words"
        with pytest.raises(StreamClosedError):
            await writing
        await close_both(client, server)


def tls_pair(network, server_context, client_context):
    left, right = network.socketpair()
    return (
        SSLIOStream(left, ssl_options=client_context, server_hostname="localhost"),
        SSLIOStream(right, ssl_options=server_context, server_side=True),
    )


async def close_both(client, server):
    client.close()
    server.close()
    await asyncio.sleep(10)
