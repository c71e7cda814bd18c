"""Random programs of reads, cancellations and ends, against the bytes that were sent.

One end writes known bytes in pieces and ends in some way. The other reads in every way, and is
cancelled and timed out at any moment. Whatever happens, what the reads that succeed return, one
after another, is what was sent.
"""

import asyncio
import contextlib
import socket
import struct

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from waterspout.ioloop.testing import simulate
from waterspout.iostream import IOStream, StreamClosedError, UnsatisfiableReadError
from waterspout.iostream.testing import Link, SimulatedNetwork

pytestmark = pytest.mark.slow

READS = st.one_of(
    st.tuples(st.just("bytes"), st.integers(0, 40)),
    st.tuples(st.just("some"), st.integers(1, 40)),
    st.tuples(st.just("into"), st.integers(0, 40)),
    st.tuples(st.just("some into"), st.integers(1, 40)),
    st.tuples(st.just("until"), st.sampled_from([None, 5, 30])),
    st.tuples(st.just("regex"), st.sampled_from([None, 5, 30])),
    st.tuples(st.just("line"), st.none()),
    st.tuples(st.just("peek"), st.integers(1, 40)),
)
HOWS = st.sampled_from(["plain", "cancel", "cancel later", "time out", "in the gap", "callback"])
PROGRAMS = st.lists(st.tuples(READS, HOWS), max_size=12)
PIECES = st.lists(st.text("ab\n", max_size=30).map(str.encode), max_size=8)
ENDS = st.sampled_from(["close", "half close", "reset"])


async def start(stream, what, argument):
    """Read, and give what was read and whether it was taken."""
    if what == "bytes":
        return await stream.read_bytes(argument), True
    if what == "some":
        return await stream.read_bytes(argument, partial=True), True
    if what in ("into", "some into"):
        memory = bytearray(argument)
        size = await stream.read_into(memory, partial=what != "into")
        return bytes(memory[:size]), True
    if what == "until":
        return await stream.read_until((b"\n", b"ab"), max_bytes=argument), True
    if what == "regex":
        return await stream.read_until_regex(b"a+b", max_bytes=argument), True
    if what == "line":
        return await anext(stream), True
    return await stream.peek(argument), False


async def read(stream, what, argument, how):
    """Do one read in one way; give what was taken, or `None`."""
    if how == "in the gap" and what == "bytes":
        reading = stream.read_bytes(argument)
        reading.add_done_callback(lambda _: task.cancel())
        task = asyncio.ensure_future(awaited(reading))
        await outcome(task)
        # Where the task had not begun to wait, the future has its result as before.
        taken = await outcome(reading)
        return None if taken is None else (taken, True)
    if how == "callback" and what == "bytes":
        got = asyncio.get_running_loop().create_future()
        reading = stream.read_bytes(argument, callback=got.set_result)
        await outcome(reading)
        return await got, True
    if how == "time out":
        # Not of a task: `wait_for` drops the result of one that ends as the time runs out.
        reading = asyncio.wait_for(start(stream, what, argument), 0.002)
        return await outcome(asyncio.ensure_future(reading))
    task = asyncio.ensure_future(start(stream, what, argument))
    if how.startswith("cancel"):
        for _ in range(3 if how == "cancel later" else 0):
            await asyncio.sleep(0)
        task.cancel()
    return await outcome(task)


async def awaited(future):
    return await future


async def outcome(task):
    try:
        return await task
    except (asyncio.CancelledError, TimeoutError, UnsatisfiableReadError):
        return None


async def run(left, right, pieces, program, end):
    sent = b"".join(pieces)
    # A read with a callback tells the loop of its error.
    asyncio.get_running_loop().set_exception_handler(lambda *_: None)
    writing = asyncio.create_task(write(left, pieces, end))
    got = b""
    with contextlib.suppress(StreamClosedError, StopAsyncIteration):
        for (what, argument), how in program:
            done = await read(right, what, argument, how)
            if done is not None:
                data, taken = done
                assert sent[len(got) :].startswith(data)
                got += data if taken else b""
    await writing
    try:
        got += await right.read_until_close()
    except StreamClosedError as error:
        got += error.partial
    else:
        assert got == sent
    assert sent.startswith(got)
    assert got == sent or end == "reset"
    left.close()
    right.close()


async def write(stream, pieces, end):
    with contextlib.suppress(StreamClosedError):
        for piece in pieces:
            await stream.write(piece)
            await asyncio.sleep(0)
        if end == "half close" and stream.can_write_eof:
            await stream.write_eof()
        elif end == "reset" and type(stream) is IOStream:
            linger = struct.pack("ii", 1, 0)
            stream.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            stream.close()
        else:
            stream.close()


async def secured(left, right, contexts):
    server_context, client_context = contexts
    return await asyncio.gather(
        left.start_tls(False, client_context, "localhost"), right.start_tls(True, server_context)
    )


@pytest.fixture(scope="session")
def contexts(server_context, client_context):
    return server_context, client_context


some = settings(max_examples=60, suppress_health_check=list(HealthCheck))


@pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
@some
@given(PIECES, PROGRAMS, ENDS, st.sampled_from([1, 2, 7, 1000]), st.sampled_from([0, 0.001]))
def test_on_a_simulated_network(contexts, tls, pieces, program, end, chunk, latency):
    async def main():
        with SimulatedNetwork(Link(chunk=1000 if tls else chunk, latency=latency)) as network:
            left, right = network.pair()
            if tls:
                left, right = await secured(left, right, contexts)
            await run(left, right, pieces, program, end)
            await asyncio.sleep(60)

    simulate(main)


def tcp_ends():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        left = socket.create_connection(listener.getsockname())
        right, _ = listener.accept()
    return IOStream(left), IOStream(right)


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
@pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
@some
@given(PIECES, PROGRAMS, ENDS)
def test_on_real_sockets(contexts, tls, loop, pieces, program, end):
    async def main():
        left, right = tcp_ends()
        if tls:
            left, right = await secured(left, right, contexts)
        await run(left, right, pieces, program, end)

    factory = pytest.importorskip("uvloop").new_event_loop if loop == "uvloop" else None
    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(main())


def test_a_reset_at_every_byte_of_an_exchange():
    """What had arrived before it is told, and nothing else."""
    data = b"one line\nanother\n" + bytes(range(20))

    async def main(cut):
        with SimulatedNetwork(Link(latency=0.001)) as network:
            left, right = network.pair()
            await left.write(data[:cut])
            await asyncio.sleep(0.01)
            linger = struct.pack("ii", 1, 0)
            left.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            got = b""
            with pytest.raises(StreamClosedError) as raised:
                reading = right.read_until(b"\n")
                left.close()
                got += await reading
                got += await right.read_until(b"\n")
                got += await right.read_bytes(20)
                await right.read_bytes(1)
            assert isinstance(raised.value.real_error, ConnectionResetError)
            assert got + raised.value.partial == data[:cut]
            right.close()

    for cut in range(len(data) + 1):
        simulate(main, cut)
