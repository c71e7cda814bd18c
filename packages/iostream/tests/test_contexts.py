"""Each callback runs in the context in which it was given, not in that of whoever came first."""

import asyncio
import contextvars
import socket

import pytest

from waterspout.iostream import IOStream, SSLIOStream, serve_tcp

request = contextvars.ContextVar("request", default="nobody")


READS = {
    "read_bytes": lambda stream, **given: stream.read_bytes(2, **given),
    "read_bytes partial": lambda stream, **given: stream.read_bytes(9, partial=True, **given),
    "read_until": lambda stream, **given: stream.read_until(b"b", **given),
    "read_until several": lambda stream, **given: stream.read_until((b"b", b"c"), **given),
    "read_until_regex": lambda stream, **given: stream.read_until_regex(b"b", **given),
    "read_into": lambda stream, **given: stream.read_into(bytearray(2), **given),
}
STREAMED = {
    "read_bytes": lambda stream, **given: stream.read_bytes(2, **given),
    "read_until_close": lambda stream, **given: stream.read_until_close(**given),
}


@pytest.fixture
def shared_pair(make_pair):
    """A stream that another request was the first to have watched."""

    async def make(**kwargs):
        stream, peer = make_pair(**kwargs)

        async def first():
            request.set("first")
            reading = stream.read_bytes(1)
            await asyncio.sleep(0)
            peer.send(b"0")
            await reading

        await asyncio.create_task(first())
        return stream, peer

    return make


class Noted:
    """A callback, plain or a coroutine function, that notes its context."""

    def __init__(self, is_coroutine_function):
        self.seen = asyncio.Queue()
        self.callback = self.coroutine if is_coroutine_function else self.plain

    def plain(self, *args):
        self.seen.put_nowait(request.get())

    async def coroutine(self, *args):
        await asyncio.sleep(0)
        self.plain()

    async def check(self):
        assert await asyncio.wait_for(self.seen.get(), 10) == "second"


@pytest.fixture(params=[False, True], ids=["plain", "coroutine"])
def noted(request):
    return lambda: Noted(request.param)


async def in_second(function, *args, **kwargs):
    """Call a function in the context of the second request."""

    async def second():
        request.set("second")
        return function(*args, **kwargs)

    return await asyncio.create_task(second())


@pytest.mark.parametrize("waits", [False, True], ids=["buffered", "waits"])
@pytest.mark.parametrize("kind", READS)
async def test_read_callback_runs_in_its_context(shared_pair, noted, kind, waits):
    stream, peer = await shared_pair()
    note = noted()
    if not waits:
        peer.send(b"ab")
        await stream.peek(2)
    await in_second(READS[kind], stream, callback=note.callback)
    if waits:
        peer.send(b"ab")
    await note.check()


@pytest.mark.parametrize("waits", [False, True], ids=["buffered", "waits"])
@pytest.mark.parametrize("kind", STREAMED)
async def test_streaming_callback_runs_in_its_context(shared_pair, noted, kind, waits):
    stream, peer = await shared_pair()
    note = noted()
    if not waits:
        peer.send(b"ab")
        await stream.peek(2)
    await in_second(STREAMED[kind], stream, streaming_callback=note.callback)
    if waits:
        peer.send(b"ab")
    await note.check()


@pytest.mark.parametrize("size", [1, 10_000_000])
async def test_write_callback_runs_in_its_context(shared_pair, noted, size):
    stream, peer = await shared_pair()
    note = noted()
    await in_second(stream.write, b"x" * size, callback=note.callback)
    await peer.receive(size)
    await note.check()


@pytest.mark.parametrize("how", ["here", "by the peer", "before"])
async def test_close_callback_runs_in_its_context(shared_pair, noted, how):
    stream, peer = await shared_pair()
    note = noted()
    if how == "before":
        stream.close()
    await in_second(stream.set_close_callback, note.callback)
    if how == "by the peer":
        peer.close()
    stream.close()
    await note.check()


async def test_close_callback_keeps_its_context_in_start_tls(
    shared_pair, noted, server_context, client_context
):
    stream, peer = await shared_pair()
    note = noted()
    await in_second(stream.set_close_callback, note.callback)
    server = IOStream(peer.give_away())
    secured, other = await asyncio.gather(
        stream.start_tls(False, client_context, "localhost"), server.start_tls(True, server_context)
    )
    secured.close()
    await note.check()
    other.close()


async def test_done_callback_runs_in_its_context(shared_pair):
    stream, peer = await shared_pair()
    note = Noted(False)
    reading = stream.read_bytes(2)
    await in_second(reading.add_done_callback, note.callback)
    peer.send(b"ab")
    await reading
    await note.check()


async def test_connect_and_handshake_callbacks_run_in_their_contexts(
    noted, server_context, client_context
):
    async def handle(stream):
        await stream.read_until_close()

    async with await serve_tcp(handle, "127.0.0.1") as server:
        note = noted()
        async with IOStream(socket.socket()) as stream:
            await in_second(stream.connect, ("127.0.0.1", server.port), note.callback)
            await note.check()
    left, right = socket.socketpair()
    note = noted()
    client = SSLIOStream(left, ssl_options=client_context, server_hostname="localhost")
    server = SSLIOStream(right, ssl_options=server_context, server_side=True)
    async with client, server:
        client._open()
        await in_second(client.wait_for_handshake, note.callback)
        await server.wait_for_handshake()
        await note.check()
