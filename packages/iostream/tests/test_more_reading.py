"""Patterns, lines, and looking without taking."""

import asyncio
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from waterspout.ioloop.testing import simulate
from waterspout.iostream import (
    READ_AHEAD,
    StreamBufferFullError,
    StreamClosedError,
    UnsatisfiableReadError,
)
from waterspout.iostream.testing import Link, SimulatedNetwork


async def test_up_to_and_with_a_match(pair):
    stream, peer = pair
    peer.send(b"GET /a HTTP/1.1\r\nHost: x\n\nrest")
    assert await stream.read_until_regex(rb"\r?\n") == b"GET /a HTTP/1.1\r\n"
    assert await stream.read_until_regex(re.compile(b"\n\n")) == b"Host: x\n\n"
    assert await stream.read_until_regex("st$") == b"rest"


async def test_a_match_that_comes_in_pieces(pair):
    stream, peer = pair
    reading = stream.read_until_regex(b"a+b")
    for piece in (b"xaa", b"aa", b"ab", b"y"):
        peer.send(piece)
        await asyncio.sleep(0.001)
    assert await reading == b"xaaaaab"
    assert await stream.read_bytes(1) == b"y"


@pytest.mark.parametrize("chunk", [1, 3, 7, 1000])
def test_the_limit_does_not_depend_on_how_bytes_arrive(chunk):
    async def main():
        with SimulatedNetwork(Link(chunk=chunk)) as network:
            left, right = network.pair()
            await left.write(b"0123456789!")
            with pytest.raises(UnsatisfiableReadError, match="max_bytes=10"):
                await right.read_until_regex(b"!", max_bytes=10)
            assert await right.read_until_regex(b"!", max_bytes=11) == b"0123456789!"
            left.close()
            right.close()

    simulate(main)


async def test_what_no_pattern_can_match_is_bounded(make_pair):
    stream, peer = make_pair(max_buffer_size=100)
    peer.send(b"x" * 200)
    with pytest.raises(StreamBufferFullError):
        await stream.read_until_regex(b"!")
    assert await stream.read_bytes(100) == b"x" * 100


@pytest.mark.parametrize("bad", [5, None, "é".encode().decode, re.compile("text")])
async def test_bad_patterns_are_refused(pair, bad):
    stream, _ = pair
    with pytest.raises(TypeError, match="regex must be a pattern of bytes"):
        stream.read_until_regex(bad)
    with pytest.raises(re.error):
        stream.read_until_regex(b"(")
    with pytest.raises(ValueError, match="max_bytes must not be negative"):
        stream.read_until_regex(b"x", max_bytes=-1)
    assert not stream.reading()


class Counting:
    """A pattern that counts the bytes it looked at."""

    def __init__(self, pattern):
        self.inner, self.pattern, self.looked_at = pattern, pattern.pattern, 0

    def search(self, data, start, end):
        self.looked_at += end - start
        return self.inner.search(data, start, end)


@pytest.mark.slow
async def test_the_whole_search_is_linear(make_pair):
    from waterspout.iostream._reads import ReadUntilRegex

    stream, peer = make_pair()
    size = 8 << 20
    pattern = Counting(re.compile(b"!"))
    reading = stream._start_read(ReadUntilRegex(pattern, None), None)
    await asyncio.get_running_loop().sock_sendall(peer.socket, b"x" * size)
    while len(stream._read_buffer) < size:
        await asyncio.sleep(0.001)
    # However the kernel divides it: most of what a thousand receptions bring is not looked at.
    looked_at = pattern.looked_at
    assert looked_at < 100 * size
    peer.send(b"!")
    assert len(await reading) == size + 1


async def test_a_peek_takes_nothing(pair):
    stream, peer = pair
    peek = asyncio.create_task(awaited(stream.peek(3)))
    await asyncio.sleep(0)
    peer.send(b"\x16\x03\x01rest")
    assert await peek == b"\x16\x03\x01"
    assert await stream.peek(100, partial=True) == b"\x16\x03\x01rest"
    assert await stream.read_bytes(7) == b"\x16\x03\x01rest"
    peer.send(b"x")
    peer.close()
    with pytest.raises(StreamClosedError) as raised:
        await stream.peek(2)
    assert raised.value.partial == b"x"
    assert await stream.read_bytes(1) == b"x"


async def test_a_cancelled_peek_doubles_nothing(pair):
    stream, peer = pair
    peek = stream.peek(2)
    peek.add_done_callback(lambda _: task.cancel())  # in the gap before its task resumes
    task = asyncio.create_task(awaited(peek))
    await asyncio.sleep(0)
    peer.send(b"ab")
    with pytest.raises(asyncio.CancelledError):
        await task
    peer.close()
    assert await stream.read_until_close() == b"ab"


async def awaited(future):
    return await future


async def test_lines(pair):
    stream, peer = pair
    peer.send(b"one\n\nthree")
    lines = []
    async for line in stream:
        lines.append(line)
        if len(lines) == 2:
            peer.send(b"!\nlast")
            peer.close()
    assert lines == [b"one\n", b"\n", b"three!\n", b"last"]


async def test_lines_end_by_an_error_if_the_stream_does(make_pair):
    stream, peer = make_pair(tcp=True)
    peer.send(b"one\n")
    assert await anext(stream) == b"one\n"
    reading = asyncio.create_task(anext(stream))
    await asyncio.sleep(0)
    peer.reset()
    with pytest.raises(StreamClosedError) as raised:
        await reading
    assert isinstance(raised.value.real_error, ConnectionResetError)


async def test_reading_lines_resumes_reading_ahead(make_pair):
    stream, peer = make_pair()
    line = b"x" * 999 + b"\n"
    count = 3 * READ_AHEAD // 1000
    sending = asyncio.create_task(
        asyncio.get_running_loop().sock_sendall(peer.socket, line * count)
    )
    await stream.read_bytes(0)
    got = 0
    async for one in stream:
        assert one == line
        got += 1
        if got == count:
            break
    await sending


TEXTS = st.lists(st.binary(max_size=6), max_size=12).map(b"\n".join)


@settings(max_examples=60)
@given(TEXTS, st.integers(1, 9), st.integers(0, 8))
def test_lines_are_those_of_the_text(text, chunk, cancel_at):
    """However it arrives, and if one read of a line is cancelled."""

    async def main():
        with SimulatedNetwork(Link(chunk=chunk, latency=0.01)) as network:
            left, right = network.pair()
            writing = asyncio.create_task(write(left))
            lines, number = [], 0
            while True:
                task = asyncio.ensure_future(next_line(right))
                if number == cancel_at:
                    await asyncio.sleep(0)
                    task.cancel()
                number += 1
                try:
                    line = await task
                except asyncio.CancelledError:
                    continue
                if line is None:
                    break
                lines.append(line)
            await writing
            assert lines == text.splitlines(keepends=True) or b"".join(lines) == text
            assert all(line.endswith(b"\n") and line.count(b"\n") == 1 for line in lines[:-1])
            right.close()

    async def write(stream):
        await stream.write(text)
        stream.close()

    async def next_line(stream):
        async for line in stream:
            return line
        return None

    simulate(main)
