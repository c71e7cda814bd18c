"""Which addresses a server listens on, of names that have several, and on which port."""

import errno
import os
import socket

import pytest

from waterspout.ioloop.testing import simulate
from waterspout.iostream import connect_tcp, serve_tcp
from waterspout.iostream.testing import SimulatedNetwork

LOCAL, OTHER = "127.0.0.1", "127.0.0.2"

MISSING = [
    errno.EADDRNOTAVAIL,
    errno.EAFNOSUPPORT,
    errno.EINVAL,
    errno.ENODEV,
    errno.EPROTONOSUPPORT,
]
UNAVAILABLE = [errno.EADDRINUSE, errno.EACCES, errno.EPERM, errno.ENOBUFS]


def error_of(code):
    return OSError(code, os.strerror(code))


async def greet(stream):
    await stream.write(b"hello\n")


async def greeting_of(host, port):
    async with await connect_tcp(host, port) as stream:
        return await stream.read_until(b"\n")


@pytest.fixture
def names(monkeypatch):
    """What names resolve to: lists of addresses."""
    table = {}
    real = socket.getaddrinfo

    def getaddrinfo(host, port, family=0, kind=0, protocol=0, flags=0):
        found = []
        for address in table.get(host, [host]):
            found += real(address, port, family, kind, protocol, flags)
        return found

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    return table


@pytest.fixture
def bind_fails(monkeypatch):
    """Errors that binding to an address meets, by the address: a number, or a list of them."""
    errors = {}
    real = socket.socket.bind

    def bind(self, address):
        code = errors.get(address[0])
        if isinstance(code, list):
            code = code.pop(0) if code else None
        if code is not None:
            raise error_of(code)
        real(self, address)

    monkeypatch.setattr(socket.socket, "bind", bind)
    return errors


@pytest.fixture
def no_ipv6(monkeypatch):
    """Has no IPv6 socket be made, for a reason that the test sets."""

    class Socket(socket.socket):
        code = errno.EAFNOSUPPORT

        def __init__(self, family=socket.AF_INET, *args, **kwargs):
            if family == socket.AF_INET6:
                raise error_of(self.code)
            super().__init__(family, *args, **kwargs)

    monkeypatch.setattr(socket, "socket", Socket)
    return Socket


def addresses_of(server):
    return [listener.getsockname()[0] for listener in server.sockets]


# Addresses that this machine has not


@pytest.mark.parametrize("code", MISSING)
@pytest.mark.parametrize("order", [["::1", LOCAL], [LOCAL, "::1"]])
async def test_an_address_of_a_name_that_is_missing_is_skipped(names, bind_fails, code, order):
    names["localhost"] = order
    bind_fails["::1"] = code
    async with await serve_tcp(greet, "localhost") as server:
        assert addresses_of(server) == [LOCAL]
        assert await greeting_of(LOCAL, server.port) == b"hello\n"


@pytest.mark.parametrize("code", [errno.EAFNOSUPPORT, errno.EPROTONOSUPPORT, errno.EPERM])
async def test_a_family_that_is_missing_is_skipped(names, no_ipv6, code):
    no_ipv6.code = code
    names["localhost"] = ["::1", LOCAL]
    for host in ("localhost", None):
        async with await serve_tcp(greet, host) as server:
            assert len(server.sockets) == 1
            assert await greeting_of(LOCAL, server.port) == b"hello\n"
    with pytest.raises(OSError, match=os.strerror(code)):
        await serve_tcp(greet, "::1")


@pytest.mark.parametrize("code", [errno.EMFILE, errno.ENOBUFS])
async def test_a_lack_of_descriptors_or_memory_is_raised(names, no_ipv6, code):
    no_ipv6.code = code
    names["localhost"] = [LOCAL, "::1"]
    with pytest.raises(OSError, match=os.strerror(code)):
        await serve_tcp(greet, "localhost")


async def test_a_name_of_which_all_addresses_are_missing_fails(names, bind_fails):
    names["host"] = [LOCAL, OTHER]
    bind_fails.update({LOCAL: errno.EADDRNOTAVAIL, OTHER: errno.EINVAL})
    with pytest.raises(OSError, match=os.strerror(errno.EINVAL)) as caught:
        await serve_tcp(greet, "host")
    assert [error.errno for error in caught.value.__cause__.exceptions] == [
        errno.EADDRNOTAVAIL,
        errno.EINVAL,
    ]
    with pytest.raises(OSError, match=os.strerror(errno.EADDRNOTAVAIL)) as caught:
        await serve_tcp(greet, LOCAL)
    assert caught.value.__notes__ == [f"address is {(LOCAL, 0)}"]


@pytest.mark.only_on("linux")
async def test_each_host_must_have_an_address_that_is_there(names, bind_fails):
    names["one"], names["two"] = [LOCAL], ["::1"]
    bind_fails["::1"] = errno.EADDRNOTAVAIL
    with pytest.raises(OSError, match=os.strerror(errno.EADDRNOTAVAIL)):
        await serve_tcp(greet, ["one", "two"])
    names["two"] = ["::1", OTHER]
    async with await serve_tcp(greet, ["one", "two"]) as server:
        assert addresses_of(server) == [LOCAL, OTHER]


async def test_hosts_that_share_an_address(names, bind_fails):
    names["one"], names["two"] = [LOCAL], ["::1", LOCAL]
    bind_fails["::1"] = errno.EADDRNOTAVAIL
    async with await serve_tcp(greet, ("one", "two", LOCAL)) as server:
        assert addresses_of(server) == [LOCAL]


@pytest.mark.parametrize("code", UNAVAILABLE)
async def test_an_address_that_is_there_and_cannot_be_had_is_an_error(names, bind_fails, code):
    names["localhost"] = ["::1", LOCAL]
    with socket.create_server((LOCAL, 0)) as listener:
        port = listener.getsockname()[1]
    bind_fails["::1"] = code
    with pytest.raises(OSError, match=os.strerror(code)):
        await serve_tcp(greet, "localhost", port)
    bind_fails[LOCAL] = bind_fails.pop("::1")
    with pytest.raises(OSError, match=os.strerror(code)):
        await serve_tcp(greet, "localhost", port)


# One port for all addresses


@pytest.mark.only_on("linux")
async def test_a_port_that_is_taken_at_the_second_address_is_given_up(names, bind_fails):
    names["host"] = [LOCAL, OTHER]
    bind_fails[OTHER] = [errno.EADDRINUSE] * 20
    async with await serve_tcp(greet, "host") as server:
        assert addresses_of(server) == [LOCAL, OTHER]
        assert len({listener.getsockname()[1] for listener in server.sockets}) == 1
        assert await greeting_of(OTHER, server.port) == b"hello\n"


@pytest.mark.only_on("linux")
async def test_each_port_is_tried_once(names, monkeypatch):
    names["host"] = [LOCAL, OTHER]
    real, tried = socket.socket.bind, []

    def bind(self, address):
        if address[0] == OTHER:
            tried.append(address[1])
            if len(tried) < 40:
                raise error_of(errno.EADDRINUSE)
        real(self, address)

    monkeypatch.setattr(socket.socket, "bind", bind)
    async with await serve_tcp(greet, "host") as server:
        assert server.port == tried[-1]
    assert len(set(tried)) == 40


async def test_a_port_that_is_taken_before_it_is_listened_on(monkeypatch):
    real, codes = socket.socket.listen, [errno.EADDRINUSE] * 3

    def listen(self, backlog):
        if codes:
            raise error_of(codes.pop())
        real(self, backlog)

    monkeypatch.setattr(socket.socket, "listen", listen)
    async with await serve_tcp(greet, LOCAL) as server:
        assert await greeting_of(LOCAL, server.port) == b"hello\n"


@pytest.mark.only_on("linux")
async def test_ports_are_not_tried_for_ever(names, bind_fails):
    names["host"] = [LOCAL, OTHER]
    bind_fails[OTHER] = errno.EADDRINUSE
    with pytest.raises(OSError, match=os.strerror(errno.EADDRINUSE)):
        await serve_tcp(greet, "host")


async def test_a_given_port_is_tried_once(bind_fails):
    bind_fails[LOCAL] = [errno.EADDRINUSE]
    with pytest.raises(OSError, match=os.strerror(errno.EADDRINUSE)):
        await serve_tcp(greet, LOCAL, 1)
    assert bind_fails[LOCAL] == []


def test_a_free_port_of_simulated_addresses():
    async def main():
        with SimulatedNetwork() as network:
            network.hosts["host"] = ["10.0.0.1", "10.0.0.2"]
            async with await serve_tcp(greet, "10.0.0.2") as first:
                async with await serve_tcp(greet, "host") as second:
                    assert first.port != second.port
                    return await greeting_of("10.0.0.1", second.port)

    assert simulate(main) == b"hello\n"


# Connecting


async def test_connecting_goes_on_past_a_family_that_is_missing(names, no_ipv6):
    names["localhost"] = ["::1", LOCAL]
    async with await serve_tcp(greet, LOCAL) as server:
        assert await greeting_of("localhost", server.port) == b"hello\n"


@pytest.mark.only_on("linux")
async def test_connecting_from_a_name_goes_on_past_addresses_of_another_family(names):
    names["localhost"] = ["::1", LOCAL]
    async with await serve_tcp(greet, [LOCAL, "::1"]) as server:
        async with await connect_tcp(
            "localhost", server.port, local_addr=("127.0.0.3", 0)
        ) as stream:
            assert stream.socket.getsockname()[0] == "127.0.0.3"
            assert await stream.read_until(b"\n") == b"hello\n"
        names["from"] = ["127.0.0.5", "203.0.113.1"]
        async with await connect_tcp("localhost", server.port, local_addr=("from", 0)) as stream:
            assert stream.socket.getsockname()[0] == "127.0.0.5"
        names["from"] = ["203.0.113.1", "127.0.0.4"]
        async with await connect_tcp("localhost", server.port, local_addr=("from", 0)) as stream:
            assert stream.socket.getsockname()[0] == "127.0.0.4"
        with pytest.raises(OSError, match=os.strerror(errno.EADDRNOTAVAIL)):
            await connect_tcp(LOCAL, server.port, local_addr=("203.0.113.1", 0))
