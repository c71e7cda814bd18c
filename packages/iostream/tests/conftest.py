"""Streams over socket pairs, and certificates."""

import asyncio
import socket
import ssl

import pytest

from waterspout.iostream import IOStream


class Peer:
    """The other end of a stream: a plain socket, used without blocking the loop."""

    def __init__(self, sock):
        self.socket = sock
        sock.setblocking(False)

    def send(self, data):
        assert self.socket.send(data) == len(data)

    async def receive(self, size):
        """Receive exactly so many bytes, or fewer at the end."""
        received = b""
        while len(received) < size:
            data = await asyncio.get_running_loop().sock_recv(
                self.socket, min(size - len(received), 1 << 20)
            )
            if not data:
                break
            received += data
        return received

    async def receive_all(self):
        return await self.receive(1 << 40)

    def reset(self):
        """Close with a reset instead of an end."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        self.socket.close()

    def give_away(self):
        """Give the socket, which is somebody else's to close from now on."""
        return socket.socket(fileno=self.socket.detach())

    def close(self):
        self.socket.close()


@pytest.fixture
def make_pair():
    """Makes a stream and its peer; both are closed in the end."""
    made = []

    def make(cls=IOStream, tcp=False, **kwargs):
        left, right = tcp_pair() if tcp else socket.socketpair()
        stream, peer = cls(left, **kwargs), Peer(right)
        made.extend([stream, peer])
        return stream, peer

    yield make
    for end in made:
        end.close()


@pytest.fixture
def pair(make_pair):
    return make_pair()


def tcp_pair():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        left = socket.create_connection(listener.getsockname())
        right, _ = listener.accept()
    return left, right


@pytest.fixture(scope="session")
def authority():
    trustme = pytest.importorskip("trustme")
    return trustme.CA()


@pytest.fixture(scope="session")
def server_context(authority):
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("localhost", "127.0.0.1").configure_cert(context)
    return context


@pytest.fixture(scope="session")
def client_context(authority):
    context = ssl.create_default_context()
    authority.configure_trust(context)
    return context
