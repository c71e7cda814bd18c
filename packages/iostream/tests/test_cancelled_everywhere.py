"""Reads, writes, connecting and serving, each cancelled at every point where a task waits."""

import asyncio
import contextlib

import pytest

from waterspout.ioloop.testing import cancel_everywhere
from waterspout.iostream import StreamClosedError, connect_tcp, serve_tcp
from waterspout.iostream.testing import Link, SimulatedNetwork

pytestmark = pytest.mark.proof

DATA = b"first line\nsecond\n" + bytes(range(60)) + b"!the rest of it"


async def read_into(stream):
    memory = bytearray(10)
    size = await stream.read_into(memory, partial=True)
    return bytes(memory[:size])


async def read_line(stream):
    async for line in stream:
        return line
    raise StreamClosedError


READS = {
    "bytes": lambda stream: stream.read_bytes(10, partial=True),
    "until": lambda stream: stream.read_until((b"\n", b"!", b"it")),
    "regex": lambda stream: stream.read_until_regex(b"\n|!|it"),
    "into": read_into,
    "line": read_line,
    "close": lambda stream: stream.read_until_close(),
}


@pytest.mark.parametrize("kind", READS)
def test_every_read_takes_all_or_nothing(kind):
    """The reader swallows each cancellation, and goes on: so it must come to have everything."""

    class State:
        got, complete = b"", False

    async def scenario(state):
        async def send():
            for start in range(0, len(DATA), 7):
                await left.write(DATA[start : start + 7])
                await asyncio.sleep(0.01)

        async def receive():
            cancelled = 0
            while True:
                try:
                    state.got += await READS[kind](right)
                except (asyncio.CancelledError, TimeoutError):
                    cancelled += 1
                    assert cancelled < 3
                except StreamClosedError:
                    return
                else:
                    if kind == "close":
                        return

        with SimulatedNetwork(Link(latency=0.01, chunk=3)) as network:
            left, right = network.pair()
            tasks = []
            try:
                sending, receiving = asyncio.create_task(send()), asyncio.create_task(receive())
                tasks = [sending, receiving]
                sending.add_done_callback(lambda _: left.close())
                await asyncio.wait(tasks)
                state.complete = all(
                    not task.cancelled() and task.exception() is None for task in tasks
                )
            finally:
                left.close()
                right.close()
                for task in tasks:
                    task.cancel()

    def check(state):
        assert DATA.startswith(state.got)
        assert state.got == DATA or not state.complete

    cancel_everywhere(scenario, check, state=State)


def test_writes_are_sent_in_order_and_whole():
    """What was begun comes whole, whoever is cancelled."""

    class State:
        got = b""

    async def scenario(state):
        async def send():
            for letter in (b"a", b"f", b"z"):
                await left.write(letter * 100)

        with SimulatedNetwork(Link(latency=0.01, room=70)) as network:
            left, right = network.pair()
            try:
                reading = right.read_until_close()
                sending = asyncio.create_task(send())
                with contextlib.suppress(asyncio.CancelledError, TimeoutError):
                    await sending
                with contextlib.suppress(StreamClosedError):
                    await left.write_eof()
                state.got = await reading
            finally:
                left.close()
                right.close()

    def check(state):
        assert (b"a" * 100 + b"f" * 100 + b"z" * 100).startswith(state.got)
        assert len(state.got) % 100 == 0

    cancel_everywhere(scenario, check, state=State)


def test_connecting_leaves_nothing_behind():
    """Neither of two addresses, of which one does not answer."""

    async def scenario(state):
        state.over = 0

        async def handle(stream):
            try:
                await stream.read_until_close()
            finally:
                state.over += 1

        with SimulatedNetwork(Link(latency=0.1)) as network:
            network.hosts["example.org"] = ["192.0.2.1", "127.0.0.1"]
            async with await serve_tcp(handle, "127.0.0.1", 80) as server:
                try:
                    async with await connect_tcp("example.org", 80, timeout=30):
                        pass
                finally:
                    state.server = server

    def check(state):
        if hasattr(state, "server"):
            assert state.server.connections == 0

    cancel_everywhere(scenario, check)


@pytest.mark.parametrize("timeout", [None, 1])
def test_closing_a_server_leaves_no_handler(timeout):
    async def scenario(state):
        state.running = 0

        async def handle(stream):
            state.running += 1
            try:
                async for line in stream:
                    await stream.write(line)
            finally:
                state.running -= 1

        with SimulatedNetwork(Link(latency=0.1)):
            server = await serve_tcp(handle, "127.0.0.1", 80)
            try:
                async with await connect_tcp("127.0.0.1", 80) as stream:
                    with contextlib.suppress(StreamClosedError):
                        await stream.write(b"hello\n")
                        await stream.read_until(b"\n")
                    if timeout is not None:
                        await server.close(timeout)
            finally:
                await server.close(timeout)

    def check(state):
        assert state.running == 0

    cancel_everywhere(scenario, check)
