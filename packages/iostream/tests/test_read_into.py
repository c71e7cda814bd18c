"""`read_into`: straight into the caller's memory, behind what was buffered, and nothing lost."""

import asyncio
import random
import socket
import tracemalloc

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import waterspout.iostream._receiving as receiving
from waterspout.ioloop.testing import simulate
from waterspout.iostream import IOStream, StreamClosedError
from waterspout.iostream._buffer import ReadBuffer
from waterspout.iostream.testing import Link, SimulatedNetwork

MIB = 1 << 20


class Recording(IOStream):
    """A stream that knows where bytes were received to."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.offered, self.target = [], None

    def read_from_fd(self, buf):
        received = super().read_from_fd(buf)
        if received:
            self.offered.append((buf.obj is self.target, len(buf), received))
        return received


@pytest.mark.parametrize("secure", [False, True], ids=["plain", "tls"])
async def test_body_after_a_header_is_received_into_memory(
    make_pair, secure, server_context, client_context
):
    stream, peer = make_pair(tcp=True)
    sender = IOStream(peer.give_away())
    if secure:
        stream, sender = await asyncio.gather(
            stream.start_tls(False, client_context, "localhost"),
            sender.start_tls(True, server_context),
        )
    offered = []
    receive = stream.read_from_fd

    def read_from_fd(buf):
        received = receive(buf)
        offered.append((buf.obj is memory, received))
        return received

    memory = bytearray(8 * MIB)
    body = random.Random(1).randbytes(len(memory))
    stream.read_from_fd, stream._direct = read_from_fd, None
    sending = asyncio.create_task(awaited(sender.write(b"header--" + body)))
    assert await stream.read_bytes(8) == b"header--"
    while not len(stream._read_buffer):  # some of the body is read ahead
        await asyncio.sleep(0)
    tracemalloc.start()
    try:
        assert await stream.read_into(memory) == len(memory)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert memory == body
    straight = sum(received for into, received in offered if into and received)
    assert straight > len(memory) - 512 * 1024
    assert peak < 2 * MIB
    await sending
    stream.close()
    sender.close()


async def awaited(future):
    return await future


async def test_one_turn_of_the_loop_receives_a_mebibyte(make_pair):
    stream, peer = make_pair(Recording, tcp=True)
    stream.target = memory = bytearray(4 * MIB)
    reading = stream.read_into(memory)
    sending = asyncio.create_task(
        asyncio.get_running_loop().sock_sendall(peer.socket, bytes(len(memory)))
    )
    assert await reading == len(memory)
    await sending
    # All but the rest that is too small for that.
    assert sum(received for into, _, received in stream.offered if not into) <= 65536
    assert max(size for _, size, _ in stream.offered) == receiving.FILL_AT_MOST


async def test_small_memory_is_filled_by_way_of_the_buffer(make_pair):
    """One receipt brings the next frame as well, which a system call of its own would cost."""
    stream, peer = make_pair(Recording)
    stream.target = memory = bytearray(1000)
    reading = stream.read_into(memory)
    peer.send(bytes(range(100)) * 20)
    assert await reading == 1000
    assert memory == bytes(range(100)) * 10
    assert await stream.read_into(memory) == 1000
    assert stream.offered == [(False, 65536, 2000)]


@pytest.mark.parametrize("excess", [0, 1, 5000])
async def test_end_of_memory_is_copied_and_what_follows_stays(make_pair, excess):
    stream, peer = make_pair(Recording)
    size = 100_000
    data = random.Random(2).randbytes(size + excess)
    stream.target = memory = bytearray(size)
    peer.send(data[:10])
    assert await stream.peek(10) == data[:10]
    reading = stream.read_into(memory)
    for start, end in ((10, 50_000), (50_000, 99_000), (99_000, 99_500), (99_500, len(data))):
        before = len(stream.offered)
        peer.send(data[start:end])
        while len(stream.offered) == before:
            await asyncio.sleep(0)
    assert await reading == size
    assert memory == data[:size]
    assert [into for into, *_ in stream.offered] == [False, True, False, False, False]
    if excess:
        assert await stream.read_bytes(excess) == data[size:]


async def test_end_fails_it_with_every_byte_kept(make_pair):
    stream, peer = make_pair()
    memory = bytearray(1_000_000)
    peer.send(b"before")
    await stream.peek(6)
    reading = stream.read_into(memory)
    peer.send(b"x" * 100_000)
    peer.close()
    with pytest.raises(StreamClosedError) as caught:
        await reading
    assert caught.value.partial == b"before" + b"x" * 100_000
    assert await stream.read_until_close() == b"before" + b"x" * 100_000


@pytest.mark.parametrize("callback", [None, print])
async def test_cancelled_in_the_middle_it_writes_to_the_memory_no_more(make_pair, callback):
    stream, peer = make_pair()
    memory = bytearray(100_000)
    peer.send(b"before")
    await stream.peek(6)
    reading = stream.read_into(memory, callback)
    peer.send(b"placed")
    while memory[6:12] != b"placed":
        await asyncio.sleep(0)
    reading.cancel()
    assert not stream.reading()
    memory[:] = bytes(len(memory))
    peer.send(b"after")
    assert await stream.read_bytes(17) == b"beforeplacedafter"
    assert not any(memory)
    del memory[:]  # nobody has a view of it any more


async def test_cancelled_again_and_again_moves_each_byte_once(make_pair, monkeypatch):
    """Not everything that was received up to then."""
    moved = 0
    append, give_back = ReadBuffer.append, ReadBuffer.give_back

    def count_append(self, chunk):
        nonlocal moved
        moved += len(chunk)
        append(self, chunk)

    def count_give_back(self, taken):
        nonlocal moved
        moved += len(taken) + len(self.head)
        give_back(self, taken)

    monkeypatch.setattr(ReadBuffer, "append", count_append)
    monkeypatch.setattr(ReadBuffer, "give_back", count_give_back)
    stream, peer = make_pair()
    memory = bytearray(2_000_000)
    sent = b""
    for number in range(50):
        chunk = bytes([number]) * 2000
        reading = stream.read_into(memory)
        peer.send(chunk)
        sent += chunk
        while memory[len(sent) - 1] != number or len(stream._read_buffer) == len(sent):
            await asyncio.sleep(0)
        reading.cancel()
    assert moved == len(sent)
    assert await stream.read_bytes(len(sent)) == sent


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("send"), st.integers(1, 60)),
        st.tuples(st.sampled_from(["all", "some", "callback"]), st.integers(1, 80)),
        st.tuples(st.just("bytes"), st.integers(1, 20)),
        st.tuples(st.just("cancel"), st.booleans()),
        st.tuples(st.just("wait"), st.sampled_from([0, 0.01, 0.05])),
    ),
    max_size=40,
)


@settings(max_examples=200)
@given(STEPS, st.sampled_from([1, 5, 1000]), st.sampled_from([1, 4, 16]), st.booleans())
@pytest.mark.slow
def test_any_program_of_it_loses_no_byte(steps, chunk, least, reset):
    """Cancelled while it waits, or between its result and the task's resumption."""

    async def read(stream, kind, size):
        got = []  # in the order in which the reads began
        received.append(got)
        if kind == "bytes":
            got.append(await stream.read_bytes(size))
            return
        memory = bytearray(size)
        if kind == "callback":
            await stream.read_into(memory, lambda count: got.append(bytes(memory[:count])))
        else:
            count = await stream.read_into(memory, partial=kind == "some")
            got.append(bytes(memory[:count]))

    async def main():
        # A read with a callback gives its error to the loop.
        asyncio.get_running_loop().set_exception_handler(lambda *_: None)
        with SimulatedNetwork(Link(chunk=chunk, latency=0.01)) as network:
            left, right = network.pair()
            right._quick_size = right._least_room = least  # to be received into small memories
            sent, task = b"", None
            for step, argument in steps:
                if step == "send":
                    data = bytes((len(sent) + n) % 251 for n in range(argument))
                    await left.write(data)
                    sent += data
                elif step == "wait":
                    await asyncio.sleep(argument)
                elif step == "cancel":
                    if task is not None:
                        task.cancel()
                        if argument:
                            await asyncio.wait([task])
                elif task is None or task.done():
                    task = asyncio.create_task(read(right, step, argument))
                    await asyncio.sleep(0)
            left.close()
            if task is not None:
                await asyncio.wait([task])
                if not task.cancelled():
                    task.exception()
            received.append([await right.read_until_close()])
            assert b"".join(b"".join(got) for got in received) == sent
            right.close()

    received = []
    simulate(main)


def test_a_custom_stream_that_cannot_be_offered_less_than_a_record():
    """As TLS: the rest of the memory is too small to be offered."""

    class Records(IOStream):
        def read_from_fd(self, buf):
            assert len(buf) >= 100
            return super().read_from_fd(buf)

    async def main():
        left, right = socket.socketpair()
        with right:
            async with Records(left) as stream:
                stream._quick_size = 1
                stream._least_room = 100
                memory, data = bytearray(350), bytes(range(200)) * 2
                reading = stream.read_into(memory)
                for start in range(0, 400, 90):
                    right.send(data[start : start + 90])
                    for _ in range(3):
                        await asyncio.sleep(0)
                assert await reading == 350
                assert memory == data[:350]
                assert await stream.read_bytes(50) == data[350:]

    asyncio.run(main())
