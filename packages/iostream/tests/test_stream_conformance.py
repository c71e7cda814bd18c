"""Our own stream classes conform, over the kernel and over the simulated network."""

import asyncio
import contextlib
import socket

import pytest

from waterspout.ioloop.testing import SimulatedLoop
from waterspout.iostream import IOStream, SSLIOStream
from waterspout.iostream.testing import Link, SimulatedNetwork, StreamConformance


def tcp_pair():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        left = socket.create_connection(listener.getsockname())
        right, _ = listener.accept()
    return left, right


class TestSimulated(StreamConformance):
    """The default."""


class TestChoppy(StreamConformance):
    @contextlib.asynccontextmanager
    async def new_pair(self):
        with SimulatedNetwork(Link(latency=(0, 0.01), chunk=(1, 30_000), room=70_000)) as network:
            yield network.pair()


class RealStreams(StreamConformance):
    @pytest.fixture(autouse=True, params=["asyncio", "uvloop", "threaded"])
    def kind(self, request, waterspout_loops):
        if request.param not in waterspout_loops:
            pytest.skip("there is no uvloop here")
        self.new_loop = waterspout_loops[request.param]


class TestSocketPairs(RealStreams):
    @contextlib.asynccontextmanager
    async def new_pair(self):
        left, right = socket.socketpair()
        yield IOStream(left), IOStream(right)


class TestTCP(RealStreams):
    @contextlib.asynccontextmanager
    async def new_pair(self):
        left, right = tcp_pair()
        yield IOStream(left), IOStream(right)


class WithTLS(StreamConformance):
    @pytest.fixture(autouse=True)
    def contexts(self, server_context, client_context):
        self.server_context, self.client_context = server_context, client_context

    async def handshake(self, left, right):
        client = SSLIOStream(left, ssl_options=self.client_context, server_hostname="localhost")
        server = SSLIOStream(right, ssl_options=self.server_context, server_side=True)
        await asyncio.gather(client.wait_for_handshake(), server.wait_for_handshake())
        return client, server


class TestTLS(RealStreams, WithTLS):
    @contextlib.asynccontextmanager
    async def new_pair(self):
        yield await self.handshake(*socket.socketpair())


class TestTLSOverTCP(RealStreams, WithTLS):
    @contextlib.asynccontextmanager
    async def new_pair(self):
        yield await self.handshake(*tcp_pair())


class TestSimulatedTLS(WithTLS):
    def new_loop(self):
        return SimulatedLoop()

    @contextlib.asynccontextmanager
    async def new_pair(self):
        with SimulatedNetwork(Link(chunk=(1, 30_000))) as network:
            yield await self.handshake(*network.socketpair())


class Forgetful(IOStream):
    """A stream with a fault."""

    def read_bytes(self, size, *args, **kwargs):
        return super().read_bytes(max(size - 1, 0), *args, **kwargs)


def test_what_does_not_conform_is_found():
    class Conformance(StreamConformance):
        @contextlib.asynccontextmanager
        async def new_pair(self):
            with SimulatedNetwork() as network:
                left, right = network.socketpair()
                yield Forgetful(left), Forgetful(right)

    with pytest.raises(AssertionError):
        Conformance().test_bytes_arrive_in_order_both_ways()
    with pytest.raises(AssertionError, match="did not raise"):
        Conformance().test_bad_arguments_are_refused_at_the_call()
