"""The buffers and the searches, against plain bytes. No I/O."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from waterspout.iostream import UnsatisfiableReadError
from waterspout.iostream._buffer import SEGMENT, SMALL, ReadBuffer, WriteBuffer
from waterspout.iostream._reads import NOT_YET, ReadBytes, ReadInto, ReadUntil

chunks = st.lists(st.binary(max_size=20), max_size=20)


large = st.integers(SMALL - 1, 4 * SMALL).map(lambda size: bytes(n % 251 for n in range(size)))


@given(st.lists(st.one_of(st.binary(max_size=50), large, st.integers(0, 3 * SMALL)), max_size=50))
def test_a_read_buffer_is_bytes_that_come_and_go(steps):
    buffer, model = ReadBuffer(), b""
    for step in steps:
        if isinstance(step, bytes):
            buffer.append(step)
            model += step
        else:
            size = min(step, len(model))
            if step % 3 == 0:
                target = bytearray(size)
                buffer.take_into(memoryview(target), size)
                assert target == model[:size]
                model = model[size:]
            elif step % 3 == 1:
                assert buffer.take(size) == model[:size]
                model = model[size:]
            else:
                buffer.give_back(buffer.take(size))
                if size % 2:
                    assert buffer.peek(len(model)) == model
        assert len(buffer) == len(model)
    assert buffer.take(len(model)) == model
    buffer.clear()
    assert len(buffer) == 0


@given(
    st.lists(
        st.tuples(st.sampled_from([0, 1, 10, SMALL, SMALL + 1, 70_000]), st.integers(0, 100_000)),
        max_size=30,
    )
)
def test_a_write_buffer_sends_everything_in_order(steps):
    buffer, added, sent = WriteBuffer(), bytearray(), bytearray()

    def send(most):
        with buffer.first() as view:
            size = min(most, len(view))
            sent.extend(view[:size])
        buffer.advance(size)

    for number, (size, most) in enumerate(steps):
        data = bytes([number % 251]) * size
        buffer.append(memoryview(data))
        added += data
        if buffer.size and most % 2:
            send(most)
        assert buffer.size == len(added) - len(sent)
    while buffer.size:
        send(1 << 20)
    assert sent == added


def test_small_writes_are_gathered_and_large_ones_not_copied():
    buffer = WriteBuffer()
    for _ in range(1000):
        buffer.append(memoryview(b"x" * 64))
    sizes = []
    while buffer.size:
        with buffer.first() as view:
            sizes.append(len(view))
        buffer.advance(sizes[-1])
    assert sizes == [64_000]
    large = bytearray(b"y" * (SMALL + 1))
    buffer.append(memoryview(large))
    with buffer.first() as view:
        assert view.obj is large
    buffer.append(memoryview(b"z"))
    buffer.clear()
    assert buffer.size == 0
    small = bytearray(b"x" * SMALL)
    buffer.append(memoryview(small))
    with buffer.first() as view:
        assert view.obj is not small
    for _ in range(2 * SEGMENT // SMALL):
        buffer.append(memoryview(small))
    with buffer.first() as view:
        assert SEGMENT <= len(view) < SEGMENT + SMALL


delimiters = st.lists(st.binary(min_size=1, max_size=4), min_size=1, max_size=3)
alphabet = st.binary(max_size=60).map(lambda data: bytes(byte % 3 for byte in data))


@given(
    data=alphabet,
    delimiters=delimiters.map(lambda ds: [bytes(byte % 3 for byte in d) for d in ds]),
    cuts=st.lists(st.integers(1, 8), max_size=30),
    max_bytes=st.none() | st.integers(0, 40),
)
def test_read_until_finds_the_first_end_whatever_the_chunking(data, delimiters, cuts, max_bytes):
    ends = [
        match.start() + len(delimiter)
        for delimiter in delimiters
        for match in re.finditer(b"(?=" + re.escape(delimiter) + b")", data)
    ]
    end = min(ends, default=None)
    read, buffer = ReadUntil(tuple(delimiters), max_bytes), ReadBuffer()
    position, outcome = 0, NOT_YET
    for cut in [0, *cuts, len(data)]:
        buffer.append(data[position : position + cut])
        position = min(position + cut, len(data))
        try:
            outcome = read.attempt(buffer)
        except UnsatisfiableReadError:
            outcome = UnsatisfiableReadError
            assert buffer.peek(len(buffer)) == data[:position]
        if outcome is not NOT_YET:
            break
    if max_bytes is not None and (end is None or end > max_bytes):
        assert outcome is (UnsatisfiableReadError if len(data) >= max_bytes else NOT_YET)
    elif end is None:
        assert outcome is NOT_YET
    else:
        assert outcome == data[:end]
        assert buffer.peek(len(buffer)) == data[end:position]


@given(chunks, st.integers(0, 60), st.booleans())
def test_read_bytes_and_read_into_agree(chunks, size, partial):
    first, second = ReadBuffer(), ReadBuffer()
    target = bytearray(size)
    reads = ReadBytes(size, partial), ReadInto(memoryview(target), partial)
    for chunk in [b"", *chunks]:
        first.append(chunk)
        second.append(chunk)
        outcome, count = reads[0].attempt(first), reads[1].attempt(second)
        if outcome is NOT_YET:
            assert count is NOT_YET
            continue
        assert outcome == target[:count]
        assert len(outcome) == size or (partial and len(outcome) > 0)
        assert first.peek(len(first)) == second.peek(len(second))
        assert reads[1].undo(count) == reads[0].undo(outcome) == outcome
        break
    else:
        total = sum(map(len, chunks))
        assert total < size
        assert not (partial and total)


def test_a_search_never_looks_twice():
    class Counting(bytearray):
        looked = 0

        def find(self, sub, start, end):
            Counting.looked += end - start
            return super().find(sub, start, end)

    read, buffer = ReadUntil((b"\r\n",), None), ReadBuffer()
    buffer.tail = [Counting()]
    for _ in range(1000):
        buffer.append(b"x" * 10)
        assert read.attempt(buffer) is NOT_YET
    assert Counting.looked < 1.2 * 10_000


@pytest.mark.parametrize("rest", [b"", b"rest"])
def test_taking_leaves_no_view_behind(rest):
    buffer = ReadBuffer()
    buffer.append(b"taken" + rest)
    assert buffer.take(5) == b"taken"
    buffer.append(b"more")  # a view left behind would forbid it
    assert buffer.peek(len(buffer)) == rest + b"more"


@given(
    st.integers(0, 6),
    st.lists(st.integers(0, 5), max_size=12),
    st.integers(0, 40),
    st.booleans(),
    st.sampled_from([1, 2, 4]),
)
def test_read_into_places_bytes_behind_the_buffered_ones(buffered, sizes, size, partial, least):
    """However the bytes are divided between the buffer and the caller's memory."""
    buffer, target = ReadBuffer(), bytearray(size)
    read = ReadInto(memoryview(target), partial)
    sent = bytes(range(100, 100 + buffered))
    buffer.append(sent)
    outcome = read.attempt(buffer)
    for number, length in enumerate(sizes):
        if outcome is not NOT_YET:
            break
        data = bytes([number]) * length
        room = read.room(len(buffer))
        if length and length <= len(room) and len(room) >= least:
            room[:length] = data
            read.place(length)
        else:
            read.take_in(buffer, memoryview(data))
        sent += data
        outcome = read.attempt(buffer)
    if outcome is NOT_YET:
        read.recall(buffer)
        assert buffer.peek(len(buffer)) == sent
    else:
        assert outcome == size or (partial and outcome)
        assert read.undo(outcome) + buffer.peek(len(buffer)) == sent
    before = len(buffer)
    read.recall(buffer)
    assert len(buffer) == before
