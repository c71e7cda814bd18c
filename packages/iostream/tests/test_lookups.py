"""Host names and addresses: which need a thread, which are impossible, and what is said then."""

import asyncio
import socket
import threading

import pytest

from waterspout.ioloop import IOLoop
from waterspout.ioloop.testing import simulate
from waterspout.iostream import IOStream, connect_tcp, serve_tcp
from waterspout.iostream.testing import SimulatedNetwork

LOCAL = "127.0.0.1"

IPV4_LITERALS = [LOCAL, "127.1", "0x7f000001", "2130706433", "0177.0.0.1"]

IMPOSSIBLE = [
    "",
    ".",
    ".example",
    "before..after",
    "x" * 64 + ".example",
    "\u00fc" * 64 + ".example",
    "lone\ud800surrogate",
    "127.0.0.1\0.example",
    "\0",
    "x" * 100_000,
]


async def echo(stream):
    await stream.write(await stream.read_until(b"\n"))


async def connect_stream(host, port, family=socket.AF_INET):
    stream = IOStream(socket.socket(family))
    try:
        return await stream.connect((host, port))
    finally:
        stream.close()


@pytest.fixture
def no_threads(monkeypatch):
    """Has the running loop run nothing in threads, from now on."""

    def refuse(executor, func, *args):
        raise AssertionError(f"{func} was to run in a thread, with {args}")

    return lambda: monkeypatch.setattr(IOLoop.current(), "run_in_executor", refuse, raising=False)


@pytest.fixture
def connected_to(monkeypatch):
    """The addresses that sockets are connected to; no connection is made."""
    addresses = []

    def connect_ex(self, address):
        addresses.append(address)
        return 111

    monkeypatch.setattr(socket.socket, "connect_ex", connect_ex)
    return addresses


@pytest.fixture
def slow_names(monkeypatch):
    """Has every look-up wait until the test ends; gives the names that were looked up."""
    real, gate, begun, ended = socket.getaddrinfo, threading.Event(), [], []

    def getaddrinfo(host, *args):
        if not host.startswith("slow"):
            return real(host, *args)
        begun.append(host)
        gate.wait(20)
        ended.append(host)
        raise socket.gaierror(socket.EAI_NONAME, "no such name")

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    yield begun, gate
    gate.set()
    while len(ended) < len(begun):
        threading.Event().wait(0.001)


# Threads


@pytest.mark.parametrize("host", [*IPV4_LITERALS, "::1", None])
async def test_addresses_to_serve_need_no_thread(host, no_threads):
    no_threads()
    async with await serve_tcp(echo, host) as server:
        assert server.port


@pytest.mark.parametrize("host", [*IPV4_LITERALS, "::ffff:127.0.0.1"])
async def test_addresses_to_connect_to_need_no_thread(host, no_threads):
    no_threads()
    async with await serve_tcp(echo, LOCAL) as server:
        async with await connect_tcp(host, server.port) as stream:
            await stream.write(b"x\n")
            assert await stream.read_until(b"\n") == b"x\n"
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        await connect_stream(host, server.port, family)
        await connect_stream(host.encode(), server.port, family)


@pytest.mark.only_on("linux")
async def test_local_addresses_need_no_thread(no_threads):
    no_threads()
    async with await serve_tcp(echo, LOCAL) as server:
        async with await connect_tcp(LOCAL, server.port, local_addr=("127.2", 0)) as stream:
            assert stream.socket.getsockname()[0] == "127.0.0.2"


@pytest.mark.only_on("linux")
@pytest.mark.parametrize("host", ["fe80::1%lo", "fe80::1%1", "::ffff:10.0.0.1", "FE80::0:1%1"])
async def test_an_address_is_what_getaddrinfo_makes_of_it(host, connected_to, no_threads):
    no_threads()
    expected = socket.getaddrinfo(host, 80, socket.AF_INET6, socket.SOCK_STREAM)[0][4]
    with pytest.raises(ConnectionRefusedError):
        await connect_tcp(host, 80)
    with pytest.raises(ConnectionRefusedError):
        await connect_stream(host, 80, socket.AF_INET6)
    assert [(*address, 0, 0)[:4] for address in connected_to] == [expected] * 2


@pytest.mark.only_on("linux")
async def test_flow_info_and_scope_are_kept(connected_to):
    for address, expected in [
        (("fe80::1%1", 80, 5), ("fe80::1", 80, 5, 1)),
        (("fe80::1%1", 80, 5, 0), ("fe80::1", 80, 5, 1)),
        (("fe80::1%1", 80, 0, 2), ("fe80::1", 80, 0, 2)),
        (("fe80::1", 80, 6, 3), ("fe80::1", 80, 6, 3)),
        (("::1", 80), ("::1", 80)),
    ]:
        with pytest.raises(ConnectionRefusedError):
            await IOStream(socket.socket(socket.AF_INET6)).connect(address)
        assert connected_to.pop() == expected


@pytest.mark.parametrize(("host", "family"), [(LOCAL, socket.AF_INET6), ("::1", socket.AF_INET)])
async def test_an_address_of_another_family_is_refused(host, family):
    with pytest.raises(socket.gaierror):
        await connect_stream(host, 80, family)


@pytest.mark.parametrize("host", ["256.256.256.256", "::g", "1.2.3.4.5", "fe80::1%nosuch"])
async def test_what_only_looks_like_an_address_is_looked_up(host, monkeypatch):
    real = socket.getaddrinfo
    names = []

    def getaddrinfo(name, port, family, kind, protocol, flags):
        if not flags & socket.AI_NUMERICHOST:
            names.append((name, threading.current_thread() is threading.main_thread()))
        return real(name, port, family, kind, protocol, flags | socket.AI_NUMERICHOST)

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    with pytest.raises(socket.gaierror):
        await connect_tcp(host, 80)
    assert names == [(host, False)]


async def test_names_are_looked_up_in_threads_of_our_own(monkeypatch):
    names = []

    def getaddrinfo(host, port, *args):
        names.append(threading.current_thread().name)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (LOCAL, port))]

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    async with await serve_tcp(echo, "name.example") as server:
        async with await connect_tcp("name.example", server.port):
            await connect_stream("name.example", server.port)
    assert names == ["waterspout-lookup"] * 3


def test_a_simulated_network_needs_no_threads():
    async def main():
        with SimulatedNetwork():

            def refuse(executor, func, *args):
                raise AssertionError("a thread was asked for")

            IOLoop.current().run_in_executor = refuse
            async with await serve_tcp(echo, "server", 80):
                async with await connect_tcp("server", 80) as stream:
                    await stream.write(b"x\n")
                    return await stream.read_until(b"\n")

    assert simulate(main) == b"x\n"


async def test_timeouts_hold_while_all_threads_are_busy(slow_names):
    begun, gate = slow_names
    connecting = [connect_tcp(f"slow{n}", 80, timeout=0.02) for n in range(50)]
    results = await asyncio.gather(*connecting, return_exceptions=True)
    assert {type(result) for result in results} == {TimeoutError}
    serving = asyncio.create_task(serve_tcp(echo, "slow"))
    stream = IOStream(socket.socket())
    streaming = asyncio.create_task(stream.connect(("slow", 80)))
    await asyncio.sleep(0)
    for task in (serving, streaming):
        task.cancel()
    await asyncio.wait([serving, streaming])
    assert serving.cancelled()
    assert streaming.cancelled()
    assert stream.closed()
    async with await serve_tcp(echo, LOCAL) as server:
        (await connect_tcp(LOCAL, server.port, timeout=5)).close()
    # What was given up before a thread was free is not looked up later.
    looked_up = len(begun)
    assert looked_up < 50
    gate.set()
    with pytest.raises(socket.gaierror):
        await connect_tcp("slow-last", 80)
    assert begun[looked_up:] == ["slow-last"]


# Impossible names


@pytest.mark.parametrize("host", IMPOSSIBLE)
async def test_an_impossible_name_is_a_gaierror_that_names_it(host, no_threads):
    no_threads()
    ways = [
        lambda: connect_tcp(host, 80),
        lambda: connect_tcp(LOCAL, 80, local_addr=(host, 0)),
        lambda: serve_tcp(echo, host),
        lambda: serve_tcp(echo, [LOCAL, host]),
    ]
    if host:  # to a socket, no host is this machine
        ways.append(lambda: connect_stream(host, 80))
    for way in ways:
        with pytest.raises(socket.gaierror) as caught:
            await way()
        assert caught.value.errno == socket.EAI_NONAME
        assert repr(host) in str(caught.value)


async def test_bytes_that_are_no_name():
    for host in (b"\xff.example", b"a\0b"):
        with pytest.raises(socket.gaierror):
            await connect_stream(host, 80)


async def test_an_empty_host_of_a_stream_is_this_machine():
    async with await serve_tcp(echo, LOCAL) as server:
        async with IOStream(socket.socket()) as stream:
            await stream.connect(("", server.port))
            assert stream.socket.getpeername() == (LOCAL, server.port)


async def test_the_error_of_a_name_that_does_not_exist_names_it(monkeypatch):
    def getaddrinfo(*args):
        raise socket.gaierror(socket.EAI_NONAME, "no such name")

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    with pytest.raises(socket.gaierror) as caught:
        await connect_tcp("name.example", 80)
    assert caught.value.__notes__ == ["host is 'name.example'"]


# Mistakes


async def test_hosts_and_ports_of_the_wrong_kind():
    with pytest.raises(TypeError, match="host must be a string, not b'host'"):
        await connect_tcp(b"host", 80)
    for host in (5, b"host"):
        with pytest.raises(TypeError, match="host must be a string, a sequence of strings or None"):
            await serve_tcp(echo, host)
    with pytest.raises(TypeError, match="each host must be a string, not 5"):
        await serve_tcp(echo, [LOCAL, 5])
    for local_addr in (5, LOCAL, (LOCAL,), (LOCAL, 0, 0)):
        with pytest.raises(TypeError, match="local_addr must be a pair of a host and a port"):
            await connect_tcp(LOCAL, 80, local_addr=local_addr)
    with pytest.raises(TypeError, match="the host of local_addr must be a string, not None"):
        await connect_tcp(LOCAL, 80, local_addr=(None, 0))
    with pytest.raises(TypeError, match="the port of local_addr must be an integer, not '80'"):
        await connect_tcp(LOCAL, 80, local_addr=(LOCAL, "80"))
    with pytest.raises(ValueError, match="the port of local_addr must be from 0 to 65535, not -1"):
        await connect_tcp(LOCAL, 80, local_addr=(LOCAL, -1))


@pytest.mark.parametrize(
    ("address", "error", "message"),
    [
        (LOCAL, TypeError, "address must be a tuple"),
        ((LOCAL,), TypeError, "address must be a tuple"),
        ((LOCAL, 80, 0), TypeError, "address must be a tuple"),
        ((None, 80), TypeError, "the host of address must be a string, not None"),
        ((LOCAL, "80"), TypeError, "the port of address must be an integer, not '80'"),
        ((LOCAL, 65536), ValueError, "the port of address must be from 0 to 65535, not 65536"),
    ],
)
async def test_a_stream_refuses_a_bad_address_and_stays_as_it_was(address, error, message):
    async with await serve_tcp(echo, LOCAL) as server:
        async with IOStream(socket.socket()) as stream:
            with pytest.raises(error, match=message):
                await stream.connect(address)
            with pytest.raises(error, match=message):
                stream.connect(address, print)
            await stream.connect((LOCAL, server.port))
            await stream.write(b"x\n")
            assert await stream.read_until(b"\n") == b"x\n"


async def test_bad_scopes():
    with IOStream(socket.socket(socket.AF_INET6)).socket as sock:
        for address in (("::1", 80, "0"), ("::1", 80, 0, None)):
            with pytest.raises(TypeError, match="flow info and scope must be integers"):
                await IOStream(sock).connect(address)


async def test_an_address_of_another_kind_is_the_sockets_business():
    class Odd(socket.socket):
        family = 4711

        def connect_ex(self, address):
            raise OSError(f"no such address: {address}")

    stream = IOStream(Odd())
    with pytest.raises(OSError, match="no such address: 5"):
        await stream.connect(5)
    assert stream.closed()
