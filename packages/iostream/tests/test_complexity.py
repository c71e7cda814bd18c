"""What reads and writes cost however the bytes arrive: steps are counted, not seconds."""

import asyncio
import re

import pytest

from waterspout.ioloop.testing import simulate
from waterspout.iostream import IOStream, StreamClosedError, _delayed, _reads
from waterspout.iostream._buffer import ReadBuffer
from waterspout.iostream._delayed import BUSY_SECONDS, BYTES_PER_SECOND, QUIET_SECONDS
from waterspout.iostream._reads import NOT_YET, ReadUntil, ReadUntilRegex
from waterspout.iostream.testing import SimulatedNetwork


class CountingPattern:
    """A pattern that counts its attempts and the bytes they looked at."""

    def __init__(self, pattern):
        self.inner, self.pattern, self.looked_at, self.attempts = re.compile(pattern), pattern, 0, 0

    def search(self, data, start, end):
        self.looked_at += end - start
        self.attempts += 1
        return self.inner.search(data, start, end)


class CountingBuffer(ReadBuffer):
    """A read buffer that counts the bytes that it moves."""

    __slots__ = ("moved",)

    def __init__(self):
        super().__init__()
        self.moved = 0

    def whole(self):
        before = self.tail
        data, start = super().whole()
        if self.tail is not before:
            self.moved += len(data)
        return data, start

    def _promote(self):
        super()._promote()
        self.moved += len(self.head)

    def append(self, chunk):
        head = self.head
        super().append(chunk)
        self.moved += len(chunk) if self.head is head else len(self.head)

    def give_back(self, taken):
        super().give_back(taken)
        self.moved += len(self.head)


def start_regex(stream, pattern, max_bytes=None):
    return stream._start_read(ReadUntilRegex(pattern, max_bytes), None)


async def drip(stream, peer, data):
    """Send single bytes, each once the one before has been received."""
    for start in range(len(data)):
        arrived = len(stream._read_buffer)
        peer.send(data[start : start + 1])
        while len(stream._read_buffer) == arrived and stream.reading():
            await asyncio.sleep(0)


@pytest.mark.slow
async def test_regex_fed_single_bytes_is_linear(pair, monkeypatch):
    monkeypatch.setattr(_reads, "FREE_BYTES", 1000)
    monkeypatch.setattr(_delayed, "QUIET_SECONDS", 1000)
    monkeypatch.setattr(_delayed, "BUSY_SECONDS", 1000)
    stream, peer = pair
    pattern, size = CountingPattern(b"!"), 3000
    reading = start_regex(stream, pattern)
    await drip(stream, peer, b"x" * size)
    assert pattern.looked_at <= 1000 + (_reads.SHARE + 2) * size
    assert pattern.looked_at >= size
    reading.cancel()
    assert stream._delayed is None
    assert await stream.read_bytes(size) == b"x" * size


@pytest.mark.parametrize("sizes", [[1] * 20_000, [100] * 2000, [3000, 1] * 500, [1 << 20] * 4])
def test_regex_attempts_have_a_budget(sizes):
    pattern, buffer = CountingPattern(b"!"), ReadBuffer()
    read = ReadUntilRegex(pattern, None)
    for size in sizes:
        buffer.append(b"x" * size)
        if len(buffer) >= read.due:
            assert read.attempt(buffer) is NOT_YET
        assert len(buffer) < read.due <= 2 * len(buffer)
    total = sum(sizes)
    assert pattern.looked_at <= _reads.FREE_BYTES + (_reads.SHARE + 2) * total
    # And what arrives in a few pieces is looked at with each of them.
    few = ReadUntilRegex(pattern, None)
    buffer.clear()
    for size in (500, 20, 1, 700, 1):
        buffer.append(b"x" * size)
        assert len(buffer) >= few.due
        few.attempt(buffer)


def test_last_byte_of_a_match_is_noticed_soon():
    """Although the budget is used up, and nothing more comes."""

    async def main():
        loop = asyncio.get_running_loop()
        with SimulatedNetwork() as network:
            left, right = network.pair()
            pattern = CountingPattern(b"!")
            reading = asyncio.ensure_future(start_regex(right, pattern))
            for _ in range(300):  # single bytes behind a large piece
                await left.write(b"a" * 1000)
                await asyncio.sleep(0.0001)
            for _ in range(20):
                await left.write(b"a")
                await asyncio.sleep(0.0001)
            attempts = pattern.attempts
            await left.write(b"!")
            sent_at = loop.time()
            assert len(await reading) == 300_021
            limit = 2 * (QUIET_SECONDS + 300_021 / BYTES_PER_SECOND)
            assert loop.time() - sent_at <= limit
            assert pattern.attempts <= attempts + 2
            assert right._delayed is None
            left.close()
            right.close()

    simulate(main)


def test_match_is_found_although_bytes_never_pause():
    async def main():
        loop = asyncio.get_running_loop()
        with SimulatedNetwork() as network:
            left, right = network.pair()
            pattern = CountingPattern(b"!")
            reading = asyncio.ensure_future(start_regex(right, pattern))
            await left.write(b"a" * 200_000)
            for _ in range(3000):
                await left.write(b"a")
                await asyncio.sleep(0.0001)
            # It paused for nobody: only the time that it may take at most let it attempt.
            assert pattern.attempts <= 6 + 0.3 / BUSY_SECONDS
            await left.write(b"!")
            sent_at = loop.time()
            while not reading.done():
                await left.write(b"a")
                await asyncio.sleep(0.0001)
            assert len(reading.result()) == 203_001
            seconds = 200_000 / BYTES_PER_SECOND
            assert loop.time() - sent_at < BUSY_SECONDS + 20 * seconds + 2 * QUIET_SECONDS
            left.close()
            right.close()

    simulate(main)


@pytest.fixture
def no_budget(monkeypatch):
    """Has every attempt but those at twice the size delayed, for longer than a test takes."""
    monkeypatch.setattr(_reads, "FREE_BYTES", -(1 << 40))
    monkeypatch.setattr(_delayed, "QUIET_SECONDS", 1000)


async def start_delayed(stream, peer, pattern, max_bytes=None):
    reading = start_regex(stream, pattern, max_bytes)
    await drip(stream, peer, b"xxxxx")
    assert stream._delayed is not None
    return reading


async def test_delayed_attempt_is_made_at_the_end(pair, no_budget):
    stream, peer = pair
    reading = await start_delayed(stream, peer, CountingPattern(b"!"))
    peer.send(b"!")
    peer.close()
    assert await reading == b"xxxxx!"
    assert stream._delayed is None


async def test_delayed_attempt_is_forgotten_when_the_stream_closes(pair, no_budget):
    stream, peer = pair
    reading = await start_delayed(stream, peer, CountingPattern(b"!"))
    stream.close()
    with pytest.raises(StreamClosedError):
        await reading
    assert stream._delayed is None


async def test_limits_hold_although_attempts_are_delayed(make_pair, no_budget):
    from waterspout.iostream import StreamBufferFullError, UnsatisfiableReadError

    stream, peer = make_pair()
    reading = await start_delayed(stream, peer, CountingPattern(b"!"), max_bytes=6)
    peer.send(b"x")
    with pytest.raises(UnsatisfiableReadError):
        await reading
    stream, peer = make_pair(max_buffer_size=6)
    reading = await start_delayed(stream, peer, CountingPattern(b"!"))
    peer.send(b"x")
    with pytest.raises(StreamBufferFullError):
        await reading
    assert await stream.read_bytes(6) == b"xxxxxx"


async def test_doubling_makes_the_delayed_attempt_at_once(pair, no_budget):
    stream, peer = pair
    reading = await start_delayed(stream, peer, CountingPattern(b"!"))
    peer.send(b"xxxxxxx!")
    assert await reading == b"x" * 12 + b"!"
    assert stream._delayed is None


async def test_next_read_has_its_own_delay(pair, no_budget):
    stream, peer = pair
    first = await start_delayed(stream, peer, CountingPattern(b"!"))
    before = stream._delayed
    first.cancel()
    assert await stream.read_bytes(5) == b"xxxxx"
    second = await start_delayed(stream, peer, CountingPattern(b"end"))
    assert stream._delayed is not before
    second.cancel()


READS = {
    "until": lambda stream: stream.read_until(b"\n"),
    "several": lambda stream: stream.read_until((b"\r\n", b"\n", b"!")),
    "max_bytes": lambda stream: stream.read_until(b"\n", max_bytes=1 << 20),
    "line": anext,
    "bytes": lambda stream: stream.read_bytes(2000),
    "peek": lambda stream: stream.peek(2000),
}


@pytest.mark.parametrize("kind", READS)
async def test_single_bytes_are_moved_a_few_times(pair, kind):
    stream, peer = pair
    stream._read_buffer = buffer = CountingBuffer()
    data = b"x" * 1999 + b"\n"
    reading = asyncio.ensure_future(READS[kind](stream))
    await asyncio.sleep(0)
    await drip(stream, peer, data)
    assert await reading == data
    assert buffer.moved <= 4 * len(data)


async def test_short_lines_of_single_bytes_are_moved_a_few_times(pair):
    stream, peer = pair
    stream._read_buffer = buffer = CountingBuffer()
    count = 0
    for _ in range(50):
        reading = asyncio.ensure_future(anext(stream))
        await asyncio.sleep(0)
        await drip(stream, peer, b"0123456789\n")
        assert await reading == b"0123456789\n"
        count += 11
    assert buffer.moved <= 4 * count


@pytest.mark.parametrize("size", [1, 3000, 5000])
def test_looking_ahead_moves_nothing(size):
    """Looking at the first bytes while others arrive, again and again."""
    buffer = CountingBuffer()
    for _ in range(30):
        buffer.append(b"0123456789" * 500)
    buffer.moved = 0
    for _ in range(1000):
        buffer.append(b"x")
        assert len(buffer.peek(size)) == size
        buffer.take(1)
    assert buffer.moved <= 10_000


def test_peek_across_pieces():
    buffer = ReadBuffer()
    for piece in (b"head", b"a" * 5000, b"bc", b"d" * 5000):
        buffer.append(piece)
    data = b"head" + b"a" * 5000 + b"bc" + b"d" * 5000
    for size in (0, 3, 4, 5, 5003, 5004, 5005, 5006, 5007, 10_006, 20_000):
        assert buffer.peek(size) == data[:size]
    assert buffer.take(len(data)) == data


def test_bytes_given_back_where_they_came_from_are_not_moved():
    buffer = CountingBuffer()
    buffer.append(b"0123456789" * 10_000)
    head = buffer.head
    assert buffer.take(3) == b"012"
    buffer.give_back(buffer.take(4))
    buffer.give_back(b"012")
    assert buffer.head is head
    assert buffer.take(5) == b"01234"
    buffer.give_back(b"other")
    assert buffer.peek(6) == b"other5"


def test_search_of_several_delimiters_never_looks_twice():
    class Counting(bytearray):
        looked = 0

        def find(self, sub, start, end):
            Counting.looked += min(end, len(self)) - start
            return super().find(sub, start, end)

    read, buffer = ReadUntil((b"\r\n", b"!"), 1 << 20), ReadBuffer()
    buffer.tail = [Counting()]
    for _ in range(10_000):
        buffer.append(b"x")
        assert read.attempt(buffer) is NOT_YET
    assert Counting.looked < 4 * 10_000


async def test_many_small_writes_take_few_system_calls(make_pair):
    class Counting(IOStream):
        calls = 0

        def write_to_fd(self, data):
            self.calls += 1
            return super().write_to_fd(data)

    stream, peer = make_pair(Counting)
    sent = 0
    while not stream.writing():
        stream.write(b"." * 65536)
        sent += 65536
    before = stream.calls
    for _ in range(20_000):
        last = stream.write(b"0123456789")
    assert stream.calls == before
    received = await peer.receive(sent + 200_000)
    assert received[sent:] == b"0123456789" * 20_000
    await last
    assert stream.calls - before < 60
