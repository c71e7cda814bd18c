"""Reads: every kind, every way to end, and not a byte lost."""

import asyncio
import contextlib
import gc
import socket

import pytest
from hypothesis import given
from hypothesis import strategies as st

from waterspout.ioloop import READ, IOLoop
from waterspout.iostream import (
    READ_AHEAD,
    IOStream,
    StreamBufferFullError,
    StreamClosedError,
    UnsatisfiableReadError,
)


async def settle(iterations=6):
    for _ in range(iterations):
        await asyncio.sleep(0.0005)


async def test_every_kind_of_read(pair):
    stream, peer = pair
    buf = bytearray(4)
    peer.send(b"one\ntwo\r\n1234abcdefg")
    assert await stream.read_until(b"\n") == b"one\n"
    assert await stream.read_until((b"\n", b"\r\n")) == b"two\r\n"
    assert await stream.read_bytes(4) == b"1234"
    assert await stream.read_into(buf) == 4
    assert buf == b"abcd"
    assert await stream.read_bytes(100, partial=True) == b"efg"
    peer.send(b"xy")
    assert await stream.read_into(buf, partial=True) == 2
    assert buf == b"xycd"
    peer.send(b"the end")
    peer.close()
    assert await stream.read_until_close() == b"the end"
    assert await stream.read_bytes(0) == b""


async def test_reads_that_wait(pair):
    stream, peer = pair
    buf = bytearray(3)
    for kind, read, data, result in [
        ("until", lambda: stream.read_until(b"\n"), b"line\n", b"line\n"),
        ("bytes", lambda: stream.read_bytes(3), b"abc", b"abc"),
        ("partial", lambda: stream.read_bytes(9, partial=True), b"a", b"a"),
        ("into", lambda: stream.read_into(buf), b"abc", 3),
    ]:
        reading = asyncio.create_task(_awaited(read()))
        await settle()
        assert stream.reading()
        peer.send(data[:1])
        if kind != "partial":
            await settle()
            assert stream.reading()
            peer.send(data[1:])
        assert await reading == result
        assert not stream.reading()


async def _awaited(future):
    return await future


async def test_one_read_at_a_time(pair):
    stream, peer = pair
    first = stream.read_bytes(3)
    with pytest.raises(RuntimeError, match="another read"):
        stream.read_bytes(3)
    peer.send(b"abcdef")
    assert await first == b"abc"
    assert await stream.read_bytes(3) == b"def"


READS = {
    "until": (lambda s, b: s.read_until(b"\n"), b"abc\n"),
    "bytes": (lambda s, b: s.read_bytes(4), b"abc\n"),
    "partial": (lambda s, b: s.read_bytes(10, partial=True), b"abc\n"),
    "into": (lambda s, b: s.read_into(b), b"abc\n"),
    "close": (lambda s, b: s.read_until_close(), b"abc\n"),
}
EVERY_READ = pytest.mark.parametrize("kind", READS)


@EVERY_READ
async def test_a_read_cancelled_while_it_waits_leaves_every_byte(pair, kind):
    stream, peer = pair
    start, data = READS[kind]
    if kind != "partial":
        peer.send(data[:2])
    reading = asyncio.create_task(_awaited(start(stream, bytearray(4))))
    await settle()
    reading.cancel()
    await settle()
    assert reading.cancelled()
    assert not stream.reading()
    peer.send(data if kind == "partial" else data[2:])
    assert await stream.read_bytes(4) == data


@EVERY_READ
async def test_a_read_cancelled_in_the_gap_leaves_every_byte(pair, kind):
    """Between the result and the resumption of the task, where a plain future loses it."""
    stream, peer = pair
    start, data = READS[kind]
    future = start(stream, bytearray(4))
    reading = asyncio.create_task(_awaited(future))
    await settle()
    cancelling = asyncio.create_task(_cancel_when_done(future, reading))
    await asyncio.sleep(0)
    peer.send(data)
    if kind == "close":
        peer.close()
    await cancelling
    assert reading.cancelled()
    assert await stream.read_bytes(4) == data
    with pytest.raises(asyncio.CancelledError):
        future.result()


async def _cancel_when_done(future, task):
    while not future.done():
        await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait([task])


async def test_no_byte_overtakes_another_in_the_gap(pair):
    stream, peer = pair
    future = stream.read_bytes(2)
    first = asyncio.create_task(_awaited(future))
    await settle()
    peer.send(b"abcdef")
    while not future.done():
        await asyncio.sleep(0)
    # The first read is done, its task has not resumed: the next read waits for what it does.
    first.cancel()
    second = stream.read_bytes(4)
    assert not second.done()
    assert await second == b"abcd"
    assert first.cancelled()
    assert await stream.read_bytes(2) == b"ef"


async def test_the_next_read_in_the_gap_waits_for_the_first_task(pair):
    stream, peer = pair
    future = stream.read_bytes(2)
    first = asyncio.create_task(_awaited(future))
    await settle()
    peer.send(b"abcdef")
    while not future.done():
        await asyncio.sleep(0)
    assert await stream.read_bytes(4) == b"cdef"
    assert await first == b"ab"


async def test_a_future_that_is_kept_keeps_its_result(pair):
    stream, peer = pair
    kept = stream.read_bytes(2)
    peer.send(b"abcd")
    await settle()
    assert kept.done()
    assert kept.result() == b"ab"
    peer.send(b"ef")
    shielded = stream.read_bytes(4)

    async def wait():
        return await asyncio.shield(shielded)

    stream_task = asyncio.create_task(wait())
    await asyncio.sleep(0)
    stream_task.cancel()
    await settle()
    assert await shielded == b"cdef"


async def test_two_tasks_may_await_one_read(pair):
    stream, peer = pair
    future = stream.read_bytes(2)
    tasks = [asyncio.create_task(_awaited(future)) for _ in range(2)]
    await settle()
    peer.send(b"abcd")
    while not future.done():
        await asyncio.sleep(0)
    tasks[0].cancel()
    assert await tasks[1] == b"ab"
    assert await stream.read_bytes(2) == b"cd"


async def test_cancelling_both_gives_the_bytes_back_once(pair):
    stream, peer = pair
    future = stream.read_bytes(2)
    tasks = [asyncio.create_task(_awaited(future)) for _ in range(2)]
    await settle()
    peer.send(b"abcd")
    while not future.done():
        await asyncio.sleep(0)
    for task in tasks:
        task.cancel()
    assert await stream.read_bytes(4) == b"abcd"


async def test_a_closed_coroutine_gives_its_bytes_back(pair):
    stream, peer = pair
    coroutine = _awaited(stream.read_bytes(2))
    coroutine.send(None)
    peer.send(b"abcd")
    await settle()
    coroutine.close()
    assert await stream.read_bytes(4) == b"abcd"


@pytest.mark.parametrize("returned", [False, True])
@pytest.mark.parametrize("kind", ["into", "streamed"])
async def test_read_that_begins_before_another_has_resumed_waits_for_it(pair, kind, returned):
    """However long that takes, and whatever arrives meanwhile."""
    stream, peer = pair
    coroutine = _awaited(stream.read_bytes(2))
    coroutine.send(None)
    peer.send(b"abcd")
    await settle()
    memory, chunks = bytearray(100_000), []
    if kind == "into":
        reading = stream.read_into(memory)
    else:
        reading = stream.read_bytes(len(memory), streaming_callback=chunks.append)
    peer.send(b"efgh")
    await settle()
    if returned:
        coroutine.close()
    else:
        with pytest.raises(StopIteration, match="ab"):
            coroutine.send(None)
    expected = (b"abcdefgh" if returned else b"cdefgh").ljust(len(memory), b".")
    peer.send(expected[8 if returned else 6 :])
    await reading
    await settle()
    assert (memory if kind == "into" else b"".join(chunks)) == expected


async def test_future_that_somebody_else_resolved_takes_no_bytes(pair):
    stream, peer = pair
    for start in (
        lambda: stream.read_bytes(4),
        lambda: stream.read_until((b"\n", b"!")),
        lambda: stream.read_into(bytearray(100_000)),
    ):
        for later in (b"cd", b""):
            reading = start()
            peer.send(b"ab")
            await settle()
            reading.set_result(b"mine")
            peer.send(later)
            await settle()
            assert await reading == b"mine"
            assert not stream.reading()
            assert await stream.read_bytes(2 + len(later)) == b"ab" + later


@EVERY_READ
async def test_timeouts_leave_every_byte(pair, kind):
    stream, peer = pair
    start, data = READS[kind]
    peer.send(data[:2] if kind != "partial" else b"")
    for _ in range(3):
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(start(stream, bytearray(4)), 0.002)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.002):
                await start(stream, bytearray(4))
    peer.send(data[2:] if kind != "partial" else data)
    assert await stream.read_bytes(4) == data


async def test_max_bytes_is_passed_whatever_the_chunking(pair):
    stream, peer = pair
    peer.send(b"abcd\n")
    assert await stream.read_until(b"\n", max_bytes=5) == b"abcd\n"
    peer.send(b"abcde\n")
    with pytest.raises(UnsatisfiableReadError, match="max_bytes=5"):
        await stream.read_until(b"\n", max_bytes=5)
    reading = asyncio.create_task(_awaited(stream.read_until(b"!", max_bytes=8)))
    await settle()
    peer.send(b"fg")
    with pytest.raises(UnsatisfiableReadError):
        await reading
    assert not stream.closed()
    assert await stream.read_bytes(8) == b"abcde\nfg"


async def test_max_buffer_size_bounds_a_read(make_pair):
    stream, peer = make_pair(max_buffer_size=1000)
    for start in (
        lambda: stream.read_bytes(1001),
        lambda: stream.read_into(bytearray(1001)),
    ):
        with pytest.raises(StreamBufferFullError, match="max_buffer_size=1000"):
            start()
    peer.send(b"x" * 1001)
    for start in (lambda: stream.read_until(b"\n"), stream.read_until_close):
        with pytest.raises(StreamBufferFullError):
            await start()
    assert not stream.closed()
    assert await stream.read_bytes(1000) == b"x" * 1000
    assert await stream.read_bytes(2000, partial=True) == b"x"
    peer.send(b"y" * 1000)
    peer.close()
    assert await stream.read_until_close() == b"y" * 1000


@pytest.mark.parametrize("drip", [True, False])
async def test_the_bound_does_not_depend_on_the_chunking(make_pair, drip):
    stream, peer = make_pair(max_buffer_size=1000, read_chunk_size=4096)
    reading = asyncio.create_task(_awaited(stream.read_until(b"\n")))
    await settle()
    data = b"x" * 1500 + b"\n"
    for start in range(0, len(data), 100 if drip else len(data)):
        peer.send(data[start : start + (100 if drip else len(data))])
        if drip:
            await settle(1)
    with pytest.raises(StreamBufferFullError):
        await reading
    assert len(stream._read_buffer) <= 1000
    assert await stream.read_bytes(1000) == data[:1000]
    assert await stream.read_until(b"\n") == data[1000:]


async def test_a_read_with_a_callback_gives_nothing_back(pair):
    stream, peer = pair
    got = []
    reading = asyncio.create_task(_awaited(stream.read_bytes(5, callback=got.append)))
    await settle()
    future = stream._read_future
    peer.send(b"hello")
    await _cancel_when_done(future, reading)
    await settle()
    assert got == [b"hello"]
    peer.send(b"again")
    assert await stream.read_bytes(5) == b"again"


async def test_reading_ahead_stops(make_pair):
    stream, peer = make_pair(tcp=True)
    peer.send(b"x")
    assert await stream.read_bytes(1) == b"x"
    sent, idle = 0, 0
    while idle < 20 or len(stream._read_buffer) < READ_AHEAD:
        try:
            sent += peer.socket.send(b"y" * 65536)
            idle = 0
        except BlockingIOError:
            idle += 1
        await asyncio.sleep(0)
    assert READ_AHEAD <= len(stream._read_buffer) <= READ_AHEAD + 65536
    received = 0
    while received < sent:
        received += len(await stream.read_bytes(100_000, partial=True))
    assert received == sent


async def test_a_clean_end(pair):
    stream, peer = pair
    peer.send(b"partial")
    reading = asyncio.create_task(_awaited(stream.read_until(b"\n")))
    await settle()
    peer.close()
    with pytest.raises(StreamClosedError) as caught:
        await reading
    assert caught.value.real_error is None
    assert caught.value.partial == b"partial"
    assert isinstance(caught.value, OSError)
    assert stream.closed()
    assert stream.error is None
    with pytest.raises(StreamClosedError) as caught:
        stream.read_bytes(100)
    assert caught.value.partial == b"partial"
    assert await stream.read_bytes(100, partial=True) == b"partial"
    with pytest.raises(StreamClosedError):
        await stream.read_bytes(1)


async def test_a_reset_is_told_from_an_end(make_pair):
    stream, peer = make_pair(tcp=True)
    peer.send(b"abc")
    assert await stream.read_bytes(1) == b"a"
    peer.reset()
    with pytest.raises(StreamClosedError) as caught:
        await stream.read_until_close()
    assert isinstance(caught.value.real_error, ConnectionResetError)
    assert isinstance(stream.error, ConnectionResetError)
    assert caught.value.partial in (b"", b"bc")


async def test_a_close_on_this_side_is_told_from_both(pair):
    stream, peer = pair
    peer.send(b"abc")
    reading = asyncio.create_task(_awaited(stream.read_until(b"\n")))
    await settle()
    stream.close()
    with pytest.raises(StreamClosedError) as caught:
        await reading
    assert isinstance(caught.value.real_error, ConnectionAbortedError)
    assert caught.value.partial == b"abc"
    assert stream.error is None
    with pytest.raises(StreamClosedError):
        stream.read_bytes(1)


async def test_callbacks(pair):
    stream, peer = pair
    results = asyncio.Queue()
    peer.send(b"one\n")
    stream.read_until(b"\n", results.put_nowait)
    assert await results.get() == b"one\n"
    stream.read_bytes(3, callback=results.put_nowait)
    peer.send(b"two")
    assert await results.get() == b"two"
    stream.read_into(bytearray(3), callback=results.put_nowait)
    peer.send(b"six")
    assert await results.get() == 3
    reports = asyncio.Queue()
    asyncio.get_running_loop().set_exception_handler(lambda _, c: reports.put_nowait(c))
    stream.read_bytes(3, callback=results.put_nowait).cancel()
    await settle()
    assert results.empty()
    assert reports.empty()
    stream.read_bytes(3, callback=results.put_nowait)
    peer.close()
    assert isinstance((await reports.get())["exception"], StreamClosedError)
    gc.collect()
    await settle()
    assert reports.empty()


async def test_streaming_callbacks(pair):
    stream, peer = pair
    chunks = []
    peer.send(b"ab")
    reading = stream.read_bytes(5, streaming_callback=chunks.append)
    await settle()
    peer.send(b"cdefgh")
    assert await reading == b""
    assert b"".join(chunks) == b"abcde"
    chunks.clear()
    assert await stream.read_bytes(9, streaming_callback=chunks.append, partial=True) == b""
    await settle(1)
    assert chunks == [b"fgh"]
    chunks.clear()
    reading = stream.read_until_close(streaming_callback=chunks.append)
    peer.send(b"xy")
    await settle()
    peer.send(b"z")
    peer.close()
    assert await reading == b""
    assert b"".join(chunks) == b"xyz"


async def test_nobody_need_look_at_a_failed_read(pair, caplog):
    stream, peer = pair
    stream.read_bytes(10)
    peer.close()
    await settle()
    gc.collect()
    assert stream.closed()
    assert caplog.text == ""


async def test_bad_arguments_are_refused(pair):
    stream, peer = pair
    with pytest.raises(TypeError, match="num_bytes must be an integer"):
        stream.read_bytes("1")
    with pytest.raises(ValueError, match="num_bytes must not be negative"):
        stream.read_bytes(-1)
    with pytest.raises(TypeError, match="delimiter must be bytes"):
        stream.read_until("x")
    with pytest.raises(TypeError, match="delimiter must be bytes"):
        stream.read_until((b"x", 5))
    for bad in (b"", (), (b"x", b"")):
        with pytest.raises(ValueError, match="delimiter must not be empty"):
            stream.read_until(bad)
    with pytest.raises(ValueError, match="max_bytes must not be negative"):
        stream.read_until(b"x", max_bytes=-1)
    with pytest.raises(TypeError, match="buf must be writable"):
        stream.read_into(b"x")
    with pytest.raises(TypeError, match="buf must be contiguous"):
        stream.read_into("x")
    with pytest.raises(TypeError, match="callback must be callable"):
        stream.read_bytes(1, callback=5)
    with pytest.raises(TypeError, match="streaming_callback must be callable"):
        stream.read_bytes(1, streaming_callback=5)
    assert not stream.reading()
    peer.send(b"x")
    assert await stream.read_bytes(1) == b"x"


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("send"), st.binary(min_size=1, max_size=12)),
        st.tuples(st.just("until"), st.sampled_from([None, 3, 8])),
        st.tuples(st.just("bytes"), st.integers(1, 10)),
        st.tuples(st.just("partial"), st.integers(1, 10)),
        st.tuples(st.just("into"), st.integers(1, 10)),
        st.tuples(st.just("cancel"), st.booleans()),
        st.tuples(st.just("settle"), st.none()),
    ),
    max_size=30,
)


@pytest.mark.slow
@given(steps=STEPS, read_chunk_size=st.sampled_from([1, 3, 65536]))
@pytest.mark.parametrize("loop_name", ["asyncio", "uvloop"])
def test_any_program_of_reads_loses_no_byte(waterspout_loops, loop_name, steps, read_chunk_size):
    """Whatever is read and cancelled when: what was sent arrives, in order, once."""

    async def main():
        left, right = socket.socketpair()
        received = []

        async def read(kind, argument):
            if kind == "until":
                with contextlib.suppress(UnsatisfiableReadError):
                    received.append(await stream.read_until(b"\0", max_bytes=argument))
            elif kind == "into":
                buf = bytearray(argument)
                size = await stream.read_into(buf)
                received.append(bytes(buf[:size]))
            else:
                received.append(await stream.read_bytes(argument, partial=kind == "partial"))

        sent, task, tasks = b"", None, []
        with left, right:
            stream = IOStream(left, read_chunk_size=read_chunk_size)
            for kind, argument in steps:
                if kind == "send":
                    right.send(argument)
                    sent += argument
                elif kind == "settle":
                    await asyncio.sleep(0)
                    await asyncio.sleep(0)
                elif kind == "cancel":
                    if task is not None:
                        task.cancel()
                        if argument:
                            await asyncio.wait([task])
                elif task is None or task.done() or task.cancelling():
                    tasks.append(task)
                    task = asyncio.create_task(read(kind, argument))
                    await asyncio.sleep(0)
            if task is not None:
                task.cancel()
                await asyncio.wait([task])
            right.close()
            received.append(await stream.read_until_close())
            stream.close()
        assert b"".join(received) == sent
        for task in filter(None, tasks):
            assert task.cancelled() or task.exception() is None

    with asyncio.Runner(loop_factory=waterspout_loops[loop_name]) as runner:
        runner.run(main())


@pytest.mark.parametrize("how", ["read_until", "read_bytes", "async for"])
async def test_reading_goes_on_once_there_is_room_again(make_pair, how):
    stream, peer = make_pair(max_buffer_size=1000)
    sent = [b"%062d\r\n" % number for number in range(100)]
    peer.send(b"".join(sent))
    peer.close()
    received = [await stream.read_until(b"\n")]
    await settle()  # until it holds as much as it may
    while len(received) < len(sent):
        if how == "read_until":
            received.append(await stream.read_until(b"\n"))
        elif how == "read_bytes":
            received.append(await stream.read_bytes(64))
        else:
            received.append(await anext(stream))
    assert received == sent


async def test_what_comes_for_a_cancelled_read_is_the_next_ones(pair):
    stream, peer = pair
    stream.read_bytes(5, callback=print).cancel()
    peer.send(b"hello")
    await settle()
    assert await stream.read_bytes(5) == b"hello"


@pytest.mark.only_on("linux")
@pytest.mark.waterspout("asyncio")
async def test_an_event_without_bytes_is_no_end(pair):
    """Somebody else who has the socket, such as a child, was faster."""
    stream, peer = pair
    reading = stream.read_bytes(5)
    thief, told = socket.socketpair()
    with thief, told:
        loop = IOLoop.current()
        loop.add_handler(told, lambda fd, events: (told.recv(1), stream.socket.recv(9)), READ)
        thief.send(b"x")
        peer.send(b"stolen")
        await settle()
        assert not reading.done()
        loop.remove_handler(told)
    peer.send(b"hello")
    assert await reading == b"hello"


async def test_a_read_that_begins_in_the_gap_of_another_comes_after_it(pair):
    stream, peer = pair
    first, second = stream.read_bytes(5), []
    first.add_done_callback(lambda _: second.append(stream.read_bytes(5)))
    peer.send(b"helloworld")
    assert await first == b"hello"
    assert await second[0] == b"world"


async def test_a_future_whose_bytes_were_given_back_has_none_for_others(pair):
    stream, peer = pair
    reading = stream.read_bytes(5)
    reading.add_done_callback(lambda _: task.cancel())  # in the gap: before the task resumes
    task = asyncio.create_task(_awaited(reading))
    await asyncio.sleep(0)
    peer.send(b"hello")
    with pytest.raises(asyncio.CancelledError):
        await task
    with pytest.raises(asyncio.CancelledError):
        await reading
    assert await stream.read_bytes(5) == b"hello"


async def test_a_half_open_stream_that_has_ended_is_not_watched_any_more(make_pair):
    class Counting(IOStream):
        events = 0

        def _on_events(self, fd, events):
            self.events += 1
            super()._on_events(fd, events)

    stream, peer = make_pair(Counting, half_open=True)
    reading = stream.read_until(b"\n")
    peer.socket.shutdown(socket.SHUT_WR)
    with pytest.raises(StreamClosedError):
        await reading
    await settle(50)
    assert stream.events <= 2
    await stream.write(b"still open")
    assert await peer.receive(10) == b"still open"


class Shifting(socket.socket):
    """A socket with a method of its own."""

    def recv_into(self, buffer, *args):
        size = super().recv_into(buffer, *args)
        buffer[:size] = bytes(byte + 1 for byte in buffer[:size])
        return size


async def test_a_sockets_own_methods_are_used():
    left, right = socket.socketpair()
    with right:
        async with IOStream(Shifting(fileno=left.detach())) as stream:
            right.send(b"HAL")
            assert await stream.read_bytes(3) == b"IBM"


class Failing(socket.socket):
    """A socket that raises what no socket should."""

    def recv(self, *args):
        raise ValueError("what is this?")

    recv_into = recv


async def test_any_error_of_receiving_ends_the_stream(monkeypatch):
    left, right = socket.socketpair()
    with right:
        async with IOStream(Failing(fileno=left.detach())) as stream:
            monkeypatch.setattr(stream, "_direct", stream.socket)
            right.send(b"x")
            with pytest.raises(StreamClosedError) as caught:
                await stream.read_bytes(3)
    assert isinstance(caught.value.real_error, ValueError)
